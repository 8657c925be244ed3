"""One market from its opening to its end: what the auction made of those who came, beside what was possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blockcloud.service_chain.market.orders import MarketRules
from blockcloud.simulation.market.optimum import Trader, optimal_gain
from blockcloud.simulation.market.playing import Played, Report, play
from blockcloud.simulation.market.scenario import OPENING_PRICE_MICRO_BLOC, PATIENCE_ROUNDS, Scenario


@dataclass(frozen=True)
class Trial:
    """Everybody told the truth. Amounts in micro-BLOC."""

    scenario: Scenario
    seed: int
    agents: int
    optimum: int
    greedy: int
    gain: int
    surplus: int
    paid: int
    received: int
    trades: int
    prices: tuple[int, ...]  # of each round
    trades_a_round: tuple[int, ...]

    @property
    def efficiency_percent(self) -> float:
        """Gain of all, the burned surplus included, of the clairvoyant optimum."""
        return self._percent(self.gain)

    def _percent(self, gain: int) -> float:
        return round(100 * gain / self.optimum, 1) if self.optimum else 100.0

    def as_object(self) -> dict[str, Any]:
        """For people and scripts. `greedy_percent`: the keenest paired at once; nobody would tell that the truth."""
        return {
            "scenario": self.scenario.name,
            "seed": self.seed,
            "agents": self.agents,
            "rounds": len(self.prices),
            "trades": self.trades,
            "optimum": self.optimum,
            "gain": self.gain,
            "efficiency_percent": self.efficiency_percent,
            "traders_only_percent": self._percent(self.gain - self.surplus),
            "greedy_percent": self._percent(self.greedy),
            "paid_by_buyers": self.paid,
            "revenue_of_sellers": self.received,
            "surplus_burned": self.surplus,
            "price": {
                "opening": self.prices[0],
                "lowest": min(self.prices),
                "highest": max(self.prices),
                "last": self.prices[-1],
            },
            "price_path": list(self.prices),
        }


def run_trial(scenario: Scenario, agents: int, seed: int) -> Trial:
    """Raises BadConfiguration."""
    traders = scenario.traders(agents, seed)
    reports = [Report(trader.is_buyer, trader.value, trader.arrival, trader.departure) for trader in traders]
    played = play(reports, MarketRules(patience_max=PATIENCE_ROUNDS), OPENING_PRICE_MICRO_BLOC, lottery=seed)
    trades = [trade for outcome in played.outcomes for trade in outcome.trades]
    return Trial(
        scenario=scenario,
        seed=seed,
        agents=agents,
        optimum=optimal_gain(traders),
        greedy=greedy_gain(traders),
        gain=_gain(traders, played),
        surplus=sum(outcome.surplus for outcome in played.outcomes),
        paid=sum(trade.quantity * trade.paid for trade in trades),
        received=sum(trade.quantity * trade.received for trade in trades),
        trades=sum(trade.quantity for trade in trades),
        prices=tuple(outcome.price for outcome in played.outcomes),
        trades_a_round=tuple(sum(trade.quantity for trade in outcome.trades) for outcome in played.outcomes),
    )


def _gain(traders: Sequence[Trader], played: Played) -> int:
    pairs = [(trade.bid.place, trade.ask.place) for outcome in played.outcomes for trade in outcome.trades]
    return sum(traders[bid].value - traders[ask].value for bid, ask in pairs)


def greedy_gain(traders: Sequence[Trader]) -> int:
    """What one gets who pairs, in each round, the keenest buyer with the cheapest seller as long as that gains."""
    arrivals: dict[int, list[Trader]] = {}
    for trader in traders:
        arrivals.setdefault(trader.arrival, []).append(trader)
    gain, live = 0, list[Trader]()
    for now in range(1, max((trader.departure for trader in traders), default=0) + 1):
        live = [trader for trader in live if trader.departure >= now] + arrivals.get(now, [])
        bids = sorted((trader for trader in live if trader.is_buyer), key=lambda trader: -trader.value)
        asks = sorted((trader for trader in live if not trader.is_buyer), key=lambda trader: trader.value)
        pairs = sum(bid.value > ask.value for bid, ask in zip(bids, asks, strict=False))
        gain += sum(trader.value for trader in bids[:pairs]) - sum(trader.value for trader in asks[:pairs])
        live = bids[pairs:] + asks[pairs:]
    return gain
