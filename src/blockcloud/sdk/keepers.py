"""Which nodes to ask first for a service file or an address record, and where to take one.

The routing nodes, their salts and their URLs come from the era plans that the light client has verified: each is signed
by a quorum of the era before, so nobody can name himself the keeper of a key. A client that is an era behind, or that
assumes another number of replicas, only asks in vain first: after those that placement names it asks all others, among
them whoever keeps everything. What they answer is verified in any case. DESIGN 5.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from blockcloud.routing.placement import Placement
from blockcloud.sdk.light_client import LightClient

# To no more nodes than these something is sent wherever placement puts it: it is found at once at each.
EVERYWHERE_NODES: Final = 8


class Keepers:
    """The nodes of the newest era that `light_client` knows."""

    def __init__(self, light_client: LightClient) -> None:
        self._light = light_client
        self._era = -1
        self._placement: Placement | None = None
        self._urls: dict[bytes, str] = {}

    def order(self, known: Sequence[str], keys: Iterable[bytes]) -> list[str]:
        """Everybody to ask for `keys`: of the URLs that are `known` those of their holders, then the others, then the
        holders that are not among them (a client need not be able to reach all that the ledger names)."""
        holders = self._holders(keys)
        near = [url for url in holders if url in known]
        return [*near, *(url for url in known if url not in near), *(url for url in holders if url not in known)]

    def spread(self, keys: Iterable[bytes], copies: int) -> int:
        """How many nodes must be asked to hear of so many copies of each of `keys`, if the holders hold them."""
        return len(self._holders(keys, copies))

    def takers(self, known: Sequence[str], key: bytes) -> list[str]:
        """Where to put something first: its holders; everybody if those are few, or none of them is known."""
        if len(known) <= EVERYWHERE_NODES:
            return list(known)
        holders = self._holders([key])
        return [url for url in known if url in holders] or list(known)

    def _holders(self, keys: Iterable[bytes], copies: int | None = None) -> list[str]:
        """The URLs of those who should have any of `keys`, the best of each key first; at most so many of each."""
        if self._light.era != self._era:
            self._look()
        if self._placement is None:
            return []
        ranked = [self._placement.holders(key) for key in keys]
        found: dict[str, None] = {}
        for rank in range(max(map(len, ranked), default=0))[:copies]:
            for holders in ranked:
                if rank < len(holders) and (url := self._urls.get(holders[rank])):
                    found[url] = None
        return list(found)

    def _look(self) -> None:
        """Take over the newest plan, and the one before."""
        self._era = self._light.era
        plan, before = self._light.plan(self._era), self._light.plan(self._era - 1)
        if plan is None:
            return
        seats = [*(before.seats if before is not None else ()), *plan.seats]
        self._placement = Placement.of(plan, before)
        urls = {seat.node_key: seat.api_url.rstrip("/") for seat in seats}
        self._urls = {node: url for node, url in urls.items() if url.startswith(("http://", "https://"))}
