"""The threshold clock: which level may be proposed.

Level r is possible once authors of quorum weight have blocks at level r-1. The clock never moves backwards, and jumps
when a node that was behind learns of higher levels: nobody has to fill in the levels that it missed.
"""

from __future__ import annotations

from blockcloud.transaction_chain.committee import Committee


class ThresholdClock:
    """`level` is the highest level that is possible, `since_ms` when it became so."""

    def __init__(self, committee: Committee, now_ms: int) -> None:
        self._committee = committee
        self.level = 1
        self.since_ms = now_ms
        self._seen: dict[int, set[int]] = {}
        self._weight: dict[int, int] = {}

    def add(self, author: int, level: int, now_ms: int) -> bool:
        """Count a block of the DAG. True if the clock moved."""
        if level < self.level:
            return False
        seen = self._seen.setdefault(level, set())
        if author in seen:
            return False
        seen.add(author)
        self._weight[level] = self._weight.get(level, 0) + self._committee.weights[author]
        if self._weight[level] < self._committee.quorum:
            return False
        self.level = level + 1
        self.since_ms = now_ms
        for passed in [passed for passed in self._seen if passed <= level]:
            del self._seen[passed]
            del self._weight[passed]
        return True
