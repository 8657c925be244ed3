"""How much can one trader gain by a lie? Every lie of a kind is tried, in small random markets.

The liar knows everything: what the others report, and the seeds of the lotteries. So what gains nothing here, gains
nothing whatever one knows. What does gain is measured; `docs/explanation/market.md` publishes it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from blockcloud.service_chain.market.orders import MarketRules, Order, OrderId, Side
from blockcloud.service_chain.market.outcome import Outcome
from blockcloud.simulation.market.optimum import Trader
from blockcloud.simulation.market.playing import Report, identity_of, play, play_on

PATIENCE: Final = 2
ROUNDS: Final = 4
TRADERS: Final = 5
VALUES: Final = 6
RULES: Final = MarketRules(patience_max=PATIENCE)
Clearing = Callable[[int, Sequence[Order]], Outcome]


@dataclass
class Gains:
    """What liars gained. Amounts are in the unit of the values."""

    traders: int = 0
    could_gain: int = 0
    truthful_losses: int = 0
    deficits: int = 0
    gained: int = 0
    truthful_total: int = 0
    example: str = field(default="", compare=False)

    def add(self, truthful: int, best: int, what: str) -> None:
        """One trader: what the truth and the best of the lies bring."""
        self.traders += 1
        self.truthful_losses += truthful < 0
        self.truthful_total += truthful
        if best > truthful:
            self.could_gain += 1
            self.gained += best - truthful
            self.example = self.example or what

    def as_object(self) -> dict[str, Any]:
        """For a report: shares in per cent. `gained` is what all liars together gained, of what the truth gives all."""
        return {
            "traders": self.traders,
            "could_gain_percent": round(100 * self.could_gain / max(self.traders, 1), 2),
            "gained_percent": round(100 * self.gained / max(self.truthful_total, 1), 2),
        }


def random_traders(draw: random.Random, scale: int = 1) -> list[Trader]:
    """A small market; values are multiples of `scale`."""
    traders = []
    for _ in range(draw.randint(2, TRADERS)):
        arrival = draw.randint(1, ROUNDS)
        departure = arrival + draw.randint(0, PATIENCE)
        traders.append(Trader(draw.random() < 0.5, scale * draw.randint(1, VALUES), arrival, departure))
    return traders


def truth(trader: Trader, quantity: int = 1) -> Report:
    """What an honest trader reports."""
    return Report(trader.is_buyer, trader.value, trader.arrival, trader.departure, quantity)


def brought(trader: Trader, trades: Sequence[tuple[int, int, int]], wanted: int = 1) -> int:
    """What trades are worth to him: units beyond those that he wants, or after he had to leave, are worth nothing to a
    buyer; a seller cannot deliver them, and pays their value."""
    total = 0
    for round_number, units, price in trades:
        of_use = min(units, wanted) if round_number <= trader.departure else 0
        wanted -= of_use
        if trader.is_buyer:
            total += of_use * trader.value - units * price
        else:
            total += units * price - units * trader.value - (units - of_use) * VALUES * trader.value
    return total


def misreports(trader: Trader, scale: int = 1) -> Iterator[Report]:
    """Every limit with every later arrival and earlier departure."""
    for arrival in range(trader.arrival, trader.departure + 1):
        for departure in range(arrival, trader.departure + 1):
            for value in range(1, VALUES + 1):
                yield Report(trader.is_buyer, scale * value, arrival, departure)


def ratchet_gains(seed: int, traders: int, scale: int = 1) -> Gains:
    """Value, arrival and departure, one unit each: nobody should gain."""
    draw, gains = random.Random(seed), Gains()
    while gains.traders < traders:
        market = random_traders(draw, scale)
        price, lottery = scale * draw.randint(1, VALUES), draw.getrandbits(32)
        reports = [truth(trader) for trader in market]
        honest = play(reports, RULES, price, lottery, keep=True)
        gains.deficits += any(outcome.surplus < 0 for outcome in honest.outcomes)
        for number, trader in enumerate(market):
            truthful = brought(trader, honest.trades[number])
            best, what = truthful, ""
            for lie in misreports(trader, scale):
                told = [*reports[:number], lie, *reports[number + 1 :]]
                # Before he could come all is as it was, and after he has left it is no matter to him.
                played = play_on(told, RULES, honest.before[trader.arrival - 1], lie.expiry, lottery)
                utility = brought(trader, played.trades[number])
                if utility > best:
                    best, what = utility, f"{market} at {price}, lottery {lottery}: {number} says {lie}"
            gains.add(truthful, best, what)
    return gains


def several_units_gains(seed: int, traders: int, wanted: int = 2, *, two_names: bool = False) -> Gains:
    """The ratchet, where each wants up to two units of constant value: other limits, stays, and fewer units; or one of
    them under a second name."""
    draw, gains = random.Random(seed), Gains()
    while gains.traders < traders:
        market = random_traders(draw)
        price, lottery = draw.randint(1, VALUES), draw.getrandbits(32)
        wants = [draw.randint(1, wanted) for _ in market]
        reports = [truth(trader, units) for trader, units in zip(market, wants, strict=True)]
        honest = play(reports, RULES, price, lottery, keep=True)
        for number, trader in enumerate(market):
            if wants[number] < wanted:
                continue
            truthful = brought(trader, honest.trades[number], wanted)
            best, what = truthful, ""
            before = honest.before[trader.arrival - 1]
            for lie in misreports(trader):
                for units in range(1, wanted + 1):
                    told = [*reports[:number], lie._replace(quantity=units), *reports[number + 1 :]]
                    if two_names and units < wanted:
                        # The rest under another name: a second ticket.
                        told.append(truth(trader, wanted - units))
                    played = play_on(told, RULES, before, trader.departure, lottery)
                    own = [*played.trades[number], *(played.trades[-1] if len(told) > len(market) else ())]
                    utility = brought(trader, sorted(own), wanted)
                    if utility > best:
                        best, what = utility, f"{market} at {price}: {number} says {lie} for {units}"
            gains.add(truthful, best, what)
    return gains


def outstaying_gains(seed: int, traders: int) -> Gains:
    """The ratchet, where somebody says that he stays longer than he will, and cancels when he leaves."""

    def lies(trader: Trader, number: int, reports: list[Report]) -> Iterator[list[Report]]:
        for expiry in range(trader.departure + 1, trader.arrival + PATIENCE + 1):
            longer = reports[number]._replace(expiry=expiry, cancelled=trader.departure + 1)
            yield [*reports[:number], longer, *reports[number + 1 :]]

    return _gains_of(lies, seed, traders, 1)


def false_name_gains(seed: int, traders: int, dummies: int = 1, scale: int = 64) -> Gains:
    """The ratchet, where somebody lets orders under other names leave at once, in any round of his stay, to move the
    price; what they cost (fee, bond) is not counted."""

    def lies(trader: Trader, number: int, reports: list[Report]) -> Iterator[list[Report]]:
        limit = 1 if trader.is_buyer else 4 * scale * VALUES
        for arrival in range(trader.arrival, trader.departure + 1):
            yield [*reports, *[Report(trader.is_buyer, limit, arrival, arrival)] * dummies]

    return _gains_of(lies, seed, traders, scale)


def _gains_of(
    lies: Callable[[Trader, int, list[Report]], Iterator[list[Report]]], seed: int, traders: int, scale: int
) -> Gains:
    draw, gains = random.Random(seed), Gains()
    while gains.traders < traders:
        market = random_traders(draw, scale)
        price, lottery = scale * draw.randint(1, VALUES), draw.getrandbits(32)
        reports = [truth(trader) for trader in market]
        honest = play(reports, RULES, price, lottery)
        for number, trader in enumerate(market):
            truthful = brought(trader, honest.trades[number])
            best, what = truthful, ""
            for told in lies(trader, number, reports):
                utility = brought(trader, play(told, RULES, price, lottery).trades[number])
                if utility > best:
                    best, what = utility, f"{market} at {price}, lottery {lottery}: {told}"
            gains.add(truthful, best, what)
    return gains


def sealed_gains(clear: Clearing, seed: int, traders: int, units: int = 1, *, buyers: bool | None = None) -> Gains:
    """One sealed round: other limits. With more than one unit, also fewer of them. `buyers`: only these, or only
    sellers."""
    draw, gains = random.Random(seed), Gains()
    while gains.traders < traders:
        orders = []
        for number in range(draw.randint(2, 2 * TRADERS - 2)):
            side = Side.BID if draw.random() < 0.5 else Side.ASK
            quantity = draw.randint(1, units)
            orders.append(Order(OrderId(1, number), identity_of(number), side, draw.randint(1, VALUES), quantity, 1, 1))
        honest = clear(1, orders)
        gains.deficits += honest.surplus < 0
        for number, order in enumerate(orders):
            if buyers is not None and buyers != (order.side is Side.BID):
                continue
            trader = Trader(order.side is Side.BID, order.limit, 1, 1)
            truthful = _brought_by(honest, order, trader)
            best, what = truthful, ""
            for limit in range(1, VALUES + 2):
                for quantity in range(1, order.quantity + 1):
                    lie = Order(order.id, order.identity, order.side, limit, quantity, 1, 1)
                    utility = _brought_by(clear(1, [*orders[:number], lie, *orders[number + 1 :]]), order, trader)
                    if utility > best:
                        best, what = utility, f"{orders}: {number} says {limit} for {quantity}"
            gains.add(truthful, best, what)
    return gains


def _brought_by(outcome: Outcome, order: Order, trader: Trader) -> int:
    trades = [
        (1, trade.quantity, trade.paid if trader.is_buyer else trade.received)
        for trade in outcome.trades
        if order.id in (trade.bid, trade.ask)
    ]
    return brought(trader, trades, order.quantity)
