"""The agent of a node: what answers examinations and makes them (`python -m blockcloud.node.resources.agent`).

It is a process of its own beside the validator, because the tests are about milliseconds: in a loop that is busy with
consensus, honest answers would be late. The validator starts it and tells it by its standard input what to do
(`wire.py`); standard output carries what it has to say, standard error its log. When the input ends the validator has
ended, in whatever way, and so does the agent. CloudPoS phase 2, DESIGN section 3.4; ADR 15.
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NoReturn

import structlog
import uvloop

from blockcloud.node.logging import set_up_logging
from blockcloud.node.resources.answering import Answering
from blockcloud.node.resources.challenge import Prover
from blockcloud.node.resources.challenging import examine_all
from blockcloud.node.resources.claim import PLOT_FILE, determined, plot_chunks
from blockcloud.node.resources.plotter import PlotTask, plot_root
from blockcloud.node.resources.wire import (
    Begin,
    Examine,
    Examined,
    Forget,
    News,
    PlotProgress,
    Prepare,
    Staked,
    Staking,
    framed,
    next_order,
)
from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, StorageFault
from blockcloud.primitives.hashes import DIGEST_BYTES
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.records import OpenRound
from blockcloud.transaction_chain.cloudpos.stake import StakeClaim

# All challengers of a round may want an answer at once, and what this node asked wants to be judged.
THREADS: Final = 32
# A thread that wants the interpreter gets it after so long: an answer must not wait for a judgement.
SWITCH_S: Final = 0.0005
PROGRESS_STEPS: Final = 10
NO_PLOT: Final = bytes(DIGEST_BYTES)

log = structlog.get_logger()


class Agent:
    """Everything that runs between the first order and the end of the orders."""

    def __init__(self, begin: Begin, out: asyncio.StreamWriter) -> None:
        self._begin, self._out = begin, out
        self._key = SigningKey.load(Path(begin.key_file))
        self._round: OpenRound | None = None
        self._answering: Answering | None = None
        self._prover: Prover | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._examining: asyncio.Task[None] | None = None

    async def run(self, orders: asyncio.StreamReader) -> None:
        """Until the orders end, or something fails: then whoever started it may start it again.

        Raises BlockCloudError.
        """
        listening = asyncio.create_task(self._obey(orders))
        waiting = {listening}
        if self._begin.staking is not None:
            waiting.add(asyncio.create_task(self._stake(self._begin.staking)))
        try:
            while not listening.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            await self._close(waiting)

    async def _close(self, waiting: set[asyncio.Task[None]]) -> None:
        tasks = [*waiting, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._answering is not None:
            await self._answering.close()

    def _tell(self, news: News) -> None:
        self._out.write(framed(news))

    # Staking

    async def _stake(self, staking: Staking) -> None:
        """Set the resources aside, which takes minutes for a large plot, and be there for examinations."""
        parameters, folder = self._begin.parameters, Path(staking.folder)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFault(f"cannot make the folder: {error.strerror}", path=str(folder)) from None
        chunks = plot_chunks(staking, parameters.plot)
        path, root = folder / PLOT_FILE, NO_PLOT
        if chunks:
            task = PlotTask(str(path), self._key.public, self._begin.chain_id, chunks, parameters.plot)
            self._tell(PlotProgress(0, chunks))
            root = await plot_root(task, lambda made: self._progress(made, chunks))
        # After the plot, when the processor is not busy with that.
        resources = await asyncio.to_thread(determined, staking, parameters.plot)
        claim = StakeClaim(resources, staking.compute_lanes, root)
        self._prover = Prover(claim, self._key, path if chunks else None, parameters)
        self._answering = Answering(self._key, self._begin.chain_id, self._prover, parameters)
        port = await self._answering.start(staking.host, staking.port)
        if self._round is not None:
            self._answering.prepare(self._round)
        log.info("resources_staked", port=port, chunks=chunks, compute=resources.compute, data_rate=resources.data_rate)
        self._tell(Staked(claim, port))

    def _progress(self, made: int, chunks: int) -> None:
        if made == chunks or made % -(-chunks // PROGRESS_STEPS) == 0:
            self._tell(PlotProgress(made, chunks))

    # Orders

    async def _obey(self, orders: asyncio.StreamReader) -> None:
        while True:
            try:
                order = await next_order(orders)
            except asyncio.IncompleteReadError:
                return
            match order:
                case Prepare():
                    self._round = order.round
                    if self._answering is not None:
                        self._answering.prepare(order.round)
                case Examine():
                    self._examine(order)
                case Forget():
                    self._round = None
                    if self._answering is not None:
                        self._answering.forget()
                    if self._examining is not None:
                        self._examining.cancel()  # nobody would count what it finds
                case Begin():
                    raise BadConfiguration("the first order came twice")

    def _examine(self, order: Examine) -> None:
        opened = self._round
        if opened is None or (opened.era, opened.number) != (order.era, order.number):
            raise BadConfiguration("told to examine in a round that was not prepared", era=order.era)
        self._examining = asyncio.create_task(self._examine_all(opened))
        self._tasks.add(self._examining)
        self._examining.add_done_callback(self._tasks.discard)

    async def _examine_all(self, opened: OpenRound) -> None:
        log.info("examining", era=opened.era, candidates=len(opened.candidates))
        rows = await examine_all(self._key, self._begin.chain_id, opened, self._begin.parameters)
        self._tell(Examined(opened.era, opened.number, rows))


async def main() -> None:
    """Connect to standard input and output, and run."""
    sys.setswitchinterval(SWITCH_S)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="examination"))
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    begin = await next_order(orders)
    if not isinstance(begin, Begin):
        raise BadConfiguration("the first order says what there is to stake")
    set_up_logging(begin.log_level)
    await Agent(begin, asyncio.StreamWriter(transport, protocol, None, loop)).run(orders)
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End now: nobody waits for the answers that threads may still work on."""
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        uvloop.run(main())
    except (asyncio.IncompleteReadError, KeyboardInterrupt):
        _leave(0)  # whoever started it is gone
    except BlockCloudError as error:
        log.error("agent_failed", error=error)
        _leave(1)
