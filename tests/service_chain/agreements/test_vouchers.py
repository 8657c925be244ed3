"""Vouchers, receipts and the rule by which a payee takes them."""

from __future__ import annotations

from dataclasses import replace as changed
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadConfiguration, BadSignature, Malformed, NonCanonical, Oversized, PeerFault
from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.agreements.faults import (
    BadReceipt,
    CreditExhausted,
    ShrinkingVoucher,
    StaleVoucher,
    VoucherAboveDeposit,
    VoucherOfAnotherAgreement,
    VoucherOfAnotherChain,
    VoucherTooLow,
    WrongPayWord,
    WrongVoucherKey,
)
from blockcloud.service_chain.agreements.receipts import (
    CosignedReceipt,
    DeliveryReceipt,
    ReceiptTree,
    countersign,
    receipt_proof,
    sign_receipt,
    verify_receipt,
)
from blockcloud.service_chain.agreements.vouchers import (
    TAIL_STEPS,
    Channel,
    Payee,
    Payer,
    SignedVoucher,
    Voucher,
    decode_voucher,
    sign_voucher,
)

CLIENT, PROVIDER = SigningKey(bytes([1]) * 32), SigningKey(bytes([2]) * 32)
CHANNEL = Channel(bytes([3]) * 32, bytes([4]) * 32, CLIENT.public, 10_000, 100)
ONION = HashOnion(bytes([5]) * 32, 3_000)


def voucher(sequence: int, amount: int, units: int = 0, **changes: Any) -> SignedVoucher:
    key = changes.pop("key", CLIENT)
    made = Voucher(CHANNEL.chain_id, CHANNEL.agreement, 0, sequence, amount, units)
    return sign_voucher(replace(made, **changes), key)


def accept(payee: Payee, signed: SignedVoucher) -> None:
    payee.take(payee.check(signed))


@pytest.mark.parametrize(
    ("signed", "fault"),
    [
        (voucher(3, 600, chain_id=bytes(32)), VoucherOfAnotherChain),
        (voucher(3, 600, agreement=bytes(32)), VoucherOfAnotherAgreement),
        (voucher(3, 600, key=PROVIDER), WrongVoucherKey),
        (voucher(2, 600), StaleVoucher),
        (voucher(1, 600), StaleVoucher),
        (voucher(3, 499, 5), ShrinkingVoucher),
        (voucher(3, 600, 4), ShrinkingVoucher),
        (voucher(3, 10_001, 5), VoucherAboveDeposit),
        (voucher(3, 600, 9), VoucherTooLow),
        (replace(voucher(3, 600, 5), signature=bytes(64)), BadSignature),
    ],
)
def test_vouchers_that_a_payee_does_not_take(signed: SignedVoucher, fault: type[PeerFault]) -> None:
    payee = Payee(CHANNEL, 2)
    accept(payee, voucher(2, 500, 5))
    before = payee.standing
    with pytest.raises(fault):
        payee.check(signed)
    assert payee.standing == before
    accept(payee, voucher(3, 600, 8))
    accept(payee, voucher(1, 600, 8, epoch=1))


def test_there_is_no_credit_before_the_first_payment() -> None:
    payee = Payee(CHANNEL, 3)
    with pytest.raises(CreditExhausted):
        payee.serve(1)
    with pytest.raises(VoucherTooLow):
        payee.check(voucher(1, 0, 1))
    accept(payee, voucher(1, 100))
    for _ in range(4):
        payee.take(payee.serve(1))
    with pytest.raises(CreditExhausted):
        payee.serve(1)
    # What was served counts, whatever the voucher says about units.
    with pytest.raises(ShrinkingVoucher):
        payee.check(voucher(2, 99))
    accept(payee, voucher(2, 200, 2))
    payee.take(payee.serve(1))
    with pytest.raises(CreditExhausted):
        payee.serve(1)


def test_a_credit_window_has_a_limit() -> None:
    with pytest.raises(BadConfiguration):
        Payee(CHANNEL, 11)


@given(
    credit=st.integers(0, 10),
    steps=st.lists(st.tuples(st.sampled_from(["pay", "serve", "word"]), st.integers(0, 12)), max_size=40),
)
def test_a_payee_is_never_owed_more_than_the_credit(credit: int, steps: list[tuple[str, int]]) -> None:
    channel = changed(CHANNEL, tail_tip=ONION.tip, tail_unit=30)
    payee, payer = Payee(channel, credit), Payer(channel, CLIENT, tail=ONION)
    served = 0
    for kind, count in steps:
        try:
            if kind == "pay":
                accept(payee, payer.pay(count * 100))
            elif kind == "word":
                reveal, number = payer.pay_word()
                payee.take(payee.check_payword(reveal, number))
            else:
                payee.take(payee.serve(count))
                served += count
        except (CreditExhausted, VoucherAboveDeposit, VoucherTooLow):
            continue
        assert payee.promised <= channel.deposited
        assert served * channel.unit_price <= payee.promised + credit * channel.unit_price
        assert payee.standing.served_units == served


