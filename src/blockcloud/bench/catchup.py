"""`blockcloud bench catchup`: how fast a validator that was down gets back in step with a network that works.

Real validator processes on loopback. Three of a committee of four have a long past (`bench/ledger_history.py`), in
which the fourth made no block; they go on under an open load. Then the fourth starts with nothing but its home, and
the heights and the executed transfers of both sides are read until it is in step. Legs:

    dense    as many transfers a commit as the load gives the network, which is measured first; one era: range fetch
    long     many commits with hardly any transfers, one era: range fetch, however long ago the node went down
    eras     the same in eras, of which the last is half over: hand-overs and a snapshot, then the rest by range fetch

The yardstick is the network itself, in the same window. A node of today fetches by range only within two eras, so the
single era is what makes the two first legs possible. What the figures hold: reading, sending and verifying everything,
each signature too, with all five processes (the client is one) on the cores of this machine.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx2
import uvloop

from blockcloud.bench.ledger_history import History, Made
from blockcloud.bench.machine import cpu_seconds
from blockcloud.bench.payments import OpenLoop, Payers, Sender, seeded_keys
from blockcloud.bench.places import Places, make_places, parameters_of, validators
from blockcloud.node.clock import unix_ms
from blockcloud.node.devnet import poll_until
from blockcloud.node.snapshot_files import stored_snapshots
from blockcloud.primitives.errors import LocalFault, TimedOut
from blockcloud.primitives.keys import SigningKey

LEGS: Final = ("dense", "long", "eras")
MEMBERS: Final = 4
BEHIND: Final = 3  # the member that was down
AUTHORS: Final = (0, 1, 2)
RATIO_MIN: Final = 10.0
IN_STEP_COMMITS: Final = 16
POLL_S: Final = 0.5
SETTLE_S: Final = 5.0  # under load, before the member starts
CALIBRATION_S: Final = 15.0
START_S: Final = 120.0
MODES_IN_STEP: Final = ("fast", "observing")
STARTING: Final = "starting"
ERAS_OF_HISTORY: Final = 4.5
ONE_ERA: Final = 10_000_000
LONG_TRANSFERS: Final = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """Both sides at one moment: seconds, heights, and transfers executed since the process started."""

    at_s: float
    height: int
    transfers: int
    live_height: int
    live_transfers: int
    mode: str

    @property
    def in_step(self) -> bool:
        """Whether the member is where the others are."""
        return self.mode in MODES_IN_STEP and self.live_height - self.height <= IN_STEP_COMMITS


def speeds(samples: Sequence[Sample], *, dense: bool) -> dict[str, Any]:
    """What a member did between its first commit and the last sample, beside what the network did meanwhile. The ratio
    is that of commits; if the past is as `dense` as the present, the lower one of commits and of transfers."""
    moved = [sample for sample in samples if sample.height > samples[0].height]
    if not moved:
        return {"in_step": False, "ratio": 0.0}
    start = samples[max(0, samples.index(moved[0]) - 1)]
    last = samples[-1]
    seconds = last.at_s - start.at_s
    commits, live_commits = last.height - start.height, last.live_height - start.live_height
    transfers, live_transfers = last.transfers - start.transfers, last.live_transfers - start.live_transfers
    by_commits = commits / max(live_commits, 1)
    by_transfers = transfers / max(live_transfers, 1)
    return {
        "in_step": last.in_step,
        "seconds": round(seconds, 1),
        "commits": commits,
        "transfers": transfers,
        "commits_per_s": round(commits / seconds, 1),
        "transfers_per_s": round(transfers / seconds),
        "live_commits_per_s": round(live_commits / seconds, 1),
        "live_transfers_per_s": round(live_transfers / seconds),
        "ratio_commits": round(by_commits, 2),
        "ratio_transfers": round(by_transfers, 2),
        "ratio": round(min(by_commits, by_transfers) if dense else by_commits, 2),
    }


@dataclass(frozen=True, slots=True)
class Leg:
    """What one leg's network looks like: commits in its past, transfers in each, commits of an era."""

    commits: int
    transfers: int
    era_length: int = ONE_ERA

    @property
    def has_snapshot(self) -> bool:
        """Whether whoever begins at the genesis will take a snapshot."""
        return self.commits >= 2 * self.era_length


