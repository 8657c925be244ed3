"""The commit rule of Mysticeti-C (Babel et al., NDSS 2025), as `reference/consensus.md` section 1.1 states it.

Every level r starts a wave of three levels. Its leaders' blocks are proposed at r, voted for at r+1, certified at r+2:

- a block at r+1 *votes* for the block of the slot's author that it has as parent; it *blames* the slot if it has
  none;
- a block at r+2 is a *certificate* for the leader block that a quorum of its parents votes for;
- a slot is *skipped* directly when a quorum of authors blames it, *committed* directly when a quorum of authors
  certifies a block of it;
- any other slot follows the first committed slot of level r+3 or higher, its *anchor*: it is committed if a certificate
  for it is among the anchor's ancestors, else skipped. While a slot before the anchor is undecided, so is this one.

Why it is safe: a quorum of certificates at r+2 meets the quorum of parents of every later block, so every anchor sees
one; a quorum of blames meets every quorum of votes in an honest member, so no certificate can exist; and because a
block has at most one parent for each author, no two blocks of an equivocating leader are ever certified while less
than a third of the weight lies. The same holds with weak links (parents more than one level below), since votes and
certificates count parents of the level directly below only.

The rule is a pure function of (DAG, last decided level): asking again gives the same answer, or a longer one when the
DAG has grown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from blockcloud.primitives.errors import LocalFault
from blockcloud.transaction_chain.block import Block, BlockReference
from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.dag import Dag
from blockcloud.transaction_chain.leaders import LeaderSchedule
from blockcloud.transaction_chain.parameters import WAVE_LENGTH


class FaultThresholdExceeded(LocalFault):
    """Two blocks of one author and level are certified: a third of the weight or more lies. The node must stop."""

    code = "fault_threshold_exceeded"
    hint = "Do not restart this node before the operators have agreed which history holds."


class SlotStatus(Enum):
    """What the rule says about one leader slot."""

    COMMIT = "commit"
    SKIP = "skip"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Decision:
    """The status of one slot; `block` is set when it is committed, `direct` when no anchor was needed."""

    level: int
    slot: int
    author: int
    status: SlotStatus
    block: Block | None = None
    direct: bool = False


class Committer:
    """The commit rule for one committee and schedule."""

    def __init__(self, committee: Committee, schedule: LeaderSchedule) -> None:
        self._committee = committee
        self._schedule = schedule
        # What a block certifies at a slot follows from its ancestors alone, so it never changes: level -> answers.
        self._certificates: dict[int, dict[tuple[BlockReference, int], BlockReference | None]] = {}

    def decide(self, dag: Dag, last_decided_level: int) -> list[Decision]:
        """The slots of the levels after `last_decided_level`, in order, up to the first level not decided whole.

        Raises FaultThresholdExceeded.
        """
        self._forget(last_decided_level)
        known: dict[int, list[Decision]] = {}
        for level in range(dag.highest_level, last_decided_level, -1):
            known[level] = [
                self._decide_slot(dag, level, slot, author, known)
                for slot, author in enumerate(self._schedule.leaders(level))
            ]
        decided: list[Decision] = []
        for level in range(last_decided_level + 1, dag.highest_level + 1):
            if any(decision.status is SlotStatus.UNDECIDED for decision in known[level]):
                break
            decided.extend(known[level])
        return decided

    def _decide_slot(self, dag: Dag, level: int, slot: int, author: int, known: dict[int, list[Decision]]) -> Decision:
        """`known` holds the decisions of all higher levels."""
        if self.blame_weight(dag, level, author) >= self._committee.quorum:
            return Decision(level, slot, author, SlotStatus.SKIP, direct=True)
        certified, weight = self.certified_block(dag, level, author)
        if certified is not None and weight >= self._committee.quorum:
            return Decision(level, slot, author, SlotStatus.COMMIT, dag.get(certified), direct=True)
        anchor = self._anchor(dag, level, known)
        if anchor is None:
            return Decision(level, slot, author, SlotStatus.UNDECIDED)
        if certified is not None and self._sees_certificate(dag, anchor, level, author):
            return Decision(level, slot, author, SlotStatus.COMMIT, dag.get(certified))
        return Decision(level, slot, author, SlotStatus.SKIP)

    def vote(self, dag: Dag, voter: Block, author: int) -> BlockReference | None:
        """The block of `author` at the level before that `voter` votes for; None is a blame."""
        return dag.links(voter.reference).get(author)

    def blame_weight(self, dag: Dag, level: int, author: int) -> int:
        """Weight of the authors with a block at `level + 1` that votes for no block of the slot (level, author)."""
        weights = self._committee.weights
        return sum(
            weights[voter]
            for voter, blocks in dag.authors_at(level + 1).items()
            if any(self.vote(dag, block, author) is None for block in blocks)
        )

    def certificate(self, dag: Dag, block: Block, author: int) -> BlockReference | None:
        """The block of `author` two levels down for which `block` is a certificate, if there is one."""
        answers = self._certificates.setdefault(block.level, {})
        key = (block.reference, author)
        if key not in answers:
            answers[key] = self._count_votes(dag, block, author)
        return answers[key]

    def _count_votes(self, dag: Dag, block: Block, author: int) -> BlockReference | None:
        weights = self._committee.weights
        votes: dict[BlockReference, int] = {}
        for voter, parent in dag.links(block.reference).items():
            supported = dag.links(parent).get(author)
            if supported is not None:
                votes[supported] = votes.get(supported, 0) + weights[voter]
        return next((leader for leader, weight in votes.items() if weight >= self._committee.quorum), None)

    def certified_block(self, dag: Dag, level: int, author: int) -> tuple[BlockReference | None, int]:
        """The certified block of the slot (level, author), with the weight of the authors whose blocks certify it."""
        weights = self._committee.weights
        leader: BlockReference | None = None
        total = 0
        for certifier, blocks in dag.authors_at(level + 2).items():
            counted = False
            for block in blocks:
                certified = self.certificate(dag, block, author)
                if certified is None:
                    continue
                if leader is not None and certified != leader:
                    raise FaultThresholdExceeded(level=level, author=author)
                leader = certified
                counted = True
            total += weights[certifier] if counted else 0
        return leader, total

    def _anchor(self, dag: Dag, level: int, known: dict[int, list[Decision]]) -> Block | None:
        """The block of the first committed slot past the wave of `level`; None while that cannot be told."""
        for higher in range(level + WAVE_LENGTH, dag.highest_level + 1):
            for decision in known[higher]:
                if decision.status is SlotStatus.UNDECIDED:
                    return None
                if decision.status is SlotStatus.COMMIT:
                    return decision.block
        return None

    def _sees_certificate(self, dag: Dag, anchor: Block, level: int, author: int) -> bool:
        """Whether a certificate for the slot (level, author) is among the ancestors of `anchor`."""
        floor = level + 2
        seen = {anchor.reference}
        waiting = [anchor]
        while waiting:
            block = waiting.pop()
            if block.level == floor:
                if self.certificate(dag, block, author) is not None:
                    return True
                continue
            for parent in block.parents:
                if parent.level >= floor and parent not in seen:
                    seen.add(parent)
                    ancestor = dag.get(parent)
                    assert ancestor is not None, "the DAG is causally closed above its collection level"
                    waiting.append(ancestor)
        return False

    def _forget(self, last_decided_level: int) -> None:
        """Drop the kept answers that no slot above `last_decided_level` asks for."""
        for level in [level for level in self._certificates if level <= last_decided_level + 2]:
            del self._certificates[level]
