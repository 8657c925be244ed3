"""What a feed counts, against a slow model that remembers everything: reordered, repeated, cut off and restored."""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.service_access.edge.feed.core import Entry, FeedCore, Numbered, Sample, Settings, Window
from blockcloud.service_access.edge.feed.errors import FromTheFuture, TooManySeries, TooManySources
from blockcloud.service_access.edge.feed.readings import Batch, Reading
from blockcloud.service_access.edge.feed.series import LAST_READINGS, WindowResult, add_exactly
from blockcloud.service_access.edge.feed.sources import WINDOW, Source, Verdict
from tests.service_access.edge.feed_samples import NOW_US, reading

WIDTH_S = 10
WIDTH_US = WIDTH_S * 1_000_000
SETTINGS = Settings(window_seconds=WIDTH_S)


# --- sources --------------------------------------------------------------------------------------------------------


class SlowSource:
    """Remembers every number."""

    def __init__(self) -> None:
        self.came: set[int] = set()

    def receive(self, number: int) -> Verdict:
        if self.came and number <= max(self.came) - WINDOW:
            return Verdict.STALE
        if number in self.came:
            return Verdict.DUPLICATE
        self.came.add(number)
        return Verdict.FRESH

    @property
    def missing(self) -> int:
        """Numbers that have left the window without having come."""
        if not self.came:
            return 0
        left = range(min(self.came), max(self.came) - WINDOW + 1)
        return sum(number not in self.came for number in left)

    @property
    def gaps(self) -> int:
        if not self.came:
            return 0
        held = range(max(min(self.came), max(self.came) - WINDOW + 1), max(self.came) + 1)
        return sum(number not in self.came for number in held)


STEPS = st.lists(st.one_of(st.integers(-8, 8), st.integers(-1_200, 1_200), st.just(WINDOW)), max_size=40)


@given(st.integers(0, 3_000), STEPS, st.booleans())
def test_numbers_count_once_and_what_is_missing_is_known(first: int, steps: list[int], saved: bool) -> None:
    source, slow, number = Source(), SlowSource(), first
    for step in [0, *steps]:
        number = max(0, number + step)
        assert source.receive(number) == slow.receive(number)
        if saved:
            source = Source(source.saved())
        assert (source.state.missing, source.gaps) == (slow.missing, slow.gaps)
    assert source.state.fresh == len(slow.came)


# --- sums -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e290, 1e290), max_size=50), st.randoms())
def test_sums_are_exact_in_any_order(values: list[float], chance: object) -> None:
    partials: list[float] = []
    for value in values:
        add_exactly(partials, value)
    assert sum(map(Fraction, partials)) == sum(map(Fraction, values))
    assert math.fsum(partials) == math.fsum(values)
    assert len(partials) <= 40


# --- the whole core -------------------------------------------------------------------------------------------------


class SlowFeed:
    """Keeps every reading that counted, and works windows out from the beginning each time."""

    def __init__(self) -> None:
        self.numbers: defaultdict[str, SlowSource] = defaultdict(SlowSource)
        self.counted: list[Reading] = []
        self.watermark: dict[str, int] = {}
        self.arrived: dict[str, int] = {}
        self.in_windows: defaultdict[tuple[str, int], list[Reading]] = defaultdict(list)
        self.closed: list[tuple[str, int]] = []
        self.late = 0

    def take(self, batch: Batch, now_us: int) -> None:
        for place, each in enumerate(batch.readings):
            if batch.sequence is not None:
                number = batch.sequence + place
                if self.numbers[batch.source].receive(number) is not Verdict.FRESH:
                    continue
            self.counted.append(each)
            self.arrived[each.series] = now_us
            start = each.time_us // WIDTH_US * WIDTH_US
            if start + WIDTH_US <= self.watermark.get(each.series, 0):
                self.late += 1
                continue
            self.in_windows[each.series, start].append(each)
            self.advance(each.series, each.time_us - WIDTH_US)

    def advance(self, series: str, watermark: int) -> None:
        self.watermark[series] = max(self.watermark.get(series, 0), watermark)
        for name, start in sorted(self.in_windows):
            closed = start + WIDTH_US <= self.watermark[series]
            if name == series and closed and (name, start) not in self.closed:
                self.closed.append((name, start))

    def tick(self, now_us: int) -> None:
        for series, arrived in self.arrived.items():
            open_ones = [
                start for name, start in self.in_windows if name == series and (name, start) not in self.closed
            ]
            if open_ones and arrived + 2 * WIDTH_US <= now_us:
                self.advance(series, max(open_ones) + WIDTH_US)

    def result(self, key: tuple[str, int]) -> WindowResult:
        found = self.in_windows[key]
        last = max(enumerate(found), key=lambda pair: (pair[1].time_us, pair[0]))[1]
        numbers = [each.value for each in found if isinstance(each.value, float)]
        return WindowResult(
            key[0],
            key[1],
            WIDTH_US,
            len(found),
            math.fsum(numbers) if numbers else None,
            min(numbers, default=None),
            max(numbers, default=None),
            last.value,
            last.time_us,
            last.unit,
        )


