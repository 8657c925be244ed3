"""Where a node is examined: a listener that knows whom to answer, and how much of it (CloudPoS phase 2).

Only a challenger that the ledger has drawn for the open round gets in, and it shows that it holds its key, inside TLS
(`node/authentication.py`). What it may ask for is its part of the stake and no more: one walk, one stream and the
rounds of reads. That is not for the node's comfort alone: a challenger that may ask for the whole stake would make the
answers to all others late, and could so refuse a candidate by itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Final

import structlog

from blockcloud.node.authentication import ACCEPTED, recognise
from blockcloud.node.listening import connections, open_listener
from blockcloud.node.resources.challenge import (
    Challenge,
    ChallengeRefused,
    ComputeChallenge,
    PlotChallenge,
    Prover,
    TransferChallenge,
    share,
)
from blockcloud.node.resources.examination import serve
from blockcloud.node.resources.frames import frame, read_frame
from blockcloud.primitives.errors import BlockCloudError, PeerFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import HANDSHAKE_SECONDS
from blockcloud.service_access.handshake import HANDSHAKE_MESSAGE_BYTES
from blockcloud.service_access.tls import server_context
from blockcloud.service_chain.records import OpenRound
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.cloudpos.stake import StakeClaim

PURPOSE: Final = "resource-examination"
HALF_OPEN: Final = 64  # connections whose key is not known yet
# How long one challenger may stay: the lead, three windows and all rounds of reads take less.
EXAMINATION_SECONDS: Final = 60

log = structlog.get_logger()


class Ration:
    """What one challenger may still ask for in a round in which `judges` share `claim`."""

    def __init__(self, claim: StakeClaim, judges: int, parameters: ChallengeParameters) -> None:
        staked = claim.resources
        self._steps = share(staked.compute, judges, parameters)
        self._bytes = share(staked.data_rate, judges, parameters)
        self._rounds, self._segments = parameters.plot_rounds, parameters.plot_segments

    def spend(self, challenge: Challenge) -> None:
        """Raise ChallengeRefused for more than is left."""
        if isinstance(challenge, ComputeChallenge):
            work = challenge.lanes * challenge.links * challenge.steps
            if work > self._steps:
                raise ChallengeRefused("more compute than this challenger's part", steps=work, left=self._steps)
            self._steps = 0
        elif isinstance(challenge, TransferChallenge):
            if challenge.size > self._bytes:
                raise ChallengeRefused("more bytes than this challenger's part", bytes=challenge.size)
            self._bytes = 0
        elif isinstance(challenge, PlotChallenge):
            if challenge.segments > self._segments or not self._rounds:
                raise ChallengeRefused("more reads than this challenger's part", segments=challenge.segments)
            self._rounds -= 1


class Answering:
    """The listener of one node. Belongs to the agent's event loop. `prepare` a round, `forget` it."""

    def __init__(self, key: SigningKey, chain_id: bytes, prover: Prover, parameters: ChallengeParameters) -> None:
        self._key, self._target, self._prover, self._parameters = key, chain_id.hex(), prover, parameters
        self._context, self._certificate_hash = server_context()
        self._listener: socket.socket | None = None
        self._rations: dict[bytes, Ration] = {}  # by challenger
        self._examined: dict[bytes, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._half_open = 0

    async def start(self, host: str, port: int) -> int:
        """Listen; gives the port. Raises Unreachable if the address is taken."""
        self._listener = listener = open_listener(host, port, awaited="examinations", backlog=HALF_OPEN)
        self._spawn(self._keep_accepting(listener))
        bound: int = listener.getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening, drop all connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    def prepare(self, opened: OpenRound) -> None:
        """The challengers of this round may ask from now on, if this node is one of its candidates."""
        drawn, own = opened.drawn(), self._key.public
        self.forget()
        if own in drawn.candidates:
            claim, _ = opened.stakes[drawn.candidates.index(own)]
            judges = drawn.judges_of(own)
            self._rations = {judge: Ration(claim, len(judges), self._parameters) for judge in judges}

    def forget(self) -> None:
        """Nobody may ask any more."""
        self._rations = {}
        for task in self._examined.values():
            task.cancel()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_accepting(self, listener: socket.socket) -> None:
        async for connection in connections(listener):
            if self._half_open >= HALF_OPEN:
                connection.close()
            else:
                self._half_open += 1
                self._spawn(self._answer(connection))

    async def _answer(self, connection: socket.socket) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport: asyncio.Transport | None = None
        try:
            try:
                async with asyncio.timeout(HANDSHAKE_SECONDS):
                    loop = asyncio.get_running_loop()
                    transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._context)
                    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
                    challenger = await self._identify(reader, writer)
            finally:
                self._half_open -= 1
            ration = self._rations.get(challenger)
            if ration is None:
                raise NotDrawn(challenger=challenger.hex()[:16])
            await self._serve(challenger, ration, reader, writer)
        except (BlockCloudError, OSError, asyncio.IncompleteReadError) as error:
            log.info("examination_refused", error=error)
        finally:
            if transport is not None:
                transport.abort()
            connection.close()

    async def _identify(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        return await recognise(
            lambda data: writer.write(frame(data)),
            lambda: read_frame(reader, HANDSHAKE_MESSAGE_BYTES),
            key=self._key,
            purpose=PURPOSE,
            target=self._target,
            certificate_hash=self._certificate_hash,
        )

    async def _serve(
        self, challenger: bytes, ration: Ration, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        before = self._examined.get(challenger)
        if before is not None:
            before.cancel()  # it lost its connection and came again; what it has spent is spent
        task = asyncio.current_task()
        assert task is not None
        self._examined[challenger] = task
        try:
            async with asyncio.timeout(EXAMINATION_SECONDS):
                writer.write(frame(ACCEPTED))
                served = await serve(self._prover, challenger, reader, writer, ration.spend)
            log.info("examined", challenger=challenger.hex()[:16], challenges=served)
        finally:
            if self._examined.get(challenger) is task:
                del self._examined[challenger]


class NotDrawn(PeerFault):
    """Whoever wants to examine this node was not drawn for it in an open round."""

    code = "not_drawn"
