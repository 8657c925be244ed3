"""Who comes to the market: thousands of traders drawn from a seed, in thin and thick markets and in one with a shock.

Everybody wants or has one unit, worth a number drawn evenly from 1 to 1,000 thousandths of a BLOC, and stays for eight
rounds after the one in which he came. The market opens at a price that is wrong, and has to find its way.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.simulation.market.optimum import Trader

STEP_MICRO_BLOC: Final = 1_000
VALUES: Final = 1_000
PATIENCE_ROUNDS: Final = 8
OPENING_PRICE_MICRO_BLOC: Final = 300_000
AGENTS_AT_LEAST, AGENTS_AT_MOST = 10, 20_000


@dataclass(frozen=True)
class Scenario:
    """So many come in each round; in the middle third of a shock, buyers are `buyers_percent` of them, and a good is
    worth `worth_percent` of what it else is to them. With `patience_drawn` a stay is drawn from none to the longest."""

    name: str
    arrivals: int
    buyers_percent: int = 50
    worth_percent: int = 100
    patience_drawn: bool = False

    def traders(self, agents: int, seed: int) -> list[Trader]:
        """In the order in which they come. Raises BadConfiguration."""
        if not AGENTS_AT_LEAST <= agents <= AGENTS_AT_MOST:
            raise BadConfiguration(f"a market has {AGENTS_AT_LEAST} to {AGENTS_AT_MOST} agents", agents=agents)
        draw = random.Random(f"{self.name}/{seed}")
        return [self._trader(draw, number, agents) for number in range(agents)]

    def _trader(self, draw: random.Random, number: int, agents: int) -> Trader:
        shocked = agents <= 3 * number < 2 * agents
        arrival = 1 + number // self.arrivals
        is_buyer = draw.randrange(100) < (self.buyers_percent if shocked else 50)
        worth = self.worth_percent if shocked and is_buyer else 100
        value = draw.randint(1, VALUES) * STEP_MICRO_BLOC * worth // 100
        stay = draw.randint(0, PATIENCE_ROUNDS) if self.patience_drawn else PATIENCE_ROUNDS
        return Trader(is_buyer, value, arrival, arrival + stay)


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("thin", 1),
        Scenario("thick", 30),
        Scenario("shock", 10, buyers_percent=70, worth_percent=200),
    )
}
# Those of the benchmark.
STANDARD: Final = Scenario("standard", 3)
HURRIED: Final = Scenario("hurried", 3, patience_drawn=True)
