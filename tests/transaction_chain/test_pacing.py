"""When the next own block is due: pure arithmetic over a schedule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blockcloud.transaction_chain.committee import Committee, Member
from blockcloud.transaction_chain.pacing import LEAD_BUSY_PACES, Pacing
from blockcloud.transaction_chain.parameters import Parameters

PARAMETERS = Parameters(pacing_busy_ms=20, pacing_idle_ms=250)
LEAD_MS = LEAD_BUSY_PACES * 20


def pacing(members: int = 4, *, heavy: int = 1) -> Pacing:
    committee = Committee(Member(bytes([index]) * 32, heavy if index < 2 else 1) for index in range(members))
    return Pacing(committee, PARAMETERS, 0, 1_000)


def test_one_pace_after_the_last_block() -> None:
    pace = pacing()
    assert pace.due_ms(1, 1_000, busy=True, leads=False) == 1_020
    assert pace.due_ms(1, 1_000, busy=False, leads=False) == 1_250
    pace.proposed(1, 1_000, 1_250, busy=False)
    assert pace.due_ms(2, 1_252, busy=False, leads=False) == 1_500


def test_a_leader_is_ahead_but_not_far_while_nothing_happens() -> None:
    pace = pacing()
    assert pace.due_ms(1, 1_000, busy=True, leads=True) == 1_000
    assert pace.due_ms(1, 1_000, busy=False, leads=True) == 1_250 - LEAD_MS


def test_work_cuts_the_idle_wait_short() -> None:
    pace = pacing()
    pace.proposed(1, 1_000, 1_250 - LEAD_MS, busy=False)
    assert pace.due_ms(2, 1_252, busy=False, leads=False) == 1_500
    assert pace.due_ms(2, 1_252, busy=True, leads=False) == 1_270
    assert pace.due_ms(2, 1_200, busy=True, leads=False) == 1_220


def test_many_missed_levels_are_not_waited_for() -> None:
    """And who missed them is a little ahead of a quorum that keeps its pace, or it would be too late for ever."""
    assert pacing().due_ms(500, 9_000, busy=True, leads=False) == 9_015


def test_leaders_that_could_be_a_quorum_pace_themselves() -> None:
    for pace in (pacing(1), pacing(2), pacing(4, heavy=10)):
        assert pace.due_ms(1, 1_000, busy=True, leads=True) == 1_015
        assert pace.due_ms(1, 1_000, busy=False, leads=True) == 1_250 - 250 // 4


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3)), min_size=1, max_size=40), st.booleans())
def test_early_and_missed_blocks_do_not_add_up(steps: list[tuple[bool, int]], busy: bool) -> None:
    """Whoever leads often, or is jumped over often, is still never ahead of one level a pace."""
    pace_ms = PARAMETERS.pacing_busy_ms if busy else PARAMETERS.pacing_idle_ms
    pace, level = pacing(), 0
    for leads, levels in steps:
        level += levels
        since_ms = 1_000 + (level - 1) * pace_ms
        due_ms = pace.due_ms(level, since_ms, busy=busy, leads=leads)
        early_ms = pace_ms if leads else pace_ms // 4 if levels > 1 else 0
        assert due_ms >= 1_000 + level * pace_ms - early_ms
        pace.proposed(level, since_ms, max(since_ms, due_ms), busy=busy)
