"""Verification off the event loop: raw blocks and submitted payloads in, checked ones or typed faults out.

Nearly all the work of a validator is Ed25519 (54 us a signature), and libsodium lets go of the GIL while it verifies.
A small thread pool therefore keeps the event loop free and uses further cores. Each source (a peer, or the clients
together) has a queue of its own; one chunk of checks of each source runs at a time and the sources take turns, so a
huge or slow peer cannot stall the others, and the order within a source is kept. A chunk is many checks: crossing
between threads costs as much as a signature and must not be paid for each.

The interpreter hands the GIL to a waiting thread only after `sys.getswitchinterval()`, 5 ms by default. A verifying
thread needs the GIL back every 54 us, so with the default it would crawl at 200 signatures a second while the loop is
busy. `SWITCH_INTERVAL_S` is the compromise; `tune_interpreter` sets it, once, at the start of a node process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from blockcloud.node.vouching import Vouching
from blockcloud.primitives.errors import PeerFault, Rejected
from blockcloud.transaction_chain.block import Block, BlockRules

SWITCH_INTERVAL_S: Final = 0.000_5
CHUNK_CHECKS: Final = 128  # signature checks that one turn of a source may take: about 8 ms
VOUCHED_PER_CHECK: Final = 4  # payload items of a vouched block, only parsed, take as long as one check
# A message as small as that of an empty block is checked in the loop: waking a thread and being woken by it costs more
# than its one or two signatures. Not more often than so many times a second for one source.
INLINE_BYTES: Final = 1_536
INLINE_PER_SECOND: Final = 200
SOURCE_BYTES: Final = (
    16 * 1024 * 1024
)  # raw blocks waiting of one source; beyond it the node stops reading from the peer

# What became of one payload: its operations, or why it is refused.
Verdict = int | PeerFault | Rejected
Deliver = Callable[[int, list[Block], PeerFault | None, bool, BlockRules], None]


def tune_interpreter() -> None:
    """Let verifying threads have the GIL back quickly. Affects the whole process, so only a node's main calls it."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def default_threads() -> int:
    """One thread on up to two cores (where four validators of a devnet share them), else two."""
    return 1 if (os.cpu_count() or 1) <= 2 else 2


@dataclass(slots=True, eq=False)
class _Job:
    """Raw blocks that arrived together, or submitted payloads; the worker's place in them survives between chunks."""

    raws: Sequence[bytes]
    rules: BlockRules | None = None  # of the blocks' era
    fetched: bool = False
    waiter: asyncio.Future[list[Verdict]] | None = None
    blocks: list[Block] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    fault: PeerFault | None = None
    current: Block | None = None  # parsed, its payload is being checked
    position: int = 0  # next raw block or payload
    inner: int = 0  # next payload item of the current block
    size: int = 0
    vouched: bool = False  # the current block
    vouched_blocks: int = 0


class _Source:
    __slots__ = ("bytes", "jobs", "running")

    def __init__(self) -> None:
        self.jobs: deque[_Job] = deque()
        self.bytes = 0
        self.running = False


