"""From inputs to the outbox: what is acknowledged to a device is durable.

Inputs hand batches to `take`, which returns when the batch is committed. One task makes the commits: while the disk
writes one, the batches for the next gather, so the rate of commits follows the disk and their size the load. If a
commit fails, memory is ahead of the disk: the feed ends, and whoever restarts it goes on from what is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from blockcloud.primitives.errors import BlockCloudError, Busy
from blockcloud.service_access.edge.feed.core import Changes, FeedCore, Numbered
from blockcloud.service_access.edge.feed.outbox import Outbox
from blockcloud.service_access.edge.feed.readings import MICROSECONDS, Batch

WAITING_BATCHES: Final = 2_048
COMMIT_BATCHES: Final = 512
RETRY_MS: Final = 200
TICK_SECONDS: Final = 0.1  # after a window is due, so that many close at once

log = structlog.get_logger(__name__)


class _Relayed:
    """Entries of another feed, on their way into the core."""

    def __init__(self, log: str, entries: Sequence[Numbered]) -> None:
        self.log = log
        self.entries = entries


class Intake:
    """See the module's text. `committed` is called with what has become durable, in order."""

    def __init__(self, core: FeedCore, outbox: Outbox, committed: Callable[[Sequence[Numbered]], None]) -> None:
        self.refused: Counter[str] = Counter()  # by error code
        self.commits = 0
        self._core = core
        self._outbox = outbox
        self._committed = committed
        self._waiting: list[tuple[Batch | _Relayed, asyncio.Future[int]]] = []
        self._wake = asyncio.Event()
        self._disk = ThreadPoolExecutor(1, "feed-outbox")

    async def take(self, batch: Batch) -> int:
        """Take a batch; returns how many of its readings are new, when they are durable.

        Raises what the core refuses with, Busy, OutboxFull, StorageFault.
        """
        return await self._put(batch)

    async def relay(self, log: str, entries: Sequence[Numbered]) -> int:
        """Take entries of another feed over; returns how many are new, when they are durable. Raises as `take`."""
        return await self._put(_Relayed(log, entries))

    def count_refusal(self, error: BlockCloudError) -> None:
        """An input refuses something itself."""
        self.refused[error.code] += 1

    async def _put(self, what: Batch | _Relayed) -> int:
        try:
            if len(self._waiting) >= WAITING_BATCHES:
                raise Busy("the feed has as much waiting as it takes", retry_after_ms=RETRY_MS)
            self._outbox.check_room()
        except BlockCloudError as error:
            self.count_refusal(error)
            raise
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((what, done))
        self._wake.set()
        return await done

    async def on_disk(self, work: Callable[[], object]) -> None:
        """Run `work` on the outbox's own thread, between commits."""
        await asyncio.get_running_loop().run_in_executor(self._disk, work)

    async def run(self) -> None:
        """Make commits until cancelled. Raises StorageFault: the feed cannot go on."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._idle_seconds()):
                        await self._wake.wait()
                self._wake.clear()
                while await self._commit():
                    pass
        finally:
            self._disk.shutdown()
            for _, done in self._waiting:
                done.cancel()

    def _idle_seconds(self) -> float | None:
        """Until the next window closes for want of readings."""
        due_us = self._core.next_timer_us()
        return None if due_us is None else max(0, due_us - now_us()) / MICROSECONDS + TICK_SECONDS

    async def _commit(self) -> bool:
        """Commit what waits, at most COMMIT_BATCHES; whether there was anything."""
        batches, self._waiting = self._waiting[:COMMIT_BATCHES], self._waiting[COMMIT_BATCHES:]
        taken = []
        at_us = now_us()
        for what, done in batches:
            try:
                taken.append((done, self._into_core(what, at_us)))
            except BlockCloudError as error:
                self.count_refusal(error)
                _fail(done, error)
        self._core.tick(at_us)
        changes = self._core.take_changes()
        try:
            if changes is not None:
                await self._write(changes)
        except BlockCloudError as error:
            for done, _ in taken:
                _fail(done, error)
            raise
        for done, fresh in taken:
            if not done.done():
                done.set_result(fresh)
        return bool(batches)

    def _into_core(self, what: Batch | _Relayed, at_us: int) -> int:
        if isinstance(what, Batch):
            return self._core.take(what, at_us)
        return self._core.relay(what.log, what.entries, at_us)

    async def _write(self, changes: Changes) -> None:
        await self.on_disk(lambda: self._outbox.commit(changes))
        self.commits += 1
        self._committed(changes.entries)


def _fail(done: asyncio.Future[int], error: BlockCloudError) -> None:
    if not done.done():
        done.set_exception(error)


def now_us() -> int:
    """The time, as readings have it."""
    return time.time_ns() * MICROSECONDS // 1_000_000_000
