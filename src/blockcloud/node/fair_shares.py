"""Fair shares of a bounded capacity: who holds much leaves room for others, who holds little always finds some.

Nobody's demand has to be known. A holder is *light* below `LIGHT` units, and *heavy* as long as it was not light a
moment ago. The heavy ones share the capacity equally, so a holder alone may have all of it. Light ones always fit:
whoever uses this keeps a reserve for them, so that a modest sender is served while greedy ones are told to come back.
An approximation of max-min fairness (Bertsekas and Gallager, Data Networks, section 6.5.2) whose cost does not depend
on the number of holders.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

LIGHT: Final = 32  # units
# What a commit brings is given back at once; who comes again right after it has not become modest.
HEAVY_S: Final = 1.0


class FairShares:
    """Units held, by holder. One who holds nothing is not remembered."""

    def __init__(self) -> None:
        self._held: dict[Hashable, int] = {}
        self._heavy: dict[Hashable, float] = {}  # when it was last seen to be heavy, in this order

    def is_light(self, holder: Hashable) -> bool:
        """Whether `holder` has little."""
        return self._held.get(holder, 0) < LIGHT

    def fits(self, holder: Hashable, capacity: int) -> bool:
        """Whether one more is within `holder`'s share of `capacity`."""
        held = self._held.get(holder, 0)
        return held < LIGHT or held < capacity // max(1, len(self._heavy))

    def take(self, holder: Hashable, now_s: float) -> None:
        """One more for `holder`; `now_s` is a monotonic clock."""
        held = self._held[holder] = self._held.get(holder, 0) + 1
        if held >= LIGHT:
            self._heavy.pop(holder, None)
            self._heavy[holder] = now_s

    def give_back(self, holder: Hashable) -> None:
        """One less, which `holder` had taken."""
        held = self._held[holder] - 1
        if held:
            self._held[holder] = held
        else:
            del self._held[holder]

    def look(self, now_s: float) -> None:
        """Forget who was heavy and has been light for a while."""
        while self._heavy:
            holder, since_s = next(iter(self._heavy.items()))
            if now_s - since_s < HEAVY_S:
                return
            del self._heavy[holder]
            if not self.is_light(holder):
                self._heavy[holder] = now_s
