"""Which instance goes first: properties of the ranking, and of what is measured."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.service_access import replica_choice
from blockcloud.service_access.replica_choice import (
    ALPHA,
    HALF_LIFE_MS,
    NOISE_MS,
    OUT_MS,
    OUT_MS_MAX,
    UNHEALTHY_AFTER,
    UNMEASURED_MS,
    Candidate,
    ReplicaChoice,
)

NAME = "lamp.kitchen"
KEYS = [bytes([number]) * 32 for number in range(16)]
ASKER = b"who asks"

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        key=st.sampled_from(KEYS[:4]),
        load=st.integers(0, 1_000),
        priority=st.integers(0, 2),
        weight=st.integers(0, 5),
        price=st.none() | st.integers(0, 10**12),
        draining=st.booleans(),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda each: each.key,
)
HISTORY = st.lists(
    st.tuples(st.sampled_from(KEYS[:4]), st.sampled_from(("ok", "fail", "fail", "began", "ended")), st.floats(0, 500))
)


def chooser(seed: int = 1) -> ReplicaChoice:
    return ReplicaChoice(random.Random(seed).randrange)


def lived(history: list[tuple[bytes, str, float]], seed: int) -> tuple[ReplicaChoice, float]:
    """A chooser that has seen things, and the time after the last."""
    choice, now_ms = chooser(seed), 0.0
    for key, what, value in history:
        now_ms += value
        if what == "ok":
            choice.measured(key, value, now_ms)
        elif what == "fail":
            choice.failed(key, now_ms)
        elif what == "began":
            choice.began(key)
        else:
            choice.ended(key)
    return choice, now_ms


@given(
    candidates=CANDIDATES,
    history=HISTORY,
    down=st.sets(st.sampled_from(KEYS[:4])),
    seed=st.integers(0, 99),
    sticky=st.sampled_from((b"", ASKER)),
)
def test_never_a_draining_or_sick_one_while_there_is_another(
    candidates: list[Candidate], history: list[tuple[bytes, str, float]], down: set[bytes], seed: int, sticky: bytes
) -> None:
    choice, now_ms = lived(history, seed)
    for key in sorted(down) * UNHEALTHY_AFTER:
        choice.failed(key, now_ms)
    order = choice.rank(NAME, candidates, now_ms, sticky=sticky)
    stay = [each for each in candidates if not each.draining]
    assert {each.key for each in order} == {each.key for each in stay or candidates}
    assert len(order) == len(stay or candidates)
    well = [each for each in stay if choice.standing(each.key).is_healthy(now_ms)]
    if well:
        assert order[0] in well
        assert set(order[: len(well)]) == set(well)
        if not sticky:  # a sticky one keeps what it had even if it is of a lower priority now
            assert order[0].priority == min(each.priority for each in well)


def test_a_nearer_one_is_not_forgotten_while_nobody_asks() -> None:
    choice = chooser()
    for key, round_trip_ms in zip(KEYS[:2], (2, 40), strict=True):
        choice.measured(key, round_trip_ms, 0)
    for hours in (1, 100):
        now_ms = hours * 3_600_000.0
        assert choice.cost(Candidate(KEYS[0]), now_ms) < choice.cost(Candidate(KEYS[1]), now_ms)


@given(
    near=st.floats(0, 400),
    gap=st.floats(0.06, 10),
    load=st.integers(0, 1_000),
    seed=st.integers(0, 999),
)
def test_the_nearer_of_two_goes_first_when_load_is_equal(near: float, gap: float, load: int, seed: int) -> None:
    choice = chooser(seed)
    choice.measured(KEYS[0], near, 0)
    choice.measured(KEYS[1], near + gap * (NOISE_MS + near), 0)
    two = [Candidate(KEYS[1], load), Candidate(KEYS[0], load)]
    firsts = Counter(choice.rank(NAME, two, 1)[0].key for _ in range(60))
    assert firsts[KEYS[0]] > firsts[KEYS[1]]  # exploration takes about one in twenty


def test_a_clearly_nearest_of_many_gets_all_but_what_is_explored() -> None:
    choice = chooser()
    for number, key in enumerate(KEYS):
        choice.measured(key, 1 if number == 7 else 80, 0)
    firsts = Counter(choice.rank(NAME, [Candidate(key) for key in KEYS], 1)[0].key for _ in range(2_000))
    assert 0.92 < firsts[KEYS[7]] / 2_000 < 0.98


def test_load_and_own_sessions_turn_new_sessions_away() -> None:
    choice = chooser()
    choice.measured(KEYS[0], 2, 0)
    choice.measured(KEYS[1], 30, 0)
    full, idle = Candidate(KEYS[0], 900), Candidate(KEYS[1], 0)
    assert choice.cost(full, 0) > choice.cost(idle, 0)
    nearest = Candidate(KEYS[0])
    assert choice.cost(nearest, 0) < choice.cost(idle, 0)
    for _ in range(100):
        choice.began(KEYS[0])
    assert choice.cost(nearest, 0) > choice.cost(idle, 0)
    for _ in range(101):
        choice.ended(KEYS[0])
    assert choice.standing(KEYS[0]).in_flight == 0


def spread(two_choices: bool, seed: int) -> int:
    """Sessions at the fullest of 16 equal instances after 320 have come: chosen by rank, or at random."""
    draw = random.Random(seed).randrange
    choice = ReplicaChoice(draw)
    for key in KEYS:
        choice.measured(key, 5, 0)
    placed: Counter[bytes] = Counter()
    for _ in range(320):
        key = choice.rank(NAME, [Candidate(key) for key in KEYS], 1)[0].key if two_choices else KEYS[draw(len(KEYS))]
        choice.began(key)
        placed[key] += 1
    return max(placed.values())


def test_two_choices_spread_load_better_than_chance() -> None:
    chosen = [spread(True, seed) for seed in range(10)]
    drawn = [spread(False, seed) for seed in range(10)]
    assert max(chosen) <= 20 + 6  # 20 each if it were even; the bound for two choices is ln ln n above that
    assert sum(chosen) / 10 + 3 < sum(drawn) / 10


def test_stale_loads_do_not_send_everybody_to_the_same_place() -> None:
    """A hundred consumers that all believe the same records."""
    loads = [100 + 10 * number for number in range(8)]
    firsts: Counter[bytes] = Counter()
    for seed in range(100):
        candidates = [Candidate(key, load) for key, load in zip(KEYS[:8], loads, strict=True)]
        firsts[chooser(seed).rank(NAME, candidates, 0)[0].key] += 1
    assert max(firsts.values()) < 40


@given(failures=st.integers(UNHEALTHY_AFTER, 30))
def test_failures_in_a_row_take_it_out_for_a_growing_time(failures: int) -> None:
    choice, now_ms, before = chooser(), 0.0, 0.0
    for number in range(1, failures + 1):
        choice.failed(KEYS[0], now_ms)
        standing = choice.standing(KEYS[0])
        if number < UNHEALTHY_AFTER:
            assert standing.is_healthy(now_ms)
            continue
        out_ms = standing.out_until_ms - now_ms
        assert min(before + 1, OUT_MS_MAX) <= out_ms <= OUT_MS_MAX
        assert not standing.is_healthy(now_ms)
        assert choice.probes(KEYS, now_ms) == []
        now_ms, before = standing.out_until_ms, out_ms
        assert choice.probes(KEYS, now_ms) == [KEYS[0]]
        assert standing.is_healthy(now_ms)
    choice.measured(KEYS[0], 1, now_ms)
    assert choice.probes(KEYS, now_ms) == []
    assert choice.standing(KEYS[0]).failures == 0


@settings(max_examples=10)
@given(failures=st.integers(1, 20), seed=st.integers(0, 99))
def test_a_recovered_instance_is_not_starved(failures: int, seed: int) -> None:
    choice = chooser(seed)
    for key in KEYS[:3]:
        choice.measured(key, 5, 0)
    for _ in range(failures):
        choice.failed(KEYS[0], 0)
    now_ms = OUT_MS_MAX
    candidates = [Candidate(key) for key in KEYS[:3]]
    for _ in range(1_200):
        key = choice.rank(NAME, candidates, now_ms)[0].key
        choice.measured(key, 5, now_ms)  # it is as good as the others again
        now_ms += 100
    share = Counter(choice.rank(NAME, candidates, now_ms)[0].key for _ in range(300))
    assert share[KEYS[0]] > 300 / 3 / 2


def test_the_mean_of_round_trips_forgets_by_half_lives() -> None:
    choice = chooser()
    assert choice.standing(KEYS[0]).estimate_ms(0) == UNMEASURED_MS
    choice.measured(KEYS[0], 10, 0)
    choice.measured(KEYS[0], 20, 0)
    assert choice.standing(KEYS[0]).estimate_ms(0) == pytest.approx((1 - ALPHA) * 10 + ALPHA * 20)
    choice.measured(KEYS[1], 10, 0)
    choice.measured(KEYS[1], 20, HALF_LIFE_MS)
    assert choice.standing(KEYS[1]).estimate_ms(HALF_LIFE_MS) == pytest.approx(0.4 * 10 + 0.6 * 20)
    choice.measured(KEYS[2], 250, 0)
    assert choice.standing(KEYS[2]).estimate_ms(HALF_LIFE_MS) == pytest.approx(50 + 200 / 2)
    choice.failed(KEYS[0], 0)
    assert choice.standing(KEYS[0]).estimate_ms(0) == pytest.approx(4 * 12)


def test_who_was_outrun_counts_as_slow_only_beyond_what_was_expected() -> None:
    choice = chooser()
    choice.measured(KEYS[0], 80, 0)
    choice.outrun(KEYS[0], 50, 0)
    assert choice.standing(KEYS[0]).estimate_ms(0) == 80
    choice.failed(KEYS[1], 0)
    choice.outrun(KEYS[1], 1_000, 0)
    assert choice.standing(KEYS[1]).estimate_ms(0) > 200
    assert choice.standing(KEYS[1]).failures == 1  # that is no success


def test_the_posted_price_decides_among_equals() -> None:
    choice = chooser()
    cheap, dear, silent = Candidate(KEYS[0], price=10), Candidate(KEYS[1], price=30), Candidate(KEYS[2])
    costs = [choice.cost(each, 0, 10, 30) for each in (cheap, dear, silent)]
    assert costs[0] < costs[1] == costs[2]
    assert costs[1] < 2 * costs[0]
    firsts = Counter(choice.rank(NAME, [dear, cheap], 0)[0].key for _ in range(400))
    assert firsts[KEYS[0]] > 300


@given(present=st.sets(st.sampled_from(KEYS[1:]), min_size=1), seed=st.integers(0, 99))
def test_a_sticky_consumer_stays_until_its_instance_is_sick(present: set[bytes], seed: int) -> None:
    keys = sorted(present)
    first = chooser(0).rank(NAME, [Candidate(key) for key in keys], 0, sticky=ASKER)[0].key
    choice = chooser(seed)  # another process, with no memory: the same choice
    for key in keys:
        choice.measured(key, 1 + KEYS.index(key) * 20, 0)
    assert choice.rank(NAME, [Candidate(key) for key in keys], 0, sticky=ASKER)[0].key == first
    grown = [Candidate(KEYS[0]), *(Candidate(key) for key in keys)]
    assert choice.rank(NAME, grown, 0, sticky=ASKER)[0].key == first  # a new instance changes nothing
    for _ in range(UNHEALTHY_AFTER):
        choice.failed(first, 0)
    second = choice.rank(NAME, grown, 0, sticky=ASKER)[0].key
    assert second != first
    choice.measured(first, 1, OUT_MS)
    assert choice.rank(NAME, grown, OUT_MS, sticky=ASKER)[0].key == second  # nor does its return


def test_sticky_consumers_are_spread_by_weight() -> None:
    heavy, light = Candidate(KEYS[0], weight=3), Candidate(KEYS[1], weight=1)
    firsts = Counter(
        chooser().rank(NAME, [light, heavy], 0, sticky=number.to_bytes(4))[0].key for number in range(1_000)
    )
    assert 680 < firsts[KEYS[0]] < 820


def test_weights_share_among_comparable_instances() -> None:
    choice = chooser()
    heavy, light = Candidate(KEYS[0], weight=9), Candidate(KEYS[1], weight=1)
    equal = Counter(choice.rank(NAME, [light, heavy], 0)[0].key for _ in range(1_000))
    assert equal[KEYS[0]] > 800


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_choice, "MEASURED_INSTANCES", 3)
    monkeypatch.setattr(replica_choice, "STICKY_CHOICES", 3)
    choice = chooser()
    for key in KEYS:
        choice.measured(key, 1, 0)
        choice.rank(NAME, [Candidate(key)], 0, sticky=key)
        choice.ended(KEYS[0])
    assert list(choice._standings) == KEYS[-3:]
    assert len(choice._sticky) == 3
    assert choice.rank(NAME, [], 0, sticky=ASKER) == []
