"""What has come from a source: each number counts once, and what is missing is known.

A source numbers its readings 0, 1, 2, ... or from any number on. The last `WINDOW` numbers below the highest are
remembered one by one, as a receiver of IPsec remembers packets (RFC 4303 section 3.4.3): what comes again is a
duplicate, what comes late but for the first time is fresh. A number that leaves the window without having come is
`missing`: it is counted once, and refused as `stale` should it come after all, because nothing could tell it from a
repetition then. A device that forgets its numbers takes a new source name (such as one with the number of its boot).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from msgspec import Struct

WINDOW: Final = 1_024
_ALL: Final = (1 << WINDOW) - 1


class Verdict(Enum):
    """What a number is."""

    FRESH = "fresh"
    DUPLICATE = "duplicate"
    STALE = "stale"


class SourceState(Struct):
    """The numbers of one source. Bit i of `seen` stands for `highest` - i."""

    highest: int = -1
    lowest: int = -1  # first number of the source as far as is known: what is below is no gap
    seen: bytes = b""
    fresh: int = 0
    duplicates: int = 0
    stale: int = 0
    missing: int = 0


class Source:
    """See the module's text."""

    __slots__ = ("_seen", "state")

    def __init__(self, state: SourceState | None = None) -> None:
        self.state = state if state is not None else SourceState()
        self._seen = int.from_bytes(self.state.seen)

    def receive(self, number: int) -> Verdict:
        """Note that `number` has come, and say what it is."""
        state = self.state
        if state.highest < 0:
            state.highest = state.lowest = number
            self._seen = 1
        elif number > state.highest:
            self._advance(number)
        else:
            age = state.highest - number
            if age >= WINDOW:
                state.stale += 1
                return Verdict.STALE
            if self._seen >> age & 1:
                state.duplicates += 1
                return Verdict.DUPLICATE
            self._seen |= 1 << age
            state.lowest = min(state.lowest, number)
        state.fresh += 1
        return Verdict.FRESH

    def _advance(self, number: int) -> None:
        """`number` is the highest from now on; what leaves the window unseen is missing."""
        state = self.state
        step = number - state.highest
        leaves_from = max(state.lowest, state.highest - WINDOW + 1)  # first number that the window still holds
        leaves_to = number - WINDOW  # last one that it does not hold any more
        if leaves_to >= leaves_from:
            kept_below = min(leaves_to, state.highest)
            held = self._seen >> (state.highest - kept_below)
            came = (held & ((1 << (kept_below - leaves_from + 1)) - 1)).bit_count()
            state.missing += leaves_to - leaves_from + 1 - came
        self._seen = (self._seen << step & _ALL) | 1 if step < WINDOW else 1
        state.highest = number

    @property
    def gaps(self) -> int:
        """Numbers that have not come and still may."""
        state = self.state
        if state.highest < 0:
            return 0
        span = min(WINDOW, state.highest - state.lowest + 1)
        return span - (self._seen & ((1 << span) - 1)).bit_count()

    def saved(self) -> SourceState:
        """The state, for keeping."""
        self.state.seen = self._seen.to_bytes((self._seen.bit_length() + 7) // 8)
        return self.state
