"""The DAG of blocks: every known block above the collection level, by reference and by (level, author).

It is causally closed: a block is added after all its parents, except those at or below `gc_level`, which nobody needs
any more (DESIGN section 3.2), and the genesis references of level 0, which stand for the era's genesis and have no
block. Everything here keeps insertion order, so that "first seen" is well defined and runs can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping

from blockcloud.transaction_chain.block import Block, BlockReference, genesis_reference
from blockcloud.transaction_chain.committee import Committee

_NOBODY: Mapping[int, list[Block]] = {}


class Dag:
    """Blocks and the links between neighbouring levels."""

    def __init__(self, committee: Committee, genesis: bytes) -> None:
        self.genesis = genesis
        self.genesis_references = tuple(genesis_reference(author, genesis) for author in range(len(committee)))
        self.highest_level = 0
        self.gc_level = 0
        self._blocks: dict[BlockReference, Block] = {}
        self._levels: dict[int, list[Block]] = {}
        self._slots: dict[int, dict[int, list[Block]]] = {}
        self._links: dict[BlockReference, dict[int, BlockReference]] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, reference: object) -> bool:
        if isinstance(reference, BlockReference) and reference.level == 0:
            return reference.digest == self.genesis
        return reference in self._blocks

    def get(self, reference: BlockReference) -> Block | None:
        """The block, or None if it is not known, was collected, or is a genesis reference."""
        return self._blocks.get(reference)

    def add(self, block: Block) -> None:
        """Add `block`, all of whose parents are known. Idempotent; a block at or below `gc_level` is ignored."""
        reference = block.reference
        if reference in self._blocks or block.level <= self.gc_level:
            return
        assert not self.missing_parents(block), "a block enters the DAG after its parents"
        self._blocks[reference] = block
        self._levels.setdefault(block.level, []).append(block)
        self._slots.setdefault(block.level, {}).setdefault(block.author, []).append(block)
        below = block.level - 1
        self._links[reference] = {parent.author: parent for parent in block.parents if parent.level == below}
        self.highest_level = max(self.highest_level, block.level)

    def missing_parents(self, block: Block) -> list[BlockReference]:
        """The parents that are not known although they are above `gc_level`."""
        blocks, gc_level = self._blocks, self.gc_level
        return [parent for parent in block.parents if parent.level > gc_level and parent not in blocks]

    def blocks_at(self, level: int) -> list[Block]:
        """All blocks of `level` in insertion order."""
        return list(self._levels.get(level, ()))

    def authors_at(self, level: int) -> Mapping[int, list[Block]]:
        """Author -> its blocks of `level` (more than one only for an equivocator). Not to be changed."""
        return self._slots.get(level, _NOBODY)

    def slot(self, level: int, author: int) -> list[Block]:
        """The blocks of one author at one level, first seen first. Not to be changed."""
        return self._slots.get(level, _NOBODY).get(author, [])

    def links(self, reference: BlockReference) -> Mapping[int, BlockReference]:
        """Author -> parent one level below, of a block that is in the DAG. This is what a block votes for."""
        return self._links[reference]

    def collect(self, gc_level: int) -> list[Block]:
        """Drop all blocks at or below `gc_level` and return them, lowest level first."""
        dropped: list[Block] = []
        for level in range(self.gc_level + 1, gc_level + 1):
            dropped.extend(self._levels.pop(level, ()))
            self._slots.pop(level, None)
        for block in dropped:
            del self._blocks[block.reference]
            del self._links[block.reference]
        self.gc_level = max(self.gc_level, gc_level)
        return dropped
