"""Vouchers: signed promises of a channel's payer, each for all that it has paid so far.

A voucher is cumulative, so only the best one counts and a lost one is no loss; a payee keeps one. It names chain and
agreement, so it is worth nothing anywhere else. `epoch` counts the lives of the payer's book: a payer that lost its
book begins a new epoch, and never gives two vouchers one number. Unidirectional channels of this kind are those of
µRaiden and Filecoin (`reference/market.md` 3); PayWord is Rivest and Shamir's (1996).

`Payee` is the rule by which a provider takes vouchers and serves on credit. It does no input or output: whoever uses
it makes a voucher durable between `check` and `take`, because what a crash forgets was not paid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.hash_onion import HashOnion, verify_reveal
from blockcloud.primitives.hashes import ZERO_DIGEST
from blockcloud.primitives.keys import SigningKey, verify
from blockcloud.service_chain.agreements.faults import (
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
from blockcloud.service_chain.fields import Amount, Digest, Key, Number, Signature

DOMAIN: Final = "bloc/voucher/1"
VOUCHER_BYTES: Final = 512
CREDIT_UNITS_MAX: Final = 10
TAIL_LENGTH: Final = 65_536
# Layers that may lie between two PayWord payments: a payee hashes no more for one message.
TAIL_STEPS: Final = 1_024


class Voucher(Struct, frozen=True):
    """Promise of `amount` micro-BLOC in all for `units` in all. `receipt_root` commits to the co-signed receipts of
    what was delivered (`receipts.py`), or is zero."""

    chain_id: Digest
    agreement: Digest
    epoch: Number
    sequence: Number
    amount: Amount
    units: Number
    receipt_root: Digest = ZERO_DIGEST

    @property
    def number(self) -> tuple[int, int]:
        """Its place among the payer's vouchers."""
        return self.epoch, self.sequence


class SignedVoucher(Struct, frozen=True):
    """A voucher as it travels."""

    voucher: Voucher
    key: Key
    signature: Signature

    def verify(self) -> None:
        """Raise BadSignature unless `key` has signed."""
        verify(self.key, DOMAIN, codec.encode(self.voucher), self.signature)


def sign_voucher(voucher: Voucher, key: SigningKey) -> SignedVoucher:
    """`voucher` with the signature of `key`."""
    return SignedVoucher(voucher, key.public, key.sign(DOMAIN, codec.encode(voucher)))


def decode_voucher(data: bytes) -> SignedVoucher:
    """The voucher in `data`, not yet verified. Raises Oversized, Malformed or NonCanonical."""
    return codec.decode(data, SignedVoucher, limit=VOUCHER_BYTES)


@dataclass(frozen=True, slots=True)
class Channel:
    """What both sides know of a channel from the ledger. `deposited` grows by top-ups. Amounts in micro-BLOC."""

    chain_id: bytes
    agreement: bytes
    voucher_key: bytes
    deposited: int
    unit_price: int
    tail_tip: bytes = b""
    tail_unit: int = 0


class Standing(Struct, frozen=True):
    """How far a payee has come: its best voucher and PayWord layer, and the units it has served. Durable."""

    best: SignedVoucher | None = None
    tail: bytes = b""
    tail_steps: int = 0
    served_units: int = 0


NOTHING_TAKEN: Final = Standing()


