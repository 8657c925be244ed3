"""The leaders of a level: K members drawn without replacement by resource weight (DESIGN section 3.4, phase 3).

The draw depends on nothing but the beacon, the level and the weights, so every node computes the same one. Safety does
not rest on it: a bad draw costs time, never agreement. Tables that swap out members with bad scores replace the
weights from a level on (`use_weights`); the committer simply asks again.
"""

from __future__ import annotations

from blockcloud.primitives import codec
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.transaction_chain.committee import Committee

LEADERS_DOMAIN = "leaders/v1"
CACHED_LEVELS = 1_024


class LeaderSchedule:
    """Draws are kept for the last `CACHED_LEVELS` levels asked for, since the committer asks often."""

    def __init__(self, committee: Committee, leader_slots: int, beacon: bytes) -> None:
        self.leader_slots = min(leader_slots, len(committee))
        self._beacon = beacon
        self._tables: list[tuple[int, tuple[int, ...]]] = [
            (0, tuple(member.resource_weight for member in committee.members))
        ]
        self._drawn: dict[int, tuple[int, ...]] = {}

    def leaders(self, level: int) -> tuple[int, ...]:
        """The members that lead `level`, in slot order."""
        leaders = self._drawn.get(level)
        if leaders is None:
            leaders = self._draw(level)
            if len(self._drawn) >= CACHED_LEVELS:
                del self._drawn[next(iter(self._drawn))]
            self._drawn[level] = leaders
        return leaders

    def use_weights(self, first_level: int, weights: tuple[int, ...]) -> None:
        """Draw from `weights` (one for each member, 0: never) from `first_level` on, which is above all before."""
        assert first_level > self._tables[-1][0], "tables follow one another"
        assert sum(weight > 0 for weight in weights) >= self.leader_slots, "a slot without anyone to lead it"
        self._tables.append((first_level, weights))
        self._drawn.clear()

    def _draw(self, level: int) -> tuple[int, ...]:
        weights = next(weights for first, weights in reversed(self._tables) if first <= level)
        candidates = [member for member, weight in enumerate(weights) if weight > 0]
        leaders = []
        for slot in range(self.leader_slots):
            total = sum(weights[member] for member in candidates)
            # 256 bits against a total below 2^64: the bias of the remainder is below 2^-190.
            point = (
                int.from_bytes(tagged_hash(LEADERS_DOMAIN, codec.encode((self._beacon, level, slot))), "big") % total
            )
            for member in candidates:
                point -= weights[member]
                if point < 0:
                    break
            leaders.append(member)
            candidates.remove(member)
        return tuple(leaders)
