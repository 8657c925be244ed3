"""Service files in another store: what is new goes there in the background, what is asked for comes back from there.

The routing table knows which files are held and whose bytes may go from here (`RoutingTable.use_other_store`); this
carries it out over an `ObjectStore`. A file is acknowledged when it is durable here, and stays here until the store has
it, so a store that is down, slow or full costs nobody a file; while too much waits, new ones are refused
(`routing_full`). What comes back is checked by its hash. A store that has lost or altered a file is counted, and the
file is fetched again from peers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from blockcloud.node.object_store import ObjectMissing, ObjectStore, StoreFailed
from blockcloud.primitives.errors import Busy, Oversized
from blockcloud.primitives.hashes import sha256
from blockcloud.routing.store import Entry, RoutingTable

BATCH: Final = 16  # objects that are written at the same time
READS: Final = 16  # objects that are read at the same time
WAITING_READS: Final = 256
REST_SECONDS: Final = 5  # after a failure
RETRY_MS: Final = 1_000

log = structlog.get_logger()


class FileStorage:
    """The other store of one routing table. `lost(hash)` is told when the store turns out not to have a file; `spawn`
    lets work go on by itself. Belongs to the event loop's thread."""

    def __init__(
        self,
        table: RoutingTable,
        store: ObjectStore,
        *,
        lost: Callable[[bytes], None],
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self._table, self._store, self._lost, self._spawn = table, store, lost, spawn
        self._loop = asyncio.get_running_loop()
        self._reading: dict[bytes, asyncio.Future[bytes | None]] = {}
        self._room = asyncio.Semaphore(READS)
        self._writing = False
        self._rests_until = 0.0
        self.failure: StoreFailed | None = None  # of the last call; None if it went well
        self.counts: Counter[str] = Counter()

    def look(self) -> None:
        """Something may have come or gone: tell the store, unless it is being told or has just failed."""
        if not self._writing and self._table.waiting_files and self._loop.time() >= self._rests_until:
            self._writing = True
            self._spawn(self._write())

    async def read(self, file_hash: bytes) -> bytes | None:
        """The file, which the table says is there; None if it is not any more. Raises StoreFailed or Busy."""
        data = self._table.file(file_hash)
        if data is not None or not self._table.is_elsewhere(file_hash):
            return data
        reading = self._reading.get(file_hash)
        if reading is None:
            if len(self._reading) >= WAITING_READS:
                raise Busy("too many files are being read from the store", retry_after_ms=RETRY_MS)
            reading = self._reading[file_hash] = asyncio.ensure_future(self._read(file_hash))
            reading.add_done_callback(lambda _: self._reading.pop(file_hash, None))
        return await asyncio.shield(reading)

    def report(self) -> dict[str, Any]:
        """What `blockcloud status` shows of it."""
        counts = {name: self.counts[name] for name in ("written", "read", "deleted", "failed", "missing", "tampered")}
        return {
            "waiting_files": self._table.waiting_files,
            "cached_bytes": self._table.local_bytes,
            "error": None if self.failure is None else self.failure.code,
            **counts,
        }

    async def close(self) -> None:
        """End what is being read; what is being written is whoever's spawned it."""
        for reading in list(self._reading.values()):
            reading.cancel()
        await asyncio.gather(*self._reading.values(), return_exceptions=True)

    async def _write(self) -> None:
        try:
            while changed := self._table.changed(BATCH):
                failures = [error for error in await asyncio.gather(*map(self._tell, changed)) if error is not None]
                if failures:
                    self._failed(failures[0])
                    return
                self.failure = None
        finally:
            self._writing = False

    async def _tell(self, file_hash: bytes) -> StoreFailed | None:
        """Let the store have, or lose, one file; why that failed."""
        name, data = file_hash.hex(), self._table.file(file_hash)
        try:
            if data is None:
                if not self._table.is_file(file_hash):
                    await self._store.delete(name)
                    self.counts["deleted"] += 1
                return None
            await self._store.put(name, data)
            self.counts["written"] += 1
        except StoreFailed as error:
            self._table.note_again(file_hash)
            return error
        if not self._table.now_elsewhere(file_hash):
            self._table.note_again(file_hash)  # it went meanwhile
        return None

    async def _read(self, file_hash: bytes) -> bytes | None:
        async with self._room:
            try:
                data = await self._store.get(file_hash.hex())
            except ObjectMissing:
                self._gone(file_hash, "missing")
                return None
            except Oversized:
                self._gone(file_hash, "tampered")
                return None
            except StoreFailed as error:
                self._failed(error)
                raise
        self.failure = None
        if sha256(data) != file_hash:
            self._gone(file_hash, "tampered")
            return None
        self.counts["read"] += 1
        self._table.cache(data)
        return data

    def _gone(self, file_hash: bytes, how: str) -> None:
        """The store has not got what it was given: hold it no longer, so that it is fetched again."""
        self.counts[how] += 1
        log.warning("service_file_lost", how=how, hash=file_hash.hex())
        if self._table.file(file_hash) is None and self._table.drop(Entry(file_hash)):
            self._lost(file_hash)

    def _failed(self, error: StoreFailed) -> None:
        self.counts["failed"] += 1
        self._rests_until = self._loop.time() + REST_SECONDS
        if type(error) is not type(self.failure):
            log.warning("file_store_failed", error=error.code)
        self.failure = error
