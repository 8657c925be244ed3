"""Where the price of the ratchet goes: towards what would clear the market among orders that have left.

Whoever is still in the market must not move the price that he will face, so only the limits of orders that have left
count: filled, priced out or expired. Of the newest of them supply and demand are put together, and the price at which
they balance is the target; the posted price goes a part of the way, and never more than an eighth of itself in a
round. An order counts for the units it was for, up to a few: its listing fee is flat, and a large order that is never
filled must not be a cheap lever. Decision 27 says what else was tried.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Final

from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC
from blockcloud.primitives.codec import Struct
from blockcloud.service_chain.market.orders import Order, Side

REMEMBERED: Final = 128  # orders that have left
COUNTED_UNITS: Final = 8
STEP_PARTS: Final = 8  # a round moves the price by at most one of so many parts: 12.5 %
PACE_PARTS: Final = 2  # and goes one of so many parts of the way to the target,
NEAR_PARTS: Final = 16  # unless that is nearer than one of so many parts: what only trembles costs trades


class Left(Struct, frozen=True):
    """What of an order that has left still counts."""

    side: Side
    limit: int
    units: int


def left(order: Order) -> Left:
    """What counts of an order, once it has left."""
    return Left(order.side, order.limit, min(order.quantity, COUNTED_UNITS))


def clearing_price(departed: Iterable[Left]) -> int | None:
    """The price at which as many units would be sold as bought, the middle where that is an interval; None without
    orders. With M units on sale, it lies between the M-th and the (M+1)-th highest limit of all."""
    stack = sorted(departed, key=lambda one: -one.limit)
    units_on_sale = sum(one.units for one in stack if one.side is Side.ASK)
    above, below, passed = None, None, 0
    for one in stack:
        if passed < units_on_sale:
            above = one.limit
        passed += one.units
        if passed > units_on_sale:
            below = one.limit
            break
    if above is None or below is None:
        return below if above is None else above
    return (above + below) // 2


def next_price(price: int, departed: Iterable[Left], earlier: Iterable[Left]) -> int:
    """The price of the next round. `departed` left in this one; without any, nothing was learnt and it stays."""
    now = list(departed)
    target = clearing_price(chain(earlier, now))
    if not now or target is None or abs(target - price) <= price // NEAR_PARTS:
        return price
    way = target - price
    step = min(max(abs(way) // PACE_PARTS, 1), max(price // STEP_PARTS, 1))
    return min(max(price + (step if way > 0 else -step), 1), MAXIMUM_MICRO_BLOC)
