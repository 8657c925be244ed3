"""Leader draws: the same everywhere, without replacement, in proportion to the resource weight."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from blockcloud.transaction_chain.committee import Committee, Member
from blockcloud.transaction_chain.leaders import CACHED_LEVELS, LeaderSchedule

BEACON = bytes([3]) * 32


def committee(*weights: int) -> Committee:
    return Committee(Member(bytes([index]) * 32, 1, weight) for index, weight in enumerate(weights))


def test_the_draw_is_part_of_the_protocol() -> None:
    schedule = LeaderSchedule(committee(1, 1, 1, 1), 2, BEACON)
    assert [schedule.leaders(level) for level in range(1, 9)] == snapshot(
        [(1, 3), (0, 3), (2, 3), (1, 0), (3, 1), (1, 2), (0, 2), (1, 3)]
    )


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=10), st.integers(1, 10), st.integers(0, 2**40))
def test_leaders_are_distinct_members(weights: list[int], slots: int, level: int) -> None:
    leaders = LeaderSchedule(committee(*weights), slots, BEACON).leaders(level)
    assert len(leaders) == len(dict.fromkeys(leaders)) == min(slots, len(weights))
    assert all(0 <= leader < len(weights) for leader in leaders)


def test_the_first_slot_follows_the_weights() -> None:
    schedule = LeaderSchedule(committee(1, 2, 3, 4), 1, BEACON)
    counts = [0, 0, 0, 0]
    for level in range(4_000):
        counts[schedule.leaders(level)[0]] += 1
    # Expected 400, 800, 1200, 1600; the draw is fixed, so this is no question of luck.
    assert all(abs(count - 400 * (member + 1)) < 100 for member, count in enumerate(counts))


def test_the_beacon_decides() -> None:
    one, other = (LeaderSchedule(committee(1, 1, 1, 1), 2, bytes([byte]) * 32) for byte in (1, 2))
    assert [one.leaders(level) for level in range(20)] != [other.leaders(level) for level in range(20)]


def test_what_was_forgotten_is_drawn_again() -> None:
    schedule = LeaderSchedule(committee(1, 1, 1, 1), 2, BEACON)
    first = [schedule.leaders(level) for level in range(10)]
    for level in range(10, CACHED_LEVELS + 20):
        schedule.leaders(level)
    assert [schedule.leaders(level) for level in range(10)] == first


def test_a_table_holds_from_its_level_on() -> None:
    schedule = LeaderSchedule(committee(1, 1, 1, 1), 2, BEACON)
    before = [schedule.leaders(level) for level in range(40)]
    schedule.use_weights(20, (1, 0, 1, 1))
    after = [schedule.leaders(level) for level in range(40)]
    assert after[:20] == before[:20]
    assert any(1 in leaders for leaders in before[20:])
    assert not any(1 in leaders for leaders in after[20:])