VALUES = st.one_of(st.floats(-1e6, 1e6), st.booleans(), st.just("open"))


class FeedMachine(RuleBasedStateMachine):
    """Devices that number and others that do not, a network that repeats and reorders, a feed that is killed."""

    @initialize()
    def begin(self) -> None:
        self.core, self.slow = FeedCore(SETTINGS), SlowFeed()
        self.now_us = NOW_US
        self.durable: list[Numbered] = []
        self.series_states: dict[str, bytes] = {}
        self.source_states: dict[str, bytes] = {}
        self.sent: list[Batch] = []
        self.next_number: defaultdict[str, int] = defaultdict(int)

    def deliver(self, batch: Batch) -> None:
        self.core.take(batch, self.now_us)
        self.slow.take(batch, self.now_us)
        self.commit()

    def commit(self) -> None:
        changes = self.core.take_changes()
        if changes is not None:
            self.durable += changes.entries
            self.series_states.update(changes.series)
            self.source_states.update(changes.sources)

    @rule(
        source=st.sampled_from(["a", "b"]),
        numbered=st.booleans(),
        skip=st.sampled_from([0, 0, 0, 1, 3]),
        sent=st.lists(
            st.tuples(st.sampled_from(["x", "y"]), st.integers(-45_000, 5_000), VALUES), min_size=1, max_size=4
        ),
        held_back=st.booleans(),
    )
    def send(
        self, source: str, numbered: bool, skip: int, sent: list[tuple[str, int, float | bool | str]], held_back: bool
    ) -> None:
        """A message; one that is held back comes later, or never."""
        found = tuple(Reading(series, self.now_us + 1_000 * at_ms, value) for series, at_ms, value in sent)
        number = None
        if numbered:
            number = self.next_number[source] + skip
            self.next_number[source] = number + len(found)
        batch = Batch(source, found, number)
        if numbered:
            self.sent.append(batch)
        if not (held_back and numbered):
            self.deliver(batch)

    @rule(place=st.integers(0, 10_000))
    def send_again(self, place: int) -> None:
        """The network repeats a message, or brings one that was held back."""
        if self.sent:
            self.deliver(self.sent[place % len(self.sent)])

    @rule(ms=st.integers(0, 30_000))
    def wait(self, ms: int) -> None:
        self.now_us += 1_000 * ms
        self.core.tick(self.now_us)
        self.slow.tick(self.now_us)
        self.commit()

    @rule()
    def kill(self) -> None:
        """All that is left is what was committed."""
        late = self.core.counts["readings_late"]
        next_offset = self.core.next_offset
        self.core = FeedCore(SETTINGS)
        self.core.restore(self.series_states.items(), self.source_states.items(), {}, next_offset)
        self.core.counts["readings_late"] = late

    @invariant()
    def each_reading_counts_once(self) -> None:
        samples = [entry.reading for _, entry in self.durable if isinstance(entry, Sample)]
        assert samples == self.slow.counted
        assert [offset for offset, _ in self.durable] == list(range(1, len(self.durable) + 1))

    @invariant()
    def windows_hold_what_came_in_time(self) -> None:
        closed = [entry.result for _, entry in self.durable if isinstance(entry, Window)]
        assert sorted(closed, key=lambda each: (each.series, each.start_us)) == [
            self.slow.result(key) for key in sorted(self.slow.closed)
        ]
        assert self.core.counts["readings_late"] == self.slow.late

    @invariant()
    def newest_is_newest(self) -> None:
        for name, series in self.core.series.items():
            mine = [each for each in self.slow.counted if each.series == name]
            assert series.state.newest == max(enumerate(mine), key=lambda pair: (pair[1].time_us, pair[0]))[1]
            assert len(series.state.windows) <= 3

    @invariant()
    def no_window_waits_for_ever(self) -> None:
        due = self.core.next_timer_us()
        assert (due is not None) == any(series.state.windows for series in self.core.series.values())


