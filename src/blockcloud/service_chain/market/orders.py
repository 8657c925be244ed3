"""Orders: what somebody wants or offers, at which limit, and for how long; and what may be ordered at all.

An order is known by where the chain took it in, (height, place), which nobody chooses freely. It is there from the
round in which it arrives to the one in which it expires, both included. Its limit is for one unit and the same for
each (constant marginal value), so any part of it may be filled; all-or-nothing is not offered. What it promises is
locked before it counts: a buyer's limit for each unit, a seller's bond for each delivery.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC
from blockcloud.primitives.codec import Struct
from blockcloud.service_chain.market.refusals import (
    IdentityNotBonded,
    OrderLimitOutOfRange,
    OrderNotBacked,
    OrderQuantityOutOfRange,
    OrderRoundPassed,
    OrderTooLarge,
    OrderTooPatient,
)

QUANTITY_MAX: Final = 2**32
LIVE_ORDERS: Final = 65_536
# Live, and left unfilled less than a window ago: all that a market remembers of identities.
KNOWN_IDENTITIES: Final = 4 * LIVE_ORDERS


class Side(IntEnum):
    """Whether an order buys or sells."""

    BID = 0
    ASK = 1


class OrderId(NamedTuple):
    """Where the chain took the order in: the height of the commit, and its place there."""

    height: int
    place: int


class Order(Struct, frozen=True):
    """`limit` in micro-BLOC for a unit: a buyer pays no more, a seller gets no less. Rounds are numbered."""

    id: OrderId
    identity: bytes
    side: Side
    limit: int
    quantity: int
    arrival: int
    expiry: int


class Backing(NamedTuple):
    """What the ledger holds for an order, in micro-BLOC: the identity's bond, and what was locked for this order."""

    bond: int
    locked: int


class MarketRules(Struct, frozen=True):
    """What all orders of a market have in common; amounts in micro-BLOC."""

    patience_max: int = 32  # rounds
    identity_bond: int = 1_000_000
    delivery_bond: int = 1_000  # of a seller, for each unit


def check_order(order: Order, backing: Backing, rules: MarketRules, coming_round: int) -> None:
    """Raises the refusal that says what is wrong with the order by itself."""
    if not 0 < order.quantity <= QUANTITY_MAX:
        raise OrderQuantityOutOfRange(quantity=order.quantity, limit=QUANTITY_MAX)
    if not 0 < order.limit <= MAXIMUM_MICRO_BLOC:
        raise OrderLimitOutOfRange(limit=order.limit, maximum=MAXIMUM_MICRO_BLOC)
    if order.limit * order.quantity > MAXIMUM_MICRO_BLOC:
        raise OrderTooLarge(limit=order.limit, quantity=order.quantity)
    if not coming_round <= order.arrival <= order.expiry:
        raise OrderRoundPassed(arrival=order.arrival, expiry=order.expiry, coming=coming_round)
    if order.expiry - order.arrival > rules.patience_max:
        raise OrderTooPatient(rounds=order.expiry - order.arrival, limit=rules.patience_max)
    if backing.bond < rules.identity_bond:
        raise IdentityNotBonded(bond=backing.bond, needed=rules.identity_bond)
    promised = order.quantity * (order.limit if order.side is Side.BID else rules.delivery_bond)
    if backing.locked < promised:
        raise OrderNotBacked(locked=backing.locked, needed=promised)
