"""The lottery: in which order those are served who are all willing.

A ticket is a hash of the round's seed and the identity, so that it depends neither on what was ordered nor on when or
how often, and nobody else's presence changes it. The seed is not known before the orders of its round are included.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from heapq import nsmallest
from typing import Final

from blockcloud.primitives.hashes import tagged
from blockcloud.service_chain.market.orders import Order

TICKET: Final = "market/ticket/1"
# Below this share of all, taking the first few is quicker than sorting.
FEW: Final = 16


class Waiting:
    """An order in the market, and how much of it is not yet filled."""

    __slots__ = ("left", "order")

    def __init__(self, order: Order, quantity_left: int) -> None:
        self.order, self.left = order, quantity_left


def drawn(waiting: list[Waiting], seed: bytes, wanted: int) -> list[Waiting]:
    """The first `wanted` of the orders, by their tickets."""
    prefix = sha256(tagged(TICKET, seed))

    def ticket(one: Waiting) -> bytes:
        hasher = prefix.copy()
        hasher.update(one.order.identity)
        return hasher.digest()

    if wanted * FEW < len(waiting):
        return nsmallest(wanted, waiting, key=ticket)
    return sorted(waiting, key=ticket)


def units(waiting: Iterable[Waiting]) -> int:
    """How many units are not yet filled."""
    return sum(one.left for one in waiting)


def fill(bids: Iterable[Waiting], asks: Iterable[Waiting]) -> list[tuple[Order, Order, int]]:
    """Go through both sides in their order and let each bid take what the ask still has; who bought, sold, how many.
    Each step retires a bid or an ask, so there are fewer steps than orders."""
    filled = []
    sellers = iter(asks)
    ask = next(sellers, None)
    for bid in bids:
        while bid.left and ask is not None:
            quantity = min(bid.left, ask.left)
            bid.left -= quantity
            ask.left -= quantity
            filled.append((bid.order, ask.order, quantity))
            if not ask.left:
                ask = next(sellers, None)
        if ask is None:
            break
    return filled
