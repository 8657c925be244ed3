;; Access to data: who may read what, until when, and a log that cannot be rewritten.
;;
;; Whoever deploys it owns the data.
;;   request   anybody           asks for access; arguments: purpose (at most 64 bytes)
;;   grant     owner             arguments: reader (32 bytes), last height (8 bytes, little endian)
;;   revoke    owner             arguments: reader (32 bytes)
;;   expire    anybody           forgets a grant whose height has passed; arguments: reader (32 bytes)
;;   allowed   query             1 or 0; arguments: reader (32 bytes)
;;   log       query             entry at a number (arguments: 4 bytes): what (1), reader (32), height (8)
;;   entries   query             how many entries the log has (4 bytes)
;; What in the log: 1 requested, 2 granted, 3 revoked, 4 expired. All numbers are little endian.
(module
  (import "blockcloud" "args" (func $args (param i32 i32) (result i32)))
  (import "blockcloud" "result" (func $result (param i32 i32)))
  (import "blockcloud" "fail" (func $fail (param i32 i32)))
  (import "blockcloud" "get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "blockcloud" "put" (func $put (param i32 i32 i32 i32)))
  (import "blockcloud" "delete" (func $delete (param i32 i32) (result i32)))
  (import "blockcloud" "emit" (func $emit (param i32 i32 i32 i32)))
  (import "blockcloud" "sender" (func $sender (param i32)))
  (import "blockcloud" "height" (func $height (result i64)))

  (memory (export "memory") 1)
  ;; 0 arguments; 128 who calls; 160 the owner; 200 "G" and a reader; 240 last height of a grant
  ;; 260 number of entries; 264 "L" and a number; 272 an entry: what, reader, height (41 bytes)
  (data (i32.const 200) "G")
  (data (i32.const 264) "L")
  (data (i32.const 320) "O")
  (data (i32.const 321) "N")
  (data (i32.const 330) "requested")
  (data (i32.const 340) "granted")
  (data (i32.const 350) "revoked")
  (data (i32.const 360) "expired")
  (data (i32.const 370) "only the owner may")
  (data (i32.const 390) "wrong arguments")
  (data (i32.const 410) "no such grant")
  (data (i32.const 430) "it is still good")
  (data (i32.const 450) "the height has passed")

  (func $copy32 (param $to i32) (param $from i32)
    (i64.store (local.get $to) (i64.load (local.get $from)))
    (i64.store offset=8 (local.get $to) (i64.load offset=8 (local.get $from)))
    (i64.store offset=16 (local.get $to) (i64.load offset=16 (local.get $from)))
    (i64.store offset=24 (local.get $to) (i64.load offset=24 (local.get $from))))

  (func $same (param $a i32) (param $b i32) (result i32)
    (i64.eqz (i64.or
      (i64.or (i64.xor (i64.load (local.get $a)) (i64.load (local.get $b)))
              (i64.xor (i64.load offset=8 (local.get $a)) (i64.load offset=8 (local.get $b))))
      (i64.or (i64.xor (i64.load offset=16 (local.get $a)) (i64.load offset=16 (local.get $b)))
              (i64.xor (i64.load offset=24 (local.get $a)) (i64.load offset=24 (local.get $b)))))))

  (func $owner_only
    (drop (call $get (i32.const 320) (i32.const 1) (i32.const 160) (i32.const 32)))
    (call $sender (i32.const 128))
    (if (i32.eqz (call $same (i32.const 128) (i32.const 160)))
      (then (call $fail (i32.const 370) (i32.const 18)))))

  ;; Arguments of exactly so many bytes, at 0; the first 32 become the reader of the grant's key.
  (func $reader (param $bytes i32)
    (if (i32.ne (call $args (i32.const 0) (i32.const 128)) (local.get $bytes))
      (then (call $fail (i32.const 390) (i32.const 15))))
    (call $copy32 (i32.const 201) (i32.const 0)))

  ;; The grant's last height at 240; -1 if there is none.
  (func $grant_of (result i32) (call $get (i32.const 200) (i32.const 33) (i32.const 240) (i32.const 8)))

  (func $count (result i32)
    (i32.store (i32.const 260) (i32.const 0))
    (drop (call $get (i32.const 321) (i32.const 1) (i32.const 260) (i32.const 4)))
    (i32.load (i32.const 260)))

  ;; Append an entry about the one whose address stands at $who, and tell it.
  (func $note (param $what i32) (param $who i32) (param $topic i32) (param $length i32)
    (i32.store8 (i32.const 272) (local.get $what))
    (call $copy32 (i32.const 273) (local.get $who))
    (i64.store (i32.const 305) (call $height))
    (i32.store (i32.const 265) (call $count))
    (call $put (i32.const 264) (i32.const 5) (i32.const 272) (i32.const 41))
    (i32.store (i32.const 260) (i32.add (i32.load (i32.const 265)) (i32.const 1)))
    (call $put (i32.const 321) (i32.const 1) (i32.const 260) (i32.const 4))
    (call $emit (local.get $topic) (local.get $length) (local.get $who) (i32.const 32)))

  (func (export "init")
    (call $sender (i32.const 128))
    (call $put (i32.const 320) (i32.const 1) (i32.const 128) (i32.const 32)))

  (func (export "request")
    (if (i32.gt_u (call $args (i32.const 0) (i32.const 64)) (i32.const 64))
      (then (call $fail (i32.const 390) (i32.const 15))))
    (call $sender (i32.const 128))
    (call $note (i32.const 1) (i32.const 128) (i32.const 330) (i32.const 9)))

  (func (export "grant")
    (call $owner_only)
    (call $reader (i32.const 40))
    (if (i64.lt_u (i64.load (i32.const 32)) (call $height))
      (then (call $fail (i32.const 450) (i32.const 21))))
    (call $put (i32.const 200) (i32.const 33) (i32.const 32) (i32.const 8))
    (call $note (i32.const 2) (i32.const 0) (i32.const 340) (i32.const 7)))

  (func (export "revoke")
    (call $owner_only)
    (call $reader (i32.const 32))
    (if (i32.eqz (call $delete (i32.const 200) (i32.const 33)))
      (then (call $fail (i32.const 410) (i32.const 13))))
    (call $note (i32.const 3) (i32.const 0) (i32.const 350) (i32.const 7)))

  (func (export "expire")
    (call $reader (i32.const 32))
    (if (i32.lt_s (call $grant_of) (i32.const 0)) (then (call $fail (i32.const 410) (i32.const 13))))
    (if (i64.le_u (call $height) (i64.load (i32.const 240)))
      (then (call $fail (i32.const 430) (i32.const 16))))
    (drop (call $delete (i32.const 200) (i32.const 33)))
    (call $note (i32.const 4) (i32.const 0) (i32.const 360) (i32.const 7)))

  (func (export "allowed")
    (call $reader (i32.const 32))
    (i32.store8 (i32.const 500) (i32.const 0))
    (if (i32.ge_s (call $grant_of) (i32.const 0))
      (then (i32.store8 (i32.const 500) (i64.le_u (call $height) (i64.load (i32.const 240))))))
    (call $result (i32.const 500) (i32.const 1)))

  (func (export "log")
    (if (i32.ne (call $args (i32.const 265) (i32.const 4)) (i32.const 4))
      (then (call $fail (i32.const 390) (i32.const 15))))
    (if (i32.lt_s (call $get (i32.const 264) (i32.const 5) (i32.const 272) (i32.const 41)) (i32.const 0))
      (then (call $fail (i32.const 410) (i32.const 13))))
    (call $result (i32.const 272) (i32.const 41)))

  (func (export "entries")
    (drop (call $count))
    (call $result (i32.const 260) (i32.const 4))))
