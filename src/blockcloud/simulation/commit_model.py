"""The commit rule once more, slow and obvious: what the production committer and linearizer are compared with.

Written from the rule's text (`reference/consensus.md` 1.1, DESIGN 3.2), not from the production code: no counters, no
incremental state, no early exits; every set of blocks is recomputed from the whole DAG. A model shows that production
does what the text says; that the text itself is safe is shown by comparing views (`dag_fuzzer`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from blockcloud.transaction_chain.block import Block, BlockReference
from blockcloud.transaction_chain.committee import Committee

COMMIT = "commit"
SKIP = "skip"
UNDECIDED = "undecided"


class Outcome(NamedTuple):
    """What became of one leader slot. `digest` is that of the committed block, else empty."""

    level: int
    slot: int
    author: int
    status: str
    digest: bytes

    def __str__(self) -> str:
        shown = f" {self.digest.hex()[:8]}" if self.digest else ""
        return f"{chr(ord('A') + self.author)}{self.level}/{self.slot} {self.status}{shown}"


class CommitModel:
    """The rule over a fixed set of blocks, closed under parents (down to the genesis)."""

    def __init__(
        self, committee: Committee, leaders: Callable[[int], tuple[int, ...]], blocks: Iterable[Block]
    ) -> None:
        self._committee = committee
        self._leaders = leaders
        self._blocks = {block.reference: block for block in blocks}
        self._highest = max((block.level for block in self._blocks.values()), default=0)

    def decided(self) -> list[Outcome]:
        """The longest decided prefix of all slots, cut to whole levels."""
        prefix: list[Outcome] = []
        outcomes = self._outcomes()
        for level in range(1, self._highest + 1):
            of_level = [outcomes[(level, slot)] for slot in range(len(self._leaders(level)))]
            if any(outcome.status == UNDECIDED for outcome in of_level):
                break
            prefix.extend(of_level)
        return prefix

    def _outcomes(self) -> dict[tuple[int, int], Outcome]:
        outcomes: dict[tuple[int, int], Outcome] = {}
        for level in range(self._highest, 0, -1):
            for slot, author in reversed(list(enumerate(self._leaders(level)))):
                outcome = self._direct(level, slot, author)
                if outcome.status == UNDECIDED:
                    outcome = self._indirect(level, slot, author, outcomes)
                outcomes[(level, slot)] = outcome
        return outcomes

    def _direct(self, level: int, slot: int, author: int) -> Outcome:
        blames = [block.author for block in self._at(level + 1) if not self._parents_at(block, level, author)]
        if self._weight(blames) >= self._committee.quorum:
            return Outcome(level, slot, author, SKIP, b"")
        for leader in self._at(level):
            if leader.author == author:
                certifiers = [block.author for block in self._at(level + 2) if self._certifies(block, leader)]
                if self._weight(certifiers) >= self._committee.quorum:
                    return Outcome(level, slot, author, COMMIT, leader.reference.digest)
        return Outcome(level, slot, author, UNDECIDED, b"")

    def _indirect(self, level: int, slot: int, author: int, outcomes: dict[tuple[int, int], Outcome]) -> Outcome:
        for anchor_level in range(level + 3, self._highest + 1):
            for anchor_slot in range(len(self._leaders(anchor_level))):
                anchor = outcomes[(anchor_level, anchor_slot)]
                if anchor.status == UNDECIDED:
                    return Outcome(level, slot, author, UNDECIDED, b"")
                if anchor.status == COMMIT:
                    reference = BlockReference(anchor.level, anchor.author, anchor.digest)
                    return self._through(level, slot, author, self.ancestry(reference))
        return Outcome(level, slot, author, UNDECIDED, b"")

    def _through(self, level: int, slot: int, author: int, reached: dict[BlockReference, Block]) -> Outcome:
        for leader in self._at(level):
            if leader.author == author:
                deciders = [block for block in reached.values() if block.level == level + 2]
                if any(self._certifies(block, leader) for block in deciders):
                    return Outcome(level, slot, author, COMMIT, leader.reference.digest)
        return Outcome(level, slot, author, SKIP, b"")

    def _certifies(self, block: Block, leader: Block) -> bool:
        votes = [
            parent.author
            for parent in block.parents
            if parent.level == leader.level + 1 and leader.reference in self._blocks[parent].parents
        ]
        return self._weight(votes) >= self._committee.quorum

    def ancestry(self, reference: BlockReference) -> dict[BlockReference, Block]:
        """The block of `reference` and all that it reaches."""
        reached: dict[BlockReference, Block] = {}
        waiting = [reference]
        while waiting:
            block = self._blocks.get(waiting.pop())
            if block is not None and block.reference not in reached:
                reached[block.reference] = block
                waiting.extend(block.parents)
        return reached

    def _at(self, level: int) -> list[Block]:
        return [block for block in self._blocks.values() if block.level == level]

    def _parents_at(self, block: Block, level: int, author: int) -> list[BlockReference]:
        return [parent for parent in block.parents if parent.level == level and parent.author == author]

    def _weight(self, authors: list[int]) -> int:
        return self._committee.weight_of(sorted(set(authors)))

    def commits(self, gc_depth: int) -> list[tuple[int, list[BlockReference], frozenset[BlockReference]]]:
        """For each level with a committed leader: (level, its leaders in slot order, the blocks it newly outputs).

        A commit reaches down to, and not including, the gc level that the commit before it gave.
        """
        output: list[tuple[int, list[BlockReference], frozenset[BlockReference]]] = []
        done: set[BlockReference] = set()
        gc_level = 0
        decided = self.decided()
        for level in sorted({outcome.level for outcome in decided if outcome.status == COMMIT}):
            leaders = [
                BlockReference(outcome.level, outcome.author, outcome.digest)
                for outcome in decided
                if outcome.level == level and outcome.status == COMMIT
            ]
            reached = {reference for leader in leaders for reference in self.ancestry(leader)}
            new = frozenset(reference for reference in reached if reference not in done and reference.level > gc_level)
            output.append((level, leaders, new))
            done |= new
            gc_level = max(0, level - gc_depth)
        return output
