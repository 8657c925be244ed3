"""`blockcloud bench replay`: how fast one node gets through the past, from the genesis, and what a transfer costs it.

A past of transfers is made first (`ledger_history`): blocks of a committee of four, linked and signed, with certified
checkpoints. Then one process takes it in as a node that fetches it: the chunks of levels that a peer would send, the
pool that verifies, the core that finds the commits again, the apply thread, RocksDB. What is left out is the network.

    signed    every signature is verified
    vouched   below the last certified checkpoint only those under the blocks are (ADR 18)
    cost      nothing but execution: processor time of executing a commit, bringing the tree up to date and writing it,
              in one thread, over one Ed25519 verification of the same run

Each ends with the root that the past has, or it counts for nothing.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import uvloop

from blockcloud.bench.ledger_history import History, follower
from blockcloud.bench.machine import verify_seconds
from blockcloud.bench.payments import Payers, seeded_keys
from blockcloud.bench.places import Places, make_places, parameters_of
from blockcloud.node.applying import Applied, Applier, SharedChain
from blockcloud.node.clock import unix_ms
from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.node.storage import RocksStore
from blockcloud.node.verification import Verification, tune_interpreter
from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.limits import COMMIT_RANGE
from blockcloud.primitives.storage import Batch
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.machine import CHECKPOINT_KEY, META
from blockcloud.transaction_chain.block import Block, BlockRules, parse_own
from blockcloud.transaction_chain.commit import Commit, CommitRecord, EraStart
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.messages import Commits, FetchBlocks, FetchLevels

SIGNED_MIN: Final = 5_000  # transfers a second
VOUCHED_MIN: Final = 15_000
COST_MAX: Final = 0.9  # of a signature's verification
MEMBERS: Final = 4
AUTHORS: Final = (0, 1, 2, 3)
ONE_ERA: Final = 10_000_000
LEVEL_MS: Final = 100
PEER: Final = 1  # who would have sent all this
LEVELS_UNDER_WAY: Final = 2 * COMMIT_RANGE  # asked for and not verified yet, as a node does it
BACKLOG_COMMITS: Final = 64


def run(*, transfers: int = 40_000, per_level: int = 100, accounts: int = 20_000, runs: int = 3) -> dict[str, Any]:
    """{"figures", "bars", "peer", "ratio"}: medians of `runs`. `per_level`: transfers in the blocks of one level.
    `ratio` is what the execution of a transfer costs over a signature's verification."""
    with tempfile.TemporaryDirectory(prefix="blockcloud-bench-") as name:
        folder = Path(name)
        past = _make_past(folder, transfers, per_level, accounts)
        switch_interval_s = sys.getswitchinterval()
        tune_interpreter()
        try:
            signed = [_replayed(past, folder / f"signed{number}", vouched=False) for number in range(runs)]
            vouched = [_replayed(past, folder / f"vouched{number}", vouched=True) for number in range(runs)]
            costs = [_cost(past, folder / f"cost{number}") for number in range(runs)]
        finally:
            sys.setswitchinterval(switch_interval_s)
            past.store.close()
    verification = verify_seconds() * 1e6
    cost_us = median(cost.executed_us for cost in costs)
    ratio = round(cost_us / verification, 2)
    return {
        "figures": {
            "transfers": past.transfers,
            "commits": past.commits,
            "signed_per_s": round(median(one.per_second for one in signed)),
            "signed_cpu_us": round(median(one.cpu_us for one in signed), 1),
            "vouched_per_s": round(median(one.per_second for one in vouched)),
            "vouched_cpu_us": round(median(one.cpu_us for one in vouched), 1),
            "vouched_blocks_percent": min(one.vouched_percent for one in vouched),
            "parse_us": round(median(cost.parsed_us for cost in costs), 1),
            "cost_us": round(cost_us, 1),
            "cost_of_a_signature": ratio,
        },
        "bars": {"signed_per_s": SIGNED_MIN, "vouched_per_s": VOUCHED_MIN, "cost_of_a_signature": COST_MAX},
        "peer": {"ed25519_verify_us": round(verification, 1)},
        "ratio": ratio,
    }


@dataclass(frozen=True, slots=True)
class _Past:
    """What is replayed, in the database of a validator that was there."""

    genesis: Genesis
    store: RocksStore
    tables: LedgerTables
    plan: EraPlan
    commits: int
    levels: int
    transfers: int
    now_ms: int

    @property
    def checkpoint(self) -> bytes | None:
        """The last checkpoint, its root included, as it is stored."""
        return self.store.get(META, CHECKPOINT_KEY)


@dataclass(frozen=True, slots=True)
class _Replay:
    per_second: float
    cpu_us: float
    vouched_percent: int


@dataclass(frozen=True, slots=True)
class _Cost:
    parsed_us: float
    executed_us: float


