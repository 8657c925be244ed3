"""Consensus parameters of a chain: they stand in the genesis file and are the same at every node."""

from __future__ import annotations

from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadConfiguration

WAVE_LENGTH = 3


class Parameters(Struct, frozen=True):
    """Values of `reference/parameters.md`; times in milliseconds, depths in levels, periods in commits."""

    leader_slots: int = 2
    pacing_busy_ms: int = 20
    pacing_idle_ms: int = 300
    leader_timeout_ms: int = 250
    gc_depth_levels: int = 64
    checkpoint_period: int = 10
    alarm_period: int = 200
    era_length: int = 600
    leader_table_period: int = 100

    def check(self, members: int) -> None:
        """Raise BadConfiguration unless the relations between the values hold for a committee of `members`."""
        relations = (
            (1 <= self.leader_slots <= members, "leader slots are between 1 and the committee size"),
            (0 < self.pacing_busy_ms <= self.pacing_idle_ms, "the busy pacing is not above the idle pacing"),
            (self.leader_timeout_ms > self.pacing_busy_ms, "the leader timeout is above the pacing"),
            (self.gc_depth_levels > 2 * WAVE_LENGTH, "the gc depth is above two waves"),
            (self.checkpoint_period >= 1, "a checkpoint comes every commit at the most"),
            (1 <= self.leader_table_period < self.era_length, "the leader table changes within an era"),
            (self.alarm_period > 4 * self.checkpoint_period, "the alarm waits for more than four checkpoints"),
        )
        for holds, reason in relations:
            if not holds:
                raise BadConfiguration(f"consensus parameters: {reason}", members=members)
