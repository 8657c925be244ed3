"""The leader table by reputation: at most f out, the same everywhere, out while absent and back after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.simulation.dag_builder import BEACON, GENESIS, BlockName, DagBuilder
from blockcloud.transaction_chain.block import BlockReference
from blockcloud.transaction_chain.commit import CommitRecord
from blockcloud.transaction_chain.committee import Committee, Member
from blockcloud.transaction_chain.committer import Committer
from blockcloud.transaction_chain.dag import Dag
from blockcloud.transaction_chain.leaders import LeaderSchedule
from blockcloud.transaction_chain.linearizer import Linearised, linearise
from blockcloud.transaction_chain.reputation import Reputation, Standing

PERIOD = 30
Up = Callable[[int], frozenset[int]]


def committee(bonds: tuple[int, ...]) -> Committee:
    return Committee(Member(bytes([index]) * 32, bond, 10 + index) for index, bond in enumerate(bonds))


def block(level: int, author: int, fork: int = 0) -> BlockReference:
    return BlockReference(level, author, bytes([level % 256, level // 256, author, fork]) * 8)


@dataclass
class Node:
    """What follows from commit records: the schedule, the scores, and every table with the height it was made at."""

    committee: Committee
    slots: int = 2
    period: int = PERIOD
    standing: Standing | None = None
    tables: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.schedule = LeaderSchedule(self.committee, self.slots, BEACON)
        if self.standing is not None and self.standing.height:
            self.schedule.use_weights(self.standing.level + 1, self.standing.weights)
        self.reputation = Reputation(self.committee, self.schedule, self.period, self.standing)

    def commit(self, record: CommitRecord) -> bool:
        """Whether the table changed."""
        weights = self.reputation.committed(record)
        if weights is not None:
            self.schedule.use_weights(record.level + 1, weights)
            self.tables[record.height] = weights
        return weights is not None

    def leads(self, member: int) -> bool:
        return self.reputation.leads(member)


@dataclass
class History:
    """Commit records as a network gives them in which `up(level)` make a block and lead in time."""

    node: Node
    up: Up
    late: frozenset[int] = frozenset()  # make blocks, but never in time to be voted for
    height: int = 0
    level: int = 0
    waiting: list[BlockReference] = field(default_factory=list)

    def next(self) -> CommitRecord:
        """The next record, which the node counts."""
        while True:
            self.level += 1
            up = self.up(self.level)
            leaders = [leader for leader in self.node.schedule.leaders(self.level) if leader in up - self.late]
            self.waiting += [block(self.level, author) for author in sorted(up)]
            if leaders:
                break
        # The blocks of a level but its leaders' come with a later commit.
        brought = [
            reference for reference in self.waiting if reference.level < self.level or reference.author in leaders
        ]
        self.waiting = [reference for reference in self.waiting if reference not in brought]
        self.height += 1
        names = tuple(block(self.level, leader) for leader in leaders)
        record = CommitRecord(0, self.height, self.level, bytes(32), names, tuple(brought), 0)
        self.node.commit(record)
        return record

    def run(self, commits: int) -> list[CommitRecord]:
        return [self.next() for _ in range(commits)]


ALL = frozenset(range(10))


def tolerated(bonds: tuple[int, ...]) -> int:
    return committee(bonds).total - committee(bonds).quorum


# Properties over arbitrary histories


BONDS = st.lists(st.integers(1, 9), min_size=2, max_size=10).map(tuple)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Node, list[CommitRecord]]:
    """Records with any members up at any time, even more missing than can be tolerated."""
    bonds = draw(BONDS)
    members = frozenset(range(len(bonds)))
    spells = draw(st.lists(st.frozensets(st.sampled_from(sorted(members)), min_size=1), min_size=1, max_size=6))
    node = Node(committee(bonds), draw(st.integers(1, min(3, len(bonds)))), draw(st.integers(1, 12)))
    # Everybody is up at every seventh level: something is committed in the end.
    history = History(node, lambda level: members if level % 7 == 0 else spells[level // 5 % len(spells)])
    records: list[CommitRecord] = []
    for liar in draw(st.lists(st.none() | st.sampled_from(sorted(members)), min_size=1, max_size=60)):
        if liar is not None:
            # Its second block for a level comes with the next commit, maybe long after the first.
            history.waiting.append(block(max(1, history.level - draw(st.integers(0, 9))), liar, fork=len(records)))
        records.append(history.next())
    return node, records


@given(histories())
def test_never_more_than_f_are_out_and_slots_are_filled(made: tuple[Node, list[CommitRecord]]) -> None:
    node, _ = made
    bonds = node.committee.weights
    for weights in node.tables.values():
        out = [member for member, weight in enumerate(weights) if weight == 0]
        assert sum(bonds[member] for member in out) <= node.committee.total - node.committee.quorum
        assert len(bonds) - len(out) >= node.schedule.leader_slots
        assert all(weights[m] in (0, node.committee.members[m].resource_weight) for m in range(len(bonds)))


@given(histories())
def test_tables_change_at_multiples_of_the_period_only(made: tuple[Node, list[CommitRecord]]) -> None:
    node, _ = made
    assert all(height % node.period == 0 for height in node.tables)


@given(histories(), st.data())
def test_a_node_that_restarts_makes_the_same_tables(made: tuple[Node, list[CommitRecord]], data: st.DataObject) -> None:
    node, records = made
    first = Node(node.committee, node.slots, node.period)
    stop = data.draw(st.integers(0, len(records)))
    for record in records[:stop]:
        first.commit(record)
    stored = codec.decode(codec.encode(first.reputation.standing), Standing, limit=10_000)
    again = Node(node.committee, node.slots, node.period, stored)
    for record in records[stored.height :]:
        again.commit(record)
    assert first.tables | again.tables == node.tables
    assert again.reputation.scores() == node.reputation.scores()


# Crashes


@given(st.integers(0, 9), st.integers(0, 3 * PERIOD), st.integers(0, 3 * PERIOD))
@settings(max_examples=60)
def test_a_crashed_member_leaves_within_a_period_and_returns_within_two(member: int, before: int, extra: int) -> None:
    node = Node(committee((1,) * 10))
    history = History(node, lambda level: ALL)
    history.run(PERIOD + before)
    assert not node.tables

    history.up = lambda level: ALL - {member}
    crashed_at = history.height
    while node.leads(member):
        history.next()
        # Up to a third of a period may be needed to see it: a crash right before a table is in the next one.
        assert history.height <= crashed_at + PERIOD + PERIOD // 3
    for _ in range(extra):
        history.next()
        assert not node.leads(member)

    history.up = lambda level: ALL
    back_at = history.height
    while not node.leads(member):
        history.next()
        assert history.height <= back_at + 2 * PERIOD
    history.run(3 * PERIOD)
    assert node.leads(member)
    assert all(weight > 0 for weight in node.reputation.standing.weights)


@given(st.integers(0, 9))
def test_a_member_that_was_absent_for_a_whole_period_is_out_at_its_end(member: int) -> None:
    node = Node(committee((1,) * 10))
    history = History(node, lambda level: ALL - {member})
    history.run(PERIOD)
    assert [m for m in range(10) if not node.leads(m)] == [member]


def test_who_is_out_leads_no_level() -> None:
    node = Node(committee((1,) * 10))
    history = History(node, lambda level: ALL - {4})
    history.run(PERIOD)
    levels = range(history.level + 1, history.level + 500)
    assert not any(4 in node.schedule.leaders(level) for level in levels)
    assert any(4 in node.schedule.leaders(level) for level in range(1, history.level))


@pytest.mark.parametrize("slots", [1, 2])
def test_a_member_that_is_there_but_always_late_loses_its_place(slots: int) -> None:
    """With one slot, the levels that it leads have no commit at all."""
    node = Node(committee((1,) * 10), slots)
    history = History(node, lambda level: ALL, late=frozenset({7}))
    history.run(PERIOD)
    assert [m for m in range(10) if not node.leads(m)] == [7]


def test_the_worst_go_first_when_not_all_bad_can() -> None:
    node = Node(committee((1,) * 10))
    # 8 is away all the time, 6 and 5 most of it, 2 half of it; three may go.
    shares = {8: 0, 6: 2, 5: 3, 2: 5}
    history = History(node, lambda level: frozenset(m for m in ALL if level % 10 < shares.get(m, 10)))
    history.run(PERIOD)
    assert [m for m in range(10) if not node.leads(m)] == [5, 6, 8]


def test_a_heavy_member_stays_when_it_is_more_than_f() -> None:
    node = Node(committee((5, 1, 1, 1)))
    History(node, lambda level: frozenset({1, 2, 3})).run(PERIOD)
    assert node.leads(0)
    assert not node.tables


def test_equal_members_all_lead_whatever_their_luck() -> None:
    node = Node(committee((1,) * 4))
    History(node, lambda level: frozenset(range(4))).run(20 * PERIOD)
    assert not node.tables


def test_an_equivocator_is_out_for_the_era() -> None:
    node = Node(committee((1,) * 4))
    history = History(node, lambda level: frozenset(range(4)))
    history.waiting.append(block(1, 2, fork=1))
    history.run(PERIOD)
    assert [m for m in range(4) if not node.leads(m)] == [2]
    history.run(3 * PERIOD)
    assert not node.leads(2)
    assert node.reputation.standing.equivocators == (2,)
    restarted = Node(committee((1,) * 4), standing=node.reputation.standing)
    history.node = restarted
    history.run(2 * PERIOD)
    assert not restarted.leads(2)


# Together with the commit rule


def commits(builder: DagBuilder, node: Node, batch: int) -> Iterator[CommitRecord]:
    """What a core does that decides whenever `batch` more levels have come, with the three lines of `reputation`."""
    dag, linearised = Dag(builder.committee, GENESIS), Linearised()
    committer = Committer(builder.committee, node.schedule)
    decided, height = 0, 0
    highest = max(name.level for name in builder.blocks)
    for name, made in sorted(builder.blocks.items()):
        dag.add(made)
        if name.level % batch and name.level != highest:
            continue
        again = True
        while again:
            again = False
            for level, slots in groupby(committer.decide(dag, decided), key=lambda decision: decision.level):
                decided = level
                leaders = [slot.block for slot in slots if slot.block is not None]
                if not leaders:
                    continue
                blocks = tuple(made.reference for made in linearise(dag, leaders, linearised, 0, BEACON))
                linearised.add(blocks)
                height += 1
                names = tuple(leader.reference for leader in leaders)
                record = CommitRecord(0, height, level, bytes(32), names, blocks, 0)
                yield record
                if node.commit(record):
                    again = True
                    break


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_nodes_agree_however_many_levels_they_decide_at_once(slots: int) -> None:
    builder = DagBuilder(4)
    for level in range(1, 91):
        away = {2} if 15 <= level < 50 else {0} if 60 <= level < 70 else set()
        builder.add_level(level, [author for author in range(4) if author not in away])
    assert BlockName(40, 2) not in builder.blocks
    results = []
    for batch in (1, 2, 7, 90):
        node = Node(builder.committee, slots, 10)
        results.append((list(commits(builder, node, batch)), node.tables))
    records, tables = results[0]
    assert all(result == results[0] for result in results)
    assert [weights[2] > 0 for weights in tables.values()][:2] == [False, True]
    # While 2 is out and away nobody waits for it: every level has all its leaders.
    out_from = next(record.level for record in records if record.height == min(tables))
    assert all(len(record.leaders) == slots for record in records if out_from < record.level < 50)
