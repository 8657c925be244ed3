"""The commit rule on DAGs that an adversary draws: views agree, and production does what the slow model does.

Hypothesis supplies the fuzzer's random numbers, so a failure shrinks to a small DAG, printed as text; it also prints
the `@reproduce_failure` line. The long run goes over plain seeds, each repeated by one command.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockcloud.simulation.dag_fuzzer import (
    GC_DEPTH_LEVELS,
    Scenario,
    Violation,
    check,
    check_model,
    check_validity,
    draw_scenario,
    main,
)
from blockcloud.transaction_chain.committer import Committer, SlotStatus

AGAIN = "python -m blockcloud.simulation.dag_fuzzer --count 1 --model --seed"
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@st.composite
def scenarios(draw: st.DrawFn, members: int) -> Scenario:
    return draw_scenario(draw(st.randoms(use_true_random=False)), members=members)


def judge(scenario: Scenario) -> None:
    check(scenario)
    check_model(scenario)


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(scenarios(4))
def test_views_agree_with_4_members(scenario: Scenario) -> None:
    judge(scenario)


@settings(max_examples=15, deadline=None, suppress_health_check=SLOW)
@given(scenarios(7))
def test_views_agree_with_7_members(scenario: Scenario) -> None:
    judge(scenario)


@pytest.mark.parametrize("seed", range(60))
def test_seeds(seed: int) -> None:
    judge_seed(seed)


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 5000, 1000))
def test_thousands_of_seeds(first: int) -> None:
    for seed in range(first, first + 500):
        judge_seed(seed)


def judge_seed(seed: int) -> None:
    random = Random(seed)
    scenario = draw_scenario(random)
    try:
        judge(scenario)
        check_validity(scenario, random)
    except Violation as violation:
        pytest.fail(f"{violation}\nagain: {AGAIN} {seed}")


def test_fuzzer_reaches_every_branch_of_the_rule() -> None:
    """Agreement over DAGs in which everything commits directly would prove little."""
    seen = {(status, direct): 0 for status in (SlotStatus.COMMIT, SlotStatus.SKIP) for direct in (True, False)}
    stale = equivocating = 0
    for seed in range(200):
        scenario = draw_scenario(Random(seed))
        committer = Committer(scenario.builder.committee, scenario.schedule)
        for decision in committer.decide(scenario.builder.dag(), 0):
            seen[(decision.status, decision.direct)] += 1
        stale += any(p.level < name.level - GC_DEPTH_LEVELS for name, ps in scenario.builder.plan.items() for p in ps)
        equivocating += any(name.fork for name in scenario.builder.plan)
    assert all(count > 15 for count in seen.values()), seen
    assert stale > 5
    assert equivocating > 40


def test_same_seed_gives_the_same_scenario() -> None:
    one, other = draw_scenario(Random(5)), draw_scenario(Random(5))
    assert (one.describe(), one.views) == (other.describe(), other.views)


def test_command_counts_what_it_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3", "--count", "2", "--model"]) == 0
    assert capsys.readouterr().out.startswith("2 DAGs, ")
