"""The port to storage: ordered tables of bytes, read by key or range, written in atomic batches.

Cores and ledger rules see only this. A node stands RocksDB behind it (`node/storage.py`); simulations and pure tests
use `MemoryStore`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Protocol

# (table, key, value): a put, or a delete where value is None.
Write = tuple[str, bytes, bytes | None]
RangeDelete = tuple[str, bytes, bytes]


class Batch:
    """Writes to several tables that take effect together or not at all. Range deletes take effect before the writes."""

    __slots__ = ("range_deletes", "writes")

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.range_deletes: list[RangeDelete] = []

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.writes.append((table, key, value))

    def delete(self, table: str, key: bytes) -> None:
        self.writes.append((table, key, None))

    def delete_range(self, table: str, start: bytes, stop: bytes) -> None:
        """Delete the keys in [start, stop)."""
        self.range_deletes.append((table, start, stop))

    def __len__(self) -> int:
        return len(self.writes) + len(self.range_deletes)


class Store(Protocol):
    """Tables of bytes. Methods raise StorageFault when the medium fails."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of `key`, or None."""

    def scan(
        self, table: str, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Forward: keys in [start, stop) ascending. Reverse: keys in (stop, start] descending. At most `limit`."""

    def write(self, batch: Batch, *, sync: bool) -> None:
        """Apply `batch` atomically; with `sync` it is on the medium when this returns."""


class MemoryStore:
    """A Store in memory, for simulations and tests of pure code."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[bytes, bytes]] = {}
        self._keys: dict[str, list[bytes]] = {}

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._tables.get(table, {}).get(key)

    def scan(
        self, table: str, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        values, keys = self._tables.get(table, {}), self._keys.get(table, [])
        low = bisect_left(keys, start)
        if reverse:
            high = low + 1 if low < len(keys) and keys[low] == start else low
            chosen = [key for key in reversed(keys[:high]) if stop is None or key > stop]
        else:
            chosen = keys[low:] if stop is None else keys[low : bisect_left(keys, stop)]
        for key in chosen if limit is None else chosen[:limit]:
            yield key, values[key]

    def write(self, batch: Batch, *, sync: bool) -> None:
        for table, start, stop in batch.range_deletes:
            for key, _ in list(self.scan(table, start, stop)):
                self._remove(table, key)
        for table, key, value in batch.writes:
            if value is None:
                self._remove(table, key)
            else:
                if key not in self._tables.setdefault(table, {}):
                    insort(self._keys.setdefault(table, []), key)
                self._tables[table][key] = value

    def _remove(self, table: str, key: bytes) -> None:
        if self._tables.get(table, {}).pop(key, None) is not None:
            keys = self._keys[table]
            del keys[bisect_left(keys, key)]
