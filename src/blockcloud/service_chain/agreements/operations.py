"""The operations on agreements, and what they weigh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeAlias

from msgspec import Meta

from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import Malformed
from blockcloud.primitives.names import parse_name
from blockcloud.service_chain.agreements.parameters import PARTS_PER_MILLION, TIME_MAX_MS
from blockcloud.service_chain.agreements.vouchers import TAIL_LENGTH, TAIL_STEPS, SignedVoucher
from blockcloud.service_chain.fields import (
    Amount,
    Digest,
    Key,
    NameText,
    OptionalDigest,
    PositiveAmount,
    Salt,
)

UNIT_BYTES: Final = 32
Unit: TypeAlias = Annotated[str, Meta(min_length=1, max_length=UNIT_BYTES, pattern=r"^[!-~]+$")]
Quality: TypeAlias = Annotated[int, Meta(ge=0, le=PARTS_PER_MILLION)]
Duration: TypeAlias = Annotated[int, Meta(ge=1, le=TIME_MAX_MS)]
Sleep: TypeAlias = Annotated[int, Meta(ge=0, le=TIME_MAX_MS)]


class PostOffer(Struct, frozen=True, tag=70):
    """Offer what the sender's name delivers for `unit_price` micro-BLOC a `unit`, or change what was offered, and put
    `bond` more behind it. `quality_ppm` is promised; the sender may be out of reach for `sleep_ms`."""

    name: NameText
    unit: Unit
    unit_price: PositiveAmount
    longest_ms: Duration
    quality_ppm: Quality
    sleep_ms: Sleep
    bond: Amount


class WithdrawOffer(Struct, frozen=True, tag=71):
    """Offer nothing any more under the name. The bond comes back once no agreement needs it: withdraw again then."""

    name: NameText


class OpenAgreement(Struct, frozen=True, tag=72):
    """Agree with the `provider` of `name` at its posted price, if that is at most `price_limit` a unit and it promises
    at least `quality_ppm`, for `duration_ms` from now. `deposit` goes into the channel, which vouchers of `voucher_key`
    move. `tail_tip` (or empty) is the tip of a PayWord onion of which each layer is worth `tail_unit`."""

    name: NameText
    provider: Key
    salt: Salt
    voucher_key: Key
    deposit: PositiveAmount
    price_limit: PositiveAmount
    quality_ppm: Quality
    duration_ms: Duration
    tail_tip: OptionalDigest = b""
    tail_unit: Amount = 0


class TopUpAgreement(Struct, frozen=True, tag=73):
    """Put `amount` more into the channel. Anybody may."""

    agreement: Digest
    amount: PositiveAmount


class ExtendAgreement(Struct, frozen=True, tag=74):
    """Let the agreement last for `duration_ms` more, at its price: only its client may, while the provider's offer is
    no dearer."""

    agreement: Digest
    duration_ms: Duration


class ClaimVoucher(Struct, frozen=True, tag=75):
    """Pay the provider what the voucher promises and it has not had yet. Anybody may: a provider that sleeps leaves
    its voucher with somebody who is awake."""

    voucher: SignedVoucher


class ClaimPayWord(Struct, frozen=True, tag=76):
    """Pay the provider the layers of the PayWord tail down to number `steps`, which is `reveal`. Anybody may."""

    agreement: Digest
    reveal: Digest
    steps: Annotated[int, Meta(ge=1, le=TAIL_LENGTH)]


class CloseAgreement(Struct, frozen=True, tag=77):
    """End the agreement. Its provider does so at once; its client starts the timer, in which claims still count."""

    agreement: Digest


class SettleAgreement(Struct, frozen=True, tag=78):
    """Give the client what is left of an agreement whose time for claims is over. Anybody may."""

    agreement: Digest


AgreementOperation: TypeAlias = (
    PostOffer
    | WithdrawOffer
    | OpenAgreement
    | TopUpAgreement
    | ExtendAgreement
    | ClaimVoucher
    | ClaimPayWord
    | CloseAgreement
    | SettleAgreement
)

# In the units of `fees.OPERATION_WEIGHTS`. A PayWord claim is up to TAIL_STEPS hashes.
AGREEMENT_WEIGHTS: Final[Mapping[type, int]] = {
    PostOffer: 16,
    WithdrawOffer: 8,
    OpenAgreement: 20,
    TopUpAgreement: 8,
    ExtendAgreement: 8,
    # And its signature.
    ClaimVoucher: 22,
    ClaimPayWord: 16 + TAIL_STEPS // 10,
    CloseAgreement: 12,
    SettleAgreement: 12,
}


def _check_name(operation: PostOffer | WithdrawOffer) -> None:
    parse_name(operation.name)


def _check_open(operation: OpenAgreement) -> None:
    parse_name(operation.name)
    if len(operation.tail_tip) not in (0, 32) or bool(operation.tail_tip) != bool(operation.tail_unit):
        raise Malformed("a PayWord tail has a tip of 32 bytes and a value for each layer, or neither")


def _check_claim(operation: ClaimVoucher) -> None:
    operation.voucher.verify()


# What can be refused without looking at the state (`operations.check_operation`).
AGREEMENT_CHECKS: Final[Mapping[type, Callable[[Any], None]]] = {
    PostOffer: _check_name,
    WithdrawOffer: _check_name,
    OpenAgreement: _check_open,
    ClaimVoucher: _check_claim,
}
