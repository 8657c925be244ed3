;; A counter: anybody adds to it, its owner takes it back to nothing.
;;
;;   add     arguments: how much (8 bytes, little endian)
;;   reset   for the owner
;;   total   query: 8 bytes
(module
  (import "blockcloud" "args" (func $args (param i32 i32) (result i32)))
  (import "blockcloud" "result" (func $result (param i32 i32)))
  (import "blockcloud" "fail" (func $fail (param i32 i32)))
  (import "blockcloud" "get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "blockcloud" "put" (func $put (param i32 i32 i32 i32)))
  (import "blockcloud" "emit" (func $emit (param i32 i32 i32 i32)))
  (import "blockcloud" "sender" (func $sender (param i32)))

  ;; The memory begins anew with every call: 0 the total, 8 the argument, 32 who calls, 64 the owner, 128 texts.
  (memory (export "memory") 1)
  (data (i32.const 128) "total")
  (data (i32.const 136) "owner")
  (data (i32.const 144) "added")
  (data (i32.const 152) "add how much?")
  (data (i32.const 168) "only the owner resets")

  (func $load (drop (call $get (i32.const 128) (i32.const 5) (i32.const 0) (i32.const 8))))
  (func $save (call $put (i32.const 128) (i32.const 5) (i32.const 0) (i32.const 8)))

  ;; Runs once, at deployment.
  (func (export "init")
    (call $sender (i32.const 32))
    (call $put (i32.const 136) (i32.const 5) (i32.const 32) (i32.const 32))
    (call $save))

  (func (export "add")
    (if (i32.ne (call $args (i32.const 8) (i32.const 8)) (i32.const 8))
      (then (call $fail (i32.const 152) (i32.const 13))))
    (call $load)
    (i64.store (i32.const 0) (i64.add (i64.load (i32.const 0)) (i64.load (i32.const 8))))
    (call $save)
    (call $emit (i32.const 144) (i32.const 5) (i32.const 8) (i32.const 8))
    (call $result (i32.const 0) (i32.const 8)))

  (func (export "reset")
    (call $sender (i32.const 32))
    (drop (call $get (i32.const 136) (i32.const 5) (i32.const 64) (i32.const 32)))
    (if (i32.eqz (call $same)) (then (call $fail (i32.const 168) (i32.const 21))))
    (call $save))

  ;; Whether the 32 bytes at 32 and at 64 are equal.
  (func $same (result i32)
    (local $at i32)
    (loop $next
      (if (i64.ne (i64.load (i32.add (local.get $at) (i32.const 32)))
                  (i64.load (i32.add (local.get $at) (i32.const 64))))
        (then (return (i32.const 0))))
      (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const 32))))
    (i32.const 1))

  (func (export "total")
    (call $load)
    (call $result (i32.const 0) (i32.const 8))))
