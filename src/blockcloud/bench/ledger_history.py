"""A ledger of many commits, made as fast as one process can: the past of a network that a benchmark starts.

Everything in it is production code and would be accepted from a peer: blocks signed by the members that were there,
each level linked to the one before; the core decides the commits, as an observer; the service chain executes them; the
members sign checkpoints and hand-overs, and the certificates are stored. What is left out is what a network does and a
file cannot show: links, waiting, and the verification of what this process has just signed itself. Nobody posts Ready,
so the seats stay from era to era (ADR 8). Time in the ledger runs at `level_ms` a level.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from blockcloud.bench.places import Places
from blockcloud.node.applying import SharedChain
from blockcloud.node.certification import Certification
from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.node.storage import RocksStore
from blockcloud.primitives import codec
from blockcloud.primitives.certificates import DOMAIN, SignedStatement
from blockcloud.primitives.merkle import merkle_root
from blockcloud.primitives.storage import Batch
from blockcloud.service_chain.genesis import Genesis
from blockcloud.transaction_chain.block import Block, BlockReference, Header, genesis_reference, sign_block
from blockcloud.transaction_chain.commit import Commit, EraStart
from blockcloud.transaction_chain.core import Core
from blockcloud.transaction_chain.era import EraPlan, HandoverCollector, handover_statement
from blockcloud.transaction_chain.machine import Result
from blockcloud.transaction_chain.mempool import Mempool

SOURCE: Final = 0  # the core's number for who sends it blocks; an observer asks nobody for anything here


@dataclass(slots=True)
class Made:
    """What a history holds. `bytes_of_blocks` as they travel."""

    commits: int = 0
    blocks: int = 0
    transactions: int = 0
    eras: int = 1
    bytes_of_blocks: int = 0


def follower(genesis: Genesis, plan: EraPlan, start: EraStart, now_ms: int) -> Core:
    """The core of a node without a seat in the era of `plan`: it finds the commits, and makes no blocks."""
    return Core(
        chain_id=genesis.chain_id(),
        era=plan.era,
        committee=plan.committee(),
        parameters=genesis.parameters,
        start=start,
        beacon=plan.beacon,
        own=None,
        key=None,
        mempool=Mempool(),
        recovered=None,
        now_ms=now_ms,
        last_height=plan.first_height + genesis.parameters.era_length - 1,
    )


class History:
    """Writes the ledger of `places` into the home of its first author; `share` copies it to the others.

    `authors`: the committee numbers of who made blocks, a quorum at least; the others were down all the time.
    """

    def __init__(self, places: Places, authors: Sequence[int], payload: Callable[[], bytes], level_ms: int) -> None:
        self._places, self._authors, self._payload, self._level_ms = places, tuple(authors), payload, level_ms
        self._genesis = places.genesis
        self._store = RocksStore(places.configs[authors[0]].data_path)
        self._tables = LedgerTables(self._store, self._genesis)
        self._chain = SharedChain(self._genesis, self._store)
        self._time_ms = self._genesis.time_ms
        self._in_blocks: dict[bytes, None] = {}  # transactions that no commit has brought yet
        self._again: deque[bytes] = deque()  # those that an era's end left behind
        self.made = Made()
        self._begin(self._chain.plan, EraStart.of_chain(self._chain.chain_id, self._genesis.time_ms))

    def write(self, commits: int, transactions: int) -> Made:
        """Go on until the ledger has `commits` commits, with so many transactions a level."""
        while self._chain.height < commits:
            self._write_level(transactions)
        return self.made

    def share(self) -> None:
        """Close the ledger, give each author its copy, and note there which blocks it signed last."""
        self._store.close()
        first = self._places.configs[self._authors[0]].data_path
        for author in self._authors[1:]:
            data = self._places.configs[author].data_path
            shutil.rmtree(data)
            shutil.copytree(first, data)
        for author in self._authors:
            store = RocksStore(self._places.configs[author].data_path)
            try:
                own = [block for block in self._newest if block.author == author]
                LedgerTables(store, self._genesis).put_blocks(self._plan.era, own, own)
            finally:
                store.close()

    # An era

    def _begin(self, plan: EraPlan, start: EraStart) -> None:
        self._plan = plan
        self._core = follower(self._genesis, plan, start, self._time_ms)
        checkpoint = self._chain.checkpoint
        assert checkpoint is not None, "the genesis is a checkpoint"
        self._certification = Certification(plan.committee(), self._chain.chain_id, plan.era, self._tables, checkpoint)
        self._level = 0
        self._newest: list[Block] = []
        self._statements: dict[int, SignedStatement] = {}  # to ride in each author's next block
        self._below = [genesis_reference(author, start.genesis) for author in range(len(plan.seats))]

    def _end_era(self, commit: Commit, root: bytes, plan: EraPlan) -> None:
        statement = handover_statement(self._chain.chain_id, commit.height, commit.digest, root, plan)
        collector = HandoverCollector(self._plan.committee(), self._chain.chain_id, self._plan.era)
        for author in self._authors:
            key = self._places.keys[author]
            collector.add(SignedStatement(statement, key.public, key.sign(DOMAIN, codec.encode(statement))))
        certificate = collector.certificate(statement)
        assert certificate is not None, "the authors are a quorum"
        self._tables.put_handover(plan.era, certificate)
        self.made.eras += 1
        # As a mempool does: what the last blocks carried for nothing is carried again, before what is newer.
        self._again.extend(self._in_blocks)
        self._in_blocks.clear()
        self._begin(plan, EraStart(commit.height, commit.digest, commit.record.time_ms, statement.digest()))

    # A level

    def _write_level(self, transactions: int) -> None:
        self._level += 1
        self._time_ms += self._level_ms
        turns = len(self._authors)
        payloads: list[list[bytes]] = [[] for _ in self._authors]
        for number in range(transactions):
            payload = self._again.popleft() if self._again else self._payload()
            self._in_blocks[payload] = None
            payloads[(self._level + number) % turns].append(payload)
        blocks = [self._block(author, tuple(payload)) for author, payload in zip(self._authors, payloads, strict=True)]
        self._below = [block.reference for block in blocks]
        self._newest = blocks
        self.made.blocks += len(blocks)
        self.made.bytes_of_blocks += sum(len(block.raw) for block in blocks)
        self._tables.put_blocks(self._plan.era, blocks, ())
        for block in blocks:
            self._core.receive_block(block, SOURCE, self._time_ms)
        for commit in self._core.ready().commits:
            self._apply(commit)

    def _block(self, author: int, payload: tuple[bytes, ...]) -> Block:
        own = [reference for reference in self._below if reference.author == author]
        parents: list[BlockReference] = own + [one for one in self._below if one.author != author]
        statement = self._statements.pop(author, None)
        header = Header(
            chain_id=self._chain.chain_id,
            era=self._plan.era,
            author=author,
            level=self._level,
            parents=tuple(parents),
            timestamp_ms=self._time_ms,
            payload_root=merkle_root(payload),
            statements=() if statement is None else (statement,),
        )
        return sign_block(header, payload, self._places.keys[author])

    def _apply(self, commit: Commit) -> None:
        """As the apply thread does it, and then what a member signs."""
        batch = Batch()
        result = self._chain.execute(commit, batch)
        self._tables.put_commit(commit.record, batch)
        self._store.write(batch, sync=False)
        self._chain.applied_height = commit.height
        for block in commit.blocks:
            for payload in block.payload:
                del self._in_blocks[payload]
        self.made.commits += 1
        self.made.transactions += sum(code == "ok" for _, code in result.outcomes)
        self._sign(commit, result)

    def _sign(self, commit: Commit, result: Result) -> None:
        if result.state_root is None:
            return
        if result.next_era is not None:
            self._end_era(commit, result.state_root, result.next_era)
            return
        self._certification.reached(commit.height, commit.digest, result.state_root)
        for author in self._authors:
            key = self._places.keys[author]
            signed = self._certification.sign(commit.height, commit.digest, result.state_root, key)
            self._statements[author] = signed
            self._certification.add(signed)
