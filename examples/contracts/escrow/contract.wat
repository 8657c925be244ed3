;; Escrow with an arbiter.
;;
;; At deployment the buyer names the seller and the arbiter, sets a height, and pays. Then
;;   release   buyer or arbiter    the seller gets the money
;;   refund    seller or arbiter   the buyer gets it back
;;   expire    anybody             the buyer gets it back, above the height
;;   status    query               0 open, 1 released, 2 refunded, 3 expired
;; Whatever ends it ends it once.
;;
;; Arguments of init: seller (32 bytes), arbiter (32 bytes), last height (8 bytes, little endian).
(module
  (import "blockcloud" "args" (func $args (param i32 i32) (result i32)))
  (import "blockcloud" "result" (func $result (param i32 i32)))
  (import "blockcloud" "fail" (func $fail (param i32 i32)))
  (import "blockcloud" "get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "blockcloud" "put" (func $put (param i32 i32 i32 i32)))
  (import "blockcloud" "transfer" (func $transfer (param i32 i64)))
  (import "blockcloud" "emit" (func $emit (param i32 i32 i32 i32)))
  (import "blockcloud" "sender" (func $sender (param i32)))
  (import "blockcloud" "value" (func $value (result i64)))
  (import "blockcloud" "height" (func $height (result i64)))
  (import "blockcloud" "balance" (func $balance (result i64)))

  (memory (export "memory") 1)
  ;; 0    the deal: buyer, seller, arbiter, last height (8), status (1): 105 bytes
  ;; 128  who calls
  (data (i32.const 256) "deal")
  (data (i32.const 264) "released")
  (data (i32.const 272) "refunded")
  (data (i32.const 280) "expired")
  (data (i32.const 300) "arguments: seller, arbiter, last height")
  (data (i32.const 340) "nothing was paid in")
  (data (i32.const 360) "the deal is over")
  (data (i32.const 380) "not for you to say")
  (data (i32.const 400) "it is too early")

  (func $save (call $put (i32.const 256) (i32.const 4) (i32.const 0) (i32.const 105)))

  ;; Read the deal, which must be open, and who calls.
  (func $open
    (drop (call $get (i32.const 256) (i32.const 4) (i32.const 0) (i32.const 105)))
    (if (i32.load8_u (i32.const 104)) (then (call $fail (i32.const 360) (i32.const 16))))
    (call $sender (i32.const 128)))

  ;; Whether who calls is the one whose address stands at $place.
  (func $is (param $place i32) (result i32)
    (i64.eqz (i64.or
      (i64.or (i64.xor (i64.load (i32.const 128)) (i64.load (local.get $place)))
              (i64.xor (i64.load offset=8 (i32.const 128)) (i64.load offset=8 (local.get $place))))
      (i64.or (i64.xor (i64.load offset=16 (i32.const 128)) (i64.load offset=16 (local.get $place)))
              (i64.xor (i64.load offset=24 (i32.const 128)) (i64.load offset=24 (local.get $place)))))))

  ;; End the deal: note it first, pay then.
  (func $end (param $status i32) (param $to i32) (param $topic i32) (param $length i32)
    (local $amount i64)
    (local.set $amount (call $balance))
    (i32.store8 (i32.const 104) (local.get $status))
    (call $save)
    (call $transfer (local.get $to) (local.get $amount))
    (call $emit (local.get $topic) (local.get $length) (local.get $to) (i32.const 32)))

  (func (export "init")
    (if (i32.ne (call $args (i32.const 32) (i32.const 72)) (i32.const 72))
      (then (call $fail (i32.const 300) (i32.const 39))))
    (if (i64.eqz (call $value)) (then (call $fail (i32.const 340) (i32.const 19))))
    (call $sender (i32.const 0))
    (call $save))

  (func (export "release")
    (call $open)
    (if (i32.eqz (i32.or (call $is (i32.const 0)) (call $is (i32.const 64))))
      (then (call $fail (i32.const 380) (i32.const 18))))
    (call $end (i32.const 1) (i32.const 32) (i32.const 264) (i32.const 8)))

  (func (export "refund")
    (call $open)
    (if (i32.eqz (i32.or (call $is (i32.const 32)) (call $is (i32.const 64))))
      (then (call $fail (i32.const 380) (i32.const 18))))
    (call $end (i32.const 2) (i32.const 0) (i32.const 272) (i32.const 8)))

  (func (export "expire")
    (call $open)
    (if (i64.le_u (call $height) (i64.load (i32.const 96)))
      (then (call $fail (i32.const 400) (i32.const 15))))
    (call $end (i32.const 3) (i32.const 0) (i32.const 280) (i32.const 7)))

  (func (export "status")
    (drop (call $get (i32.const 256) (i32.const 4) (i32.const 0) (i32.const 105)))
    (call $result (i32.const 104) (i32.const 1))))
