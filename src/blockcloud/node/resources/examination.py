"""The tests over a connection: ask in time, measure, and come to a verdict in each dimension.

A frame (`frames.py`) is canonical msgpack. The connection is authenticated by whoever opened it, and
used for one examination. Compute, transfer and reads have a time of their own after the common start of a round
(`until`), so that all candidates are busy with the same thing: who finished the first early must not have the second
to itself. Rounds of reads come at random times (`pause`): a disk that is taken stays taken, so there it is no use to
have all at once, and many at once would only be late.

What the challenger measures includes its own delays, so run both sides where the event loop is not kept busy with other
things; what remains is what the tolerances are for (`challenge.py`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from blockcloud.node.resources import transfer
from blockcloud.node.resources.challenge import (
    ANSWER_BYTES,
    CHALLENGE_BYTES,
    Answer,
    Challenge,
    Challenger,
    PlotAnswer,
    PlotChallenge,
    Prover,
    TransferAnswer,
    TransferChallenge,
    decode_answer,
    decode_challenge,
    digest_of,
)
from blockcloud.node.resources.frames import read_frame, write_frame
from blockcloud.primitives import codec
from blockcloud.primitives.errors import PeerFault
from blockcloud.transaction_chain.cloudpos.verdicts import Verdict, Verdicts

# An examination has one compute challenge, one transfer and a few rounds of reads.
CHALLENGES_LIMIT: Final = 32

Clock = Callable[[], float]
# Wait until so many windows after the start of the round.
Until = Callable[[int], Awaitable[None]]
# Wait for a while, up to so many milliseconds.
Pause = Callable[[int], Awaitable[None]]
COMPUTE_AT, TRANSFER_AT, STORAGE_AT = 0, 2, 4


# The side that answers


def admit_all(challenge: Challenge) -> None:
    """No limit beside those of the prover."""


async def serve(
    prover: Prover,
    challenger: bytes,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    admit: Callable[[Challenge], None] = admit_all,
) -> int:
    """Answer `challenger`, whose key the connection has shown and which was drawn, until it closes. Returns how many.

    `admit` raises ChallengeRefused for what this challenger may not ask. Raises PeerFault for what nobody may ask,
    StorageFault if the plot cannot be read, OSError.
    """
    for served in range(CHALLENGES_LIMIT):
        try:
            data = await read_frame(reader, CHALLENGE_BYTES)
        except asyncio.IncompleteReadError:
            return served
        challenge = decode_challenge(data)
        prover.check(challenge, challenger)
        admit(challenge)
        answer = await asyncio.to_thread(prover.answer, challenge)
        if isinstance(challenge, TransferChallenge):
            await transfer.send_stream(writer, digest_of(challenge), challenge.size)
        await write_frame(writer, codec.encode(answer))
    raise PeerFault("too many challenges in one examination", limit=CHALLENGES_LIMIT)


# The side that asks


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back: an answer after so long, or none, or something that is none (`garbage`)."""

    answer: Answer | None
    elapsed_ms: float
    garbage: bool = False


async def random_pause(longest_ms: int) -> None:
    """Nobody knows how long."""
    await asyncio.sleep(secrets.randbelow(longest_ms) / 1_000)


class Examination:
    """One challenger's tests of one candidate. `clock` gives seconds that never go back."""

    def __init__(
        self,
        challenger: Challenger,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        until: Until,
        pause: Pause = random_pause,
        clock: Clock = time.monotonic,
    ) -> None:
        self._challenger, self._reader, self._writer = challenger, reader, writer
        self._until, self._pause, self._clock = until, pause, clock
        self._silent = False

    async def run(self) -> Verdicts:
        """All tests. A candidate that is silent once is asked no more: the stream may be in the middle of something."""
        await self._until(COMPUTE_AT)
        compute = await self._once(self._challenger.compute_challenge())
        await self._until(TRANSFER_AT)
        data_rate = await self._once(self._challenger.transfer_challenge())
        await self._until(STORAGE_AT)
        return compute, await self._storage(), data_rate

    async def _once(self, challenge: Challenge | None) -> Verdict:
        """A test of one challenge. Of a resource that was not staked there is nothing to see."""
        if challenge is None:
            return Verdict.PASSED
        heard = await self._ask(challenge)
        return await self._judge(challenge, heard)

    async def _storage(self) -> Verdict:
        """Rounds of reads until enough have passed, or cannot; then a look at whether it is a plot at all."""
        parameters = self._challenger.parameters
        missed: list[Verdict] = []
        shown: list[tuple[PlotChallenge, PlotAnswer]] = []
        while len(shown) < parameters.plot_rounds_passed:
            challenge = self._challenger.plot_challenge()
            if challenge is None:
                return Verdict.PASSED
            await self._pause(parameters.window_ms // 2)
            heard = await self._ask(challenge)
            verdict = await self._judge(challenge, heard)
            if verdict in (Verdict.WRONG, Verdict.SILENT):
                return verdict
            if verdict is Verdict.PASSED and isinstance(heard.answer, PlotAnswer):
                shown.append((challenge, heard.answer))
            else:
                missed.append(verdict)
            if len(missed) > parameters.plot_rounds - parameters.plot_rounds_passed:
                return Verdict.LATE
        return await asyncio.to_thread(self._challenger.judge_origin, *shown[-1])

    async def _judge(self, challenge: Challenge, heard: Heard) -> Verdict:
        if heard.garbage:
            return Verdict.WRONG
        return await asyncio.to_thread(self._challenger.judge, challenge, heard.answer, heard.elapsed_ms)

    async def _ask(self, challenge: Challenge) -> Heard:
        if self._silent:
            return Heard(None, 0.0)
        begin = self._clock()
        try:
            async with asyncio.timeout(self._challenger.parameters.patience_ms / 1_000):
                await write_frame(self._writer, codec.encode(challenge))
                received = None
                if isinstance(challenge, TransferChallenge):
                    received = await transfer.receive_stream(self._reader, challenge.size)
                data = await read_frame(self._reader, ANSWER_BYTES)
                elapsed_ms = (self._clock() - begin) * 1_000
            answer = decode_answer(data)
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            self._silent = True
            return Heard(None, 0.0)
        except PeerFault:
            self._silent = True
            return Heard(None, 0.0, garbage=True)
        told = answer.content if isinstance(answer, TransferAnswer) else None
        return Heard(answer, elapsed_ms, garbage=received is not None and told != received)
