"""A disk that forgets: a store in memory whose unsynced writes a crash may undo.

As with a write-ahead log, a crash keeps a prefix of the batches written: at least up to the last synced one, at most
all of them, and never a part of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from blockcloud.primitives.storage import Batch, MemoryStore


class SimulatedDisk:
    """A `Store`; `crash` is what power loss does to it."""

    def __init__(self) -> None:
        self._store = MemoryStore()
        self._log: list[Batch] = []
        self._synced = 0

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._store.get(table, key)

    def scan(
        self, table: str, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._store.scan(table, start, stop, reverse=reverse, limit=limit)

    def write(self, batch: Batch, *, sync: bool) -> None:
        self._log.append(batch)
        self._store.write(batch, sync=sync)
        if sync:
            self._synced = len(self._log)

    def crash(self, random: Random) -> int:
        """Lose a random number of the unsynced batches, the newest first. Returns how many."""
        kept = random.randint(self._synced, len(self._log))
        lost = len(self._log) - kept
        if lost:
            del self._log[kept:]
            self._store = MemoryStore()
            for batch in self._log:
                self._store.write(batch, sync=True)
        self._synced = kept
        return lost
