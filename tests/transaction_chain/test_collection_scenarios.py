"""Which late blocks a commit still brings: the collection level of the commit before decides (DESIGN 3.2).

Member D writes one block at level 1 that nobody sees until `taken_up`, the level at which all others link it. Whatever
that level is, every core must bring the block or leave it out as the model says.
"""

from __future__ import annotations

from random import Random

import pytest

from blockcloud.simulation.core_checks import check_core
from blockcloud.simulation.dag_builder import BlockName, DagBuilder
from blockcloud.simulation.dag_drawing import in_some_order
from blockcloud.transaction_chain.commit import CommitRecord

GC_DEPTH_LEVELS = 7
LEVELS = 20
LATE = BlockName(1, 3)


def commits_when(taken_up: int, leader_slots: int) -> tuple[DagBuilder, list[CommitRecord]]:
    """Commits over a DAG of three members, who take up the late block of the fourth at level `taken_up`."""
    builder = DagBuilder(4)
    builder.add_level(1)
    for level in range(2, LEVELS + 1):
        for author in range(3):
            parents = builder.parents_for(level, author, frozenset([LATE]))
            builder.add(BlockName(level, author), [*parents, LATE] if level == taken_up else parents)
    orders = [in_some_order(Random(seed), builder, frozenset(builder.plan)) for seed in range(2)]
    views = [[builder.blocks[name] for name in order] for order in orders]
    return builder, check_core(builder, leader_slots, GC_DEPTH_LEVELS, views)


@pytest.mark.parametrize("leader_slots", [1, 2, 3])
def test_a_late_block_is_brought_until_it_is_below_the_collection_level(leader_slots: int) -> None:
    brought = {}
    for taken_up in range(2, 15):
        builder, records = commits_when(taken_up, leader_slots)
        reference = builder.blocks[LATE].reference
        brought[taken_up] = any(reference in record.blocks for record in records)
    levels = [taken_up for taken_up, is_in in brought.items() if is_in]
    # A commit of level L reaches down to above (level of the commit before) - depth.
    assert levels == list(range(2, max(levels) + 1))
    assert GC_DEPTH_LEVELS <= max(levels) <= GC_DEPTH_LEVELS + 3
