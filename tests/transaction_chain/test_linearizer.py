"""From leaders to an order: complete, without repetition, fair to authors, the same for every arrival of the blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.merkle import merkle_root
from blockcloud.transaction_chain.block import Block, BlockReference, Header, genesis_reference, sign_block
from blockcloud.transaction_chain.committee import Committee, Member
from blockcloud.transaction_chain.dag import Dag
from blockcloud.transaction_chain.linearizer import Linearised, commit_time_ms, linearise

GENESIS, BEACON = bytes(32), bytes([5]) * 32
KEYS = [SigningKey(bytes([1 + index]) * 32) for index in range(4)]
COMMITTEE = Committee(Member(key.public, 1) for key in KEYS)


def make_block(author: int, level: int, parents: list[BlockReference], timestamp_ms: int = 0) -> Block:
    ordered = sorted(parents, key=lambda parent: (parent.author != author, parent.author))
    header = Header(GENESIS, 0, author, level, tuple(ordered), timestamp_ms, merkle_root(()))
    return sign_block(header, (), KEYS[author])


def full_levels(levels: int) -> list[list[Block]]:
    """Four authors, every block points to all of the level before."""
    below = [genesis_reference(author, GENESIS) for author in range(4)]
    rows = []
    for level in range(1, levels + 1):
        row = [make_block(author, level, below) for author in range(4)]
        below = [block.reference for block in row]
        rows.append(row)
    return rows


ROWS = full_levels(8)


def dag_of(blocks: list[Block]) -> Dag:
    dag = Dag(COMMITTEE, GENESIS)
    for block in blocks:
        dag.add(block)
    return dag


def full_dag() -> Dag:
    return dag_of([block for row in ROWS for block in row])


def test_all_ancestors_once_and_parents_first() -> None:
    order = linearise(full_dag(), ROWS[3][:2], (), 0, BEACON)
    assert sorted(block.reference for block in order) == sorted(
        block.reference for block in [*ROWS[0], *ROWS[1], *ROWS[2], *ROWS[3][:2]]
    )
    assert [block.level for block in order] == sorted(block.level for block in order)


def test_no_author_is_always_first() -> None:
    order = linearise(full_dag(), [ROWS[7][0]], (), 0, BEACON)
    sequences = [tuple(block.author for block in order if block.level == level) for level in range(1, 8)]
    assert len(dict.fromkeys(sequences)) > 3
    other = linearise(full_dag(), [ROWS[7][0]], (), 0, bytes(32))
    assert [block.reference for block in other] != [block.reference for block in order]


@given(st.data())
def test_the_arrival_of_blocks_does_not_matter(data: st.DataObject) -> None:
    shuffled = [block for row in ROWS for block in data.draw(st.permutations(row))]
    leaders = [ROWS[6][2], ROWS[6][0]]
    expected = linearise(full_dag(), leaders, (), 0, BEACON)
    assert [b.reference for b in linearise(dag_of(shuffled), leaders, (), 0, BEACON)] == [b.reference for b in expected]


@given(st.integers(1, 6), st.integers(0, 3), st.integers(0, 3))
def test_commits_together_bring_each_block_once(first_level: int, first: int, second: int) -> None:
    dag = full_dag()
    done = Linearised()
    orders = []
    for level, author in ((first_level, first), (first_level + 1, second)):
        order = linearise(dag, [ROWS[level - 1][author]], done, 0, BEACON)
        done.add(block.reference for block in order)
        orders.extend(order)
    assert len(dict.fromkeys(block.reference for block in orders)) == len(orders) == 4 * first_level + 1


def test_nothing_at_or_below_the_collection_level() -> None:
    order = linearise(full_dag(), [ROWS[5][0]], (), 3, BEACON)
    assert [block.level for block in order] == [4] * 4 + [5] * 4 + [6]


def test_collected_blocks_are_not_missed() -> None:
    dag = full_dag()
    assert [block.level for block in dag.collect(3)] == [1] * 4 + [2] * 4 + [3] * 4
    assert [block.level for block in linearise(dag, [ROWS[5][0]], (), 3, BEACON)] == [4] * 4 + [5] * 4 + [6]


def test_a_weak_link_brings_a_late_block() -> None:
    below = [genesis_reference(author, GENESIS) for author in range(4)]
    rows = [[make_block(author, 1, below) for author in range(4)]]
    late = rows[0][3]
    for level in (2, 3):
        parents = [block.reference for block in rows[-1] if block.author != 3]
        rows.append([make_block(author, level, parents) for author in range(3)])
    leader = make_block(0, 4, [*(block.reference for block in rows[-1]), late.reference])
    dag = dag_of([block for row in rows for block in row] + [leader])
    assert late.reference in [block.reference for block in linearise(dag, [leader], (), 0, BEACON)]
    assert late.reference not in [block.reference for block in linearise(dag, [rows[-1][0]], (), 0, BEACON)]


def test_both_blocks_of_an_equivocator_are_ordered_by_digest() -> None:
    below = [genesis_reference(author, GENESIS) for author in range(4)]
    honest = [make_block(author, 1, below) for author in range(3)]
    twins = [make_block(3, 1, below, timestamp_ms) for timestamp_ms in (1, 2)]
    base = [block.reference for block in honest]
    seconds = [make_block(author, 2, [*base, twin.reference]) for author, twin in ((0, twins[0]), (1, twins[1]))]
    third = make_block(2, 2, base)
    leader = make_block(0, 3, [block.reference for block in [*seconds, third]])
    order = linearise(dag_of([*honest, *twins, *seconds, third, leader]), [leader], (), 0, BEACON)
    digests = [block.reference.digest for block in order if block.author == 3]
    assert digests == sorted(twin.reference.digest for twin in twins)


def test_linearised_forgets_what_was_collected() -> None:
    done = Linearised(block.reference for row in ROWS for block in row)
    assert len(done) == 32
    done.collect(3)
    assert len(done) == 20
    assert ROWS[2][0].reference not in done
    assert ROWS[3][0].reference in done
    assert "something else" not in done


@pytest.mark.parametrize(
    ("stamps", "previous_ms", "expected"),
    [
        ([10, 20, 30, 40], 0, 20),
        ([10, 20, 30, 10_000], 0, 20),
        ([0, 20, 30, 30], 0, 20),
        ([10, 20, 30, 40], 25, 25),
        ([10, 20, 30], 0, 20),
    ],
)
def test_commit_time_is_a_median_and_never_goes_back(stamps: list[int], previous_ms: int, expected: int) -> None:
    below = [genesis_reference(author, GENESIS) for author in range(4)]
    blocks = [make_block(author, 1, below, timestamp_ms) for author, timestamp_ms in enumerate(stamps)]
    leader = make_block(0, 2, [block.reference for block in blocks], 10_000)
    assert commit_time_ms(dag_of([*blocks, leader]), leader, COMMITTEE, previous_ms) == expected


def test_weight_moves_the_median() -> None:
    heavy = Committee(Member(key.public, weight) for key, weight in zip(KEYS, [1, 1, 1, 9], strict=True))
    below = [genesis_reference(author, GENESIS) for author in range(4)]
    blocks = [make_block(author, 1, below, 10 * author) for author in range(4)]
    leader = make_block(0, 2, [block.reference for block in blocks], 100)
    dag = Dag(heavy, GENESIS)
    for block in [*blocks, leader]:
        dag.add(block)
    assert commit_time_ms(dag, leader, heavy, 0) == 30


def test_the_first_level_has_the_time_before_it() -> None:
    leader = make_block(0, 1, [genesis_reference(author, GENESIS) for author in range(4)], 99)
    assert commit_time_ms(dag_of([leader]), leader, COMMITTEE, 7) == 7
