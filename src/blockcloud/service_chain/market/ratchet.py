"""The default mechanism: a continuous double auction in which saying the truth is best.

The rule is Chain of Bredin, Parkes and Duong (JAIR 30, 2007) with a posted price that lags and a ratchet on payments
(`reference/market.md` 1.4). In each round there is one price, which no live order has moved. Who trades pays the
highest price (a seller gets the lowest) of all rounds from `patience_max` rounds before the end of his order up to
now: whatever he could have seen by coming earlier or by leaving later, he pays, so neither is worth a lie. Who would
have to pay more than his limit has left at once; all who remain are willing, and a lottery decides who trades. For
one unit, one identity and orders that do not outstay their owners, a limit is best set to what the unit is worth, and
the stay to the time one has: the misreport tests try every other. A buyer pays no less than the price, a seller gets
no more, so no round has a deficit.

An identity whose order left unfilled, or was cancelled, rests until a window after that order's arrival is over: else
it would use its own departed order to move the price for the next one. Its order was its word for that time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from blockcloud.primitives.codec import Struct
from blockcloud.service_chain.market.lottery import Waiting, drawn, fill, units
from blockcloud.service_chain.market.orders import (
    KNOWN_IDENTITIES,
    LIVE_ORDERS,
    Backing,
    MarketRules,
    Order,
    OrderId,
    Side,
    check_order,
)
from blockcloud.service_chain.market.outcome import Departure, Outcome, Trade, Why
from blockcloud.service_chain.market.price import REMEMBERED, Left, left, next_price
from blockcloud.service_chain.market.refusals import (
    IdentityHasOrder,
    IdentityRests,
    NotOrderOwner,
    OrderIsOver,
    OrderNumberUsed,
    OrderRoundPassed,
    TooManyOrders,
    UnknownOrder,
)


class RatchetRecord(Struct, frozen=True):
    """What a market is beside its orders: the prices of the coming round and of `patience_max` rounds before it, and
    what the orders were that left last."""

    coming_round: int
    prices: tuple[int, ...]
    remembered: tuple[Left, ...] = ()
    last_id: OrderId = OrderId(0, 0)


class Known(NamedTuple):
    """The last order of an identity that was not filled, and the last round in which it keeps another one out."""

    order: OrderId
    until: int


def first_record(rules: MarketRules, price: int, coming_round: int = 1) -> RatchetRecord:
    """A market that opens at this price."""
    return RatchetRecord(coming_round, (price,) * (rules.patience_max + 1))


class Ratchet:
    """One market. `enter` and `cancel` raise a refusal and change nothing, or do what they say; `clear` holds the round
    that is due. `orders` and `known`: as `live()` and `known()` gave them, to go on from."""

    def __init__(
        self,
        rules: MarketRules,
        record: RatchetRecord,
        orders: Iterable[tuple[Order, int]] = (),
        known: Iterable[tuple[bytes, Known]] = (),
    ) -> None:
        self.rules = rules
        self.coming_round = record.coming_round
        self._prices = deque(record.prices, maxlen=rules.patience_max + 1)
        self._remembered = deque(record.remembered, maxlen=REMEMBERED)
        self._last_id = record.last_id
        self._live = {order.id: Waiting(order, quantity_left) for order, quantity_left in orders}
        self._known = dict(known)
        assert len(self._prices) == rules.patience_max + 1, "a price for each round of a window"

    @property
    def price(self) -> int:
        """The price of the coming round, in micro-BLOC a unit: known before it, and nobody in the market moves it."""
        return self._prices[-1]

    def record(self) -> RatchetRecord:
        """All but the orders and the identities."""
        return RatchetRecord(self.coming_round, tuple(self._prices), tuple(self._remembered), self._last_id)

    def live(self) -> list[tuple[Order, int]]:
        """The orders in the market, in the order of inclusion, each with what is not yet filled of it."""
        return [(waiting.order, waiting.left) for waiting in self._live.values()]

    def known(self) -> list[tuple[bytes, Known]]:
        """The identities that have an order, or rest."""
        return list(self._known.items())

    def enter(self, order: Order, backing: Backing) -> None:
        """Take an order in for the round in which it arrives. That is the coming round, unless nobody is there:
        rounds in which nobody could trade are left out. Raises a refusal."""
        check_order(order, backing, self.rules, self.coming_round)
        if self._live and order.arrival != self.coming_round:
            raise OrderRoundPassed(arrival=order.arrival, coming=self.coming_round)
        if order.id <= self._last_id:
            raise OrderNumberUsed(id=order.id, last=self._last_id)
        known = self._known.get(order.identity)
        if known is not None and known.until >= order.arrival:
            if known.order in self._live:
                raise IdentityHasOrder(order=known.order)
            raise IdentityRests(until_round=known.until)
        if len(self._live) >= LIVE_ORDERS or len(self._known) >= KNOWN_IDENTITIES:
            raise TooManyOrders(orders=len(self._live), known=len(self._known))
        self._skip_to(order.arrival)
        self._live[order.id] = Waiting(order, order.quantity)
        self._known.pop(order.identity, None)  # so that the dictionary is in the order of `until`
        self._known[order.identity] = Known(order.id, order.arrival + self.rules.patience_max)
        self._last_id = order.id

    def cancel(self, order_id: OrderId, identity: bytes) -> None:
        """Take an order out. It moves no price, and its identity rests until the window of the order is over. Raises a
        refusal."""
        waiting = self._live.get(order_id)
        if waiting is None:
            known = self._known.get(identity)
            raise (OrderIsOver if known is not None and known.order == order_id else UnknownOrder)(id=order_id)
        if waiting.order.identity != identity:
            raise NotOrderOwner(id=order_id)
        del self._live[order_id]

    def clear(self, seed: bytes) -> Outcome:
        """Hold the coming round. `seed`: nobody knew it before the orders of this round were included."""
        now, price = self.coming_round, self.price
        highest, lowest = self._admission_prices()
        bids: list[Waiting] = []
        asks: list[Waiting] = []
        gone: list[tuple[Waiting, Why]] = []
        for waiting in self._live.values():
            order = waiting.order
            if order.side is Side.BID:
                if order.limit >= highest[order.expiry - now]:
                    bids.append(waiting)
                    continue
            elif order.limit <= lowest[order.expiry - now]:
                asks.append(waiting)
                continue
            gone.append((waiting, Why.PRICED_OUT))
        wanted, offered = units(bids), units(asks)
        trades = tuple(
            Trade(bid.id, ask.id, quantity, highest[bid.expiry - now], lowest[ask.expiry - now])
            for bid, ask, quantity in fill(drawn(bids, seed, offered), drawn(asks, seed, wanted))
        )
        for waiting in (*bids, *asks):
            if not waiting.left:
                gone.append((waiting, Why.FILLED))
            elif waiting.order.expiry == now:
                gone.append((waiting, Why.EXPIRED))
        self._leave(gone, seed)
        return Outcome(now, price, trades, tuple(Departure(one.order.id, why, one.left) for one, why in gone))

    def _admission_prices(self) -> tuple[list[int], list[int]]:
        """For an order that expires so many rounds from now: what a buyer pays if he trades now, and what a seller
        gets. The window of prices begins `patience_max` rounds before the order's last."""
        highest, lowest = [], []
        most = least = self.price
        for price in reversed(self._prices):
            most, least = max(most, price), min(least, price)
            highest.append(most)
            lowest.append(least)
        return highest[::-1], lowest[::-1]

    def _leave(self, gone: list[tuple[Waiting, Why]], seed: bytes) -> None:
        """Those who are gone move the price of the next round; who was filled may order again at once."""
        for waiting, why in gone:
            del self._live[waiting.order.id]
            if why is Why.FILLED:
                del self._known[waiting.order.identity]
        departed = [waiting for waiting, _ in gone]
        if len(departed) > REMEMBERED:
            # A lottery decides who counts: the last place in a round must not be worth having.
            departed = drawn(departed, seed, REMEMBERED)[:REMEMBERED]
        counted = [left(waiting.order) for waiting in departed]
        price = next_price(self.price, counted, self._remembered)
        self._remembered.extend(counted)
        self._next_round(price)

    def _next_round(self, price: int) -> None:
        self._prices.append(price)
        self.coming_round += 1
        while self._known:
            identity, known = next(iter(self._known.items()))
            if known.until >= self.coming_round:
                break
            del self._known[identity]

    def _skip_to(self, arrival: int) -> None:
        """Rounds without anybody: the price stays."""
        for _ in range(min(arrival - self.coming_round, self.rules.patience_max + 1)):
            self._prices.append(self.price)
        self.coming_round = arrival
