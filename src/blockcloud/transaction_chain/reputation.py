"""The leader table by reputation: who leads, after who was there (DESIGN section 3.4, phase 3).

A leader that does not answer costs its level two message delays more, and the skip rule pays that again each time it
is drawn. So members that contribute clearly less than the others stop leading until they are back. After Shoal
(Spiegelman et al., 2023) and the leader schedule of Sui.

A *score* is of one period of commits. It is the number of levels of which the period brought a block of the member,
times the part of its leader slots that were committed (with two on credit, so that one unlucky slot of a member that
seldom leads is nothing): a crashed member has 0, one whose blocks are too late to be voted for is there but loses its
slots. After a commit whose height is a multiple of the period, those who stayed below two thirds of the best score are
swapped out, worst first, as long as they are together at most f of the weight and enough are left to fill the slots.
The weight in the table is 0 then, from the level after that commit's. Who is out leads nothing, so its next score is
its presence alone: after one period of presence it is back. A member that the committed blocks show to have made two
blocks for one level does not come back in this era.

Everything is a function of commit records (and of the tables before), so every node computes the same tables, whether
it decided the commits, fetched them or read them from its store. That is also why slots are not counted by who decided
how: a slot is committed if the record names its leader, and the slots of levels without a commit were all skipped.

    weights = reputation.committed(record)      # in `Core._close_level`, after the record is made
    if weights is not None:
        schedule.use_weights(record.level + 1, weights)

After a restart: `Reputation(..., standing)`, `schedule.use_weights(standing.level + 1, standing.weights)` unless its
height is 0, and `committed` for the records since then.

Decisions about higher levels that were made with the table before must be made again.
"""

from __future__ import annotations

from math import lcm
from typing import Annotated

from msgspec import Meta

from blockcloud.primitives.codec import Struct
from blockcloud.primitives.limits import COMMITTEE_MEMBERS
from blockcloud.transaction_chain.block import BlockReference
from blockcloud.transaction_chain.commit import CommitRecord
from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.leaders import LeaderSchedule

# A score below this part of the best is bad.
GOOD_NUMERATOR, GOOD_DENOMINATOR = 2, 3
SLOTS_ON_CREDIT = 2


class Standing(Struct, frozen=True):
    """What a node must remember at the end of a period, to go on after a restart with the records since: the height and
    level of its last commit, the table since then, and who is out for the rest of the era."""

    height: int
    level: int
    weights: Annotated[tuple[int, ...], Meta(max_length=COMMITTEE_MEMBERS)]
    equivocators: Annotated[tuple[int, ...], Meta(max_length=COMMITTEE_MEMBERS)]


class Reputation:
    """Scores of one committee in one era. Reads `schedule` for who was to lead; whoever calls changes it."""

    def __init__(
        self, committee: Committee, schedule: LeaderSchedule, period: int, standing: Standing | None = None
    ) -> None:
        assert period >= 1, "a period has commits"
        members = len(committee)
        self._committee = committee
        self._schedule = schedule
        self._period = period
        self._full = tuple(member.resource_weight for member in committee.members)
        self._equivocators = dict.fromkeys(standing.equivocators if standing else ())
        # Since the end of the last period.
        self._last_level = standing.level if standing else 0
        self._blocks: dict[tuple[int, int], bytes] = {}
        self._presence = [0] * members
        self._led = [0] * members
        self._committed = [0] * members
        self.standing = standing or Standing(0, 0, self._full, ())

    def committed(self, record: CommitRecord) -> tuple[int, ...] | None:
        """Count the commit after the last one. The new table, if it is another, holds from `record.level + 1` on."""
        assert record.level > self._last_level, "commits come in order"
        self._count_slots(record)
        self._last_level = record.level
        for reference in record.blocks:
            self._count_block(reference)
        if record.height % self._period:
            return None
        weights = self._table()
        changed = weights != self.standing.weights
        self.standing = Standing(record.height, record.level, weights, tuple(self._equivocators))
        self._begin_period()
        return weights if changed else None

    def leads(self, member: int) -> bool:
        """Whether `member` is in the table now. Who is not should make its blocks without pacing, as a leader does:
        nobody waits for it, so where the others alone are a quorum it could be jumped over at every level, and would
        never be seen to be back."""
        return self.standing.weights[member] > 0

    def scores(self) -> tuple[tuple[int, int], ...]:
        """The score of each member since the last table, as numerator and denominator."""
        slots = zip(self._presence, self._committed, self._led, strict=True)
        return tuple(
            (presence * (committed + SLOTS_ON_CREDIT), led + SLOTS_ON_CREDIT) for presence, committed, led in slots
        )

    def _count_slots(self, record: CommitRecord) -> None:
        """The levels between two commits were skipped whole: that made nothing to commit."""
        for level in range(self._last_level + 1, record.level + 1):
            for leader in self._schedule.leaders(level):
                self._led[leader] += 1
        for reference in record.leaders:
            self._committed[reference.author] += 1

    def _count_block(self, reference: BlockReference) -> None:
        place = reference.level, reference.author
        if place not in self._blocks:
            self._blocks[place] = reference.digest
            self._presence[reference.author] += 1
        elif self._blocks[place] != reference.digest:
            self._equivocators[reference.author] = None

    def _begin_period(self) -> None:
        members = len(self._committee)
        self._blocks.clear()
        self._presence = [0] * members
        self._led = [0] * members
        self._committed = [0] * members

    def _table(self) -> tuple[int, ...]:
        """The weights of the next period: those of the era, without the worst."""
        table = list(self._full)
        room = self._committee.total - self._committee.quorum
        spare = len(table) - self._schedule.leader_slots
        for member in self._worst_first():
            bond = self._committee.weights[member]
            if spare and bond <= room:
                table[member] = 0
                room -= bond
                spare -= 1
        return tuple(table)

    def _worst_first(self) -> list[int]:
        """Those who should not lead: equivocators, then bad scores from the lowest, in the order of their numbers."""
        scores = self.scores()
        scale = lcm(*(denominator for _, denominator in scores))
        points = [numerator * (scale // denominator) for numerator, denominator in scores]
        best = max(points)
        bad = [
            member
            for member, score in enumerate(points)
            if member not in self._equivocators and GOOD_DENOMINATOR * score < GOOD_NUMERATOR * best
        ]
        return sorted(self._equivocators) + sorted(bad, key=lambda member: (points[member], member))
