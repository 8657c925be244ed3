"""Asking for what a quorum vouches for, while this node catches up (`transaction_chain/vouched.py`, ADR 18).

Before a chunk of levels is asked for, so is a range of commit records a little ahead of it, of the same peer: links
keep the order, so the records are here before the blocks. One request is under way at a time. If it is not answered,
or nothing in the range is certified yet, the blocks are verified as ever, and the next chunk's request asks again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blockcloud.primitives.limits import COMMIT_RANGE
from blockcloud.transaction_chain.block import Block, BlockRules
from blockcloud.transaction_chain.messages import COMMITS_ASKED, Commits, FetchCommits
from blockcloud.transaction_chain.vouched import Vouched

# Two chunks of levels may be under way, so commits are vouched for further ahead than that: at least so many.
AHEAD_COMMITS: Final = 4 * COMMIT_RANGE
COMMITS_RETRY_MS: Final = 3_000


@dataclass(frozen=True, slots=True)
class _Asked:
    peer: int
    first: int
    last: int
    due_ms: int


class Vouching:
    """Vouched blocks of the present era, and the one request for more. Belongs to the event loop's thread, but for
    `vouches`. `blocks` counts the blocks that needed less verification."""

    def __init__(self) -> None:
        self._vouched: Vouched | None = None
        self._asked: _Asked | None = None
        self.blocks = 0

    def vouches(self, rules: BlockRules, block: Block) -> bool:
        """Whether a quorum of the era of `rules` has committed this block. From any thread."""
        vouched = self._vouched
        return vouched is not None and vouched.era == rules.era and vouched.vouches(block.reference.digest)

    def ask(self, peer: int, rules: BlockRules, decided: int, now_ms: int) -> FetchCommits | None:
        """What to ask of `peer`, of whom levels are asked for in the era of `rules`; `decided` is the last height
        that is decided here. None: enough is known, or under way."""
        vouched = self._vouched
        if vouched is None or vouched.era != rules.era:
            vouched = self._vouched = Vouched(rules.committee, rules.chain_id, rules.era)
            self._asked = None
        vouched.passed(decided)
        first = max(decided, vouched.reached) + 1
        under_way = self._asked is not None and self._asked.peer == peer and now_ms < self._asked.due_ms
        if under_way or first > decided + AHEAD_COMMITS:
            return None
        last = first + COMMITS_ASKED - 1
        self._asked = _Asked(peer, first, last, now_ms + COMMITS_RETRY_MS)
        return FetchCommits(rules.era, first, last)

    def answered(self, peer: int, answer: Commits) -> None:
        """An answer. One that nobody waits for any more counts nothing. Raises a PeerFault as `Vouched.take`."""
        asked, vouched = self._asked, self._vouched
        if asked is None or vouched is None or asked.peer != peer or answer.era != vouched.era:
            return
        certificate = answer.certificate
        if certificate is None or not answer.raws:
            self._asked = None
            return
        height = certificate.statement.height
        if height > asked.last or height - len(answer.raws) + 1 != asked.first:
            return
        self._asked = None
        vouched.take(answer.raws, certificate)

    def lost(self, peer: int) -> None:
        """The link is gone, and what was under way with it."""
        if self._asked is not None and self._asked.peer == peer:
            self._asked = None

    def passed(self, height: int) -> None:
        """The commits up to `height` have been decided here."""
        if self._vouched is not None:
            self._vouched.passed(height)
