"""What is new, for any number of readers at once: the board of newest values and the tail of entries. Pure.

The board holds one line for each series, in the order of the last change, and each change has a version. A reader is
one number, the version that it has seen: what it lacks are the lines at the end of the board. However slow it is, a
line that was replaced meanwhile is just not there any more (newest wins), and it costs the feed nothing to wait for it.

The tail holds the last entries, so that readers that follow closely are served without the outbox.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from msgspec import Struct

from blockcloud.service_access.edge.feed.core import Numbered, Sample, series_of
from blockcloud.service_access.edge.feed.lines import Format, render

TAIL_ENTRIES: Final = 8_192
CACHED_ANSWERS: Final = 64


class News(Struct, frozen=True):
    """Lines that a reader lacks, oldest first, each with its version; and all of them in one piece."""

    lines: Sequence[tuple[int, bytes]]
    joined: bytes
    version: int


class Board:
    """See the module's text."""

    def __init__(self) -> None:
        self.version = 0
        self._newest: OrderedDict[str, tuple[int, Numbered]] = OrderedDict()
        self._cache: OrderedDict[tuple[int, str, Format], News] = OrderedDict()

    def put(self, entries: Iterable[Numbered]) -> None:
        """Take the samples among `entries` that are newer, by event time, than what the board has."""
        for numbered in entries:
            entry = numbered[1]
            if not isinstance(entry, Sample):
                continue
            name, time_us = entry.reading.series, entry.reading.time_us
            before = self._newest.get(name)
            if before is not None and time_us < _time_us(before[1]):
                continue
            self.version += 1
            self._newest[name] = self.version, numbered
            self._newest.move_to_end(name)
        self._cache.clear()

    def newest(self, series: str) -> list[Numbered]:
        """The newest sample of each series whose name begins with `series`, by name."""
        return [numbered for name, (_, numbered) in sorted(self._newest.items()) if name.startswith(series)]

    def changes(self, version: int) -> list[tuple[int, Numbered]]:
        """What has changed after `version`, oldest first, each with its version."""
        found = []
        for changed, numbered in reversed(self._newest.values()):
            if changed <= version:
                break
            found.append((changed, numbered))
        return found[::-1]

    def since(self, version: int, series: str, format: Format) -> News:
        """What a reader lacks that has seen everything up to `version`."""
        key = version, series, format
        if (known := self._cache.get(key)) is not None:
            return known
        changes = self.changes(version)
        lines = [(at, render(each, format)) for at, each in changes if series_of(each[1]).startswith(series)]
        news = self._cache[key] = News(lines, b"".join(line for _, line in lines), self.version)
        if len(self._cache) > CACHED_ANSWERS:
            self._cache.popitem(last=False)
        return news


def fitting(news: News, room: int) -> tuple[bytes, int]:
    """As many whole lines of `news` as fit into `room` bytes, and the version that a reader has seen with them. The
    version is 0 where not even the first line fits."""
    if len(news.joined) <= room:
        return news.joined, news.version
    taken, size, version = [], 0, 0
    for changed, line in news.lines:
        if size + len(line) > room:
            break
        taken.append(line)
        size, version = size + len(line), changed
    return b"".join(taken), version


def _time_us(numbered: Numbered) -> int:
    entry = numbered[1]
    assert isinstance(entry, Sample)
    return entry.reading.time_us


class Tail:
    """The last entries, without gaps between their offsets."""

    def __init__(self, reached: int) -> None:
        self.reached = reached  # offset of the last entry there is
        self._entries: deque[Numbered] = deque(maxlen=TAIL_ENTRIES)

    def put(self, entries: Iterable[Numbered]) -> None:
        """Take the next entries."""
        self._entries.extend(entries)
        if self._entries:
            self.reached = self._entries[-1][0]

    def after(self, offset: int, limit: int) -> list[Numbered] | None:
        """At most `limit` entries after `offset`; None where the tail does not go back so far."""
        behind = self.reached - offset
        if behind <= 0:
            return []
        if behind > len(self._entries):
            return None
        start = len(self._entries) - behind
        return list(islice(self._entries, start, start + limit))
