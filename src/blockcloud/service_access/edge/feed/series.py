"""One series: its newest value, the last few, and tumbling windows over event time.

A window covers [k * width, (k + 1) * width). The watermark says how far event time has come: the newest reading's time
less the allowed lateness, which is one width. A window is closed, and its result is final, when the watermark passes
its end; a reading for a closed window is *late*: it is kept as a reading and counted, but no window has it. The
watermark is the series' own, so a device that was cut off for a day and then sends that day in order is not late, and
one with a wrong clock harms no other. A series that falls silent is closed by the clock (`close_idle`).

Sums are exact: the partial sums do not overlap (Shewchuk 1997, as in `math.fsum`) and are rounded once, at the end. So
a window has the same sum in whatever order its readings came, before or after a restart.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import msgspec
from msgspec import Struct

from blockcloud.service_access.edge.feed.readings import Reading, Value

LAST_READINGS: Final = 16


class WindowResult(Struct, frozen=True):
    """What a closed window holds. `total`, `minimum` and `maximum` are of its numbers; None where it has none."""

    series: str
    start_us: int
    width_us: int
    count: int
    total: float | None
    minimum: float | None
    maximum: float | None
    last: Value | None
    last_us: int
    unit: str = ""


class OpenWindow(Struct):
    """A window that still takes readings. It keeps its width, should the operator choose another one later."""

    start_us: int
    width_us: int
    count: int = 0
    partials: list[float] = msgspec.field(default_factory=list)
    numbers: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    last: Value | None = None
    last_us: int = -1
    unit: str = ""

    def add(self, reading: Reading) -> None:
        """Count `reading` in."""
        self.count += 1
        value = reading.value
        if isinstance(value, float):
            self.numbers += 1
            add_exactly(self.partials, value)
            self.minimum = min(self.minimum, value)
            self.maximum = max(self.maximum, value)
        if reading.time_us >= self.last_us:
            self.last, self.last_us, self.unit = value, reading.time_us, reading.unit

    @property
    def end_us(self) -> int:
        """The first time that is not in it."""
        return self.start_us + self.width_us

    def result(self, series: str) -> WindowResult:
        """The window as it is when it closes."""
        some = self.numbers > 0
        return WindowResult(
            series,
            self.start_us,
            self.width_us,
            self.count,
            math.fsum(self.partials) if some else None,
            self.minimum if some else None,
            self.maximum if some else None,
            self.last,
            self.last_us,
            self.unit,
        )


def add_exactly(partials: list[float], value: float) -> None:
    """Add `value` to partial sums that do not overlap, so that they still do not and nothing is rounded away."""
    kept = 0
    for partial in partials:
        larger, smaller = (value, partial) if abs(value) >= abs(partial) else (partial, value)
        value = larger + smaller
        rest = smaller - (value - larger)
        if rest:
            partials[kept] = rest
            kept += 1
    partials[kept:] = [value]


class SeriesState(Struct):
    """What is kept of a series. The last readings are not: they are in the outbox."""

    newest: Reading
    watermark_us: int
    arrived_us: int
    windows: list[OpenWindow] = msgspec.field(default_factory=list)
    readings: int = 0
    late: int = 0


class Series:
    """See the module's text."""

    __slots__ = ("last", "state", "width_us")

    def __init__(self, state: SeriesState, width_us: int) -> None:
        self.state = state
        self.width_us = width_us
        self.last: deque[Reading] = deque(maxlen=LAST_READINGS)

    @classmethod
    def begin(cls, first: Reading, width_us: int) -> Series:
        """A series whose first reading is about to come."""
        return cls(SeriesState(first, first.time_us - 2 * width_us, 0), width_us)

    def add(self, reading: Reading, now_us: int) -> list[WindowResult]:
        """Take `reading`; the windows that close."""
        state, width_us = self.state, self.width_us
        state.readings += 1
        state.arrived_us = now_us
        self.last.append(reading)
        if reading.time_us >= state.newest.time_us:
            state.newest = reading
        start_us = reading.time_us // width_us * width_us
        if start_us + width_us <= state.watermark_us:
            state.late += 1
            return []
        self._window(start_us).add(reading)
        return self._advance(reading.time_us - width_us)

    def _window(self, start_us: int) -> OpenWindow:
        for window in self.state.windows:
            if (window.start_us, window.width_us) == (start_us, self.width_us):
                return window
        window = OpenWindow(start_us, self.width_us)
        self.state.windows.append(window)
        self.state.windows.sort(key=lambda each: each.end_us)
        return window

    def _advance(self, watermark_us: int) -> list[WindowResult]:
        """Event time has come to `watermark_us`; the windows that close, in order."""
        state = self.state
        if watermark_us <= state.watermark_us:
            return []
        state.watermark_us = watermark_us
        done = [window for window in state.windows if window.end_us <= watermark_us]
        del state.windows[: len(done)]
        return [window.result(state.newest.series) for window in done]

    def idle_at_us(self) -> int:
        """When the open windows close if nothing comes: when all of their time and of the lateness has gone by since
        the last arrival."""
        return self.state.arrived_us + 2 * self.width_us

    def close_idle(self) -> list[WindowResult]:
        """Close what is open, because nothing has come for long enough."""
        windows = self.state.windows
        return self._advance(windows[-1].end_us) if windows else []
