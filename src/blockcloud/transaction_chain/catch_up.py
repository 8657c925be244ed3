"""Catching up: a node that is many levels behind fetches ranges of levels from one peer, chunk after chunk.

A block far above our DAG is not worth suspending. Its author *claims* its level, and the blocks up to there are asked
for in chunks of at most `COMMIT_RANGE` levels, from another peer if none comes. Two chunks are under way at a time: one
travels while the other is verified and taken in, for which a single core has nothing to do otherwise. Their answers
come in order. When one stops early, because it has to fit into a frame, the chunk asked for ahead begins too high: from
then on they come one by one, and are large. All go through the core like any blocks, so nothing is trusted. One author
alone may lie about its level; we believe that we lag, and stop proposing, when authors of more weight than can lie say
so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from blockcloud.primitives.limits import COMMIT_RANGE
from blockcloud.transaction_chain.block import Block
from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.messages import FetchLevels

# A block this many levels above all we know means that we lag.
LAG_LEVELS = 16
# A chunk may be megabytes of payload to verify, so it has longer than a fetch of single blocks.
CHUNK_RETRY_MS = 3_000
CHUNKS_UNDER_WAY = 2


@dataclass(slots=True)
class _Chunk:
    """What was asked for; `reached` is the highest level of the answer, 0 while there is none."""

    request: FetchLevels
    reached: int = 0

    @property
    def is_whole(self) -> bool:
        return self.reached == self.request.last


class CatchUp:
    """Which levels to ask of whom. Idle while nobody claims to be ahead."""

    def __init__(self, committee: Committee) -> None:
        self._committee = committee
        self._claims: dict[int, int] = {}
        self._peer: int | None = None
        self._due_ms: int | None = None
        self._under_way: deque[_Chunk] = deque()  # lowest first
        self._one_by_one = False
        self._cursor = 0
        self._start_level = 0
        self._fruitless = 0
        self._from_level: int | None = None

    def claim(self, block: Block, source: int) -> None:
        """`source` sent a block far above our DAG."""
        self._claims[block.author] = max(block.level, self._claims.get(block.author, 0))
        if self._peer is None:
            self._peer = source

    def claim_all(self, source: int, highest_level: int, decided_level: int) -> None:
        """`source` is in a later era: everything above `decided_level` may be missing here."""
        if source not in self._claims:
            self._from_level = decided_level + 1
        self._claims[source] = highest_level + COMMIT_RANGE
        if self._peer is None:
            self._peer = source

    def is_lagging(self, highest_level: int) -> bool:
        """Whether authors of more weight than may lie are ahead of `highest_level`."""
        members = len(self._committee)
        ahead = self._committee.weight_of(
            author for author, level in self._claims.items() if level > highest_level and author < members
        )
        return ahead > self._committee.total - self._committee.quorum

    def answered(self, source: int, blocks: Sequence[Block]) -> None:
        """`source` answered a fetch. Only a chunk that starts where we asked counts."""
        if source != self._peer or not blocks:
            return
        lowest = min(block.level for block in blocks)
        highest = max(block.level for block in blocks)
        for chunk in self._under_way:
            if lowest == chunk.request.first and highest <= chunk.request.last:
                chunk.reached = highest
                return

    def lost(self, peer: int) -> None:
        """The link is gone: ask another one now."""
        if peer == self._peer and self._due_ms is not None:
            self._due_ms = 0

    def request(
        self, highest_level: int, gc_level: int, peers: Sequence[int], now_ms: int
    ) -> tuple[int, FetchLevels] | None:
        """The next chunk to ask for and of whom (`peers` in ascending order), or None: idle or waiting."""
        self._claims = {author: level for author, level in self._claims.items() if level > highest_level}
        if not self._claims:
            self._rest()
            return None
        if self._due_ms is None:
            self._begin(highest_level, gc_level, now_ms)
        elif self._due_ms and self._take_in(highest_level):  # 0: the link is gone, and what was under way with it
            self._fruitless = 0
            self._due_ms = now_ms + CHUNK_RETRY_MS
        elif now_ms >= self._due_ms:
            self._try_next(highest_level, gc_level, peers, now_ms)
        return self._ask(peers, now_ms)

    def next_timer(self) -> int | None:
        """When to ask another peer, in ms."""
        return self._due_ms

    def _take_in(self, highest_level: int) -> bool:
        """Whether the chunk that was asked for first, or more of them, have been accepted."""
        accepted = False
        while self._under_way and 0 < self._under_way[0].reached <= highest_level:
            accepted = True
            chunk = self._under_way.popleft()
            if not chunk.is_whole:
                self._one_by_one = True
                self._under_way.clear()
                self._cursor = _after(chunk.request.first, chunk.reached)
        return accepted

    def _begin(self, highest_level: int, gc_level: int, now_ms: int) -> None:
        self._under_way.clear()
        self._due_ms = now_ms + CHUNK_RETRY_MS
        self._start_level = highest_level
        # Our highest level again: we may lack some authors' blocks of it.
        lowest = highest_level if self._from_level is None else min(highest_level, self._from_level)
        self._from_level = None
        self._cursor = max(gc_level + 1, lowest, 1)

    def _try_next(self, highest_level: int, gc_level: int, peers: Sequence[int], now_ms: int) -> None:
        self._fruitless = 0 if highest_level > self._start_level else self._fruitless + 1
        if self._fruitless > len(peers):
            self._claims.clear()
            self._rest()
            return
        self._begin(highest_level, gc_level, now_ms)
        later = [peer for peer in peers if self._peer is not None and peer > self._peer]
        self._peer = next(iter(later or peers), None)

    def _ask(self, peers: Sequence[int], now_ms: int) -> tuple[int, FetchLevels] | None:
        """The next chunk, if one more may be under way."""
        if not self._claims:
            return None
        highest = max(self._claims.values())
        if self._under_way:
            full = self._one_by_one or len(self._under_way) >= CHUNKS_UNDER_WAY or self._cursor >= highest
            if full or self._peer not in peers:
                return None
        elif self._peer not in peers:
            self._peer = peers[0] if peers else None
        if self._peer is None:
            return None
        asked = FetchLevels(self._cursor, max(min(self._cursor + COMMIT_RANGE - 1, highest), self._cursor))
        if not self._under_way:
            self._due_ms = now_ms + CHUNK_RETRY_MS
        self._under_way.append(_Chunk(asked))
        self._cursor = _after(asked.first, asked.last)
        return self._peer, asked

    def _rest(self) -> None:
        self._peer = None
        self._due_ms = None
        self._under_way.clear()
        self._one_by_one = False
        self._fruitless = 0


def _after(first: int, reached: int) -> int:
    """Where to go on after an answer from `first` to `reached`. It may have stopped in the middle of a level: that one
    again, unless the answer was no more than that level; what is still missing of it is then asked for as missing
    parents."""
    return reached if reached > first else reached + 1
