"""The text form of DAGs: what is printed can be read back, and the blocks are ones that a validator accepts."""

from __future__ import annotations

from random import Random

import pytest

from blockcloud.primitives.errors import BadSignature
from blockcloud.simulation.dag_builder import (
    CHAIN_ID,
    GENESIS,
    BadPlan,
    BlockName,
    DagBuilder,
    parse_plan,
    plan_of,
    show_plan,
)
from blockcloud.simulation.dag_fuzzer import draw_scenario
from blockcloud.transaction_chain.block import parse_block, verify_block_signature

TEXT = """A1:[A0,B0,C0]  B1:[B0,A0,C0]  B1':[B0,A0,D0]  C1:[C0,A0,B0]
A2:[A1,B1,C1]  B2:[B1',A1,C1]"""


def test_text_is_read_and_printed_back() -> None:
    plan = parse_plan(TEXT + "  # a comment")
    assert plan[BlockName(2, 1)] == (BlockName(1, 1, 1), BlockName(1, 0), BlockName(1, 2))
    assert show_plan(plan) == TEXT


@pytest.mark.parametrize(
    "text",
    ["A1[A0]", "A1:[a0]", "A0:[A0]", "A1:[A0] A1:[A0]", "A2:[A1]", "A2:[A1] A1:[A0]", "A1:[]"],
)
def test_bad_text_is_refused(text: str) -> None:
    with pytest.raises(BadPlan):
        parse_plan(text)


def test_blocks_are_named_from_their_references() -> None:
    builder = DagBuilder()
    builder.add_text(TEXT)
    assert plan_of(builder.blocks.values()) == builder.plan
    assert builder.show() == TEXT
    assert len({block.reference for block in builder.blocks.values()}) == len(builder.plan)


def test_forks_on_the_same_parents_are_two_blocks() -> None:
    builder = DagBuilder()
    first, second = builder.add_text("A1:[A0,B0,C0] A1':[A0,B0,C0]")
    assert first.reference != second.reference


def test_signed_blocks_are_the_production_ones() -> None:
    builder = DagBuilder(signed=True)
    builder.add_level(1)
    for block in builder.add_level(2, without=[BlockName(1, 3)]):
        parsed = parse_block(block.raw, CHAIN_ID, 0, builder.committee, GENESIS)
        assert parsed.reference == block.reference
        verify_block_signature(parsed, builder.committee)
    unsigned = DagBuilder().add_level(1)[0]
    with pytest.raises(BadSignature):
        verify_block_signature(unsigned, builder.committee)


@pytest.mark.parametrize("seed", range(30))
def test_fuzzed_blocks_pass_every_check_of_a_validator(seed: int) -> None:
    """Else the fuzzer would prove the rule on DAGs that cannot be, or miss faults behind ones that can."""
    scenario = draw_scenario(Random(seed))
    builder = scenario.builder
    for block in builder.blocks.values():
        parse_block(block.raw, CHAIN_ID, 0, builder.committee, GENESIS)
    for name, parents in builder.plan.items():
        known = [builder.blocks[parent].header.timestamp_ms for parent in parents if parent.level > 0]
        assert builder.blocks[name].header.timestamp_ms >= max(known, default=0)
    forked = {name.author for name in builder.plan if name.fork}
    assert builder.committee.total - builder.committee.weight_of(forked) >= builder.committee.quorum
    for view in scenario.views:
        seen: set[BlockName] = set()
        for name in view:
            assert all(parent.level == 0 or parent in seen for parent in builder.plan[name])
            seen.add(name)
