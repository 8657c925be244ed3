"""Fuzzed DAGs through the whole core: an observer is given a view, block by block, and judged by its commits.

This reaches what the committer alone does not: suspension, the limit of blocks a slot, collection, the chain of commit
digests and their times, and the rule that no block is earlier than its parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.limits import UNREFERENCED_BLOCKS_PER_SLOT
from blockcloud.simulation.commit_model import CommitModel
from blockcloud.simulation.dag_builder import BEACON, CHAIN_ID, GENESIS, DagBuilder, simulated_key
from blockcloud.transaction_chain.block import Block, BlockReference, sign_block
from blockcloud.transaction_chain.commit import CommitRecord, EraStart
from blockcloud.transaction_chain.core import Core
from blockcloud.transaction_chain.leaders import LeaderSchedule
from blockcloud.transaction_chain.mempool import Mempool
from blockcloud.transaction_chain.messages import FetchBlocks
from blockcloud.transaction_chain.parameters import Parameters

NOW_MS = 1_000_000
# The peer that has all blocks of a view, and how often the core may wake up to ask it.
PEER = 0
TICKS_AT_MOST = 100


class WrongCommits(BlockCloudError):
    """A core commits what the rule does not say."""

    code = "wrong_commits"


def observer(builder: DagBuilder, leader_slots: int, gc_depth_levels: int) -> Core:
    """A core that makes no blocks, as it is at the start of the era."""
    return Core(
        chain_id=CHAIN_ID,
        era=0,
        committee=builder.committee,
        parameters=Parameters(leader_slots=leader_slots, gc_depth_levels=gc_depth_levels),
        start=EraStart.of_chain(GENESIS, 0),
        beacon=BEACON,
        own=None,
        key=None,
        mempool=Mempool(),
        recovered=None,
        now_ms=NOW_MS,
    )


def feed(core: Core, blocks: Sequence[Block]) -> tuple[list[CommitRecord], frozenset[BlockReference]]:
    """Give `blocks` to the core and answer its fetches from among them; what it commits, and what it accepts."""
    known = {block.reference: block for block in blocks}
    records: list[CommitRecord] = []
    accepted: list[BlockReference] = []
    now_ms = NOW_MS
    core.peer_connected(PEER, now_ms)

    def carry_out() -> None:
        ready = core.ready()
        records.extend(commit.record for commit in ready.commits)
        accepted.extend(block.reference for block in ready.persist)
        for _, message in ready.send:
            if isinstance(message, FetchBlocks):
                found = [known[reference] for reference in message.references if reference in known]
                core.receive_blocks(found, PEER, now_ms)
                carry_out()

    for block in blocks:
        core.receive_block(block, PEER, now_ms)
        carry_out()
    for _ in range(TICKS_AT_MOST):
        timer_ms = core.next_timer()
        if timer_ms is None:
            break
        now_ms = max(now_ms, timer_ms)
        core.tick(now_ms)
        carry_out()
    return records, frozenset(accepted)


def check_core(
    builder: DagBuilder, leader_slots: int, gc_depth_levels: int, views: Sequence[Sequence[Block]]
) -> list[CommitRecord]:
    """Raise WrongCommits unless the observers of all `views` commit what the model says, in one chain.

    Returns the commits of the last view, which is the whole DAG.
    """
    schedule = LeaderSchedule(builder.committee, leader_slots, BEACON)
    chains = []
    for blocks in views:
        core = observer(builder, leader_slots, gc_depth_levels)
        records, accepted = feed(core, blocks)
        _check_refused(core, blocks, accepted)
        # What is at or below the collection level is decided, whether the core has seen all of it or not.
        counted = [block for block in blocks if block.reference in accepted or block.level <= core.dag.gc_level]
        _check_against_model(records, CommitModel(builder.committee, schedule.leaders, counted), gc_depth_levels)
        _check_chain(records)
        _check_early_block(core, blocks)
        chains.append(records)
    for chain in chains:
        if chain != chains[-1][: len(chain)]:
            raise WrongCommits("the commits of a view do not begin those of the whole DAG", commits=len(chain))
    return chains[-1]


def _check_refused(core: Core, blocks: Sequence[Block], accepted: frozenset[BlockReference]) -> None:
    """A core may do without a block only where its slot has two others and no accepted block has it as parent."""
    linked = {parent for block in blocks if block.reference in accepted for parent in block.parents}
    for block in blocks:
        if block.level <= core.dag.gc_level or block.reference in accepted:
            continue
        if len(core.dag.slot(block.level, block.author)) < UNREFERENCED_BLOCKS_PER_SLOT or block.reference in linked:
            raise WrongCommits("a valid block is refused", level=block.level, author=block.author)


def _check_against_model(records: list[CommitRecord], model: CommitModel, gc_depth_levels: int) -> None:
    expected = model.commits(gc_depth_levels)
    if [record.level for record in records] != [level for level, _, _ in expected]:
        raise WrongCommits("levels differ from the model's", levels=[record.level for record in records])
    for record, (level, leaders, blocks) in zip(records, expected, strict=True):
        if list(record.leaders) != leaders:
            raise WrongCommits("leaders differ from the model's", level=level)
        if len(set(record.blocks)) != len(record.blocks) or frozenset(record.blocks) != blocks:
            raise WrongCommits("blocks differ from the model's", level=level)


def _check_chain(records: list[CommitRecord]) -> None:
    for before, record in pairwise(records):
        if record.previous != before.digest() or record.height != before.height + 1:
            raise WrongCommits("a commit does not follow the one before", height=record.height)
        if record.time_ms < before.time_ms:
            raise WrongCommits("time goes backwards", height=record.height)


def _check_early_block(core: Core, blocks: Sequence[Block]) -> None:
    """A block that is earlier than its parents must be refused, with a complaint about who sent it."""
    last = max(blocks, key=lambda block: block.level, default=None)
    if last is None or last.level < 2 or any(core.dag.get(parent) is None for parent in last.parents):
        return
    if len(core.dag.slot(last.level, last.author)) >= UNREFERENCED_BLOCKS_PER_SLOT:
        return
    header = msgspec.structs.replace(last.header, timestamp_ms=0)
    early = sign_block(header, last.payload, simulated_key(last.author))
    core.receive_block(early, last.author, NOW_MS)
    if early.reference in core.dag or not core.ready().complaints:
        raise WrongCommits("a block is accepted that is earlier than its parents", level=last.level)