def run(
    *,
    legs: Sequence[str] = LEGS,
    commits: int = 100_000,
    dense_commits: int = 5_000,
    transfers: int | None = None,
    load: float = 500,
    accounts: int = 10_000,
    deadline_s: float = 300,
) -> dict[str, Any]:
    """{"figures", "bars", "peer", "ratio"}: a part of `figures` for each of `legs`; `ratio` is that of the first.

    `transfers` in each commit of the dense leg; None: as many as the load gives. A leg is given up after `deadline_s`
    and says how far it came.
    """
    payers = seeded_keys(accounts, "bench-payer")
    plans = {
        "long": Leg(commits, LONG_TRANSFERS),
        "eras": Leg(commits, LONG_TRANSFERS, max(20, int(commits / ERAS_OF_HISTORY))),
    }
    figures: dict[str, Any] = {}
    network = _Run(payers, load, deadline_s)
    live = network.calibrate()
    for name in legs:
        # Rounded up, so that no commit of the past is lighter than those that the network makes now.
        dense = transfers if transfers is not None else -int(-load // max(live["commits_per_s"], 1))
        figures[name] = network.leg(plans[name] if name in plans else Leg(dense_commits, dense))
    return {
        "figures": figures,
        "bars": {"ratio": RATIO_MIN},
        "peer": {"whole_network": live, "load_per_s": load},
        "ratio": figures[legs[0]]["ratio"] if legs else 0.0,
    }


class _Run:
    """What the legs of one run share."""

    def __init__(self, payers: list[SigningKey], load: float, deadline_s: float) -> None:
        self._payers, self._load, self._deadline_s = payers, load, deadline_s

    def calibrate(self) -> dict[str, Any]:
        """The rates of a network of all four members under the load, with nothing to catch up."""
        with tempfile.TemporaryDirectory(prefix="blockcloud-bench-") as folder:
            places, transactions = self._new_chain(Path(folder), Leg(0, 0))
            with validators(places, range(MEMBERS)):
                return uvloop.run(self._live_rate(places, transactions))

    def leg(self, leg: Leg) -> dict[str, Any]:
        """Make the past, let the network go on from there, and start the member that was down."""
        with tempfile.TemporaryDirectory(prefix="blockcloud-bench-") as folder:
            places, transactions = self._new_chain(Path(folder), leg)
            history = History(places, AUTHORS, transactions.next, _level_ms(leg))
            start = time.perf_counter()
            made = history.write(leg.commits, leg.transfers)
            history.share()
            made_s = time.perf_counter() - start
            with validators(places, AUTHORS) as processes:
                if leg.has_snapshot:
                    _wait_for_snapshots(places)
                samples, more = uvloop.run(self._follow(places, transactions, processes, made.commits))
        return {
            "history": _as_report(made, made_s, leg),
            **speeds(samples, dense=leg.transfers > LONG_TRANSFERS),
            **more,
        }

    def _new_chain(self, folder: Path, leg: Leg) -> tuple[Places, Payers]:
        # The past ends a moment ago.
        began_ms = unix_ms() - (leg.commits + leg.commits // 10 + 100) * _level_ms(leg)
        places = make_places(folder, MEMBERS, self._payers, parameters_of(leg.era_length, MEMBERS), began_ms)
        return places, Payers(places.genesis.chain_id(), self._payers, [payer.public for payer in self._payers])

    async def _live_rate(self, places: Places, transactions: Payers) -> dict[str, Any]:
        async with Sender([places.api(number) for number in range(MEMBERS)]) as sender, _client() as client:
            await _until_moving(client, places, range(MEMBERS), 0)
            loop = OpenLoop(transactions, sender, self._load)
            await asyncio.sleep(SETTLE_S)
            before, start = await _status(client, places.api(0)), time.perf_counter()
            await asyncio.sleep(CALIBRATION_S)
            after, seconds = await _status(client, places.api(0)), time.perf_counter() - start
            sent = await loop.stop()
        p50_ms, p95_ms = sent.percentiles_ms()
        return {
            "commits_per_s": round((after["height"] - before["height"]) / seconds, 1),
            "transfers_per_s": round(_transactions(after, before) / seconds),
            "p50_ms": p50_ms,
            "p95_ms": p95_ms,
        }

    async def _follow(
        self, places: Places, transactions: Payers, processes: list[subprocess.Popen[bytes]], height: int
    ) -> tuple[list[Sample], dict[str, Any]]:
        async with Sender([places.api(number) for number in AUTHORS]) as sender, _client() as client:
            await _until_moving(client, places, AUTHORS, height)
            loop = OpenLoop(transactions, sender, self._load)
            await asyncio.sleep(SETTLE_S)
            live, start = await _status(client, places.api(AUTHORS[0])), time.perf_counter()
            # It begins at the genesis, and may be in step before it answers for the first time.
            samples = [Sample(0.0, 0, 0, live["height"], int(live["counters"]["transactions"]), STARTING)]
            processes.append(places.start(BEHIND))
            behind = processes[-1]
            while time.perf_counter() - start < self._deadline_s and not samples[-1].in_step:
                await asyncio.sleep(POLL_S)
                sample = await _sample(client, places, start)
                if sample is not None:
                    samples.append(sample)
                elif behind.poll() is not None:
                    raise LocalFault("the validator ended; its log says why", home=str(places.configs[BEHIND].home))
            cpu_s = cpu_seconds([behind.pid])
            sent = await loop.stop()
        if len(samples) < 2:
            raise TimedOut("the validator did not answer in time")
        p50_ms, p95_ms = sent.percentiles_ms()
        return samples, {
            "answers_after_s": round(samples[1].at_s, 1),
            "start_to_in_step_s": round(samples[-1].at_s, 1) if samples[-1].in_step else None,
            "reached_height": samples[-1].height,
            "behind_cpu_s": round(cpu_s, 1),
            "largest_jump_commits": max((b.height - a.height for a, b in pairwise(samples)), default=0),
            "load": {"committed": sent.operations, "busy": sent.busy, "failed": sent.failed, "p50_ms": p50_ms}
            | {"p95_ms": p95_ms},
        }


def _level_ms(leg: Leg) -> int:
    """The pace of the past, which bears on timestamps and emission only."""
    return 60 if leg.transfers > LONG_TRANSFERS else 300


def _as_report(made: Made, seconds: float, leg: Leg) -> dict[str, Any]:
    return {
        "commits": made.commits,
        "blocks": made.blocks,
        "transfers": made.transactions,
        "transfers_per_commit": leg.transfers,
        "eras": made.eras,
        "megabytes_of_blocks": round(made.bytes_of_blocks / 1e6, 1),
        "made_in_s": round(seconds, 1),
    }


def _client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(timeout=10)


async def _status(client: httpx2.AsyncClient, api: str) -> dict[str, Any]:
    return dict((await client.get(api + "/v1/status")).raise_for_status().json())


def _transactions(after: dict[str, Any], before: dict[str, Any]) -> int:
    return int(after["counters"]["transactions"] - before["counters"]["transactions"])


async def _sample(client: httpx2.AsyncClient, places: Places, start_s: float) -> Sample | None:
    """None while the member does not answer."""
    try:
        own = await _status(client, places.api(BEHIND))
        live = await _status(client, places.api(AUTHORS[0]))
    except httpx2.HTTPError:
        return None
    return Sample(
        time.perf_counter() - start_s,
        own["height"],
        int(own["counters"]["transactions"]),
        live["height"],
        int(live["counters"]["transactions"]),
        own["mode"],
    )


async def _height(client: httpx2.AsyncClient, api: str) -> int:
    """-1 while the validator does not answer."""
    try:
        return int((await _status(client, api))["height"])
    except httpx2.HTTPError:
        return -1


async def _until_moving(client: httpx2.AsyncClient, places: Places, numbers: Sequence[int], height: int) -> None:
    """Until each of these validators has made a commit above `height`. Raises TimedOut."""
    end_s = time.perf_counter() + START_S
    for number in numbers:
        while True:
            if await _height(client, places.api(number)) > height:
                break
            if time.perf_counter() > end_s:
                raise TimedOut("a validator made no commit in time", home=str(places.configs[number].home))
            await asyncio.sleep(POLL_S)


def _wait_for_snapshots(places: Places) -> None:
    """Networks have the snapshot of their era long before somebody comes back; this one has to make it first."""
    for _ in poll_until(START_S, POLL_S):
        if all(stored_snapshots(places.configs[number].snapshots_path) for number in AUTHORS):
            return
    raise TimedOut("the network did not write its snapshot in time")