class Verification:
    """The pool. All methods belong to the event loop's thread.

    `check` checks one payload item of a block, `check_vouched` one of a fetched block that `vouching` knows (default:
    the same), `check_submitted` one that a client submits; they run in worker threads and raise PeerFault, the last
    also Rejected. `deliver(peer, blocks, fault, fetched, rules)` is called in the loop,
    once for each `add_blocks`, in order; `failed` when a worker raised anything else: then the node cannot go on.
    """

    def __init__(
        self,
        *,
        check: Callable[[bytes], int],
        check_submitted: Callable[[bytes], int],
        deliver: Deliver,
        failed: Callable[[BaseException], None],
        threads: int = 0,
        check_vouched: Callable[[bytes], int] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._failed = failed
        self._check, self._deliver = check, deliver
        self._check_submitted = check_submitted
        self._check_vouched = check_vouched or check
        self.vouching = Vouching()
        self._threads = threads or default_threads()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="verify")
        self._sources: dict[Hashable, _Source] = {}
        self._turns: deque[Hashable] = deque()  # sources with work, none of whose chunks runs
        self._busy = 0
        self._closed = False
        self._inlined: Counter[Hashable] = Counter()
        self._inline_second = 0
        self._drained: dict[Hashable, asyncio.Future[None]] = {}

    def add_blocks(self, peer: int, raws: Sequence[bytes], rules: BlockRules, *, fetched: bool) -> bool:
        """Queue raw blocks of `peer`, which must fit `rules`. False: the queue is over its limit, stop reading until
        `drained`."""
        return self._add(peer, _Job(raws, rules, fetched=fetched, size=sum(map(len, raws))))

    async def drained(self, peer: int) -> None:
        """Wait until the queue of `peer` is at most half full."""
        source = self._sources.get(peer)
        if source is not None and source.bytes > SOURCE_BYTES // 2:
            waiter = self._drained.setdefault(peer, asyncio.get_running_loop().create_future())
            await asyncio.shield(waiter)

    async def check_payloads(self, payloads: Sequence[bytes], client: Hashable = "clients") -> list[Verdict]:
        """The verdict on each payload. Those of one `client` are checked in order; clients take turns."""
        waiter: asyncio.Future[list[Verdict]] = asyncio.get_running_loop().create_future()
        self._add(("client", client), _Job(payloads, waiter=waiter, size=sum(map(len, payloads))))
        return await waiter

    def forget(self, peer: int) -> None:
        """Drop what still waits of a peer whose link is gone."""
        source = self._sources.get(peer)
        if source is not None:
            running = [source.jobs[0]] if source.running else []
            source.jobs = deque(running)
            source.bytes = sum(job.size for job in running)
            self._release(peer, source)

    def close(self) -> None:
        """Stop; what still waits is dropped and its waiters are cancelled."""
        self._closed = True
        for source in self._sources.values():
            for job in source.jobs:
                if job.waiter is not None:
                    job.waiter.cancel()
        for waiter in self._drained.values():
            waiter.cancel()
        self._sources.clear()
        self._turns.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _add(self, name: Hashable, job: _Job) -> bool:
        if self._closed:
            return False
        if job.waiter is None and job.size <= INLINE_BYTES and name not in self._sources and self._may_inline(name):
            while not _finished(job):
                self._blocks(job, CHUNK_CHECKS)
            self._hand_over(name, job)
            return True
        source = self._sources.setdefault(name, _Source())
        source.jobs.append(job)
        source.bytes += job.size
        if not source.running and len(source.jobs) == 1:
            self._turns.append(name)
            self._dispatch()
        return source.bytes <= SOURCE_BYTES

    def _may_inline(self, name: Hashable) -> bool:
        second = int(self._loop.time())
        if second != self._inline_second:
            self._inline_second = second
            self._inlined.clear()
        self._inlined[name] += 1
        return self._inlined[name] <= INLINE_PER_SECOND

    def _dispatch(self) -> None:
        while self._busy < self._threads and self._turns:
            name = self._turns.popleft()
            source = self._sources.get(name)
            if source is None or not source.jobs or source.running:
                continue
            source.running = True
            self._busy += 1
            future = self._pool.submit(self._run, tuple(source.jobs))
            future.add_done_callback(partial(self._leave_thread, name, source))

    def _leave_thread(self, name: Hashable, source: _Source, done: Future[None]) -> None:
        if not done.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(self._ran, name, source, done.exception())

    def _ran(self, name: Hashable, source: _Source, error: BaseException | None) -> None:
        self._busy -= 1
        source.running = False
        if self._closed:
            return
        if error is not None:
            self._failed(error)  # a bug of ours: a peer's fault is caught in the worker
            return
        while source.jobs and _finished(source.jobs[0]):
            job = source.jobs.popleft()
            source.bytes -= job.size
            self._hand_over(name, job)
        self._release(name, source)
        if source.jobs:
            self._turns.append(name)
        elif self._sources.get(name) is source:
            del self._sources[name]
        self._dispatch()

    def _release(self, name: Hashable, source: _Source) -> None:
        if source.bytes <= SOURCE_BYTES // 2 and (waiter := self._drained.pop(name, None)) is not None:
            waiter.set_result(None)

    def _hand_over(self, name: Hashable, job: _Job) -> None:
        if job.waiter is None:
            assert isinstance(name, int)
            assert job.rules is not None
            self.vouching.blocks += job.vouched_blocks
            self._deliver(name, job.blocks, job.fault, job.fetched, job.rules)
        elif not job.waiter.done():
            job.waiter.set_result(job.verdicts)

    # In a worker thread. One chunk of one source runs at a time, so a job belongs to one thread.

    def _run(self, jobs: Sequence[_Job]) -> None:
        left = CHUNK_CHECKS
        for job in jobs:
            left = self._payloads(job, left) if job.waiter is not None else self._blocks(job, left)
            if left <= 0:
                return

    def _payloads(self, job: _Job, left: int) -> int:
        raws, end = job.raws, min(job.position + left, len(job.raws))
        for position in range(job.position, end):
            try:
                job.verdicts.append(self._check_submitted(raws[position]))
            except (PeerFault, Rejected) as fault:
                job.verdicts.append(fault)
        left -= end - job.position
        job.position = end
        return left

    def _blocks(self, job: _Job, left: int) -> int:
        rules = job.rules
        assert rules is not None, "blocks come with the rules of their era"
        try:
            while left > 0 and job.position < len(job.raws):
                if job.current is None:
                    job.current, job.inner = self._begin_block(job, rules), 0
                    left -= 1
                check, per_check = (self._check_vouched, VOUCHED_PER_CHECK) if job.vouched else (self._check, 1)
                payload = job.current.payload
                end = min(job.inner + left * per_check, len(payload))
                for item in payload[job.inner : end]:
                    check(item)
                left -= -(-(end - job.inner) // per_check)
                job.inner = end
                if end == len(payload):
                    job.blocks.append(job.current)
                    job.current = None
                    job.position += 1
        except PeerFault as fault:
            # The first fault ends the message: what came before it is good, what comes after is not looked at.
            job.fault = fault
        return left

    def _begin_block(self, job: _Job, rules: BlockRules) -> Block:
        """Parse the next block of `job`, and verify what stands outside of its payload. Who vouches for its digest
        vouches for the statements in its header, but not for the signature that came with it."""
        block = rules.parse(job.raws[job.position])
        job.vouched = job.fetched and self.vouching.vouches(rules, block)
        if job.vouched:
            rules.verify_author(block)
            job.vouched_blocks += 1
        else:
            rules.verify(block)
        return block


def _finished(job: _Job) -> bool:
    return job.fault is not None or job.position >= len(job.raws)
