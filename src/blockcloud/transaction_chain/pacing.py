"""Pacing: how long a validator waits between its blocks (consensus.md section 1.1, Liveness; DESIGN section 3.5).

While there is something to commit the pace is `pacing_busy_ms` a level, else `pacing_idle_ms`. The leaders of a level
go ahead of the others, because a leader that paces itself is jumped over by a quorum of others, and then everybody
waits for the leader timeout. They are ahead by three busy paces at the most: while there is work that is no wait at
all; while there is none they keep close to the others, for whoever has spoken already cannot carry a payload that
arrives before the next level.

A validator keeps a schedule: its blocks of successive levels are due one pace apart. A leader's early block counts as
if it had come at its time, and a level that others finished without us counts as if we had made our block, so neither
lead adds up: over many levels nobody is ahead of one level a pace. That bounds the pace of all as long as every quorum
has a member that does not lead. Where the leaders of a level could be a quorum among themselves (few members, or few
heavy ones) they stay a quarter of the pace ahead and no more.

Whoever missed the level before, after a restart for one, is ahead by a quarter of the pace too. A quorum that keeps its
pace would otherwise always be one message delay earlier, and go on without it for good once it leads no more.
"""

from __future__ import annotations

from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.parameters import Parameters

LEAD_BUSY_PACES = 3


class Pacing:
    """When our next block is due, seen from our own last one."""

    def __init__(self, committee: Committee, parameters: Parameters, level: int, now_ms: int) -> None:
        self._parameters = parameters
        heaviest = sorted(committee.weights, reverse=True)[: parameters.leader_slots]
        self._leaders_can_be_quorum = sum(heaviest) >= committee.quorum
        # Our last block's level, and when it was due: not before it came, unless it came early, as a leader's.
        self._level = level
        self._scheduled_ms = now_ms

    def proposed(self, level: int, since_ms: int, now_ms: int, *, busy: bool) -> None:
        """We made our block of `level`."""
        self._scheduled_ms = max(now_ms, self._in_time_ms(level, since_ms, self._pace_ms(busy)))
        self._level = level

    def due_ms(self, level: int, since_ms: int, *, busy: bool, leads: bool) -> int:
        """When our block of `level` may come, which is possible since `since_ms`; `leads`: we are a leader of it."""
        pace_ms = self._pace_ms(busy)
        in_time_ms = self._in_time_ms(level, since_ms, pace_ms)
        if leads and not self._leaders_can_be_quorum:
            return in_time_ms - min(pace_ms, LEAD_BUSY_PACES * self._parameters.pacing_busy_ms)
        missed = level > self._level + 1
        return in_time_ms - (pace_ms // 4 if leads or missed else 0)

    def _pace_ms(self, busy: bool) -> int:
        return self._parameters.pacing_busy_ms if busy else self._parameters.pacing_idle_ms

    def _in_time_ms(self, level: int, since_ms: int, pace_ms: int) -> int:
        """When the block of `level` is due for somebody who is neither ahead nor behind."""
        # The second term matters when work arrives, or when we missed many levels: the schedule then counts no more.
        return min(self._scheduled_ms + pace_ms * (level - self._level), since_ms + pace_ms)
