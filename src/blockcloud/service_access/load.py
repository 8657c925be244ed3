"""How loaded an instance is: what it tells in its address records, and when a change is worth a new record. Sans-IO.

The load is the larger of two shares, in thousandths: sessions of those that it may have, and lag of the event loop (how
much too late it comes to what is due) of what is taken for full. Lag also rises when the processor is busy with
something else, so it stands for processor time without a name of any system in it.
"""

from __future__ import annotations

from typing import Final

from blockcloud.routing.address_record import LOAD_MAX

LAG_ALPHA: Final = 0.2
LAG_FULL_MS: Final = 100.0
WORTH_TELLING: Final = 100  # thousandths
TELL_INTERVAL_MS: Final = 5_000.0
SAMPLE_MS: Final = 1_000.0
CAPACITY_SESSIONS: Final = 1_024


class LoadMeter:
    """Samples in, load out. `capacity`: the sessions at which the instance is full."""

    def __init__(self, capacity: int = CAPACITY_SESSIONS) -> None:
        if capacity < 1:
            raise ValueError("an instance has room for a session at least")
        self.load = 0
        self._capacity = capacity
        self._lag_ms = 0.0
        self._told = 0
        self._told_ms = float("-inf")

    def sample(self, sessions: int, lag_ms: float) -> int:
        """Take a sample, each SAMPLE_MS; the load."""
        self._lag_ms = (1 - LAG_ALPHA) * self._lag_ms + LAG_ALPHA * max(0.0, lag_ms)
        share = max(sessions / self._capacity, self._lag_ms / LAG_FULL_MS)
        self.load = min(LOAD_MAX, round(share * LOAD_MAX))
        return self.load

    def told(self, now_ms: float) -> None:
        """A record with the present load goes out."""
        self._told, self._told_ms = self.load, now_ms

    def is_worth_telling(self, now_ms: float) -> bool:
        """The load has changed much since it was told, and that was not just now."""
        return abs(self.load - self._told) >= WORTH_TELLING and now_ms - self._told_ms >= TELL_INTERVAL_MS
