"""`blockcloud bench market`: orders a second through the auction, and how near it comes to what was possible.

The flow: 10,000 buyers wait, and in each round so many sellers and as many new buyers come, so that each round fills
as many orders as it takes in and 10,000 stay. Processor time of entering and clearing, without signatures, codec and
state.
Yardstick: the same orders of the same rounds through two heaps, the keenest buyer with the cheapest seller, as the
usual order book does it: no lottery, no windows, and nobody would tell it the truth.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from heapq import heappop, heappush
from statistics import median
from typing import Any, Final

from blockcloud.bench.market_ledger import in_execution
from blockcloud.service_chain.market.m1 import clear_m1
from blockcloud.service_chain.market.mcafee import clear_mcafee
from blockcloud.service_chain.market.orders import MarketRules, Order, OrderId, Side
from blockcloud.service_chain.market.ratchet import Ratchet, first_record
from blockcloud.simulation.market.liars import (
    Gains,
    false_name_gains,
    outstaying_gains,
    ratchet_gains,
    sealed_gains,
    several_units_gains,
)
from blockcloud.simulation.market.playing import BACKED, identity_of, seed_of
from blockcloud.simulation.market.scenario import HURRIED, SCENARIOS, STANDARD
from blockcloud.simulation.market.trial import run_trial

LIVE: Final = 10_000
PRICE: Final = 500_000
RULES: Final = MarketRules()
ORDERS_A_SECOND: Final = 50_000
MICROSECONDS_AN_ORDER: Final = 20
EFFICIENCY_PERCENT: Final = 84


def run(
    *, per_round: int = 2_000, rounds: int = 12, agents: int = 3_000, liars: int = 500, live: int = LIVE
) -> dict[str, Any]:
    """{"figures", "bars", "peer", "ratio"}. `per_round`: orders that come in each round, half of them sellers."""
    ours = [_timed(flow) for flow in _flows(per_round, rounds)]
    few = [_timed(flow) for flow in _flows(max(2, per_round // 10), rounds)]
    books = [_order_book(flow) for flow in _flows(per_round, rounds)]
    an_order_us, book_us = median(ours), median(books)
    markets = {scenario.name: scenario for scenario in (STANDARD, HURRIED, *SCENARIOS.values())}
    efficiency = {name: run_trial(scenario, agents, 1).as_object() for name, scenario in markets.items()}
    shown = ("efficiency_percent", "traders_only_percent", "greedy_percent")
    return {
        "figures": {
            "live_orders": LIVE,
            "orders_a_round": per_round,
            "orders_a_second": round(1e6 / an_order_us),
            "us_an_order": round(an_order_us, 2),
            "us_an_order_with_a_tenth_a_round": round(median(few), 2),
            "in_execution": in_execution(live),
            "efficiency": {name: {key: report[key] for key in shown} for name, report in efficiency.items()},
            "liars": {name: gains.as_object() for name, gains in _liars(liars).items()} if liars else {},
        },
        "bars": {
            "orders_a_second": ORDERS_A_SECOND,
            "us_an_order": MICROSECONDS_AN_ORDER,
            "standard_efficiency_percent": EFFICIENCY_PERCENT,
        },
        "peer": {"order_book_us_an_order": round(book_us, 2)},
        "ratio": round(book_us / an_order_us, 2),
    }


def _flows(per_round: int, rounds: int) -> list[list[list[Order]]]:
    """Three flows: the orders of each round; those of the first one are the buyers who wait."""
    return [_flow(random.Random(seed), per_round, rounds) for seed in range(3)]


def _flow(draw: random.Random, per_round: int, rounds: int) -> list[list[Order]]:
    flow, number = [], 0
    for now in range(1, rounds + 2):
        orders = []
        for place in range(LIVE if now == 1 else per_round):
            is_buyer = now == 1 or place % 2 == 0
            limit = PRICE + draw.randint(0, PRICE // 2) * (1 if is_buyer else -1)
            side = Side.BID if is_buyer else Side.ASK
            expiry = now + (RULES.patience_max if is_buyer else 0)
            orders.append(Order(OrderId(now, place), identity_of(number), side, limit, 1, now, expiry))
            number += 1
        flow.append(orders)
    return flow


def _timed(flow: list[list[Order]]) -> float:
    """Microseconds of processor time for an order, from entering to leaving."""
    market = Ratchet(RULES, first_record(RULES, PRICE))
    for order in flow[0]:
        market.enter(order, BACKED)
    market.clear(seed_of(1, 0))
    assert len(market.live()) == LIVE
    start = time.process_time()
    for now, orders in enumerate(flow[1:], start=2):
        for order in orders:
            market.enter(order, BACKED)
        market.clear(seed_of(now, 0))
    spent = time.process_time() - start
    return spent * 1e6 / sum(len(orders) for orders in flow[1:])


def _order_book(flow: list[list[Order]]) -> float:
    bids: list[tuple[int, OrderId, Order]] = []
    asks: list[tuple[int, OrderId, Order]] = []
    start = 0.0
    for now, orders in enumerate(flow, start=1):
        if now == 2:
            start = time.process_time()
        for order in orders:
            if order.side is Side.BID:
                heappush(bids, (-order.limit, order.id, order))
            else:
                heappush(asks, (order.limit, order.id, order))
            while asks and bids and -bids[0][0] >= asks[0][0]:
                heappop(bids)
                heappop(asks)
    spent = time.process_time() - start
    return spent * 1e6 / sum(len(orders) for orders in flow[1:])


def _liars(traders: int) -> dict[str, Gains]:
    """What the best lie brings, by mechanism and kind; the seeds are fixed, so the figures are."""
    kinds: dict[str, Callable[[], Gains]] = {
        "ratchet: limit, arrival, departure": lambda: ratchet_gains(1, traders),
        "ratchet: two units, one name": lambda: several_units_gains(1, traders),
        "ratchet: two units, two names": lambda: several_units_gains(1, traders, two_names=True),
        "ratchet: stays too long, cancels": lambda: outstaying_gains(1, 4 * traders),
        "ratchet: one order under a false name": lambda: false_name_gains(1, 4 * traders),
        "mcafee: limit": lambda: sealed_gains(clear_mcafee, 1, traders),
        "mcafee: up to two units": lambda: sealed_gains(clear_mcafee, 1, traders, 2),
        "m1: limit of a buyer": lambda: sealed_gains(clear_m1, 1, traders, buyers=True),
        "m1: limit of a seller": lambda: sealed_gains(clear_m1, 1, traders, buyers=False),
        "m1: up to three units, buyers": lambda: sealed_gains(clear_m1, 1, traders, 3, buyers=True),
        "m1: up to three units, sellers": lambda: sealed_gains(clear_m1, 1, traders, 3, buyers=False),
    }
    return {name: measure() for name, measure in kinds.items()}