class Payee:
    """The rule of one channel. The credit is zero until the channel is proven to be open (a Payee is made then) and a
    voucher has paid; from then on `credit_units` may be served before they are paid."""

    def __init__(self, channel: Channel, credit_units: int, standing: Standing = NOTHING_TAKEN) -> None:
        if not 0 <= credit_units <= CREDIT_UNITS_MAX:
            raise BadConfiguration(f"a credit window has 0 to {CREDIT_UNITS_MAX} units", units=credit_units)
        self.channel, self.standing = channel, standing
        self._credit_units = credit_units

    @property
    def promised(self) -> int:
        """Micro-BLOC that this payee can claim in all."""
        best, standing = self.standing.best, self.standing
        return (best.voucher.amount if best is not None else 0) + standing.tail_steps * self.channel.tail_unit

    @property
    def credit(self) -> int:
        """Micro-BLOC that may be owed."""
        return self._credit_units * self.channel.unit_price if self.promised else 0

    def check(self, signed: SignedVoucher) -> Standing:
        """The standing that `signed` leads to. Make it durable, then `take` it.

        Raises VoucherOfAnotherChain, VoucherOfAnotherAgreement, WrongVoucherKey, StaleVoucher, ShrinkingVoucher,
        VoucherAboveDeposit, VoucherTooLow or BadSignature.
        """
        voucher, channel, before = signed.voucher, self.channel, self.standing
        if voucher.chain_id != channel.chain_id:
            raise VoucherOfAnotherChain(chain=voucher.chain_id.hex()[:16])
        if voucher.agreement != channel.agreement:
            raise VoucherOfAnotherAgreement(agreement=voucher.agreement.hex()[:16])
        if signed.key != channel.voucher_key:
            raise WrongVoucherKey(key=signed.key.hex()[:16])
        if before.best is not None:
            last = before.best.voucher
            if voucher.number <= last.number:
                raise StaleVoucher(number=voucher.number, last=last.number)
            if voucher.amount < last.amount or voucher.units < last.units:
                raise ShrinkingVoucher(amount=voucher.amount, last=last.amount)
        tail = before.tail_steps * channel.tail_unit
        if voucher.amount + tail > channel.deposited:
            raise VoucherAboveDeposit(amount=voucher.amount + tail, deposited=channel.deposited)
        owed = max(voucher.units, before.served_units) * channel.unit_price
        credit = self._credit_units * channel.unit_price if voucher.amount + tail else 0
        if owed > voucher.amount + tail + credit:
            raise VoucherTooLow(amount=voucher.amount + tail, owed=owed, credit=credit)
        signed.verify()
        return Standing(signed, before.tail, before.tail_steps, before.served_units)

    def check_payword(self, reveal: bytes, steps: int) -> Standing:
        """The standing that the PayWord layer number `steps` leads to. Make it durable, then `take` it.

        Raises WrongPayWord or VoucherAboveDeposit.
        """
        channel, before = self.channel, self.standing
        further = steps - before.tail_steps
        if not channel.tail_tip or not (1 <= further <= TAIL_STEPS and steps <= TAIL_LENGTH):
            raise WrongPayWord(steps=steps, last=before.tail_steps)
        amount = self.promised + further * channel.tail_unit
        if amount > channel.deposited:
            raise VoucherAboveDeposit(amount=amount, deposited=channel.deposited)
        if not verify_reveal(before.tail or channel.tail_tip, reveal, further):
            raise WrongPayWord(steps=steps, last=before.tail_steps)
        return Standing(before.best, reveal, steps, before.served_units)

    def serve(self, units: int) -> Standing:
        """The standing after `units` more are served. Make it durable before they are. Raises CreditExhausted."""
        served = self.standing.served_units + units
        owed = served * self.channel.unit_price
        if owed > self.promised + self.credit:
            raise CreditExhausted(owed=owed, paid=self.promised, credit=self.credit)
        return Standing(self.standing.best, self.standing.tail, self.standing.tail_steps, served)

    def take(self, standing: Standing) -> None:
        """Go on from `standing`, which is durable now."""
        self.standing = standing

    def topped_up(self, channel: Channel) -> None:
        """Go on with what the ledger says now about the channel."""
        if (channel.chain_id, channel.agreement) != (self.channel.chain_id, self.channel.agreement):
            raise VoucherOfAnotherAgreement(agreement=channel.agreement.hex()[:16])
        self.channel = channel


class Payer:
    """The other side: makes vouchers, each with a new number and at least what the last one paid."""

    def __init__(
        self,
        channel: Channel,
        key: SigningKey,
        last: Voucher | None = None,
        *,
        epoch: int = 0,
        tail: HashOnion | None = None,
        tail_steps: int = 0,
    ) -> None:
        """`last` and `tail_steps`: as in the book. Without a book, an `epoch` that was never used."""
        self.channel, self.last, self.tail_steps = channel, last, tail_steps
        self._key, self._epoch, self._tail = key, last.epoch if last is not None else epoch, tail

    @property
    def paid(self) -> int:
        """Micro-BLOC promised in all."""
        return (self.last.amount if self.last is not None else 0) + self.tail_steps * self.channel.tail_unit

    def pay(self, amount: int, units: int = 0, receipt_root: bytes = ZERO_DIGEST) -> SignedVoucher:
        """A voucher for `amount` and `units` more. Make it durable before it leaves. Raises VoucherAboveDeposit."""
        last = self.last
        number, before, had = (last.sequence, last.amount, last.units) if last is not None else (0, 0, 0)
        if amount < 0 or units < 0 or self.paid + amount > min(self.channel.deposited, MAXIMUM_MICRO_BLOC):
            raise VoucherAboveDeposit(amount=self.paid + amount, deposited=self.channel.deposited)
        voucher = Voucher(
            self.channel.chain_id,
            self.channel.agreement,
            self._epoch,
            number + 1,
            before + amount,
            had + units,
            receipt_root,
        )
        self.last = voucher
        return sign_voucher(voucher, self._key)

    def pay_word(self) -> tuple[bytes, int]:
        """(layer, its number): one unit more of the PayWord tail. Raises WrongPayWord or VoucherAboveDeposit."""
        if self._tail is None or self.tail_steps >= self._tail.length:
            raise WrongPayWord(steps=self.tail_steps + 1)
        if self.paid + self.channel.tail_unit > self.channel.deposited:
            raise VoucherAboveDeposit(amount=self.paid + self.channel.tail_unit, deposited=self.channel.deposited)
        self.tail_steps += 1
        return self._tail.reveal(self.tail_steps), self.tail_steps
