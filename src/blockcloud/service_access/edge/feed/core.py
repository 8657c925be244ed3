"""The core of a feed, sans-IO: batches and the time in, entries for the outbox out.

`take` accepts a batch whole or refuses it whole, drops what has come before (`sources`), and adds the rest to its
series (`series`). What comes of it are *entries*, numbered from 1 on without gaps: samples, and windows as they close.
The number is an entry's *offset*, and by it a reader says how far it has come. `relay` takes entries of another feed
over: its windows were made there, so nothing is aggregated twice.

`take_changes` hands out everything that has to be made durable together: entries, and the states of the series and
sources that they changed. A core that is restored from what one commit holds is the core that made it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.limits import CLOCK_SKEW_SECONDS
from blockcloud.service_access.edge.feed.errors import FromTheFuture, TooManySeries, TooManySources
from blockcloud.service_access.edge.feed.readings import (
    MICROSECONDS,
    SEQUENCE_MAX,
    Batch,
    Reading,
    check_sequence,
)
from blockcloud.service_access.edge.feed.series import Series, SeriesState, WindowResult
from blockcloud.service_access.edge.feed.sources import Source, SourceState, Verdict

SERIES: Final = 10_000
SOURCES: Final = 10_000
WINDOW_SECONDS: Final = 10
WINDOW_SECONDS_MAX: Final = 86_400


class Sample(Struct, frozen=True, tag="sample", array_like=True):
    """A reading, and who sent it under which number."""

    reading: Reading
    source: str
    sequence: int | None = None


class Window(Struct, frozen=True, tag="window", array_like=True):
    """A window that has closed."""

    result: WindowResult


Entry: TypeAlias = Sample | Window
Numbered: TypeAlias = tuple[int, Entry]


def series_of(entry: Entry) -> str:
    """The series that an entry is of."""
    return entry.reading.series if isinstance(entry, Sample) else entry.result.series


class Settings(Struct, frozen=True):
    """What an operator may choose."""

    window_seconds: int = WINDOW_SECONDS
    series_max: int = SERIES
    sources_max: int = SOURCES

    def check(self) -> None:
        """Raises BadConfiguration."""
        if not 1 <= self.window_seconds <= WINDOW_SECONDS_MAX:
            raise BadConfiguration("a window lasts from a second to a day", seconds=self.window_seconds)


class Changes(Struct, frozen=True):
    """What must become durable together. States are encoded; `upstreams` are offsets reached, by log."""

    entries: Sequence[Numbered]
    series: Mapping[str, bytes]
    sources: Mapping[str, bytes]
    upstreams: Mapping[str, int]


class FeedCore:
    """See the module's text."""

    def __init__(self, settings: Settings) -> None:
        settings.check()
        self.settings = settings
        self.series: dict[str, Series] = {}
        self.sources: dict[str, Source] = {}
        self.upstreams: dict[str, int] = {}
        self.next_offset = 1
        self.counts: Counter[str] = Counter()
        self._width_us = settings.window_seconds * MICROSECONDS
        self._open: OrderedDict[str, None] = OrderedDict()  # series with open windows, the longest silent first
        self._entries: list[Numbered] = []
        self._changed_series: dict[str, None] = {}
        self._changed_sources: dict[str, None] = {}
        self._changed_upstreams: dict[str, None] = {}

    def restore(
        self,
        series: Iterable[tuple[str, bytes]],
        sources: Iterable[tuple[str, bytes]],
        upstreams: Mapping[str, int],
        next_offset: int,
    ) -> None:
        """Go on from what was made durable. Raises msgspec.MsgspecError where that is not what `take_changes` gave."""
        decoded = [(name, msgspec.msgpack.decode(state, type=SeriesState)) for name, state in series]
        for name, state in sorted(decoded, key=lambda each: each[1].arrived_us):
            self.series[name] = Series(state, self._width_us)
            if state.windows:
                self._open[name] = None
        for name, state_bytes in sources:
            self.sources[name] = Source(msgspec.msgpack.decode(state_bytes, type=SourceState))
        self.upstreams.update(upstreams)
        self.next_offset = next_offset

    def remember(self, readings: Iterable[Reading]) -> None:
        """Fill the last readings of the series, oldest first, after `restore`."""
        for reading in readings:
            if reading.series in self.series:
                self.series[reading.series].last.append(reading)

    # --- what comes in ----------------------------------------------------------------------------------------------

    def take(self, batch: Batch, now_us: int) -> int:
        """Take a batch; how many of its readings are new. Raises FromTheFuture, TooManySeries, TooManySources,
        BadReading: nothing of the batch is taken then."""
        self._check(batch, now_us)
        source = self._source(batch) if batch.sequence is not None else None
        fresh = 0
        for place, reading in enumerate(batch.readings):
            number = None
            if source is not None and batch.sequence is not None:
                number = batch.sequence + place
                verdict = source.receive(number)
                if verdict is not Verdict.FRESH:
                    self.counts[f"readings_{verdict.value}"] += 1
                    continue
            fresh += 1
            self._append(Sample(reading, batch.source, number))
            self._add(reading, now_us)
        self.counts["readings_taken"] += fresh
        return fresh

    def _check(self, batch: Batch, now_us: int) -> None:
        limit_us = now_us + CLOCK_SKEW_SECONDS * MICROSECONDS
        for reading in batch.readings:
            if reading.time_us > limit_us:
                raise FromTheFuture(series=reading.series, seconds_ahead=(reading.time_us - now_us) // MICROSECONDS)
        self._check_series(reading.series for reading in batch.readings)
        if batch.sequence is not None:
            check_sequence(min(batch.sequence + len(batch.readings) - 1, SEQUENCE_MAX + 1))
            if batch.source not in self.sources and len(self.sources) >= self.settings.sources_max:
                raise TooManySources(limit=self.settings.sources_max)

    def _check_series(self, names: Iterable[str]) -> None:
        new = {name for name in names if name not in self.series}
        if len(self.series) + len(new) > self.settings.series_max:
            raise TooManySeries(limit=self.settings.series_max)

    def _source(self, batch: Batch) -> Source:
        source = self.sources.setdefault(batch.source, Source())
        self._changed_sources[batch.source] = None
        return source

    def _add(self, reading: Reading, now_us: int) -> None:
        name = reading.series
        series = self.series.get(name)
        if series is None:
            series = self.series[name] = Series.begin(reading, self._width_us)
        late = series.state.late
        self._closed(name, series.add(reading, now_us))
        self.counts["readings_late"] += series.state.late - late
        self._changed_series[name] = None
        if series.state.windows:
            self._open[name] = None
            self._open.move_to_end(name)
        else:
            self._open.pop(name, None)

    def _closed(self, name: str, results: Iterable[WindowResult]) -> None:
        for result in results:
            self._append(Window(result))
            self.counts["windows_closed"] += 1
            self._changed_series[name] = None

    def _append(self, entry: Entry) -> None:
        self._entries.append((self.next_offset, entry))
        self.next_offset += 1

    def relay(self, log: str, entries: Sequence[Numbered], now_us: int) -> int:
        """Take entries over from the feed with the log `log`; how many are new. Raises TooManySeries: none is taken."""
        reached = self.upstreams.get(log, 0)
        fresh = [(offset, entry) for offset, entry in entries if offset > reached]
        self._check_series(series_of(entry) for _, entry in fresh)
        for offset, entry in fresh:
            reached = max(reached, offset)
            self._append(entry)
            if isinstance(entry, Sample):
                self._note(entry.reading, now_us)
        self.counts["entries_relayed"] += len(fresh)
        self.counts["entries_duplicate"] += len(entries) - len(fresh)
        if fresh:
            self.upstreams[log] = reached
            self._changed_upstreams[log] = None
        return len(fresh)

    def _note(self, reading: Reading, now_us: int) -> None:
        """Keep a relayed reading as a newest and last value, in no window."""
        series = self.series.get(reading.series)
        if series is None:
            series = self.series[reading.series] = Series.begin(reading, self._width_us)
        series.state.readings += 1
        series.state.arrived_us = now_us
        series.last.append(reading)
        if reading.time_us >= series.state.newest.time_us:
            series.state.newest = reading
        self._changed_series[reading.series] = None

    # --- time -------------------------------------------------------------------------------------------------------

    def tick(self, now_us: int) -> None:
        """Close the windows of series that have been silent for long."""
        while self._open:
            name = next(iter(self._open))
            series = self.series[name]
            if series.idle_at_us() > now_us:
                return
            del self._open[name]
            self._closed(name, series.close_idle())

    def next_timer_us(self) -> int | None:
        """When `tick` has something to do if nothing comes before."""
        return self.series[next(iter(self._open))].idle_at_us() if self._open else None

    # --- what goes out ----------------------------------------------------------------------------------------------

    def take_changes(self) -> Changes | None:
        """Everything since the last call that must become durable together; None if there is nothing."""
        if not (self._entries or self._changed_sources):
            return None
        changes = Changes(
            self._entries,
            {name: msgspec.msgpack.encode(self.series[name].state) for name in self._changed_series},
            {name: msgspec.msgpack.encode(self.sources[name].saved()) for name in self._changed_sources},
            {log: self.upstreams[log] for log in self._changed_upstreams},
        )
        self._entries = []
        self._changed_series, self._changed_sources, self._changed_upstreams = {}, {}, {}
        return changes
