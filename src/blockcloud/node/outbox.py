"""Duties that wait until what was stored before them is durable.

A block of our own must be on the medium before anybody sees it (DESIGN section 3.5). The sync runs in a thread of its
own, so that a slow disk delays our blocks and does not stop the event loop; meanwhile duties queue up in order, and one
sync serves all that were there when it began.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Outbox:
    """Duties in order. `sync` makes durable what was written before; `failed` is told when that cannot be done.

    All methods belong to the event loop's thread; duties run in it.
    """

    def __init__(self, sync: Callable[[], None], *, failed: Callable[[BaseException], None]) -> None:
        self._sync, self._failed = sync, failed
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._duties: deque[tuple[Callable[[], None], bool]] = deque()
        self._covered = 0  # duties that the running sync serves
        self._busy = False  # a sync or its duties run
        self._closed = False
        self.sync_seconds = 0.0  # of one sync, smoothed

    def put(self, duty: Callable[[], None], *, durable: bool) -> None:
        """Run `duty` after all before it; with `durable`, after what was written up to now is on the medium."""
        if not self._duties and not durable:
            duty()
            return
        self._duties.append((duty, durable))
        if not self._busy:
            self._begin()

    def close(self) -> None:
        """Drop what waits."""
        self._closed = True
        self._duties.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        self._busy, self._covered = True, len(self._duties)
        self._thread.submit(self._timed).add_done_callback(self._leave_thread)

    def _timed(self) -> float:
        begin = time.perf_counter()
        self._sync()
        return time.perf_counter() - begin

    def _leave_thread(self, done: Future[float]) -> None:
        if not done.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(self._synced, done)

    def _synced(self, done: Future[float]) -> None:
        if self._closed:
            return
        if (error := done.exception()) is not None:
            self._failed(error)
            return
        self.sync_seconds += 0.1 * (done.result() - self.sync_seconds)
        while self._duties and (self._covered or not self._duties[0][1]):
            # It stays at the head while it runs: what it puts in comes behind those that wait already.
            self._duties[0][0]()
            if self._duties:  # not closed meanwhile
                self._duties.popleft()
            self._covered = max(0, self._covered - 1)
        self._busy = False
        if self._duties:
            self._begin()
