"""The outbox: what a feed has taken, durable, until there is no more room for it. SQLite.

One commit holds entries and the states they lead to (`core.Changes`), so a process that is killed at any moment goes
on with a state that fits its entries. `synchronous=FULL`: whoever was told "taken" is told the truth at a power failure
too, which is why commits are made of many batches.

Samples have a limit in bytes: beyond it the oldest go, and readers that come for them are told how many are gone. An
aggregate goes only when every consumer that acknowledges has it, or when there is none and the aggregates exceed their
own limit; if there is one and they do, the feed takes nothing more (`OutboxFull`) rather than lose one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from blockcloud.primitives.errors import StorageFault
from blockcloud.service_access.edge.feed.core import Changes, Entry, FeedCore, Numbered, Sample
from blockcloud.service_access.edge.feed.errors import BadRequest, OutboxFull
from blockcloud.service_access.edge.feed.readings import Reading
from blockcloud.service_access.edge.feed.series import LAST_READINGS
from blockcloud.service_access.sqlite_file import faults, open_database, transaction

VERSION: Final = 1
SAMPLE_BYTES: Final = 256 * 1024 * 1024
AGGREGATE_BYTES: Final = 64 * 1024 * 1024
CONSUMERS: Final = 64
PAGE_ENTRIES: Final = 500
DROP_ENTRIES: Final = 1_000  # at once, so that a full outbox does not drop at each commit
ENTRY_OVERHEAD_BYTES: Final = 24  # what a row costs beside its entry
SAMPLE, AGGREGATE = 0, 1

_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (offset INTEGER PRIMARY KEY, kind INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX samples ON entries (offset) WHERE kind = 0;
CREATE INDEX aggregates ON entries (offset) WHERE kind = 1;
CREATE TABLE series (name TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (name TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE upstreams (log TEXT PRIMARY KEY, reached INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE consumers (name TEXT PRIMARY KEY, acknowledged INTEGER NOT NULL) WITHOUT ROWID;
"""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)


class Page(msgspec.Struct, frozen=True):
    """Entries after an offset, and how many samples between that offset and the last of them are gone."""

    entries: Sequence[Numbered]
    dropped: int
    reached: int  # everything up to here has been given or is gone


