"""A drawn challenger at work: it examines all candidates of a round at once (CloudPoS phase 2).

All challengers are told to begin when their node applies the commit at the round's height, which is within a fraction
of a second everywhere. They first connect to all candidates, for which there is a lead; then the clock of the round
begins, and every test has its time on it (`examination.py`). Whoever cannot be reached, or does not hold the key that
the ledger names, is silent.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from blockcloud.node.authentication import introduce
from blockcloud.node.resources.answering import PURPOSE
from blockcloud.node.resources.challenge import Candidate, Challenger
from blockcloud.node.resources.examination import Examination
from blockcloud.node.resources.frames import frame, read_frame
from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import HANDSHAKE_SECONDS
from blockcloud.service_access.handshake import HANDSHAKE_MESSAGE_BYTES
from blockcloud.service_access.tls import client_context, peer_certificate_hash
from blockcloud.service_chain.records import OpenRound
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.cloudpos.verdicts import Verdict, Verdicts

# Between the commit that starts a round and the first question: time to connect, and for nodes that apply it late.
LEAD_S: Final = 2.0
REDIAL_S: Final = 0.25
HANDSHAKES: Final = 32  # at a time
# All tests of one candidate; more than the patience for each and all rounds of reads take.
TESTS_SECONDS: Final = 45

SILENT: Final[Verdicts] = (Verdict.SILENT, Verdict.SILENT, Verdict.SILENT)
# Of itself a challenger says nothing that counts.
OWN_ROW: Final[Verdicts] = (Verdict.PASSED, Verdict.PASSED, Verdict.PASSED)

log = structlog.get_logger()
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def examine_all(
    key: SigningKey, chain_id: bytes, opened: OpenRound, parameters: ChallengeParameters
) -> tuple[Verdicts, ...]:
    """A row for each candidate of the round, in its order. The common start is a lead from now."""
    drawn = opened.drawn()
    start_s = time.monotonic() + LEAD_S
    dialling = asyncio.Semaphore(HANDSHAKES)

    async def row(number: int, node_key: bytes) -> Verdicts:
        if node_key == key.public:
            return OWN_ROW
        claim, address = opened.stakes[number]
        candidate = Candidate(node_key, claim, chain_id, len(drawn.judges_of(node_key)))
        return await _examine(Challenger(key.public, candidate, parameters), key, address, start_s, dialling)

    rows = await asyncio.gather(*(row(number, node_key) for number, node_key in enumerate(drawn.candidates)))
    return tuple(rows)


async def _examine(
    challenger: Challenger, key: SigningKey, address: str, start_s: float, dialling: asyncio.Semaphore
) -> Verdicts:
    candidate, parameters = challenger.candidate, challenger.parameters

    async def until(window: int) -> None:
        await asyncio.sleep(max(0.0, start_s + window * parameters.window_ms / 1_000 - time.monotonic()))

    stream = await _reach(candidate, key, address, start_s, dialling)
    if stream is None:
        verdicts = SILENT
    else:
        reader, writer = stream
        try:
            async with asyncio.timeout(TESTS_SECONDS):
                verdicts = await Examination(challenger, reader, writer, until=until).run()
        except TimeoutError:
            verdicts = SILENT
        finally:
            writer.transport.abort()
    log.info(
        "candidate_examined",
        candidate=candidate.node_key.hex()[:16],
        verdicts=" ".join(verdict.name.lower() for verdict in verdicts),
    )
    return verdicts


async def _reach(
    candidate: Candidate, key: SigningKey, address: str, start_s: float, dialling: asyncio.Semaphore
) -> Stream | None:
    """A connection to the candidate, which has shown its key; tried again until the tests begin."""
    while True:
        try:
            async with dialling, asyncio.timeout(HANDSHAKE_SECONDS):
                return await _dial(candidate, key, address)
        except (OSError, BlockCloudError, asyncio.IncompleteReadError, ValueError, OverflowError) as error:
            # The last two: what the ledger lets through as an address and no socket takes.
            log.debug("candidate_unreachable", candidate=candidate.node_key.hex()[:16], error=error)
        if time.monotonic() + REDIAL_S > start_s:
            return None
        await asyncio.sleep(REDIAL_S)


async def _dial(candidate: Candidate, key: SigningKey, address: str) -> Stream:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(
        host.strip("[]"), int(port), ssl=client_context(), server_hostname=""
    )
    try:
        await introduce(
            lambda data: writer.write(frame(data)),
            lambda: read_frame(reader, HANDSHAKE_MESSAGE_BYTES),
            key=key,
            purpose=PURPOSE,
            target=candidate.plot_seed.hex(),
            expected=candidate.node_key,
            certificate_hash=peer_certificate_hash(writer.get_extra_info("ssl_object")),
        )
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer
