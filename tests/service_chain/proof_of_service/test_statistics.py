"""The statistics of proof of service: exact logarithms, a sequential test that errs as rarely as it says, medians that
a minority cannot move, tickets that nobody else can know."""

from __future__ import annotations

import json
import random
from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.cli.app import run
from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.service_chain.proof_of_service.logarithm import micro_nats
from blockcloud.service_chain.proof_of_service.scores import (
    Score,
    agrees,
    commitment,
    median,
    median_score,
)
from blockcloud.service_chain.proof_of_service.sequential_test import (
    PROMISE_MIN_PPM,
    SequentialTest,
    Verdict,
    clearly_worse_ppm,
    promise_test,
)
from blockcloud.service_chain.proof_of_service.sortition import TICKETS, is_drawn, panel, threshold, ticket

BEACON = bytes([5]) * 32


def score(failed: int, probes: int = 100, receipts: int = 0) -> Score:
    return Score("acme", probes, failed, 20, 1_000, bytes([receipts]) * 32)


@given(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1))
def test_the_logarithm_is_that_of_a_decimal_library(numerator: int, denominator: int) -> None:
    with localcontext() as precise:
        precise.prec = 60
        exact = (Decimal(numerator).ln() - Decimal(denominator).ln()) * 1_000_000
    assert abs(exact - micro_nats(numerator, denominator)) <= Decimal("0.5") + Decimal(2) ** -80


def test_the_steps_for_a_promise_of_99_percent_are_the_published_ones() -> None:
    assert promise_test(990_000) == SequentialTest(1_609_438, -41_243, 6_897_705, -4_604_170)


@pytest.mark.parametrize("quality", [PROMISE_MIN_PPM, 500_000, 900_000, 990_000, 999_000, 999_999, 1_000_000])
def test_every_promise_has_a_test_that_can_end_both_ways(quality: int) -> None:
    test = promise_test(quality)
    assert test is not None
    assert test.fail > 0 > test.success
    assert test.verdict(0) is Verdict.OPEN
    assert test.verdict(test.after(0, 100_000, 100_000)) is Verdict.ACCUSED
    assert test.verdict(test.after(0, 100_000, 0)) is Verdict.CLEARED
    # One failure is never enough.
    assert test.verdict(test.after(0, 1, 1)) is Verdict.OPEN


def test_who_promises_nothing_is_not_tested() -> None:
    assert promise_test(PROMISE_MIN_PPM - 1) is None


@given(st.integers(1_000, 950_000))
def test_clearly_worse_is_worse_and_not_everything(loss: int) -> None:
    assert loss < clearly_worse_ppm(loss) < 1_000_000


def test_errors_are_as_rare_as_promised() -> None:
    """Of 2,000 that keep the promise exactly, alpha allows 2; of 2,000 at p1, beta lets 20 through."""
    test, draw = promise_test(990_000), random.Random(1)
    assert test is not None
    accused = {10: 0, 50: 0}
    for loss in accused:
        for _ in range(2_000):
            likelihood = 0
            while test.verdict(likelihood) is Verdict.OPEN:
                likelihood = test.after(likelihood, 1, int(draw.randrange(1_000) < loss))
            accused[loss] += test.verdict(likelihood) is Verdict.ACCUSED
    assert accused[10] <= 4
    assert accused[50] >= 1_970


@given(st.lists(st.integers(0, 100), min_size=3, max_size=15), st.data())
def test_a_minority_cannot_move_the_median_past_the_honest(honest: list[int], data: st.DataObject) -> None:
    liars = data.draw(st.lists(st.integers(0, 100), max_size=len(honest) - 1))
    chosen = median_score([score(failed) for failed in [*honest, *liars]])
    assert chosen is not None
    assert min(honest) <= chosen.failed <= max(honest)
    middle = median([*honest, *liars])
    assert middle is not None
    assert min(honest) <= middle <= max(honest)


def test_fewer_than_three_reports_are_no_verdict() -> None:
    assert median([1, 2]) is None
    assert median_score([score(1), score(2)]) is None
    assert median([3, 1, 2]) == 2


def test_of_two_in_the_middle_the_better_one_counts() -> None:
    chosen = median_score([score(0), score(1), score(90), score(100)])
    assert chosen is not None
    assert chosen.failed == 1
    assert median([0, 1, 90, 100]) == 1


