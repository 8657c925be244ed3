"""A member's clock: off by some, drifting, and put right by a time service when everything heals. Never backwards."""

from __future__ import annotations

from blockcloud.simulation.faults import HEALED_SKEW_MS, SKEW_MS

EPOCH_MS = 1_000_000_000_000


class SimulatedClock:
    """`read` gives Unix milliseconds at a virtual time; `virtual` is about when it will show them."""

    def __init__(self, skew_ms: int = 0, drift_ms_per_s: int = 0) -> None:
        self._skew_ms = skew_ms
        self._drift_ms_per_s = drift_ms_per_s
        self._heal_ms: int | None = None
        self._healed_from_ms = 0

    def read(self, now_ms: int) -> int:
        """What the clock shows at virtual time `now_ms`."""
        return EPOCH_MS + now_ms + self.offset_ms(now_ms)

    def virtual(self, clock_ms: int, now_ms: int) -> int:
        """The virtual time at which the clock shows `clock_ms` if its offset stays as it is at `now_ms`."""
        return clock_ms - EPOCH_MS - self.offset_ms(now_ms)

    def heal(self, now_ms: int) -> None:
        """From here on the clock runs at half or one and a half times its speed until it is nearly right."""
        self._healed_from_ms = self.offset_ms(now_ms)
        self._heal_ms = now_ms

    def offset_ms(self, now_ms: int) -> int:
        """How far ahead of virtual time the clock is."""
        if self._heal_ms is None:
            drifted = self._skew_ms + self._drift_ms_per_s * now_ms // 1_000
            return max(-SKEW_MS, min(SKEW_MS, drifted))
        start, mended = self._healed_from_ms, (now_ms - self._heal_ms) // 2
        if start > HEALED_SKEW_MS:
            return max(HEALED_SKEW_MS, start - mended)
        return min(-HEALED_SKEW_MS, start + mended) if start < -HEALED_SKEW_MS else start
