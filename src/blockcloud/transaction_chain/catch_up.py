"""Catching up: a node that is many levels behind fetches ranges of levels from one peer, chunk after chunk.

A block far above our DAG is not worth suspending. Its author *claims* its level, and the blocks up to there are asked
for in chunks of at most `COMMIT_RANGE` levels: the next one as soon as one has been accepted, from another peer if none
comes. They go through the core like any blocks, so nothing is trusted. One author alone may lie about its level; we
believe that we lag, and stop proposing, when authors of more weight than can lie say so.
"""

from __future__ import annotations

from collections.abc import Sequence

from blockcloud.primitives.limits import COMMIT_RANGE
from blockcloud.transaction_chain.block import Block
from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.messages import FetchLevels

# A block this many levels above all we know means that we lag.
LAG_LEVELS = 16
# A chunk may be megabytes of payload to verify, so it has longer than a fetch of single blocks.
CHUNK_RETRY_MS = 3_000


class CatchUp:
    """Which levels to ask of whom. Idle while nobody claims to be ahead."""

    def __init__(self, committee: Committee) -> None:
        self._committee = committee
        self._claims: dict[int, int] = {}
        self._peer: int | None = None
        self._due_ms: int | None = None
        self._asked: FetchLevels | None = None
        self._cursor = 0
        self._reached = 0
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
        """`source` answered a fetch. Only a chunk that starts where we asked moves the cursor."""
        if self._asked is None or source != self._peer or not blocks:
            return
        lowest = min(block.level for block in blocks)
        highest = max(block.level for block in blocks)
        if lowest != self._asked.first or highest > self._asked.last:
            return
        self._reached = highest
        # The answer may stop in the middle of a level, for it has to fit into a frame: ask for that level again, unless
        # the answer was no more than that level; what is still missing of it is then asked for as missing parents.
        self._cursor = highest if highest > lowest else highest + 1

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
            self._begin(highest_level, gc_level)
        elif self._asked is not None and self._cursor > self._asked.first and self._reached <= highest_level:
            self._fruitless = 0
        elif now_ms >= self._due_ms:
            self._try_next(highest_level, gc_level, peers)
        else:
            return None
        return self._ask(peers, now_ms)

    def next_timer(self) -> int | None:
        """When to ask another peer, in ms."""
        return self._due_ms

    def _begin(self, highest_level: int, gc_level: int) -> None:
        self._asked = None
        self._start_level = highest_level
        self._reached = 0
        # Our highest level again: we may lack some authors' blocks of it.
        lowest = highest_level if self._from_level is None else min(highest_level, self._from_level)
        self._from_level = None
        self._cursor = max(gc_level + 1, lowest, 1)

    def _try_next(self, highest_level: int, gc_level: int, peers: Sequence[int]) -> None:
        self._fruitless = 0 if highest_level > self._start_level else self._fruitless + 1
        if self._fruitless > len(peers):
            self._claims.clear()
            self._rest()
            return
        self._begin(highest_level, gc_level)
        later = [peer for peer in peers if self._peer is not None and peer > self._peer]
        self._peer = next(iter(later or peers), None)

    def _ask(self, peers: Sequence[int], now_ms: int) -> tuple[int, FetchLevels] | None:
        if not self._claims:
            return None
        self._due_ms = now_ms + CHUNK_RETRY_MS
        if self._peer not in peers:
            self._peer = peers[0] if peers else None
        if self._peer is None:
            return None
        last = min(self._cursor + COMMIT_RANGE - 1, max(self._claims.values()))
        self._asked = FetchLevels(self._cursor, max(last, self._cursor))
        return self._peer, self._asked

    def _rest(self) -> None:
        self._peer = None
        self._due_ms = None
        self._asked = None
        self._fruitless = 0
