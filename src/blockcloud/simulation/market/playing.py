"""Orders as somebody reports them, played through the production ratchet round by round."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC
from blockcloud.primitives.hashes import sha256
from blockcloud.service_chain.market.orders import Backing, MarketRules, Order, OrderId, Side
from blockcloud.service_chain.market.outcome import Outcome
from blockcloud.service_chain.market.ratchet import Known, Ratchet, RatchetRecord, first_record

BACKED: Final = Backing(MAXIMUM_MICRO_BLOC, MAXIMUM_MICRO_BLOC)


class Report(NamedTuple):
    """What an order says. `cancelled` is the round before which its owner takes it out; 0: he does not."""

    is_buyer: bool
    limit: int
    arrival: int
    expiry: int
    quantity: int = 1
    cancelled: int = 0


class Before(NamedTuple):
    """A market before the orders of a round come in."""

    record: RatchetRecord
    live: list[tuple[Order, int]]
    known: list[tuple[bytes, Known]]


class Played(NamedTuple):
    """What came of it: of each report (round, units, price of a unit) of its trades; the outcomes of the rounds, and
    the market before each; the price after the last."""

    trades: list[list[tuple[int, int, int]]]
    outcomes: list[Outcome]
    before: list[Before]
    price: int


@lru_cache(maxsize=65_536)
def identity_of(number: int) -> bytes:
    """The identity behind the report of this number."""
    return sha256(b"trader" + number.to_bytes(8))


@lru_cache(maxsize=65_536)
def seed_of(round_number: int, lottery: int) -> bytes:
    """The seed of a round of the lottery of this number."""
    return sha256(b"seed" + lottery.to_bytes(8) + round_number.to_bytes(8))


def play(reports: Sequence[Report], rules: MarketRules, price: int, lottery: int = 0, *, keep: bool = False) -> Played:
    """Each report by an identity of its own, from round 1 until nobody is left. `keep`: remember the market before
    each round."""
    last = max((report.expiry for report in reports), default=0)
    start = Before(first_record(rules, price), [], [])
    return play_on(reports, rules, start, last, lottery, keep=keep)


def play_on(
    reports: Sequence[Report], rules: MarketRules, start: Before, last: int, lottery: int = 0, *, keep: bool = False
) -> Played:
    """From that state of the market to round `last`; reports that arrived before are in it already."""
    market = Ratchet(rules, *start)
    by_arrival: dict[int, list[int]] = {}
    cancels: dict[int, list[int]] = {}
    for number, report in enumerate(reports):
        by_arrival.setdefault(report.arrival, []).append(number)
        if report.cancelled:
            cancels.setdefault(report.cancelled, []).append(number)
    trades: list[list[tuple[int, int, int]]] = [[] for _ in reports]
    outcomes, before = [], []
    gone: dict[int, bool] = {}
    for now in range(market.coming_round, last + 1):
        if keep:
            before.append(Before(market.record(), market.live(), market.known()))
        for number in cancels.get(now, ()):
            if number not in gone:
                gone[number] = True
                market.cancel(OrderId(reports[number].arrival, number), identity_of(number))
        for number in by_arrival.get(now, ()):
            market.enter(_order(number, reports[number]), BACKED)
        outcome = market.clear(seed_of(now, lottery))
        outcomes.append(outcome)
        for trade in outcome.trades:
            trades[trade.bid.place].append((now, trade.quantity, trade.paid))
            trades[trade.ask.place].append((now, trade.quantity, trade.received))
        gone.update((departure.id.place, True) for departure in outcome.departures)
    return Played(trades, outcomes, before, market.price)


def _order(number: int, report: Report) -> Order:
    side = Side.BID if report.is_buyer else Side.ASK
    return Order(
        OrderId(report.arrival, number), identity_of(number), side, report.limit, report.quantity, report.arrival,
        report.expiry,
    )  # fmt: skip
