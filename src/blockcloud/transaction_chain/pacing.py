"""Pacing: how long a validator waits between its blocks (consensus.md section 1.1, Liveness; DESIGN section 3.5).

While there is something to commit the pace is `pacing_busy_ms` a level, else `pacing_idle_ms`. The leaders of a level
go ahead of the others, because a leader that paces itself is jumped over by a quorum of others, and then everybody
waits for the leader timeout. They are ahead by three busy paces at the most: while there is work that is no wait at
all; while there is none they keep close to the others, for whoever has spoken already cannot carry a payload that
arrives before the next level.

A validator keeps a schedule of its own blocks, one pace apart. A leader's early block counts as if it had come at its
time, so the lead does not add up: over many levels nobody makes more than one block a pace. That bounds the pace of
all as long as every quorum has a member that does not lead. Where the leaders of a level could be a quorum among
themselves (few members, or few heavy ones) they stay a quarter of the pace ahead and no more.
"""

from __future__ import annotations

from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.parameters import Parameters

LEAD_BUSY_PACES = 3


class Pacing:
    """When our next block is due, seen from our own last one."""

    def __init__(self, committee: Committee, parameters: Parameters, now_ms: int) -> None:
        self._parameters = parameters
        heaviest = sorted(committee.weights, reverse=True)[: parameters.leader_slots]
        self._leaders_can_be_quorum = sum(heaviest) >= committee.quorum
        self._last_ms = now_ms
        # When our last block was due: not before it came, unless it came early, as a leader's.
        self._scheduled_ms = now_ms

    def proposed(self, now_ms: int, *, busy: bool) -> None:
        """We made a block."""
        pace_ms = self._pace_ms(busy)
        self._scheduled_ms = min(max(now_ms, self._scheduled_ms + pace_ms), now_ms + pace_ms)
        self._last_ms = now_ms

    def due_ms(self, *, busy: bool, leads: bool) -> int:
        """When our next block may come; `leads`: we are a leader of its level."""
        pace_ms = self._pace_ms(busy)
        # The second term matters when work arrives: the idle schedule then counts no more.
        due_ms = min(self._scheduled_ms + pace_ms, self._last_ms + 2 * pace_ms)
        if not leads:
            return due_ms
        if self._leaders_can_be_quorum:
            return due_ms - pace_ms // 4
        return due_ms - min(pace_ms, LEAD_BUSY_PACES * self._parameters.pacing_busy_ms)

    def _pace_ms(self, busy: bool) -> int:
        return self._parameters.pacing_busy_ms if busy else self._parameters.pacing_idle_ms
