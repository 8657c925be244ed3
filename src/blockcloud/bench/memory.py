"""`blockcloud bench memory`: what a validator with a million accounts occupies, and whether it stays so under work.

Nothing is left out: real validator processes, filled and then worked through their client API, each transaction with
its signature, its receipt, its place in history, its checkpoints, and the snapshots of the eras that pass. With one
validator (the default) 10,000,000 operations take minutes on one core; a committee of four shows the same with blocks
of others in memory, in four times the work.

First come transactions of 100 transfers, each to a new account, until the state has `keys` accounts. Then transactions
of 10 transfers to accounts drawn uniformly from all of them. Resident memory is read from the kernel, and its part that
no file backs (anonymous) beside it: what the kernel could drop at once is in the first and not in the second.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import uvloop

from blockcloud.bench.machine import cpu_seconds
from blockcloud.bench.payments import BUSY_PAUSE_S, Payers, Sender, Sent, seeded_keys
from blockcloud.bench.places import Places, make_places, parameters_of, validators
from blockcloud.node.clock import unix_ms
from blockcloud.node.devnet import poll_until
from blockcloud.primitives.errors import TimedOut
from blockcloud.primitives.hashes import sha256
from blockcloud.service_chain.genesis import FeeParameters

MEMORY_MIB_MAX: Final = 600
PAYERS: Final = 10_000  # accounts that sign
OPERATIONS_EACH: Final = 10  # transfers under one signature
NEW_ACCOUNTS_EACH: Final = 100
IN_FLIGHT: Final = 10  # requests
FILL_BATCH: Final = 10  # transactions in a request
BATCH: Final = 50
START_S: Final = 60.0
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Resident:
    """Memory of one process in MiB: now, the anonymous part of it, and the most it ever was."""

    resident: int
    anonymous: int
    peak: int


def resident_of(status: str) -> Resident:
    """The memory in the text of /proc/PID/status."""
    kib = {
        name: int(rest.split()[0])
        for name, _, rest in (line.partition(":") for line in status.splitlines())
        if name in ("VmRSS", "RssAnon", "VmHWM")
    }
    return Resident(*(round(kib[name] / 1024) for name in ("VmRSS", "RssAnon", "VmHWM")))


def growth_mib(points: Sequence[tuple[int, int]]) -> float:
    """By how many MiB the memory grows with each million operations: the least-squares slope through the second half of
    (operations, MiB), when the caches are full; 0 for fewer than two points."""
    half = points[len(points) // 2 :] if len(points) > 3 else points
    count = len(half)
    if count < 2:
        return 0.0
    middle_x = sum(x for x, _ in half) / count
    middle_y = sum(y for _, y in half) / count
    spread = sum((x - middle_x) ** 2 for x, _ in half)
    return round(sum((x - middle_x) * (y - middle_y) for x, y in half) / spread * 1e6, 1) if spread else 0.0


def run(
    *,
    keys: int = 1_000_000,
    operations: int = 10_000_000,
    validators_count: int = 1,
    every: int = 1_000_000,
    era_length: int = 600,
) -> dict[str, Any]:
    """{"figures", "bars", "ratio"}: `figures.memory` has a row after the start, after the accounts are there, and after
    each `every` operations, of the validator that occupies most then. `ratio` is the last over the bar."""
    payers = seeded_keys(min(PAYERS, keys), "bench-payer")
    others = [sha256(b"bench-account/" + number.to_bytes(8)) for number in range(keys - len(payers))]
    parameters = parameters_of(era_length, validators_count)
    with tempfile.TemporaryDirectory(prefix="blockcloud-bench-") as folder:
        places = make_places(Path(folder), validators_count, payers, parameters, unix_ms())
        transactions = Payers(places.genesis.chain_id(), payers, [payer.public for payer in payers] + others)
        with validators(places, range(validators_count)) as processes:
            watch = _Watch(places, [process.pid for process in processes])
            watch.until_committing()
            watch.note("started", 0)
            uvloop.run(_work(places, transactions, others, operations, every, watch))
        disk_mib = sum(path.stat().st_size for path in places.configs[0].data_path.rglob("*") if path.is_file()) // MIB
    worked = [(row["operations"], row["resident_mib"]) for row in watch.rows if row["at"] == "working"]
    return {
        "figures": {
            "keys": keys,
            "operations": operations,
            "validators": validators_count,
            "memory": watch.rows,
            "growth_mib_per_million": growth_mib(worked),
            "data_mib": disk_mib,
        },
        "bars": {"resident_mib": MEMORY_MIB_MAX},
        "ratio": round(watch.rows[-1]["resident_mib"] / MEMORY_MIB_MAX, 2),
    }


class _Watch:
    """Notes what the validators occupy as the work goes on."""

    def __init__(self, places: Places, pids: Sequence[int]) -> None:
        self._apis = [places.api(number) for number in range(len(pids))]
        self._pids = list(pids)
        self._start_s = time.perf_counter()
        self.rows: list[dict[str, Any]] = []

    def until_committing(self) -> None:
        for _ in poll_until(START_S, 0.1):
            if all(self._status(api).get("height", 0) > 0 for api in self._apis):
                return
        raise TimedOut("the validators did not commit in time")

    def note(self, at: str, operations: int) -> None:
        """One more row."""
        found = [resident_of(Path(f"/proc/{pid}/status").read_text(encoding="utf-8")) for pid in self._pids]
        largest = max(found, key=lambda one: one.resident)
        status = self._status(self._apis[0])
        self.rows.append(
            {
                "at": at,
                "operations": operations,
                "resident_mib": largest.resident,
                "anonymous_mib": largest.anonymous,
                "peak_mib": largest.peak,
                "seconds": round(time.perf_counter() - self._start_s),
                "cpu_s": round(cpu_seconds(self._pids)),
                "height": status.get("height"),
                "era": status.get("era"),
            }
        )

    def _status(self, api: str) -> dict[str, Any]:
        try:
            return dict(httpx2.get(api + "/v1/status", timeout=20).json())
        except httpx2.HTTPError:
            return {}


async def _work(
    places: Places, transactions: Payers, others: Sequence[bytes], operations: int, every: int, watch: _Watch
) -> None:
    async with Sender([places.api(number) for number in range(len(places.configs))], IN_FLIGHT) as sender:
        groups = [others[i : i + NEW_ACCOUNTS_EACH] for i in range(0, len(others), NEW_ACCOUNTS_EACH)]
        groups.reverse()
        deposit = FeeParameters().new_key_deposit
        await _send_all(
            sender, len(groups), lambda: transactions.pay(groups.pop(), 10 * deposit), FILL_BATCH, NEW_ACCOUNTS_EACH
        )
        await asyncio.to_thread(watch.note, "filled", 0)
        done = 0
        while done < operations:
            part = min(every, operations - done)
            count = -(-part // OPERATIONS_EACH)
            await _send_all(sender, count, lambda: transactions.next(OPERATIONS_EACH), BATCH, OPERATIONS_EACH)
            done += count * OPERATIONS_EACH
            await asyncio.to_thread(watch.note, "working", done)


async def _send_all(sender: Sender, count: int, make: Callable[[], bytes], batch: int, transfers: int) -> Sent:
    """Have `count` transactions committed, IN_FLIGHT requests at a time. Raises TimedOut unless all were."""
    sent, left = Sent(), count

    async def worker() -> None:
        nonlocal left
        while left or sender.again:
            ready: list[bytes] = []
            while len(ready) < batch and (sender.again or left):
                if sender.again:
                    ready.append(sender.again.popleft())
                else:
                    left -= 1
                    ready.append(make())
            if await sender.send(ready, transfers, sent):
                await asyncio.sleep(BUSY_PAUSE_S)

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    if sent.failed or sent.operations < count * transfers:
        raise TimedOut("not everything that was sent was committed", failed=str(sent.failed), busy=sent.busy)
    return sent
