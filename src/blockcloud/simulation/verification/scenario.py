"""Who cheats, and how: what providers give to whom, and what verifiers say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HONEST_LOSS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Scenario:
    """A provider fails `loss` of the requests of those it takes for customers. It takes a probe for what it is with
    probability `recognises`, and serves it as promised then. Of 20 verifiers the first `liars` say `lie` (the share of
    failures that they report without probing) about the provider's service, `others` about all others; None: what they
    find. As judges liars acquit, or convict if `convicts`."""

    what: str
    loss: float = HONEST_LOSS
    recognises: float = 0.0
    liars: int = 0
    lie: float | None = None
    others: float | None = None
    convicts: bool = False
    owned: bool = False  # the liars' keys say that the provider owns them
    audits: bool = True


SCENARIOS: Final = {
    "honest": Scenario("everybody is honest"),
    "drop-5": Scenario("a provider drops 5 %", loss=0.05),
    "drop-2": Scenario("a provider drops 2 % where it promised 1 %", loss=0.02),
    "throttle": Scenario("a provider lets 20 % time out once it is paid", loss=0.2),
    "select-50": Scenario("serves probes, drops half of the rest; tells them apart by a coin", 0.5, 0.5),
    "select-90": Scenario("the same, and recognises nine of ten probes", 0.5, 0.9),
    "select-99": Scenario("the same, and recognises 99 of 100 probes", 0.5, 0.99),
    "lazy": Scenario("one verifier always says yes and never probes", liars=1, lie=0.0, others=0.0),
    "lazy-unaudited": Scenario("the same without audits", liars=1, lie=0.0, others=0.0, audits=False),
    "naysayer": Scenario("one verifier always says no", liars=1, lie=1.0, others=1.0, convicts=True),
    "smear": Scenario("a quarter of the verifiers accuse a good provider", liars=5, lie=1.0, convicts=True),
    "shield": Scenario("a quarter of the verifiers cover for a provider that drops 10 %", 0.1, liars=5, lie=0.0),
    "own-keys": Scenario(
        "a provider that drops 10 % has a quarter of the keys, and says so", 0.1, liars=5, lie=0.0, owned=True
    ),
    "bought": Scenario("half of the verifiers cover for a provider that drops 10 %", 0.1, liars=10, lie=0.0),
}
