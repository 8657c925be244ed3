"""`blockcloud bench ledger`: what four validator processes carry, through the client API, as a client sees it.

Everything is compared with the Ed25519 wall of the same run: cores / (validators x time of one verification), the rate
at which the cores would do nothing but verify each transfer once at every validator.

Peak: a fixed number of batches in flight, each sent when one before it has been answered (closed loop), in three
windows whose median counts. Overload: batches sent at twice the peak's rate whatever comes back (open loop); what is
answered `busy` is sent again later. Many: as the peak, with ten transfers under each signature.
Transfers are signed before the clock starts. On request other ledgers are measured when ours has ended
(`bench/yardsticks.py`).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

import httpx2
import msgspec
import uvloop

from blockcloud.bench.machine import cpu_seconds, verify_seconds, written_bytes
from blockcloud.bench.yardsticks import beside
from blockcloud.node.devnet import Devnet, poll_until, read_devnet, stop_devnet
from blockcloud.primitives import codec
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.operations import Transfer
from blockcloud.service_chain.transaction import TransactionBody, sign_transaction

BATCH: Final = 100
FUNDING_MICRO_BLOC: Final = 1_000_000_000
FEE_LIMIT: Final = 100_000_000
FOREVER: Final = 2**40
WARM_UP_SECONDS: Final = 5.0
MANY: Final = 10  # transfers under one signature
WINDOWS: Final = 3  # the figures at the peak are the medians of so many windows
DRAIN_SECONDS: Final = 120.0
OVERLOAD_BATCHES: Final = 400  # unanswered batches at the most: a client has only so many connections
HEADERS: Final = {"accept": "application/msgpack", "content-type": "application/msgpack"}
WAIT: Final = "/v1/transactions?wait=committed&timeout=20000"


@dataclass
class Tally:
    """What came back of one load phase; latencies in seconds, one for each committed transfer's batch."""

    committed: int = 0
    busy: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_s: float = 0.0  # of all validators together
    client_cpu_s: float = 0.0
    commits: int = 0

    @property
    def rate(self) -> float:
        return self.committed / self.seconds if self.seconds else 0.0

    def report(self) -> dict[str, Any]:
        cuts = quantiles(self.latencies_s, n=20) if len(self.latencies_s) > 1 else [0.0] * 19
        return {
            "committed_per_s": round(self.rate),
            "committed": self.committed,
            "busy": self.busy,
            "failed": self.failed,
            "p50_ms": round(cuts[9] * 1000),
            "p95_ms": round(cuts[18] * 1000),
            "seconds": round(self.seconds, 1),
            "commits_per_s": round(self.commits / self.seconds, 1) if self.seconds else 0.0,
            "client_cpu_us_per_transfer": round(self.client_cpu_s / max(self.committed, 1) * 1e6, 1),
            "validators_cpu_us_per_transfer": round(self.cpu_s / max(self.committed, 1) * 1e6, 1),
        }


class Load:
    """Signed transfers, uniform over the accounts, and the clients that send them to all validators in turn."""

    def __init__(self, chain_id: bytes, accounts: list[SigningKey], urls: list[str], connections: int) -> None:
        self._chain_id = chain_id
        self._accounts = accounts
        self._laps = [0] * len(accounts)
        self._signed: deque[bytes] = deque()
        self._again: deque[bytes] = deque()
        self._next = 0
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._clients = [httpx2.AsyncClient(base_url=url, timeout=30, limits=limits, headers=HEADERS) for url in urls]
        self._turn = 0
        self.transfers = 1  # under one signature; change it only while nothing signed is left

    def sign(self, count: int) -> None:
        """Have at least `count` signed transactions ready."""
        number = len(self._accounts)
        while self.left < count:
            i = self._next % number
            key, receiver = self._accounts[i], self._accounts[(i * 7_919 + 1) % number]
            transfers = (Transfer(receiver.public, 1),) * self.transfers
            body = TransactionBody(self._chain_id, key.public, 0, self._laps[i], FOREVER, FEE_LIMIT, transfers)
            self._signed.append(sign_transaction(body, key))
            self._laps[i] += 1
            self._next += 1

    @property
    def left(self) -> int:
        """Signed transactions that wait to be sent, or sent again."""
        return len(self._signed) + len(self._again)

    def take(self) -> list[bytes]:
        """The next batch: first what was answered busy, so that no account's sequence overtakes itself."""
        batch: list[bytes] = []
        while len(batch) < BATCH and (self._again or self._signed):
            batch.append(self._again.popleft() if self._again else self._signed.popleft())
        return batch

    async def send(self, batch: list[bytes], tally: Tally, end: float) -> None:
        """Send one batch to the next validator and count the answers that came before `end`."""
        self._turn += 1
        client = self._clients[self._turn % len(self._clients)]
        start = time.perf_counter()
        response = await client.post(WAIT, content=codec.encode(batch))
        now = time.perf_counter()
        if response.status_code != 200:
            self._again.extend(batch)
            tally.failed[f"http {response.status_code}"] = tally.failed.get(f"http {response.status_code}", 0) + 1
            return
        for item, raw in zip(msgspec.msgpack.decode(response.content), batch, strict=True):
            status = item["status"]
            if status == "committed":
                if now <= end:
                    tally.committed += self.transfers
                    tally.latencies_s.append(now - start)
            elif status == "busy":
                tally.busy += 1
                self._again.append(raw)
            else:
                reason = f"{status} {item.get('code', '')}".strip()
                tally.failed[reason] = tally.failed.get(reason, 0) + 1

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()