TestFeedMachine = FeedMachine.TestCase
TestFeedMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# --- single rules ---------------------------------------------------------------------------------------------------


def entries(core: FeedCore) -> list[Entry]:
    changes = core.take_changes()
    return [entry for _, entry in changes.entries] if changes is not None else []


def test_a_device_that_was_cut_off_for_a_day_is_not_late() -> None:
    core = FeedCore(SETTINGS)
    core.take(Batch("a", (reading(1.0, after_s=-86_400),)), NOW_US)
    core.tick(NOW_US + 2 * WIDTH_US)
    for second in range(-86_300, 0, 100):
        core.take(Batch("a", (reading(1.0, after_s=second),)), NOW_US)
    assert core.counts["readings_late"] == 0


def test_a_reading_from_the_future_is_refused_whole() -> None:
    core = FeedCore(SETTINGS)
    with pytest.raises(FromTheFuture):
        core.take(Batch("a", (reading(1.0), reading(2.0, after_s=31)), 0), NOW_US)
    assert core.take_changes() is None
    assert core.take(Batch("a", (reading(1.0),), 0), NOW_US) == 1


def test_series_and_sources_are_bounded() -> None:
    core = FeedCore(Settings(series_max=2, sources_max=1))
    core.take(Batch("a", (reading(1.0, series="x"), reading(1.0, series="y")), 0), NOW_US)
    with pytest.raises(TooManySeries):
        core.take(Batch("a", (reading(1.0, series="x"), reading(1.0, series="z")), 5), NOW_US)
    with pytest.raises(TooManySources):
        core.take(Batch("b", (reading(1.0, series="x"),), 0), NOW_US)
    assert core.take(Batch("b", (reading(1.0, series="x"),)), NOW_US) == 1


def test_the_last_readings_are_kept() -> None:
    core = FeedCore(SETTINGS)
    for number in range(LAST_READINGS + 5):
        core.take(Batch("a", (reading(float(number)),)), NOW_US)
    assert [each.value for each in core.series["porch/t"].last] == list(range(5, LAST_READINGS + 5))


def test_windows_keep_their_width_when_the_operator_chooses_another() -> None:
    core = FeedCore(Settings(window_seconds=10))
    core.take(Batch("a", (reading(1.0),)), NOW_US)
    changes = core.take_changes()
    assert changes is not None
    other = FeedCore(Settings(window_seconds=60))
    other.restore(changes.series.items(), [], {}, 2)
    other.take(Batch("a", (reading(2.0),)), NOW_US)
    other.tick(NOW_US + 10 * 60_000_000)
    found = [entry.result for entry in entries(other) if isinstance(entry, Window)]
    assert [(each.width_us, each.count) for each in found] == [(10_000_000, 1), (60_000_000, 1)]


def test_a_window_of_no_width_is_no_setting() -> None:
    with pytest.raises(BadConfiguration):
        FeedCore(Settings(window_seconds=0))


def test_relayed_entries_come_once_and_are_aggregated_nowhere() -> None:
    edge, collector = FeedCore(SETTINGS), FeedCore(SETTINGS)
    edge.take(Batch("a", (reading(1.0), reading(2.0, after_s=25)), 0), NOW_US + 25_000_000)
    changes = edge.take_changes()
    assert changes is not None
    assert collector.relay("log", changes.entries[:2], NOW_US) == 2
    assert collector.relay("log", changes.entries, NOW_US) == len(changes.entries) - 2
    assert collector.relay("log", changes.entries, NOW_US) == 0
    collector.tick(NOW_US + 10**9)
    taken = collector.take_changes()
    assert taken is not None
    assert [entry for _, entry in taken.entries] == [entry for _, entry in changes.entries]
    assert taken.upstreams == {"log": changes.entries[-1][0]}
