"""McAfee's double auction (Journal of Economic Theory 56, 1992), for one sealed round.

The most eager bids and the cheapest asks are paired down to the last pair that would gain, the k-th. If the middle
between the first bid and the first ask that are left over suits the k-th pair, all k trade at that price. Else the
k-th pair gives way and sets the prices for the others, and what lies between is surplus. For one unit each no
trader's report moves the price that he trades at, so the truth is best. Orders for more are taken as so many orders
for one, and then it is not: who wants two may do better by asking for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from blockcloud.service_chain.market.lottery import Waiting, fill
from blockcloud.service_chain.market.orders import Order, Side
from blockcloud.service_chain.market.outcome import Departure, Outcome, Trade, Why


def clear_mcafee(round_number: int, orders: Sequence[Order]) -> Outcome:
    """Hold the round. Among equal limits the order taken in first goes first."""
    bids = sorted((order for order in orders if order.side is Side.BID), key=lambda order: (-order.limit, order.id))
    asks = sorted((order for order in orders if order.side is Side.ASK), key=lambda order: (order.limit, order.id))
    pairs, last_bid, last_ask = _worthwhile(bids, asks)
    if not pairs:
        return closed(round_number, 0, (), orders)
    next_bid, next_ask = _limit_of_unit(bids, pairs + 1), _limit_of_unit(asks, pairs + 1)
    paid, received, traded = last_bid, last_ask, pairs - 1
    if next_bid is not None and next_ask is not None:
        middle = (next_bid + next_ask) // 2
        if last_ask <= middle <= last_bid:
            paid, received, traded = middle, middle, pairs
    filled = fill(first_units(bids, traded), first_units(asks, traded))
    trades = [Trade(bid.id, ask.id, quantity, paid, received) for bid, ask, quantity in filled]
    return closed(round_number, paid if trades else 0, trades, orders)


def _worthwhile(bids: Sequence[Order], asks: Sequence[Order]) -> tuple[int, int, int]:
    """How many pairs of units would gain or break even, and the limits of the last such pair."""
    pairs = last_bid = last_ask = 0
    at_bid = at_ask = used_bid = used_ask = 0
    while at_bid < len(bids) and at_ask < len(asks) and bids[at_bid].limit >= asks[at_ask].limit:
        last_bid, last_ask = bids[at_bid].limit, asks[at_ask].limit
        step = min(bids[at_bid].quantity - used_bid, asks[at_ask].quantity - used_ask)
        pairs, used_bid, used_ask = pairs + step, used_bid + step, used_ask + step
        if used_bid == bids[at_bid].quantity:
            at_bid, used_bid = at_bid + 1, 0
        if used_ask == asks[at_ask].quantity:
            at_ask, used_ask = at_ask + 1, 0
    return pairs, last_bid, last_ask


def _limit_of_unit(stack: Sequence[Order], number: int) -> int | None:
    """The limit of the so-manieth unit of the stack, counted from 1; None: there are fewer."""
    for order, total in zip(stack, accumulate(order.quantity for order in stack), strict=True):
        if total >= number:
            return order.limit
    return None


def first_units(stack: Sequence[Order], number: int) -> list[Waiting]:
    """The first so many units of the stack, as orders to be filled."""
    chosen = []
    for order in stack:
        quantity = min(order.quantity, number)
        if quantity:
            chosen.append(Waiting(order, quantity))
        number -= quantity
    return chosen


def closed(round_number: int, price: int, trades: Sequence[Trade], orders: Sequence[Order]) -> Outcome:
    """The outcome of a round after which nobody stays."""
    left = {order.id: order.quantity for order in orders}
    for trade in trades:
        left[trade.bid] -= trade.quantity
        left[trade.ask] -= trade.quantity
    departures = [Departure(order_id, Why.EXPIRED if rest else Why.FILLED, rest) for order_id, rest in left.items()]
    return Outcome(round_number, price, tuple(trades), tuple(departures))