def test_a_payer_goes_on_from_its_book_and_keeps_to_the_deposit() -> None:
    payer = Payer(CHANNEL, CLIENT)
    first = payer.pay(4_000, 40)
    again = Payer(CHANNEL, CLIENT, first.voucher).pay(6_000, 60)
    payee = Payee(CHANNEL, 0)
    accept(payee, first)
    accept(payee, again)
    assert payee.promised == 10_000
    for amount in (-1, 6_001):
        with pytest.raises(VoucherAboveDeposit):
            payer.pay(amount)
    with pytest.raises(WrongPayWord):
        payer.pay_word()


def test_payword_layers_that_are_not_good() -> None:
    payee = Payee(changed(CHANNEL, tail_tip=ONION.tip, tail_unit=5), 0)
    payee.take(payee.check_payword(ONION.reveal(4), 4))
    for reveal, steps in ((ONION.reveal(4), 4), (ONION.reveal(6), 5), (ONION.reveal(3), 3)):
        with pytest.raises(WrongPayWord):
            payee.check_payword(reveal, steps)
    with pytest.raises(WrongPayWord):
        payee.check_payword(ONION.reveal(5 + TAIL_STEPS), 5 + TAIL_STEPS)
    with pytest.raises(VoucherAboveDeposit):
        Payee(changed(CHANNEL, tail_tip=ONION.tip, tail_unit=5_001), 0).check_payword(ONION.reveal(2), 2)
    with pytest.raises(WrongPayWord):
        Payee(CHANNEL, 0).check_payword(ONION.reveal(1), 1)
    assert payee.promised == 20
    # Voucher and tail stay below the deposit together.
    accept(payee, voucher(1, 9_980))
    with pytest.raises(VoucherAboveDeposit):
        payee.check_payword(ONION.reveal(5), 5)


def test_a_top_up_counts_from_then_on() -> None:
    payee = Payee(CHANNEL, 0)
    payee.topped_up(changed(CHANNEL, deposited=20_000))
    accept(payee, voucher(1, 15_000))
    with pytest.raises(VoucherOfAnotherAgreement):
        payee.topped_up(changed(CHANNEL, agreement=bytes(32)))


def test_bytes_that_are_no_voucher() -> None:
    good = codec.encode(voucher(1, 5))
    assert decode_voucher(good) == voucher(1, 5)
    longer = good.replace(b"\x05\x00", b"\xcc\x05\x00")
    for bad, fault in ((good[:-1], Malformed), (bytes(600), Oversized), (longer, NonCanonical)):
        with pytest.raises(fault):
            decode_voucher(bad)
    with pytest.raises(Malformed):
        decode_voucher(codec.encode(voucher(1, 2**62 + 1)))


# Receipts


def receipt(number: int, units: int = 1) -> CosignedReceipt:
    digest = sha256(bytes([number]))
    made = DeliveryReceipt(CHANNEL.agreement, number, digest, digest, units, number * 100, 1_000)
    return countersign(made, PROVIDER.public, sign_receipt(made, PROVIDER), CLIENT)


def test_a_receipt_needs_both_sides() -> None:
    good = receipt(1)
    keys = (PROVIDER.public,)
    good.check(CHANNEL.agreement, keys, CLIENT.public)
    other = receipt(2)
    bad = [
        replace(good, receipt=replace(good.receipt, units=2)),
        replace(good, client_signature=other.client_signature),
        replace(good, provider_signature=other.provider_signature),
        replace(good, provider_key=CLIENT.public),
    ]
    for each in bad:
        with pytest.raises(BadReceipt):
            each.check(CHANNEL.agreement, keys, CLIENT.public)
    with pytest.raises(BadReceipt):
        good.check(bytes(32), keys, CLIENT.public)
    with pytest.raises(BadSignature):
        countersign(good.receipt, PROVIDER.public, bytes(64), CLIENT)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13])
def test_each_receipt_is_proven_with_the_sum_of_all(size: int) -> None:
    receipts = [receipt(number, number + 1) for number in range(size)]
    tree = ReceiptTree()
    for each in receipts:
        tree.append(each)
    total = size * (size + 1) // 2
    assert (tree.size, tree.units) == (size, total)
    for index, each in enumerate(receipts):
        proof = receipt_proof(receipts, index)
        assert verify_receipt(tree.root(), each, index, size, proof) == total
        assert verify_receipt(tree.root(), receipt(99), index, size, proof) is None
        assert verify_receipt(tree.root(), each, size, size, proof) is None
        for place, (digest, units) in enumerate(proof):
            lied = [*proof[:place], (digest, units + 1), *proof[place + 1 :]]
            assert verify_receipt(tree.root(), each, index, size, lied) is None
            assert verify_receipt(tree.root(), each, index, size, [(digest[:-1], units)]) is None
            assert verify_receipt(tree.root(), each, index, size, [(digest, -units)]) is None
        if len(proof) >= 2:
            (first, low), (second, high) = proof[:2]
            shifted = [(first, low + 1), (second, high - 1), *proof[2:]]  # the same sum at the root
            assert verify_receipt(tree.root(), each, index, size, shifted) is None
    with pytest.raises(IndexError):
        receipt_proof(receipts, size)


def test_an_empty_tree_has_no_root_and_sums_stay_in_64_bits() -> None:
    tree = ReceiptTree()
    assert tree.root() == bytes(32)
    tree.append(receipt(1, 2**63 - 1))
    tree.append(receipt(2, 2**63 - 1))
    with pytest.raises(BadReceipt):
        tree.append(receipt(3, 2))
