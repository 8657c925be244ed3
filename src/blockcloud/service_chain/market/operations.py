"""The operations on markets, and what they weigh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Annotated, Any, Final, TypeAlias

from msgspec import Meta

from blockcloud.primitives.codec import Struct
from blockcloud.primitives.names import parse_name
from blockcloud.service_chain.agreements.operations import Duration, Quality, Sleep, Unit
from blockcloud.service_chain.agreements.parameters import TIME_MAX_MS
from blockcloud.service_chain.fields import Amount, Digest, Key, NameText, Number, PositiveAmount, Salt
from blockcloud.service_chain.market.orders import QUANTITY_MAX
from blockcloud.service_chain.market.parameters import PATIENCE_MAX
from blockcloud.service_chain.market.sealed import SealedOrder

WORD_BYTES: Final = 32
Word: TypeAlias = Annotated[str, Meta(min_length=1, max_length=WORD_BYTES, pattern=r"^[!-~]+$")]
Latency: TypeAlias = Annotated[int, Meta(ge=0, le=TIME_MAX_MS)]
Quantity: TypeAlias = Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]
Patience: TypeAlias = Annotated[int, Meta(ge=0, le=PATIENCE_MAX)]


class MarketMechanism(Enum):
    """How a market finds who trades at which price (`ratchet`, `mcafee` and `m1` in this package)."""

    RATCHET = "ratchet"
    MCAFEE = "mcafee"
    M1 = "m1"


class MarketKey(Struct, frozen=True):
    """What is traded, and how; its hash is the market's id. A unit is delivered in `region`, within `latency_ms` (0:
    nothing is promised) and as well as `quality_ppm` says, for `duration_ms` from `starts_ms` on, or from the match on
    if that is 0. A seller locks `delivery_bond` for each unit, which breaches are paid from."""

    service_class: Word
    unit: Unit
    region: Word
    latency_ms: Latency
    quality_ppm: Quality
    starts_ms: Number
    duration_ms: Duration
    mechanism: MarketMechanism
    delivery_bond: Amount


class OpenMarket(Struct, frozen=True, tag=80):
    """Open a market, whose first price is `opening_price` micro-BLOC a unit. Anybody may, for a deposit that comes back
    when it is closed."""

    key: MarketKey
    opening_price: PositiveAmount


class CloseMarket(Struct, frozen=True, tag=81):
    """Close a market without orders. Who opened it may; anybody may once its window is over."""

    market: Digest


class Bid(Struct, frozen=True, tag=82):
    """Buy `quantity` units, or a part of them, for at most `limit` each, in the coming round or in one of `patience`
    further ones. Vouchers of `voucher_key` move what the agreements hold."""

    market: Digest
    limit: PositiveAmount
    quantity: Quantity
    patience: Patience
    voucher_key: Key


class Ask(Struct, frozen=True, tag=83):
    """Sell `quantity` units of what the sender's `name` delivers, or a part of them, for at least `limit` each. The
    sender may be out of reach for `sleep_ms`."""

    market: Digest
    limit: PositiveAmount
    quantity: Quantity
    patience: Patience
    name: NameText
    sleep_ms: Sleep


class CancelOrder(Struct, frozen=True, tag=84):
    """Take the sender's order out of a market. Its money comes back when it would have expired."""

    market: Digest


class CommitOrder(Struct, frozen=True, tag=85):
    """Bind the sender to an order in a sealed round without telling it (`sealed.order_commitment`). `locked` is the
    most that it may owe: a buyer's limit for each unit, a seller's bond for each delivery."""

    market: Digest
    commitment: Digest
    locked: PositiveAmount


class RevealOrder(Struct, frozen=True, tag=86):
    """Open the sender's commitment: the order and its salt, and as in a Bid `voucher_key`, or as in an Ask `name` and
    `sleep_ms`."""

    market: Digest
    order: SealedOrder
    salt: Salt
    voucher_key: Key
    name: Annotated[str, Meta(max_length=253)]
    sleep_ms: Sleep


MarketOperation: TypeAlias = OpenMarket | CloseMarket | Bid | Ask | CancelOrder | CommitOrder | RevealOrder

# In the units of `fees.OPERATION_WEIGHTS`. An order is looked at in each round of its patience, and may be matched.
MARKET_WEIGHTS: Final[Mapping[type, int]] = {
    OpenMarket: 24,
    CloseMarket: 12,
    Bid: 40,
    Ask: 40,
    CancelOrder: 8,
    CommitOrder: 40,
    RevealOrder: 12,
}


def _check_ask(operation: Ask) -> None:
    parse_name(operation.name)


def _check_reveal(operation: RevealOrder) -> None:
    if operation.name:
        parse_name(operation.name)


# What can be refused without looking at the state (`operations.check_operation`).
MARKET_CHECKS: Final[Mapping[type, Callable[[Any], None]]] = {Ask: _check_ask, RevealOrder: _check_reveal}