@given(st.permutations([score(3, receipts=1), score(3, receipts=2), score(6, probes=200), score(9), score(1)]))
def test_the_order_of_reports_does_not_matter(scores: list[Score]) -> None:
    # 3 of 100 thrice: the one with the most probes comes first, and another is in the middle.
    assert median_score(scores) == score(3, receipts=1)


def test_honest_samples_agree_and_wild_claims_do_not() -> None:
    draw = random.Random(2)
    for loss in (0, 10, 50, 100, 300):
        samples = [score(sum(draw.randrange(1_000) < loss for _ in range(60)), 60) for _ in range(300)]
        assert sum(not agrees(sample, loss * 1_000) for sample in samples) <= 15
    assert not agrees(score(0, 60), 300_000)
    assert not agrees(score(60, 60), 10_000)


def test_a_ticket_needs_the_secret_the_beacon_and_the_name() -> None:
    onion = HashOnion(bytes([1]) * 32, 8)
    ours = ticket(onion.reveal(3), BEACON, "acme")
    others = [
        ticket(onion.reveal(2), BEACON, "acme"),
        ticket(onion.reveal(3), bytes(32), "acme"),
        ticket(onion.reveal(3), BEACON, "acmf"),
        ticket(onion.tip, BEACON, "acme"),
    ]
    assert ours not in others
    assert is_drawn(onion.reveal(3), BEACON, "acme", ours + 1)
    assert not is_drawn(onion.reveal(3), BEACON, "acme", ours)


def test_as_many_are_drawn_as_wanted_on_average() -> None:
    below = threshold(6, 40)
    drawn = sum(is_drawn(bytes([one, era]) * 16, BEACON, "acme", below) for one in range(40) for era in range(50))
    assert 240 <= drawn <= 360  # of 2,000 tickets 300 win on average
    assert threshold(6, 6) == threshold(6, 2) == TICKETS


def test_a_commitment_is_bound_to_everything() -> None:
    scores, salt = [score(1)], bytes(32)
    ours = commitment(b"v" * 32, 4, scores, salt)
    assert commitment(b"w" * 32, 4, scores, salt) != ours
    assert commitment(b"v" * 32, 5, scores, salt) != ours
    assert commitment(b"v" * 32, 4, [score(2)], salt) != ours
    assert commitment(b"v" * 32, 4, scores, bytes([1]) * 32) != ours


@settings(max_examples=50)
@given(
    st.dictionaries(st.integers(0, 40), st.integers(0, 9), max_size=30),
    st.integers(1, 15),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_a_panel_has_one_key_of_an_owner_and_none_of_the_barred(
    keys: dict[int, int], size: int, barred: list[int]
) -> None:
    owners = {bytes([key]) * 32: bytes([100 + owner]) * 32 for key, owner in keys.items()}
    out = [bytes([one]) * 32 for one in barred] + [bytes([100]) * 32]
    judges = panel(owners, b"case", BEACON, size, out)
    seated = [owners[judge] for judge in judges]
    assert len(dict.fromkeys(seated)) == len(seated) <= size
    assert not [one for one in [*judges, *seated] if one in out]
    free = dict.fromkeys(owner for key, owner in owners.items() if key not in out and owner not in out)
    assert len(judges) == min(size, len(free))
    assert judges == panel(dict(reversed(owners.items())), b"case", BEACON, size, out)


def test_another_beacon_draws_another_panel() -> None:
    owners = {bytes([key]) * 32: bytes([100 + key]) * 32 for key in range(40)}
    assert panel(owners, b"case", BEACON, 7, ()) != panel(owners, b"case", bytes(32), 7, ())
    assert panel(owners, b"case", BEACON, 7, ()) != panel(owners, b"other", BEACON, 7, ())


def test_the_benchmark_counts_accusations_and_convictions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "verification", "--providers", "60", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = report["figures"]["by_loss"]
    assert rows["10 %"]["accused"] == rows["10 %"]["convicted"] == 60
    assert report["figures"]["false_convictions"] == 0
    assert rows["10 %"]["mean_probes"] < rows["1 %"]["mean_probes"]