class Outbox:
    """One file. Not for several threads at once; a second connection (`reader`) may read beside it."""

    def __init__(self, path: Path, *, sample_bytes: int = SAMPLE_BYTES, aggregate_bytes: int = AGGREGATE_BYTES) -> None:
        """Open or make the file. Raises StorageFault."""
        self.path = path
        self._sample_limit, self._aggregate_limit = sample_bytes, aggregate_bytes
        with faults("outbox", path):
            self._database = open_database(path)
            self._make()
            self.log = self._meta("log")
            self.dropped_samples = int(self._meta("dropped_samples"))
            self.dropped_aggregates = int(self._meta("dropped_aggregates"))
            self.sample_bytes, self.aggregate_bytes = self._bytes(SAMPLE), self._bytes(AGGREGATE)
            self.consumers: dict[str, int] = dict(self._database.execute("SELECT name, acknowledged FROM consumers"))

    def _make(self) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version == VERSION:
            return
        if version != 0:
            raise StorageFault("the outbox was made by another version", path=str(self.path), version=version)
        with transaction(self._database):
            for statement in _SCHEMA.split(";"):
                self._database.execute(statement)
            meta = {"log": os.urandom(8).hex(), "dropped_samples": "0", "dropped_aggregates": "0", "next": "1"}
            self._database.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            self._database.execute(f"PRAGMA user_version = {VERSION}")

    def _meta(self, key: str) -> str:
        (value,) = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(value)

    def _set(self, key: str, value: int) -> None:
        self._database.execute("UPDATE meta SET value = ? WHERE key = ?", (str(value), key))

    def _bytes(self, kind: int) -> int:
        count, size = self._database.execute(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM entries WHERE kind = ?", (kind,)
        ).fetchone()
        return int(size) + ENTRY_OVERHEAD_BYTES * int(count)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def restore(self, core: FeedCore) -> None:
        """Bring `core` to where the last commit was. Raises StorageFault."""
        with faults("outbox", self.path):
            core.restore(
                self._database.execute("SELECT name, state FROM series"),
                self._database.execute("SELECT name, state FROM sources"),
                dict(self._database.execute("SELECT log, reached FROM upstreams")),
                int(self._meta("next")),
            )
            newest = self._database.execute(
                "SELECT body FROM entries WHERE kind = 0 ORDER BY offset DESC LIMIT ?",
                (LAST_READINGS * max(1, len(core.series)),),
            ).fetchall()
            core.remember(reversed([_reading(body) for (body,) in newest]))

    # --- writing ----------------------------------------------------------------------------------------------------

    def check_room(self) -> None:
        """Raises OutboxFull where a further aggregate would have to take the place of one that is still awaited."""
        if self.aggregate_bytes > self._aggregate_limit and self.consumers:
            raise OutboxFull(bytes=self.aggregate_bytes, awaited_by=min(self.consumers, key=self.consumers.__getitem__))

    def commit(self, changes: Changes) -> None:
        """Make `changes` durable. Raises StorageFault; then nothing of them is."""
        rows, sizes = [], [0, 0]
        for offset, entry in changes.entries:
            kind = SAMPLE if isinstance(entry, Sample) else AGGREGATE
            body = _encoder.encode(entry)
            rows.append((offset, kind, body))
            sizes[kind] += len(body) + ENTRY_OVERHEAD_BYTES
        with faults("outbox", self.path), transaction(self._database):
            execute = self._database.executemany
            execute("INSERT INTO entries VALUES (?, ?, ?)", rows)
            execute("INSERT OR REPLACE INTO series VALUES (?, ?)", changes.series.items())
            execute("INSERT OR REPLACE INTO sources VALUES (?, ?)", changes.sources.items())
            execute("INSERT OR REPLACE INTO upstreams VALUES (?, ?)", changes.upstreams.items())
            if rows:
                self._set("next", rows[-1][0] + 1)
            self._make_room(sizes)

    def _make_room(self, added: list[int]) -> None:
        samples, aggregates = self.sample_bytes + added[SAMPLE], self.aggregate_bytes + added[AGGREGATE]
        dropped = [self.dropped_samples, self.dropped_aggregates]
        while samples > self._sample_limit:
            count, size = self._drop(SAMPLE, samples - self._sample_limit)
            samples, dropped[SAMPLE] = samples - size, dropped[SAMPLE] + count
        while aggregates > self._aggregate_limit:
            count, size = self._drop(AGGREGATE, aggregates - self._aggregate_limit)
            if not count:
                break
            aggregates, dropped[AGGREGATE] = aggregates - size, dropped[AGGREGATE] + count
        if dropped != [self.dropped_samples, self.dropped_aggregates]:
            self._set("dropped_samples", dropped[SAMPLE])
            self._set("dropped_aggregates", dropped[AGGREGATE])
        self.sample_bytes, self.aggregate_bytes = samples, aggregates
        self.dropped_samples, self.dropped_aggregates = dropped

    def _drop(self, kind: int, excess: int) -> tuple[int, int]:
        """Drop the oldest of a kind until `excess` bytes are gone, at most DROP_ENTRIES; how many, and their bytes."""
        awaited = min(self.consumers.values(), default=None) if kind == AGGREGATE else None
        oldest = self._database.execute(
            "SELECT offset, length(body) FROM entries WHERE kind = ? ORDER BY offset LIMIT ?", (kind, DROP_ENTRIES)
        ).fetchall()
        count = size = last = 0
        for offset, length in oldest:
            if size >= excess or (awaited is not None and offset > awaited):
                break
            count, size, last = count + 1, size + length + ENTRY_OVERHEAD_BYTES, offset
        if count:
            self._database.execute("DELETE FROM entries WHERE kind = ? AND offset <= ?", (kind, last))
        return count, size

    def acknowledge(self, consumer: str, offset: int) -> None:
        """`consumer` has everything up to `offset`, durably. Raises BadRequest if there are too many, StorageFault."""
        if consumer not in self.consumers and len(self.consumers) >= CONSUMERS:
            raise BadRequest("the feed keeps account of no further consumer", limit=CONSUMERS)
        reached = max(offset, self.consumers.get(consumer, 0))
        with faults("outbox", self.path), transaction(self._database):
            self._database.execute("INSERT OR REPLACE INTO consumers VALUES (?, ?)", (consumer, reached))
        self.consumers[consumer] = reached

    def forget(self, consumer: str) -> bool:
        """Wait for `consumer` no longer; whether it was known."""
        with faults("outbox", self.path), transaction(self._database):
            self._database.execute("DELETE FROM consumers WHERE name = ?", (consumer,))
        return self.consumers.pop(consumer, None) is not None


class OutboxReader:
    """A second connection to an outbox, which reads what is committed."""

    def __init__(self, path: Path) -> None:
        with faults("outbox", path):
            self._path = path
            self._database = open_database(path)
            self._database.execute("PRAGMA query_only = ON")

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def after(self, offset: int, limit: int = PAGE_ENTRIES) -> Page:
        """The entries after `offset`, oldest first. Raises StorageFault."""
        with faults("outbox", self._path):
            rows = self._database.execute(
                "SELECT offset, body FROM entries WHERE offset > ? ORDER BY offset LIMIT ?", (offset, limit)
            ).fetchall()
        entries = [(number, _decoder.decode(body)) for number, body in rows]
        reached = entries[-1][0] if entries else offset
        return Page(entries, reached - offset - len(entries), reached)

    def windows(self, series: str, limit: int) -> list[Numbered]:
        """The newest closed windows of the series whose name begins with `series`, oldest first; at most `limit`, and
        of the last SCANNED_WINDOWS of all. Raises StorageFault."""
        with faults("outbox", self._path):
            rows = self._database.execute(
                "SELECT offset, body FROM entries WHERE kind = 1 ORDER BY offset DESC LIMIT ?", (SCANNED_WINDOWS,)
            ).fetchall()
        found: list[Numbered] = []
        for offset, body in rows:
            entry = _decoder.decode(body)
            if not isinstance(entry, Sample) and entry.result.series.startswith(series):
                found.append((offset, entry))
                if len(found) == limit:
                    break
        return found[::-1]


SCANNED_WINDOWS: Final = 20_000


def _reading(body: bytes) -> Reading:
    entry = _decoder.decode(body)
    assert isinstance(entry, Sample)
    return entry.reading
