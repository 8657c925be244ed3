"""Checking where the ledger has a transaction, with nothing but the genesis and what some node says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.limits import HTTP_BODY_BYTES
from blockcloud.sdk.errors import Refused
from blockcloud.sdk.reading import POLL_SECONDS, AsyncReader
from blockcloud.sdk.transport import MSGPACK
from blockcloud.service_chain.inclusion import ProvenTransaction
from blockcloud.service_chain.state import NotACheckpoint

PROOF_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Inclusion:
    """The transaction stands at `height`; a quorum vouches for the checkpoint at `certified_height` above it."""

    height: int
    certified_height: int
    commit_digest: bytes


async def prove_inclusion(client: AsyncReader, transaction_id: bytes, *, timeout_s: float = PROOF_SECONDS) -> Inclusion:
    """The verified place of a committed transaction; waits for the next checkpoint's certificate if need be.

    Raises NotFound, Refused (`not_a_checkpoint`: not certified in time, or `pruned`), or why no node's proof holds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    light = client.light_client

    async def attempt(url: str) -> Inclusion:
        path = f"/v1/transactions/{transaction_id.hex()}/proof"
        data = await client.transport.once(url, "GET", path, accept=MSGPACK)
        proven = codec.decode(data, ProvenTransaction, limit=HTTP_BODY_BYTES)

        def verify() -> int:
            weights = light.committee_for(proven.certificate, client.now_ms())
            height = proven.verify(transaction_id, client.chain_id, weights)
            light.check_place(proven.certificate)
            return height

        height = await client.with_eras(verify, url, deadline)
        statement = proven.certificate.statement
        return Inclusion(height, statement.height, statement.digests[0])

    while True:
        try:
            return await client.transport.first(attempt)
        except Refused as error:
            if error.code != NotACheckpoint.code or loop.time() >= deadline:
                raise
        await asyncio.sleep(POLL_SECONDS)
