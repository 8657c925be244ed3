"""Transactions that flow while the demo goes on, so that a killed validator is missed by somebody.

Each acknowledged transfer is remembered, and looked for in every validator's ledger at the end.
"""

from __future__ import annotations

import asyncio
from typing import Final

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.client import AsyncClient
from blockcloud.service_chain.operations import Transfer
from blockcloud.service_chain.transaction import TransactionBody, sign_transaction

BATCH: Final = 10
FEE_LIMIT: Final = 1_000_000
FOREVER: Final = 2**40
SUBMIT_SECONDS: Final = 20
PAUSE_SECONDS: Final = 0.1


class Traffic:
    """One account that pays another, batch after batch, through whichever validator answers."""

    def __init__(self, client: AsyncClient, payer: SigningKey, receiver: bytes) -> None:
        self._client, self._payer, self._receiver = client, payer, receiver
        self.acknowledged: list[bytes] = []
        self.refused: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._ending = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._flow(), name="demo-traffic")

    async def stop(self) -> None:
        """End after the batch that is under way."""
        self._ending = True
        if self._task is not None:
            await self._task

    async def _flow(self) -> None:
        while not self._ending:
            try:
                await self._batch()
            except BlockCloudError as error:
                self.refused.append(str(error))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _batch(self) -> None:
        payer, client = self._payer, self._client
        first = int((await client.account_view(payer.public))["sequence"])
        signed = [
            sign_transaction(
                TransactionBody(
                    client.chain_id, payer.public, 0, first + i, FOREVER, FEE_LIMIT, (Transfer(self._receiver, 1),)
                ),
                payer,
            )
            for i in range(BATCH)
        ]
        outcomes = await client.submit(signed, timeout_s=SUBMIT_SECONDS)
        self.acknowledged += [outcome.id for outcome in outcomes if outcome.status == "committed"]
        self.refused += [outcome.code for outcome in outcomes if outcome.status == "rejected"]
