"""What one routing node keeps: everything while that is little, beyond its limits what placement gives it.

Each node decides by its own limits, and nobody need know what the others decided: whoever placement names keeps a key
in either mode, and a node with high limits is a full copy for everybody. The mode is kept over a restart, because a
node that holds its share only cannot see how much there is in all. It goes back to everything when its share says that
there is less than half of what its limits allow, so that it does not go to and fro. DESIGN 5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blockcloud.routing.placement import Placement
from blockcloud.routing.store import FILES_MAX, RECORDS_MAX, Entry, RoutingTable

FULL_BYTES: Final = 256 * 1024 * 1024
REMEMBERED_KEYS: Final = 50_000  # whose holders need not be computed again
SCORES_PER_STEP: Final = 20_000  # about 20 ms
KEYS_PER_STEP: Final = 32  # at least


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond one of these a node no longer keeps everything. Bytes are those of files and records."""

    full_files: int = FILES_MAX // 2
    full_records: int = RECORDS_MAX // 2
    full_bytes: int = FULL_BYTES


class Holding:
    """What the node with the node key `own` keeps in `table`. Without a placement: everything."""

    def __init__(self, table: RoutingTable, own: bytes = b"", limits: Limits | None = None) -> None:
        self._table, self._own = table, own
        self.limits = limits or Limits()
        self.placement: Placement | None = None
        self._holders: dict[bytes, tuple[bytes, ...]] = {}

    @property
    def full(self) -> bool:
        """Whether this node keeps everything."""
        return self.placement is None or not self._table.placed

    @property
    def keys_per_step(self) -> int:
        """About how many keys may be looked up at once without holding up everything else."""
        scores = 1 if self.placement is None else self.placement.scores_for_a_key
        return max(KEYS_PER_STEP, SCORES_PER_STEP // max(1, scores))

    def place(self, placement: Placement) -> None:
        """From now on this placement holds."""
        self.placement = placement
        self._holders.clear()

    def holders(self, entry: Entry) -> tuple[bytes, ...]:
        """Who should have it, by node key; with the placement of the era before, for one era."""
        key = placement_key(entry)
        found = self._holders.get(key)
        if found is None:
            if len(self._holders) >= REMEMBERED_KEYS:
                self._holders.clear()
            found = self._holders[key] = self.placement.holders(key) if self.placement else ()
        return found

    def keeps(self, entry: Entry) -> bool:
        """Whether this node is to keep it."""
        return self.full or self._own in self.holders(entry)

    def wants(self, entry: Entry) -> bool:
        """Whether this node is to keep it, and it would be news here."""
        return self._table.wants(entry) and self.keeps(entry)

    def review(self) -> bool:
        """Go over to the other mode where that is due; whether this node keeps everything."""
        if self.placement is None:
            return True
        held = (self._table.files, self._table.live_records, self._table.held_bytes)
        limits = (self.limits.full_files, self.limits.full_records, self.limits.full_bytes)
        if not self._table.placed:
            if any(count > limit for count, limit in zip(held, limits, strict=True)):
                self._table.set_placed(True)
        elif self._own in self.placement.members:
            totals = [self.placement.total(count) for count in held]
            if all(2 * total <= limit for total, limit in zip(totals, limits, strict=True)):
                self._table.set_placed(False)
        return self.full


def placement_key(entry: Entry) -> bytes:
    """What of an entry is placed: the hash of a file, the slot of a record."""
    return entry.slot or entry.id
