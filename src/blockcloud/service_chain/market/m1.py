"""The rule of the original paper, `m1`: one price for all, the (M+1)-th highest limit. It is NOT truthful.

BlockCloud's paper (section VII) takes its auction from Ming, Xu, Wang, Gao and Li (ICDCS 2017): orders are taken
apart into units, M of them on sale, and sorted by limit; the (M+1)-th limit is the price; buyers before that place
and sellers from it on trade; and seller and buyer with the most left are paired again and again, so that a step
retires one of them. (The published loop runs to M where it must run to M+N; here it does not.)

The paper calls this strategy-proof for buyers and for risk-averse sellers. A seller may himself be the (M+1)-th and
then raises his own price by asking for more; a buyer of several units may set the price with his own last one.
`docs/explanation/market.md` says how often; the tests find examples. It is here for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from blockcloud.service_chain.market.lottery import Waiting
from blockcloud.service_chain.market.mcafee import closed, first_units
from blockcloud.service_chain.market.orders import Order, OrderId, Side
from blockcloud.service_chain.market.outcome import Outcome, Trade


def clear_m1(round_number: int, orders: Sequence[Order]) -> Outcome:
    """Hold the round. Among equal limits bids come before asks, and then the order taken in first."""
    ranking = sorted(orders, key=lambda order: (-order.limit, order.side, order.id))
    units_on_sale = sum(order.quantity for order in orders if order.side is Side.ASK)
    above = first_units(ranking, units_on_sale)
    bought = [waiting for waiting in above if waiting.order.side is Side.BID]
    traded = sum(waiting.left for waiting in bought)
    if not traded:
        return closed(round_number, 0, (), orders)
    price = _limit_after(ranking, units_on_sale)
    # Sellers from the (M+1)-th place on: the cheapest, as many units as were bought.
    asks = [order for order in reversed(ranking) if order.side is Side.ASK]
    sold = first_units(asks, traded)
    return closed(round_number, price, _paired(bought, sold, price), orders)


def _limit_after(ranking: Sequence[Order], units: int) -> int:
    """The limit of the unit after the first so many."""
    for order in ranking:
        if units < order.quantity:
            return order.limit
        units -= order.quantity
    raise AssertionError("with a bid among M places there are more than M units")


def _paired(bought: Sequence[Waiting], sold: Sequence[Waiting], price: int) -> list[Trade]:
    """The most demand with the most supply, until nothing is left."""
    demand: list[tuple[int, OrderId]] = [(-waiting.left, waiting.order.id) for waiting in bought]
    supply: list[tuple[int, OrderId]] = [(-waiting.left, waiting.order.id) for waiting in sold]
    heapify(demand)
    heapify(supply)
    trades = []
    while demand:
        (wanted, bid), (offered, ask) = heappop(demand), heappop(supply)
        quantity = min(-wanted, -offered)
        trades.append(Trade(bid, ask, quantity, price, price))
        if -wanted > quantity:
            heappush(demand, (wanted + quantity, bid))
        if -offered > quantity:
            heappush(supply, (offered + quantity, ask))
    return trades
