"""The commit rule case by case, over every committee size and number of leader slots (DESIGN 3.2).

Each case builds a DAG in which exactly one thing is unusual about the leader slot 0 of level 1 and states what must be
decided. f is the number of members that may lie, q the quorum; members have equal weight, so n = 3f + 1 and q = 2f + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest

from blockcloud.simulation.dag_builder import BEACON, BlockName, DagBuilder
from blockcloud.simulation.dag_drawing import closure
from blockcloud.transaction_chain.block import Block
from blockcloud.transaction_chain.committer import Committer, Decision, SlotStatus
from blockcloud.transaction_chain.leaders import LeaderSchedule

COMMIT, SKIP = SlotStatus.COMMIT, SlotStatus.SKIP


@dataclass
class Case:
    """A committee, its schedule and a DAG under construction."""

    members: int
    leader_slots: int

    def __post_init__(self) -> None:
        self.builder = DagBuilder(self.members)
        self.schedule = LeaderSchedule(self.builder.committee, self.leader_slots, BEACON)
        self.committer = Committer(self.builder.committee, self.schedule)
        self.faults = (self.members - 1) // 3
        self.quorum = self.builder.committee.quorum
        self.leader = self.schedule.leaders(1)[0]
        # Everybody but the leader; the leader's own blocks always build on its own.
        self.others = [author for author in range(self.members) if author != self.leader]

    def decide(self, last_decided_level: int = 0) -> list[Decision]:
        return self.committer.decide(self.builder.dag(), last_decided_level)

    def full_levels(self, first: int, last: int) -> None:
        for level in range(first, last + 1):
            self.builder.add_level(level)

    def votes(self, voters: list[int], level: int = 1, leader: int | None = None) -> None:
        """The level after `level`: only `voters` (the leader among them or not) have its leader as parent."""
        target = BlockName(level, self.leader if leader is None else leader)
        for author in range(self.members):
            left_out = frozenset() if author in voters else frozenset([target])
            own = BlockName(level, author)
            if author == target.author and author not in voters:
                raise AssertionError("a leader cannot leave out its own block")
            parents = self.builder.parents_for(level + 1, author, left_out)
            assert parents[0] == own
            self.builder.add(BlockName(level + 1, author), parents)

    def certificates(self, voters: list[int], certifiers: list[int], level: int = 3) -> None:
        """`level`: `certifiers` see all votes of the level before, the rest one too few (`voters` are a quorum)."""
        assert len(voters) == self.quorum
        for author in range(self.members):
            hidden = next(voter for voter in voters if voter != author)
            left_out = frozenset() if author in certifiers else frozenset([BlockName(level - 1, hidden)])
            name = BlockName(level, author)
            self.builder.add(name, self.builder.parents_for(level, author, left_out))


@pytest.fixture(
    params=[(members, slots) for members in (4, 7, 10) for slots in (1, 2, 3)], ids=lambda p: f"n{p[0]}-k{p[1]}"
)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


def block_of(case: Case, name: BlockName) -> Block:
    return case.builder.blocks[name]


def test_direct_commit(case: Case) -> None:
    case.full_levels(1, 3)
    decisions = case.decide()
    assert [(d.level, d.slot, d.author) for d in decisions] == [
        (1, k, a) for k, a in enumerate(case.schedule.leaders(1))
    ]
    for decision in decisions:
        assert (decision.status, decision.direct) == (COMMIT, True)
        assert decision.block is block_of(case, BlockName(1, decision.author))


def test_every_level_starts_a_wave(case: Case) -> None:
    case.full_levels(1, 8)
    decisions = case.decide()
    assert [(d.level, d.slot) for d in decisions] == [(r, k) for r in range(1, 7) for k in range(case.leader_slots)]
    assert all(d.status is COMMIT and d.direct for d in decisions)


def test_nothing_is_decided_before_the_decision_level(case: Case) -> None:
    case.full_levels(1, 2)
    assert case.decide() == []


def test_a_quorum_of_members_is_enough(case: Case) -> None:
    """f members are silent from the start and none of them leads: nothing waits for them."""
    leaders = set(case.schedule.leaders(1))
    silent = [author for author in range(case.members) if author not in leaders][: case.faults]
    present = [author for author in range(case.members) if author not in silent]
    if len(silent) < case.faults:
        pytest.skip("more leaders than members that may answer")
    case.builder.add_level(1, present)
    case.builder.add_level(2, present)
    case.builder.add_level(3, present)
    assert [d.status for d in case.decide()] == [COMMIT] * case.leader_slots


def test_one_certificate_too_few_is_no_direct_commit(case: Case) -> None:
    case.full_levels(1, 2)
    certifiers = list(range(case.quorum - 1))
    case.builder.add_level(3, certifiers)
    assert case.decide() == []
    case.builder.add_level(3, [case.quorum - 1])
    assert [d.status for d in case.decide()] == [COMMIT] * case.leader_slots


def test_direct_skip(case: Case) -> None:
    case.full_levels(1, 1)
    case.votes([case.leader])
    case.full_levels(3, 3)
    first, *rest = case.decide()
    assert (first.level, first.slot, first.status, first.direct, first.block) == (1, 0, SKIP, True, None)
    assert [d.status for d in rest] == [COMMIT] * (case.leader_slots - 1)


def test_absent_leader_is_skipped_directly(case: Case) -> None:
    case.builder.add_level(1, case.others)
    case.builder.add_level(2, case.others)
    case.builder.add_level(3, case.others)
    first, *rest = [d for d in case.decide() if d.level == 1]
    assert (first.status, first.direct, first.block) == (SKIP, True, None)
    assert [d.status for d in rest] == [COMMIT] * (case.leader_slots - 1)


def test_one_blame_too_few_is_no_direct_skip(case: Case) -> None:
    """q - 1 members blame, f + 1 vote: no certificate can exist, but that is for an anchor to say."""
    case.full_levels(1, 1)
    case.votes([case.leader, *case.others[: case.faults]])
    case.full_levels(3, 5)
    assert case.decide() == []


def test_indirect_skip(case: Case) -> None:
    case.full_levels(1, 1)
    case.votes([case.leader, *case.others[: case.faults]])
    case.full_levels(3, 6)
    first = case.decide()[0]
    assert (first.level, first.slot, first.status, first.direct, first.block) == (1, 0, SKIP, False, None)


def test_indirect_commit(case: Case) -> None:
    """One certificate, seen by the anchor, is enough."""
    voters = [case.leader, *case.others[: case.quorum - 1]]
    case.full_levels(1, 1)
    case.votes(voters)
    case.certificates(voters, certifiers=[case.others[-1]])
    case.full_levels(4, 5)
    assert case.decide() == []
    case.full_levels(6, 6)
    first = case.decide()[0]
    assert (first.level, first.slot, first.status, first.direct) == (1, 0, COMMIT, False)
    assert first.block is block_of(case, BlockName(1, case.leader))


def test_certificate_that_the_anchor_does_not_reach_does_not_count(case: Case) -> None:
    voters = [case.leader, *case.others[: case.quorum - 1]]
    anchor = case.schedule.leaders(4)[0]
    certifier = next(author for author in reversed(case.others) if author != anchor)
    case.full_levels(1, 1)
    case.votes(voters)
    case.certificates(voters, certifiers=[certifier])
    case.builder.add_level(4, without=[BlockName(3, certifier)])
    case.full_levels(5, 6)
    first = case.decide()[0]
    assert (first.level, first.slot, first.status, first.direct) == (1, 0, SKIP, False)


def undecided_anchor(case: Case) -> None:
    """Level 1 waits for level 4, whose first leader has neither certificates nor enough blames; level 5 commits."""
    voters = [case.leader, *case.others[: case.quorum - 1]]
    case.full_levels(1, 1)
    case.votes(voters)
    case.certificates(voters, certifiers=[case.others[-1]])
    case.full_levels(4, 4)
    anchor = case.schedule.leaders(4)[0]
    supporters = [author for author in range(case.members) if author != anchor][: case.faults]
    case.votes([anchor, *supporters], level=4, leader=anchor)
    case.full_levels(6, 7)


def test_undecided_anchor_leaves_the_slot_undecided(case: Case) -> None:
    undecided_anchor(case)
    assert case.decide() == []


def test_anchor_decided_later_decides_all_below(case: Case) -> None:
    undecided_anchor(case)
    case.full_levels(8, 9)
    decisions = case.decide()
    assert (decisions[0].status, decisions[0].direct) == (COMMIT, False)
    of_anchor = next(d for d in decisions if (d.level, d.slot) == (4, 0))
    assert (of_anchor.status, of_anchor.direct) == (SKIP, False)
    assert decisions[-1].level == 7


def test_anchor_stands_past_the_decision_level(case: Case) -> None:
    """A leader of the decision level (r + 2) commits and does not reach the certificate, which is beside it. Only the
    leader of r + 3 may decide, and it does reach it."""
    voters = [case.leader, *case.others[: case.quorum - 1]]
    certifier = next(author for author in reversed(case.others) if author not in case.schedule.leaders(3))
    case.full_levels(1, 1)
    case.votes(voters)
    case.certificates(voters, certifiers=[certifier])
    case.full_levels(4, 6)
    first = case.decide()[0]
    assert (first.level, first.slot, first.status) == (1, 0, COMMIT)


def test_equivocating_leader_commits_the_certified_block(case: Case) -> None:
    first, second = BlockName(1, case.leader), BlockName(1, case.leader, 1)
    case.full_levels(1, 1)
    case.builder.add(second, case.builder.parents_for(1, case.leader, frozenset()))
    for author in range(case.members):
        parents = case.builder.parents_for(2, author, frozenset())
        votes_second = author == case.leader or author in case.others[: case.quorum - 1]
        case.builder.add(BlockName(2, author), [second if votes_second and p == first else p for p in parents])
    case.full_levels(3, 3)
    decision = case.decide()[0]
    assert (decision.status, decision.direct) == (COMMIT, True)
    assert decision.block is block_of(case, second)


def test_equivocating_leader_with_divided_votes_commits_neither(case: Case) -> None:
    """Every member votes for the leader's author, but no block of it has a quorum of votes: author and level do not
    make a vote, the block does."""
    first, second = BlockName(1, case.leader), BlockName(1, case.leader, 1)
    case.full_levels(1, 1)
    case.builder.add(second, case.builder.parents_for(1, case.leader, frozenset()))
    for author in range(case.members):
        parents = case.builder.parents_for(2, author, frozenset())
        case.builder.add(BlockName(2, author), [second if author % 2 and p == first else p for p in parents])
    case.full_levels(3, 5)
    assert case.decide() == []
    case.full_levels(6, 6)
    decision = case.decide()[0]
    assert (decision.status, decision.direct, decision.block) == (SKIP, False, None)


def test_two_votes_of_an_equivocating_voter_count_once(case: Case) -> None:
    """q - 1 voters, one of whom votes in two blocks: still no certificate."""
    voters = [case.leader, *case.others[: case.quorum - 2]]
    case.full_levels(1, 1)
    case.votes(voters)
    twice = voters[-1]
    name = BlockName(2, twice)
    case.builder.add(name._replace(fork=1), case.builder.plan[name])
    case.full_levels(3, 6)
    assert case.decide()[0].status is SKIP


def test_two_blames_of_an_equivocator_count_once(case: Case) -> None:
    """q - 1 blaming members, each with two blaming blocks: no direct skip."""
    case.full_levels(1, 1)
    case.votes([case.leader, *case.others[: case.faults]])
    for author in case.others[case.faults :][: case.faults]:
        name = BlockName(2, author)
        case.builder.add(name._replace(fork=1), case.builder.plan[name])
    case.full_levels(3, 3)
    assert case.decide() == []


def test_a_level_is_output_whole(case: Case) -> None:
    """The last slot of level 1 is undecided, all before it are committed: nothing is output."""
    case.full_levels(1, 1)
    last = case.schedule.leaders(1)[-1]
    supporters = [author for author in range(case.members) if author != last][: case.faults]
    case.votes([last, *supporters], leader=last)
    case.full_levels(3, 5)
    assert case.decide() == []
    case.full_levels(6, 6)
    statuses = [d.status for d in case.decide() if d.level == 1]
    assert statuses == [COMMIT] * (case.leader_slots - 1) + [SKIP]


def test_idempotence(case: Case) -> None:
    undecided_anchor(case)
    case.full_levels(8, 11)
    dag = case.builder.dag()
    decisions = case.committer.decide(dag, 0)
    assert case.committer.decide(dag, 0) == decisions
    assert decisions[-1].level == 9
    for last in range(1, 10):
        assert case.committer.decide(dag, last) == [d for d in decisions if d.level > last]


def test_any_insertion_order(case: Case) -> None:
    undecided_anchor(case)
    case.full_levels(8, 9)
    expected = case.decide()
    for seed in range(5):
        names = list(case.builder.plan)
        Random(seed).shuffle(names)
        # The closure of each block before it: parents come first, otherwise the order is random.
        order = list(dict.fromkeys(p for name in names for p in sorted(closure(case.builder, [name]))))
        assert case.committer.decide(case.builder.dag(order), 0) == expected


def test_leaders_are_distinct_drawn_by_weight_and_the_same_everywhere() -> None:
    heavy = DagBuilder(4, weights=(1, 1, 1, 1)).committee
    schedule = LeaderSchedule(heavy, 3, BEACON)
    tables = [schedule.leaders(level) for level in range(1, 400)]
    assert tables == [LeaderSchedule(heavy, 3, BEACON).leaders(level) for level in range(1, 400)]
    assert all(len(set(table)) == 3 for table in tables)
    first = [table[0] for table in tables]
    assert all(first.count(author) > 60 for author in range(4))
    assert tables != [LeaderSchedule(heavy, 3, bytes(32)).leaders(level) for level in range(1, 400)]
