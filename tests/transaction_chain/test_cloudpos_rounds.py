"""CloudPoS rounds: who is drawn, that all are tested at once, and what the reports count for."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadConfiguration, Malformed
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.transaction_chain.cloudpos.sortition import CANDIDATES, ChallengeRound, draw_round
from blockcloud.transaction_chain.cloudpos.stake import Resources
from blockcloud.transaction_chain.cloudpos.verdicts import (
    BadReport,
    Outcome,
    Report,
    Verdict,
    check_report,
    confirmed_stake,
    settle,
)
from tests.transaction_chain.chi_square import fits

KEYS = tuple(bytes([number]) * 32 for number in range(20))
MEMBERS = KEYS[:10]
PASSED, LATE = Verdict.PASSED, Verdict.LATE
ALL_PASSED = (PASSED, PASSED, PASSED)
ALL_LATE = (LATE, LATE, LATE)
CONFIRMED, REFUSED, UNDECIDED = Outcome.CONFIRMED, Outcome.REFUSED, Outcome.UNDECIDED


def drawn_with(
    beacon: int, members: tuple[bytes, ...] = MEMBERS, challengers: int = 3, number: int = 0
) -> ChallengeRound:
    return draw_round(
        beacon=tagged_hash("test/v1", beacon.to_bytes(8, "big")),
        era=2,
        number=number,
        height=700,
        members=members,
        candidates=KEYS,
        challengers=challengers,
    )


# Sortition


@pytest.mark.parametrize("place", [0, 1, 2])
def test_every_place_is_drawn_from_all_alike(place: int) -> None:
    drawn = [drawn_with(beacon).challengers[place] for beacon in range(3_000)]
    assert fits([drawn.count(member) for member in MEMBERS], [Fraction(1, 10)] * 10)


def test_pairs_are_drawn_alike() -> None:
    pairs = list(permutations(MEMBERS[:4], 2))
    drawn = [drawn_with(beacon, MEMBERS[:4], 2).challengers for beacon in range(3_000)]
    assert fits([drawn.count(pair) for pair in pairs], [Fraction(1, 12)] * 12)


def test_rounds_of_an_era_are_drawn_apart() -> None:
    drawn = [drawn_with(1, number=number).challengers[0] for number in range(3_000)]
    assert fits([drawn.count(member) for member in MEMBERS], [Fraction(1, 10)] * 10)


def test_the_statistic_sees_a_draw_that_is_not_uniform() -> None:
    drawn = [drawn_with(beacon).challengers[0] for beacon in range(3_000)]
    drawn[:150] = [MEMBERS[0]] * 150
    assert not fits([drawn.count(member) for member in MEMBERS], [Fraction(1, 10)] * 10)


@given(st.integers(0, 2**40), st.integers(1, 10), st.integers(1, 12))
def test_challengers_are_different_members(beacon: int, members: int, asked: int) -> None:
    challengers = drawn_with(beacon, KEYS[:members], asked).challengers
    assert len(challengers) == len(set(challengers)) == min(asked, members)
    assert set(challengers) <= set(KEYS[:members])


def test_all_candidates_are_tested_at_one_height_and_by_all_challengers_but_themselves() -> None:
    drawn = drawn_with(5)
    tested = {candidate: [c for c in drawn.challengers if candidate in drawn.candidates_of(c)] for candidate in KEYS}
    assert drawn.height == 700
    assert all(tuple(judges) == drawn.judges_of(candidate) for candidate, judges in tested.items())
    assert all(len(judges) == 3 - (candidate in drawn.challengers) for candidate, judges in tested.items())


def test_keys_are_named_once() -> None:
    with pytest.raises(BadConfiguration):
        drawn_with(1, (KEYS[0], KEYS[0]))
    many = tuple(number.to_bytes(32, "big") for number in range(CANDIDATES + 1))
    with pytest.raises(BadConfiguration):
        draw_round(beacon=KEYS[0], era=0, number=0, height=1, members=MEMBERS, candidates=many, challengers=3)


# Reports


def report(*rows: tuple[Verdict, Verdict, Verdict]) -> Report:
    return Report(2, 0, rows)


def round_of(judges: int, candidates: int = 1) -> ChallengeRound:
    return ChallengeRound(2, 0, 700, KEYS[:judges], KEYS[10 : 10 + candidates])


VERDICTS = st.sampled_from(list(Verdict))
ROWS = st.tuples(VERDICTS, VERDICTS, VERDICTS)


@given(st.integers(1, 9), st.data())
def test_more_than_half_of_those_drawn_decide(judges: int, data: st.DataObject) -> None:
    drawn = round_of(judges)
    rows = data.draw(st.lists(st.none() | ROWS, min_size=judges, max_size=judges))
    reports = [(KEYS[judge], report(row)) for judge, row in enumerate(rows) if row is not None]
    settled = settle(drawn, data.draw(st.permutations(reports)))
    for dimension, outcome in enumerate(settled.outcomes[KEYS[10]]):
        passed = sum(row is not None and row[dimension] is PASSED for row in rows)
        failed = sum(row is not None and row[dimension] is not PASSED for row in rows)
        assert (outcome is CONFIRMED) == (passed > judges / 2)
        assert (outcome is REFUSED) == (failed > judges / 2)
    assert settled.forfeits == tuple(KEYS[judge] for judge, row in enumerate(rows) if row is None)


def test_one_liar_of_three_changes_nothing() -> None:
    honest, liar = report(ALL_PASSED, ALL_LATE), report(ALL_LATE, ALL_PASSED)
    settled = settle(round_of(3, 2), [(KEYS[0], honest), (KEYS[1], liar), (KEYS[2], honest)])
    assert list(settled.outcomes.values()) == [(CONFIRMED,) * 3, (REFUSED,) * 3]


def test_a_single_report_of_three_decides_nothing() -> None:
    settled = settle(round_of(3), [(KEYS[1], report(ALL_PASSED))])
    assert settled.outcomes[KEYS[10]] == (UNDECIDED,) * 3
    assert settled.forfeits == (KEYS[0], KEYS[2])


def test_the_first_report_counts() -> None:
    sent = [(KEYS[0], report(ALL_PASSED)), (KEYS[0], report(ALL_LATE)), (KEYS[1], report(ALL_PASSED))]
    assert settle(round_of(3), sent).outcomes[KEYS[10]] == (CONFIRMED,) * 3


def test_nobody_judges_itself() -> None:
    drawn = ChallengeRound(2, 0, 700, KEYS[:3], KEYS[:1])
    own, other = report(ALL_PASSED), report(ALL_LATE)
    assert settle(drawn, [(KEYS[0], own), (KEYS[1], own), (KEYS[2], other)]).outcomes[KEYS[0]] == (UNDECIDED,) * 3
    assert settle(drawn, [(KEYS[0], own), (KEYS[1], other), (KEYS[2], other)]).outcomes[KEYS[0]] == (REFUSED,) * 3


@pytest.mark.parametrize(
    ("challenger", "sent"),
    [
        (KEYS[5], report(ALL_PASSED)),
        (KEYS[0], report()),
        (KEYS[0], report(ALL_PASSED, ALL_PASSED)),
        (KEYS[0], Report(1, 0, (ALL_PASSED,))),
        (KEYS[0], Report(2, 1, (ALL_PASSED,))),
    ],
)
def test_reports_that_do_not_fit_are_refused(challenger: bytes, sent: Report) -> None:
    with pytest.raises(BadReport):
        check_report(round_of(3), challenger, sent)


def test_reports_travel() -> None:
    sent = report(ALL_PASSED, (Verdict.FORGED, Verdict.SILENT, Verdict.WRONG))
    back = codec.decode(codec.encode(sent), Report, limit=1_000)
    assert back == sent
    assert back.rows[1][0] is Verdict.FORGED
    with pytest.raises(Malformed):
        codec.decode(codec.encode([2, 0, [[0, 0, 9]]]), Report, limit=1_000)


def test_what_is_confirmed_counts() -> None:
    claimed, before = Resources(10, 20, 30), Resources(1, 40, 3)
    assert confirmed_stake(claimed, before, (CONFIRMED, REFUSED, UNDECIDED)) == Resources(10, 0, 3)
    assert confirmed_stake(claimed, before, (UNDECIDED, UNDECIDED, REFUSED)) == Resources(1, 20, 0)