async def closed_loop(load: Load, seconds: float, in_flight: int) -> Tally:
    """`in_flight` batches under way at any time, for `seconds`."""
    tally, start = Tally(), time.perf_counter()
    end = start + seconds

    async def sender() -> None:
        while time.perf_counter() < end and (batch := load.take()):
            await load.send(batch, tally, end)

    await asyncio.gather(*(sender() for _ in range(in_flight)))
    tally.seconds = seconds
    return tally


async def open_loop(load: Load, seconds: float, rate: float, at_most: int) -> Tally:
    """Batches sent at `rate` transfers a second whatever comes back; at most `at_most` batches unanswered."""
    tally, start = Tally(), time.perf_counter()
    end, sent, under_way = start + seconds, 0, set[asyncio.Task[None]]()
    while (now := time.perf_counter()) < end:
        due = start + sent * BATCH / rate
        if now < due:
            await asyncio.sleep(min(due, end) - now)
            continue
        sent += 1
        if len(under_way) >= at_most or not (batch := load.take()):
            continue
        task = asyncio.create_task(load.send(batch, tally, end))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)
    tally.seconds = seconds
    return tally


async def fund(urls: list[str], chain_id: bytes, payers: list[SigningKey], accounts: list[SigningKey]) -> None:
    """Give every account its money: each payer pays its share, 100 transfers in a transaction."""

    async def pay(payer: SigningKey, url: str, share: list[SigningKey]) -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=60, headers=HEADERS) as client:
            pending = deque(_funding(chain_id, payer, share))
            while pending:
                batch = [pending[i] for i in range(min(10, len(pending)))]
                answer = await client.post(WAIT, content=codec.encode(batch))
                answer.raise_for_status()
                for item in msgspec.msgpack.decode(answer.content):
                    if item["status"] == "busy":
                        await asyncio.sleep(item["retry_after_ms"] / 1000)
                        break
                    if item["status"] != "committed" or item["receipt"]["code"] != "ok":
                        raise RuntimeError(f"funding failed: {item}")
                    pending.popleft()

    parts = [accounts[i :: len(payers)] for i in range(len(payers))]
    await asyncio.gather(
        *(pay(payer, urls[i % len(urls)], part) for i, (payer, part) in enumerate(zip(payers, parts, strict=True)))
    )


def _funding(chain_id: bytes, payer: SigningKey, accounts: list[SigningKey]) -> Iterator[bytes]:
    for sequence, start in enumerate(range(0, len(accounts), BATCH)):
        transfers = tuple(Transfer(key.public, FUNDING_MICRO_BLOC) for key in accounts[start : start + BATCH])
        body = TransactionBody(chain_id, payer.public, 0, sequence, FOREVER, FEE_LIMIT, transfers)
        yield sign_transaction(body, payer)


def first_commit_seconds(folder: Path, validators: int) -> float:
    """Seconds that the command `devnet up` takes, from nothing to a first commit at every validator."""
    command = [sys.executable, "-m", "blockcloud", "devnet", "up", "--detach"]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--validators", str(validators), "--dir", str(folder)], check=True, capture_output=True, timeout=60
    )
    return time.perf_counter() - start


def idle_cost(devnet: Devnet, seconds: float) -> dict[str, float]:
    """Share of one core and bytes written a second, all validators together, while nothing happens."""
    pids = [validator.pid for validator in devnet.validators]
    cpu, written, start = cpu_seconds(pids), written_bytes(pids), time.perf_counter()
    for _ in poll_until(seconds, interval_s=seconds):
        pass
    passed = time.perf_counter() - start
    return {
        "cpu_percent_of_a_core": round((cpu_seconds(pids) - cpu) / passed * 100, 2),
        "written_bytes_per_s": round((written_bytes(pids) - written) / passed),
    }


def status(api: str) -> dict[str, Any]:
    """What a validator says of itself."""
    return dict(httpx2.get(api + "/v1/status", timeout=10).json())


@dataclass
class Phases:
    """What the load phases of one run gave: several windows at the peak, one at twice the peak."""

    warm_up: Tally
    peaks: list[Tally]
    overload: Tally
    many: list[Tally]

    @property
    def peak_rate(self) -> float:
        return median(peak.rate for peak in self.peaks)


