"""The validator's side of its agent: starts it, tells it what the ledger says, and keeps what it found.

The desk is told of the ledger after each commit (`applied`): the open round, if there is one, and the height. It never
waits for the agent, and no trouble of the agent reaches the node: one that ends is started again after a growing pause,
and given up after a number of failures in a row. Then the node's stake fails its tests, or its reports are missing,
and that is all.

*Who missed the start says nothing.* A node that comes back in the middle of a round, or that is behind the others and
applies the starting commit late, has seen no common start. It does not report, and as a challenger it forfeits; but it
calls nobody silent whom it did not ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from typing import Final

import structlog

from blockcloud.node.resources.wire import (
    Begin,
    Examine,
    Examined,
    Forget,
    Order,
    PlotProgress,
    Prepare,
    Staked,
    framed,
    next_news,
)
from blockcloud.primitives.errors import PeerFault
from blockcloud.service_chain.records import OpenRound
from blockcloud.transaction_chain.cloudpos.verdicts import Report

PAUSE_MIN_S: Final = 1.0  # before the agent is started again; doubles
PAUSE_MAX_S: Final = 60.0
FAILURES_MAX: Final = 8  # in a row; then it is given up
HEALTHY_S: Final = 120.0  # an agent that ran for so long has not failed in a row
# An agent that does not take its orders is stuck.
UNREAD_BYTES: Final = 1024 * 1024
# A starting commit older than this when it is applied: the others have begun without this node.
START_LATE_MS: Final = 3_000
EXIT_SECONDS: Final = 5

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LedgerView:
    """What the ledger says after the commit at `height`, of which `age_ms` tells how old it was when it was applied."""

    height: int
    age_ms: int
    opened: OpenRound | None


class Desk:
    """One node's. Belongs to the event loop's thread; `node_key` is the node's public one.

    `staked`: what the agent has set aside and the port at which it is examined, once it is so. `plot_made`: (chunks
    made, chunks of the plot), None before the agent says so.
    """

    def __init__(self, node_key: bytes, begin: Begin) -> None:
        self._node_key, self._begin = node_key, begin
        self._opened: OpenRound | None = None
        self._begun: tuple[int, int] | None = None  # era and number of the last round in which this node began
        self._height: int | None = None
        self._report: Report | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._failures = 0
        self.staked: Staked | None = None
        self.plot_made: tuple[int, int] | None = None
        if begin.staking is not None:
            self._run()

    @property
    def running(self) -> bool:
        """Whether there is an agent at the moment."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The process id of the agent that runs."""
        return self._process.pid if self._process is not None and self.running else None

    def report(self, opened: OpenRound) -> Report | None:
        """What this node saw as a challenger of this round, when all its tests are over."""
        found = self._report
        is_of_it = found is not None and (found.era, found.round_number) == (opened.era, opened.number)
        return found if is_of_it else None

    def applied(self, view: LedgerView) -> None:
        """Commits have been applied."""
        before, self._height = self._height, view.height
        if view.opened != self._opened:
            self._opened = view.opened
            self._round_changed()
        opened = self._opened
        if opened is None or self._node_key not in opened.challengers or before is None:
            return
        if before < opened.height <= view.height:
            if view.age_ms > START_LATE_MS:
                log.warning("round_missed", era=opened.era, age_ms=view.age_ms)
            elif self.running:
                self._begun = (opened.era, opened.number)
                self._tell(Examine(opened.era, opened.number))

    async def close(self) -> None:
        """End the agent. Idempotent."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None

    # The agent

    def _round_changed(self) -> None:
        opened = self._opened
        if opened is None:
            self._report = None
            if self._begin.staking is None and self._keeping is not None:
                self._keeping.cancel()  # it was there for the round only
                self._keeping = None
            else:
                self._tell(Forget())
        elif self._begin.staking is not None or self._node_key in opened.challengers:
            self._run()
            self._tell(Prepare(opened))

    def _run(self) -> None:
        if self._keeping is None:
            self._keeping = asyncio.get_running_loop().create_task(self._keep_running())

    def _tell(self, order: Order) -> None:
        """Queue an order for the agent that runs; the next one is told all that it must know when it starts."""
        process = self._process
        if process is None or process.stdin is None or process.stdin.transport.is_closing():
            return
        with contextlib.suppress(OSError, RuntimeError):  # it has ended, and we shall hear of it
            if process.stdin.transport.get_write_buffer_size() > UNREAD_BYTES:
                log.warning("agent_stuck", pid=process.pid)
                process.kill()
            else:
                process.stdin.write(framed(order))

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        while self._failures < FAILURES_MAX:
            begun_s = loop.time()
            try:
                code = await self._run_once()
            except (OSError, PeerFault) as error:
                code = None
                log.warning("agent_trouble", error=error)
            finally:
                self.staked = None
            if loop.time() - begun_s > HEALTHY_S:
                self._failures = 0
            self._failures += 1
            pause_s = min(PAUSE_MIN_S * 2 ** (self._failures - 1), PAUSE_MAX_S)
            log.warning("agent_ended", exit_code=code, failures=self._failures, pause_s=pause_s)
            await asyncio.sleep(pause_s)
        log.error("agent_given_up", failures=self._failures)

    async def _run_once(self) -> int:
        """One agent from its start to its end; its exit code. When this is cancelled, it is ended."""
        # A session of its own: Ctrl-C at a terminal is for the validator, which then ends it.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "blockcloud.node.resources.agent"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        try:
            self._tell(self._begin)
            if self._opened is not None:
                self._tell(Prepare(self._opened))
            await self._listen(process.stdout)
            return await process.wait()
        finally:
            self._process = None
            await _end(process)

    async def _listen(self, news_from: asyncio.StreamReader) -> None:
        while True:
            try:
                news = await next_news(news_from)
            except asyncio.IncompleteReadError:
                return
            match news:
                case PlotProgress():
                    self.plot_made = (news.made, news.chunks)
                    log.info("plot_progress", made=news.made, chunks=news.chunks)
                case Staked():
                    self.staked = news
                case Examined():
                    if (news.era, news.number) == self._begun:
                        self._report = Report(news.era, news.number, news.rows)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close its input, which ends it; kill it if that takes long."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(EXIT_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    except asyncio.CancelledError:
        process.kill()
        raise
