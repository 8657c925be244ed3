"""Signed transfers for the benchmarks: who pays whom, and how to send.

Payers take turns, so that the transactions of one account are far apart and arrive in the order of their sequences;
receivers are drawn uniformly. Everything follows from a seed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Final

import httpx2
import msgspec

from blockcloud.primitives import codec
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.operations import Transfer
from blockcloud.service_chain.transaction import TransactionBody, sign_transaction

FEE_LIMIT: Final = 1_000_000_000
FOREVER: Final = 2**40
HEADERS: Final = {"accept": "application/msgpack", "content-type": "application/msgpack"}
SUBMIT: Final = "/v1/transactions?wait=committed&timeout=20000"
ANSWER_SECONDS: Final = 30.0
UNANSWERED_MAX: Final = 400  # requests of an open loop that are under way at the most
BUSY_PAUSE_S: Final = 0.05


def seeded_keys(count: int, seed: str) -> list[SigningKey]:
    """Keys that follow from `seed`: a benchmark has nothing to hide, and a run can be repeated."""
    return [SigningKey(sha256(f"{seed}/{number}".encode())) for number in range(count)]


class Payers:
    """Transactions of `keys` in turn, each with some transfers to `receivers` (public keys) drawn uniformly."""

    def __init__(self, chain_id: bytes, keys: Sequence[SigningKey], receivers: Sequence[bytes], seed: int = 1) -> None:
        self._chain_id, self._keys, self._receivers = chain_id, keys, receivers
        self._random = random.Random(seed)
        self._made = 0

    def next(self, transfers: int = 1, amount: int = 1) -> bytes:
        """The next transaction, signed, with so many transfers of `amount` micro-BLOC."""
        choose = self._random.choice
        return self.pay([choose(self._receivers) for _ in range(transfers)], amount)

    def pay(self, receivers: Sequence[bytes], amount: int) -> bytes:
        """The next transaction, signed: `amount` micro-BLOC to each of `receivers`."""
        lap, turn = divmod(self._made, len(self._keys))
        self._made += 1
        key = self._keys[turn]
        operations = tuple(Transfer(receiver, amount) for receiver in receivers)
        body = TransactionBody(self._chain_id, key.public, 0, lap, FOREVER, FEE_LIMIT, operations)
        return sign_transaction(body, key)


@dataclass
class Sent:
    """What came back of a load. `operations` were committed; latencies are of requests, in seconds."""

    operations: int = 0
    busy: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)

    def percentiles_ms(self) -> tuple[float, float]:
        """The latencies' p50 and p95."""
        return percentiles_ms(self.latencies_s)


def percentiles_ms(latencies_s: Sequence[float]) -> tuple[float, float]:
    """p50 and p95 in milliseconds; zeros if there are no values to speak of."""
    if len(latencies_s) < 2:
        return 0.0, 0.0
    cuts = quantiles(latencies_s, n=20)
    return round(cuts[9] * 1_000, 1), round(cuts[18] * 1_000, 1)


class Sender:
    """Sends transactions to validators in turn. Use as an async context manager."""

    def __init__(self, urls: Sequence[str], connections: int = UNANSWERED_MAX) -> None:
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._clients = [
            httpx2.AsyncClient(base_url=url, timeout=ANSWER_SECONDS, limits=limits, headers=HEADERS) for url in urls
        ]
        self._turn = 0
        self.again: deque[bytes] = deque()  # what was answered busy

    async def __aenter__(self) -> Sender:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.aclose()

    async def send(self, batch: Sequence[bytes], transfers: int, sent: Sent) -> int:
        """Send transactions of so many transfers each to the next validator and count what was committed. Returns how
        many came back busy; they are in `again`."""
        self._turn += 1
        client, start = self._clients[self._turn % len(self._clients)], time.perf_counter()
        try:
            response = await client.post(SUBMIT, content=codec.encode(list(batch)))
        except httpx2.HTTPError as error:
            _count(sent.failed, type(error).__name__)
            return 0
        if response.status_code != 200:
            _count(sent.failed, f"http {response.status_code}")
            return 0
        busy = 0
        for item, raw in zip(msgspec.msgpack.decode(response.content), batch, strict=True):
            if item["status"] == "committed":
                sent.operations += transfers
            elif item["status"] == "busy":
                busy += 1
                self.again.append(raw)
            else:
                _count(sent.failed, f"{item['status']} {item.get('code', '')}".strip())
        sent.busy += busy
        sent.latencies_s.append(time.perf_counter() - start)
        return busy


def _count(counts: dict[str, int], reason: str) -> None:
    counts[reason] = counts.get(reason, 0) + 1


class OpenLoop:
    """`rate` single transfers a second in requests of `batch`, whatever comes back, until `stop`."""

    def __init__(self, payers: Payers, sender: Sender, rate: float, batch: int = 10) -> None:
        self._payers, self._sender, self._rate, self._batch = payers, sender, rate, batch
        self.sent = Sent()
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> Sent:
        """Send no more, wait for what is under way, and say what came back."""
        self._stopping.set()
        await self._task
        return self.sent

    async def _run(self) -> None:
        start, number, under_way = time.perf_counter(), 0, set[asyncio.Task[int]]()
        while not self._stopping.is_set():
            wait_s = start + number * self._batch / self._rate - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            number += 1
            if len(under_way) >= UNANSWERED_MAX:
                _count(self.sent.failed, "not sent: too many unanswered")
                continue
            again = self._sender.again
            batch = [again.popleft() if again else self._payers.next() for _ in range(self._batch)]
            task = asyncio.create_task(self._sender.send(batch, 1, self.sent))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