async def _measured(devnet: Devnet, phase: Awaitable[Tally]) -> Tally:
    """What a phase gave, with the processor time and the commits that it took."""
    api, pids = devnet.validators[0].api, [validator.pid for validator in devnet.validators]
    before_s, client_s, height = cpu_seconds(pids), time.process_time(), status(api)["height"]
    tally = await phase
    tally.cpu_s = cpu_seconds(pids) - before_s
    tally.client_cpu_s = time.process_time() - client_s
    tally.commits = status(api)["height"] - height
    return tally


async def _windows(load: Load, devnet: Devnet, seconds: float, expected: float, in_flight: int) -> list[Tally]:
    """Closed loops one after another, `seconds` in all; `expected` transactions a second are signed ahead."""
    tallies = []
    for _ in range(WINDOWS):
        load.sign(int(expected * 1.6 * seconds / WINDOWS) + 5_000)
        tallies.append(await _measured(devnet, closed_loop(load, seconds / WINDOWS, in_flight)))
    return tallies


async def _load_phases(
    devnet: Devnet, accounts: list[SigningKey], seconds: float, overload_seconds: float, in_flight: int
) -> Phases:
    genesis = Genesis.from_json(Path(devnet.genesis).read_text(encoding="utf-8"))
    urls = [validator.api for validator in devnet.validators]
    payers = [SigningKey.load(Path(account.key_file)) for account in devnet.accounts]
    await fund(urls, genesis.chain_id(), payers, accounts)
    load = Load(genesis.chain_id(), accounts, urls, connections=OVERLOAD_BATCHES)
    try:
        load.sign(30_000)
        warm_up = await _measured(devnet, closed_loop(load, WARM_UP_SECONDS, in_flight))
        peaks = await _windows(load, devnet, seconds, warm_up.rate, in_flight)
        phases = Phases(warm_up, peaks, Tally(), [])
        load.sign(int(phases.peak_rate * 2.1 * overload_seconds) + 5_000)
        overload = open_loop(load, overload_seconds, 2 * phases.peak_rate, at_most=OVERLOAD_BATCHES)
        phases.overload = await _measured(devnet, overload)
        while load.left:  # what is signed and not committed would block its account
            await closed_loop(load, DRAIN_SECONDS, in_flight)
        load.transfers = MANY
        phases.many = await _windows(load, devnet, seconds / 2, phases.peak_rate, in_flight)
        return phases
    finally:
        await load.close()


def run(
    *,
    seconds: float = 60,
    overload_seconds: float = 30,
    idle_seconds: float = 20,
    validators: int = 4,
    accounts: int = 100_000,
    in_flight: int = 9,
    beside_seconds: float = 0,
) -> dict[str, Any]:
    """All figures of a devnet in one run; see the module's docstring. With `beside_seconds` etcd and CometBFT carry
    load for so long each, afterwards."""
    verify_s = verify_seconds()
    wall = (os.cpu_count() or 1) / (validators * verify_s)
    keys = [SigningKey.generate() for _ in range(accounts)]
    with tempfile.TemporaryDirectory(prefix="blockcloud-bench-") as name:
        folder = Path(name) / "devnet"
        first_commit_s = first_commit_seconds(folder, validators)
        devnet = read_devnet(folder)
        try:
            idle = idle_cost(devnet, idle_seconds)
            phases = uvloop.run(_load_phases(devnet, keys, seconds, overload_seconds, in_flight))
            statuses = [status(validator.api) for validator in devnet.validators]
        finally:
            stop_devnet(folder, devnet)
    return {
        "figures": {
            "committed_per_s": round(phases.peak_rate),
            "p50_ms": median(peak.report()["p50_ms"] for peak in phases.peaks),
            "p95_ms": median(peak.report()["p95_ms"] for peak in phases.peaks),
            "windows": [peak.report() for peak in phases.peaks],
            "warm_up": phases.warm_up.report(),
            "overload": phases.overload.report(),
            "many_per_signature": {
                "transfers_per_signature": MANY,
                "committed_per_s": round(median(window.rate for window in phases.many)),
                "windows": [window.report() for window in phases.many],
            },
            "first_commit_s": round(first_commit_s, 2),
            "idle": idle,
            "checkpoints": [each["checkpoint"] for each in statuses],
        },
        "peer": {
            "ed25519_verify_us": round(verify_s * 1e6, 1),
            "ed25519_wall_per_s": round(wall),
            "cores": os.cpu_count(),
            **(beside(beside_seconds) if beside_seconds else {}),
        },
        "ratio": round(phases.peak_rate / wall, 3),
        "overload_ratio": round(phases.overload.rate / phases.peak_rate, 3) if phases.peak_rate else 0.0,
    }
