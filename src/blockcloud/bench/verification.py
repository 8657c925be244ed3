"""`blockcloud bench verification`: probes until a bad provider stands accused or a good one is cleared, and how many
good ones are accused, and convicted: the production test over seeded probes, so the figures are the same everywhere.

`by_loss`: until the test ends for the first time, looked at after each probe; whoever is accused comes before seven
judges, each with a test over probes of its own, and two thirds convict. `by_era`: as the ledger looks at it, once an
era, at the report that is the median of several. Yardstick: a fixed test of 100 probes that accuses at six
failures, which has about the same error for a provider that keeps its promise.
"""

from __future__ import annotations

import random
from statistics import mean
from typing import Any, Final

from blockcloud.service_chain.proof_of_service.scores import Score, median_score
from blockcloud.service_chain.proof_of_service.sequential_test import SequentialTest, Verdict, promise_test

PROMISE_PPM: Final = 990_000
LOSSES_PER_THOUSAND: Final = (10, 20, 50, 100, 200)
FIXED_PROBES: Final = 100
FIXED_FAILURES: Final = 5
REPORTS: Final = 5
JUDGES: Final = 7
PROBES_A_REPORT: Final = 30
PROBES_MAX: Final = 100_000
CONVICT_PROBES: Final = 70
CLEAR_PROBES: Final = 200


def run(*, providers: int = 4_000, seed: int = 1) -> dict[str, Any]:
    """{"figures", "bars", "peer", "ratio"}: `providers` of each kind are tested."""
    test = promise_test(PROMISE_PPM)
    assert test is not None, "99 % is a promise"
    draw = random.Random(seed)
    once = {f"{loss / 10:g} %": _once(test, draw, loss, providers) for loss in LOSSES_PER_THOUSAND}
    by_era = {f"{loss / 10:g} %": _by_era(test, draw, loss, max(1, providers // 10)) for loss in LOSSES_PER_THOUSAND}
    bad, good = once["10 %"], once["1 %"]
    return {
        "figures": {
            "providers_of_each_kind": providers,
            "seed": seed,
            "probes_to_convict_at_10_percent_loss": bad["mean_probes"],
            "probes_to_clear_at_1_percent_loss": good["mean_probes"],
            "false_accusations": good["accused"],
            "false_convictions": good["convicted"],
            "by_loss": once,
            "by_era": by_era,
        },
        "bars": {
            "probes_to_convict_at_10_percent_loss": CONVICT_PROBES,
            "probes_to_clear_at_1_percent_loss": CLEAR_PROBES,
            "false_convictions": 0,
        },
        "peer": {
            "fixed_test_probes": FIXED_PROBES,
            "fixed_test_false_accusations": sum(_fails_fixed(draw, 10) for _ in range(providers)),
            "fixed_test_missed_at_10_percent_loss": sum(not _fails_fixed(draw, 100) for _ in range(providers)),
        },
        "ratio": round(FIXED_PROBES / bad["mean_probes"], 2),
    }


def _once(test: SequentialTest, draw: random.Random, loss_per_thousand: int, providers: int) -> dict[str, Any]:
    accused, convicted, spent = 0, 0, []
    for _ in range(providers):
        verdict, probes = _tested(test, draw, loss_per_thousand)
        spent.append(probes)
        if verdict is Verdict.ACCUSED:
            accused += 1
            votes = sum(_tested(test, draw, loss_per_thousand)[0] is Verdict.ACCUSED for _ in range(JUDGES))
            convicted += 3 * votes >= 2 * JUDGES
    means = {"mean_probes": round(mean(spent), 1), "most_probes": max(spent)}
    return {**means, "accused": accused, "convicted": convicted}


def _tested(test: SequentialTest, draw: random.Random, loss_per_thousand: int) -> tuple[Verdict, int]:
    likelihood, probes = 0, 0
    while test.verdict(likelihood) is Verdict.OPEN and probes < PROBES_MAX:
        likelihood = test.after(likelihood, 1, int(draw.randrange(1_000) < loss_per_thousand))
        probes += 1
    return test.verdict(likelihood), probes


def _by_era(test: SequentialTest, draw: random.Random, loss_per_thousand: int, providers: int) -> dict[str, Any]:
    """Eras until the first end of the test, of `REPORTS` honest verifiers."""
    accused, spent = 0, []
    for _ in range(providers):
        likelihood, eras = 0, 0
        while test.verdict(likelihood) is Verdict.OPEN and eras < PROBES_MAX:
            reports = [_report(draw, loss_per_thousand) for _ in range(REPORTS)]
            chosen = median_score(reports)
            assert chosen is not None, "there are enough reports"
            likelihood = test.after(likelihood, chosen.probes, chosen.failed)
            eras += 1
        accused += test.verdict(likelihood) is Verdict.ACCUSED
        spent.append(eras)
    return {"mean_eras": round(mean(spent), 2), "most_eras": max(spent), "accused": accused, "providers": providers}


def _report(draw: random.Random, loss_per_thousand: int) -> Score:
    failed = sum(draw.randrange(1_000) < loss_per_thousand for _ in range(PROBES_A_REPORT))
    return Score("measured", PROBES_A_REPORT, failed, 0, 0, bytes(32))


def _fails_fixed(draw: random.Random, loss_per_thousand: int) -> bool:
    return sum(draw.randrange(1_000) < loss_per_thousand for _ in range(FIXED_PROBES)) > FIXED_FAILURES
