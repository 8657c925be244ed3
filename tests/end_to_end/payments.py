"""Payments that flow while a test breaks things: one payer a stream, each acknowledged transaction remembered.

A transaction counts as acknowledged when the client got its committed receipt, and never otherwise: a batch that timed
out may be in the ledger or not, and nobody was promised anything.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.client import AsyncClient
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.operations import Transfer
from blockcloud.service_chain.rejections import OK
from blockcloud.service_chain.transaction import TransactionBody, sign_transaction
from tests.end_to_end.ledger_world import World

BATCH = 10
FEE_LIMIT = 1_000_000
FOREVER = 2**40
SUBMIT_SECONDS = 3.0
PAUSE_SECONDS = 0.1
PAYERS = ("alice", "bob", "provider", "consumer", "faucet")


class Payments:
    """`acknowledged` by id; `refused` by code. `by_stream` counts what each stream got through."""

    def __init__(self) -> None:
        self.acknowledged: dict[bytes, None] = {}
        self.refused: Counter[str] = Counter()
        self.by_stream: Counter[int] = Counter()
        self._ending = False

    async def more(self, count: int) -> bool:
        """Whether `count` are acknowledged."""
        return len(self.acknowledged) >= count

    async def flow(self, number: int, client: AsyncClient, payer: SigningKey, receiver: bytes) -> None:
        """One stream: batch after batch, until the end is asked for."""
        while not self._ending:
            try:
                self.by_stream[number] += await self._batch(client, payer, receiver)
            except BlockCloudError as error:
                self.refused[error.code] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def _batch(self, client: AsyncClient, payer: SigningKey, receiver: bytes) -> int:
        first = int((await client.account_view(payer.public))["sequence"])
        signed = [payment(client.chain_id, payer, first + position, receiver) for position in range(BATCH)]
        outcomes = await client.submit(signed, timeout_s=SUBMIT_SECONDS)
        before = len(self.acknowledged)
        for outcome in outcomes:
            if outcome.status == "committed" and outcome.receipt is not None:
                assert outcome.receipt.code == OK
                self.acknowledged[outcome.id] = None
            else:
                self.refused[outcome.code] += 1
        return len(self.acknowledged) - before

    def end(self) -> None:
        """Let each stream end after its batch."""
        self._ending = True


def payment(chain_id: bytes, payer: SigningKey, sequence: int, receiver: bytes) -> bytes:
    """A signed transfer of one micro-BLOC."""
    body = TransactionBody(chain_id, payer.public, 0, sequence, FOREVER, FEE_LIMIT, (Transfer(receiver, 1),))
    return sign_transaction(body, payer)


@asynccontextmanager
async def flowing(genesis: Genesis, streams: Sequence[tuple[SigningKey, Sequence[str]]]) -> AsyncIterator[Payments]:
    """Payments by these payers, each through the nodes beside it; ended in order when the block is left."""
    payments = Payments()
    clients = [AsyncClient(genesis, urls, attempt_s=2) for _, urls in streams]
    tasks = [
        asyncio.create_task(payments.flow(number, client, payer, streams[number - 1][0].public))
        for number, (client, (payer, _)) in enumerate(zip(clients, streams, strict=True))
    ]
    try:
        yield payments
    finally:
        payments.end()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for client in clients:
            await client.close()
    for result in ended:
        if isinstance(result, BaseException):
            raise result


def streams(world: World) -> list[tuple[SigningKey, list[str]]]:
    """One payer for each validator who knows no other, and one who goes to whoever answers."""
    urls = [validator.api for validator in world.devnet.validators]
    return [(world.key(name), [urls[i]] if i < len(urls) else urls) for i, name in enumerate(PAYERS)]
