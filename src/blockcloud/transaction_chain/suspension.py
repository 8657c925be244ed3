"""Blocks that have to wait: for parents we do not know (`Suspension`), or for the clock (`HeldBack`).

Missing parents are asked of whoever sent the child, then of the other peers in turn. A parent one level below its child
is most often under way, so it is asked for only after a moment; anything older at once. Each author has its share
of the room, so that a liar can only push out its own blocks.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from blockcloud.primitives.limits import (
    CLOCK_AHEAD_MS,
    FETCH_REFERENCES,
    FETCH_RETRY_MS,
    HELD_BACK_BLOCKS,
    SUSPENDED_BLOCKS,
)
from blockcloud.transaction_chain.block import Block, BlockReference
from blockcloud.transaction_chain.messages import FetchBlocks

# How long a parent of the level directly below may be under way before it is asked for.
UNDER_WAY_MS = 50


@dataclass(slots=True)
class _Suspended:
    block: Block
    source: int
    missing: int


@dataclass(slots=True)
class _Wanted:
    """A missing parent. `due_ms` is when to ask (again); None while the block itself is suspended here."""

    source: int
    due_ms: int | None
    asked: int = 0
    children: list[BlockReference] = field(default_factory=list)


class Suspension:
    """Blocks with missing parents, and the requests for those."""

    def __init__(self, members: int) -> None:
        self._share = max(1, SUSPENDED_BLOCKS // members)
        self._used: dict[int, int] = {}
        self._suspended: dict[BlockReference, _Suspended] = {}
        self._wanted: dict[BlockReference, _Wanted] = {}
        self._earliest_ms: int | None = None

    def __len__(self) -> int:
        return len(self._suspended)

    def __contains__(self, reference: object) -> bool:
        return reference in self._suspended

    def is_wanted(self, reference: BlockReference) -> bool:
        """Whether a suspended block has it as parent."""
        return reference in self._wanted

    def suspend(
        self, block: Block, source: int, missing: list[BlockReference], now_ms: int, *, at_once: bool = False
    ) -> bool:
        """Keep `block` until its `missing` parents are accepted. False if its author's share is used up."""
        used = self._used.get(block.author, 0)
        if used >= self._share:
            return False
        self._used[block.author] = used + 1
        self._suspended[block.reference] = _Suspended(block, source, len(missing))
        if block.reference in self._wanted:
            self._wanted[block.reference].due_ms = None
        for parent in missing:
            wanted = self._wanted.get(parent)
            if wanted is None:
                wanted = self._wanted[parent] = _Wanted(source, None)
                if parent not in self._suspended:
                    under_way = parent.level == block.level - 1 and not at_once
                    wanted.due_ms = now_ms + (UNDER_WAY_MS if under_way else 0)
                    self._expect(wanted.due_ms)
            wanted.children.append(block.reference)
        return True

    def accepted(self, reference: BlockReference) -> list[tuple[Block, int]]:
        """The blocks, with their sources, for which `reference` was the last missing parent. They are let go."""
        wanted = self._wanted.pop(reference, None)
        released: list[tuple[Block, int]] = []
        for child in wanted.children if wanted is not None else ():
            entry = self._suspended.get(child)
            if entry is None:
                continue
            entry.missing -= 1
            if entry.missing == 0:
                self._remove(child)
                released.append((entry.block, entry.source))
        return released

    def collect(self, gc_level: int) -> list[tuple[Block, int]]:
        """Parents at or below `gc_level` are missed no more. Returns the blocks that this lets go."""
        released: list[tuple[Block, int]] = []
        for reference in [reference for reference in self._wanted if reference.level <= gc_level]:
            released.extend(self.accepted(reference))
        return [(block, source) for block, source in released if block.level > gc_level]

    def requests(self, peers: Iterable[int], now_ms: int) -> list[tuple[int, FetchBlocks]]:
        """The requests that are due, each to one of `peers` (ascending); an unanswered one goes to the next peer."""
        if self._earliest_ms is None or now_ms < self._earliest_ms:
            return []
        connected = list(peers)
        by_peer: dict[int, list[BlockReference]] = {}
        self._earliest_ms = None
        for reference, wanted in list(self._wanted.items()):
            if wanted.due_ms is None:
                continue
            if wanted.due_ms <= now_ms:
                if not any(child in self._suspended for child in wanted.children):
                    del self._wanted[reference]
                    continue
                wanted.due_ms = now_ms + FETCH_RETRY_MS
                first = [wanted.source] if wanted.source in connected else []
                turn = first + [peer for peer in connected if peer != wanted.source]
                if turn:
                    by_peer.setdefault(turn[wanted.asked % len(turn)], []).append(reference)
                    wanted.asked += 1
            self._expect(wanted.due_ms)
        return [
            (peer, FetchBlocks(tuple(references[start : start + FETCH_REFERENCES])))
            for peer, references in by_peer.items()
            for start in range(0, len(references), FETCH_REFERENCES)
        ]

    def next_timer(self) -> int | None:
        """When `requests` may have something, in ms; perhaps too early, never too late."""
        return self._earliest_ms

    def _expect(self, due_ms: int) -> None:
        self._earliest_ms = due_ms if self._earliest_ms is None else min(self._earliest_ms, due_ms)

    def _remove(self, reference: BlockReference) -> None:
        entry = self._suspended.pop(reference)
        self._used[entry.block.author] -= 1


class HeldBack:
    """Blocks whose timestamp is too far ahead of our clock. They are not wrong, only early."""

    def __init__(self, members: int) -> None:
        self._share = max(1, HELD_BACK_BLOCKS // members)
        self._used: dict[int, int] = {}
        self._heap: list[tuple[int, int, Block, int]] = []
        self._held: dict[BlockReference, None] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def __contains__(self, reference: object) -> bool:
        return reference in self._held

    def hold(self, block: Block, source: int) -> bool:
        """Keep `block` until its time comes. False if its author's share is used up."""
        used = self._used.get(block.author, 0)
        if used >= self._share:
            return False
        self._used[block.author] = used + 1
        self._count += 1
        self._held[block.reference] = None
        heapq.heappush(self._heap, (block.header.timestamp_ms - CLOCK_AHEAD_MS, self._count, block, source))
        return True

    def due(self, now_ms: int) -> list[tuple[Block, int]]:
        """The blocks whose time has come, with their sources, earliest first."""
        released = []
        while self._heap and self._heap[0][0] <= now_ms:
            _, _, block, source = heapq.heappop(self._heap)
            del self._held[block.reference]
            self._used[block.author] -= 1
            released.append((block, source))
        return released

    def next_timer(self) -> int | None:
        """When the first block becomes due, in ms."""
        return self._heap[0][0] if self._heap else None
