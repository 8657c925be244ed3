"""How a node gives away what it holds and placement does not give it: never before others say that they have it.

It goes through its table again and again. For each thing that it is not to keep it asks all of its keepers whether
they hold it (Check); the question tells them that it can be fetched here. When all of them have said so, it is dropped.
While one of them is down it is not, which keeps the number of copies up. DESIGN 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from blockcloud.routing.holding import Holding, placement_key
from blockcloud.routing.messages import PAGE_ENTRIES, Check
from blockcloud.routing.store import Entry, RoutingTable

CHECK_SECONDS: Final = 3  # for one batch


@dataclass(slots=True)
class _Leaving:
    """Something that goes as soon as all of `missing` have said that they hold it."""

    entry: Entry
    missing: dict[bytes, None] = field(default_factory=dict)


class Shedding:
    """The batch that is being asked about. Nodes are named by their node keys."""

    def __init__(self, table: RoutingTable, holding: Holding) -> None:
        self._table, self._holding = table, holding
        self._leaving: dict[bytes, _Leaving] = {}
        self._since_s = 0
        self._cursor = b""
        self.dropped = 0

    def step(self, now_s: int, peers: Mapping[bytes, int]) -> list[tuple[int, Check]]:
        """(peer, question) to send now. `peers`: the linked nodes, key -> number. Once a second is enough."""
        placement = self._holding.placement
        if self._holding.full or placement is None:
            self._leaving, self._cursor = {}, b""
            return []
        if self._leaving and now_s < self._since_s + CHECK_SECONDS:
            return []
        self._leaving, self._since_s = {}, now_s
        asked: dict[int, list[Entry]] = {}
        for entry in self._next_entries():
            keepers = placement.keepers(placement_key(entry))
            self._leaving[entry.id] = _Leaving(entry, dict.fromkeys(keepers))
            for keeper in keepers:
                if keeper in peers:
                    asked.setdefault(peers[keeper], []).append(entry)
        return [(peer, Check(tuple(entries))) for peer, entries in asked.items()]

    def held(self, node: bytes, ids: Sequence[bytes]) -> None:
        """`node` says that it holds these, or newer ones of the same slot."""
        for identifier in ids:
            leaving = self._leaving.get(identifier)
            if leaving is None:
                continue
            leaving.missing.pop(node, None)
            if not leaving.missing:
                del self._leaving[identifier]
                if not self._holding.keeps(leaving.entry):
                    self.dropped += self._table.drop(leaving.entry)

    def _next_entries(self) -> list[Entry]:
        """What of the next part of the table this node is not to keep."""
        entries = self._table.page(self._cursor, min(PAGE_ENTRIES, self._holding.keys_per_step))
        self._cursor = entries[-1].place() if entries else b""
        return [entry for entry in entries if not self._holding.keeps(entry)]