def _make_past(folder: Path, transfers: int, per_level: int, accounts: int) -> _Past:
    payers = seeded_keys(accounts, "bench-payer")
    began_ms = unix_ms() - (transfers // per_level + 1_000) * LEVEL_MS
    places: Places = make_places(folder, MEMBERS, payers, parameters_of(ONE_ERA, MEMBERS), began_ms)
    transactions = Payers(places.genesis.chain_id(), payers, [payer.public for payer in payers])
    history = History(places, AUTHORS, transactions.next, LEVEL_MS)
    made = history.write(max(1, transfers // per_level), per_level)
    history.share()
    store = RocksStore(places.configs[0].data_path)
    chain = SharedChain(places.genesis, store)
    return _Past(
        genesis=places.genesis,
        store=store,
        tables=LedgerTables(store, places.genesis),
        plan=chain.plan,
        commits=made.commits,
        levels=made.blocks // len(AUTHORS),
        transfers=made.transactions,
        now_ms=began_ms + (made.blocks // len(AUTHORS) + 1) * LEVEL_MS,
    )


def _replayed(past: _Past, data: Path, *, vouched: bool) -> _Replay:
    """One replay into an empty database. Raises RuntimeError if it does not come out where the past ended."""
    store = RocksStore(data)
    try:
        replay = uvloop.run(_take_in(past, store, vouched=vouched))
        if store.get(META, CHECKPOINT_KEY) != past.checkpoint:
            raise RuntimeError("the replay has another root than the past")
        return replay
    finally:
        store.close()


async def _take_in(past: _Past, store: RocksStore, *, vouched: bool) -> _Replay:
    """Replay everything. The clocks begin when the state of the genesis is written."""
    node = _Node(past, store)
    begun, cpu = time.perf_counter(), time.process_time()
    try:
        await node.run(vouched=vouched)
        spent, cpu = time.perf_counter() - begun, time.process_time() - cpu
    finally:
        node.close()
    share = node.verification.vouching.blocks / (past.levels * len(AUTHORS))
    return _Replay(past.transfers / spent, cpu / past.transfers * 1e6, round(100 * share))


class _Node:
    """What of a node a replay needs, tied together as `node/exchange.py` and `node/validator.py` do it."""

    def __init__(self, past: _Past, store: RocksStore) -> None:
        self._past = past
        self._tables = LedgerTables(store, past.genesis)
        chain = SharedChain(past.genesis, store)
        plan, start = past.plan, EraStart.of_chain(chain.chain_id, past.genesis.time_ms)
        self._rules = BlockRules(chain.chain_id, plan.era, plan.committee(), start.genesis)
        self._core = follower(past.genesis, plan, start, past.now_ms)
        self._level = 0  # the highest that was verified
        self._moved = asyncio.Event()
        self._failure: BaseException | None = None
        self._applied = 0
        self.verification = Verification(
            check=chain.check,
            check_submitted=chain.check,
            check_vouched=chain.check_vouched,
            deliver=self._verified,
            failed=self._failed,
        )
        self._applier = Applier(chain, self._tables, store, deliver=self._delivered, failed=self._failed)

    async def run(self, *, vouched: bool) -> None:
        """Ask for chunk after chunk until all commits are applied."""
        asked, last = 0, self._past.levels
        while self._applied < self._past.commits:
            if self._failure is not None:
                raise RuntimeError("the replay failed") from self._failure
            under_way = asked - self._level
            if asked < last and under_way < LEVELS_UNDER_WAY and self._applier.backlog < BACKLOG_COMMITS:
                asked = self._ask(asked, vouched=vouched)
                continue
            self._moved.clear()
            await self._moved.wait()

    def close(self) -> None:
        """End the threads."""
        self.verification.close()
        self._applier.close()

    def _ask(self, asked: int, *, vouched: bool) -> int:
        """A chunk of levels above `asked`, and before it what vouches for it; the highest level that came."""
        tables, rules, vouching = self._past.tables, self._rules, self.verification.vouching
        while vouched:
            request = vouching.ask(PEER, rules, self._core.last_commit.height, self._past.now_ms)
            if request is None:
                break
            raws, certificate = tables.certified_commits(request)
            vouching.answered(PEER, Commits(request.era, tuple(raws), certificate))
            if not raws:
                break
        raws = tables.blocks_for(FetchLevels(asked + 1, asked + COMMIT_RANGE, rules.era))
        self.verification.add_blocks(PEER, raws, rules, fetched=True)
        return rules.parse(raws[-1]).level if raws else self._past.levels

    def _verified(
        self, peer: int, blocks: Sequence[Block], fault: PeerFault | None, fetched: bool, rules: BlockRules
    ) -> None:
        if fault is not None:
            self._failed(fault)
            return
        core, now_ms = self._core, self._past.now_ms
        self.verification.vouching.passed(core.last_commit.height)
        core.receive_blocks(blocks, PEER, now_ms)
        ready = core.ready()
        self._tables.put_blocks(rules.era, ready.persist, ())
        for commit in ready.commits:
            self._applier.put(commit)
        self._level = max([self._level, *(block.level for block in blocks)])
        self._moved.set()

    def _delivered(self, applied: list[Applied]) -> None:
        self._applied += len(applied)
        self._moved.set()

    def _failed(self, error: BaseException) -> None:
        self._failure = error
        self._moved.set()


def _cost(past: _Past, data: Path) -> _Cost:
    """Microseconds of processor time a transfer to parse it, and to execute and write its commit, in one thread."""
    store = RocksStore(data)
    try:
        tables, chain = LedgerTables(store, past.genesis), SharedChain(past.genesis, store)
        parsed = executed = 0.0
        for height in range(1, past.commits + 1):
            record = past.tables.record(height)
            commit = Commit(record, record.digest(), _blocks_of(past, record))
            start = time.process_time()
            for block in commit.blocks:
                for payload in block.payload:
                    chain.check_vouched(payload)
            middle = time.process_time()
            batch = Batch()
            chain.execute(commit, batch)
            tables.put_commit(commit.record, batch)
            store.write(batch, sync=False)
            executed += time.process_time() - middle
            parsed += middle - start
        if store.get(META, CHECKPOINT_KEY) != past.checkpoint:
            raise RuntimeError("the replay has another root than the past")
        return _Cost(parsed / past.transfers * 1e6, executed / past.transfers * 1e6)
    finally:
        store.close()


def _blocks_of(past: _Past, record: CommitRecord) -> tuple[Block, ...]:
    """The blocks of a commit, in its order."""
    request = FetchBlocks(record.blocks, record.era)
    found = {block.reference: block for block in map(parse_own, past.tables.blocks_for(request))}
    return tuple(found[reference] for reference in record.blocks)
