"""The routing role of a node: its table, what it keeps of it, the exchange with peers, and where the files are.

A thin shell around `routing.replication.RoutingCore`: it gives the core the clock, the ledger and the placement of each
era, and carries out what files need when their bytes are in another store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import Any, Final

from blockcloud.node.applying import SharedChain
from blockcloud.node.clock import unix_ms
from blockcloud.node.config import NodeConfig
from blockcloud.node.file_storage import FileStorage
from blockcloud.node.object_store import StoreFailed, open_store
from blockcloud.primitives.errors import Busy
from blockcloud.primitives.storage import Store
from blockcloud.routing.holding import Holding
from blockcloud.routing.placement import Placement
from blockcloud.routing.replication import RoutingCore
from blockcloud.routing.store import RoutingTable
from blockcloud.transaction_chain.era import EraPlan

OWNER_CHARACTERS: Final = 16  # of the node key, in hexadecimal: this node's part of a shared store


class RoutingRole:
    """Belongs to the event loop's thread. `send` tells peers what the core has to say, `spawn` lets work go on by
    itself. Making it raises BadConfiguration if the other store cannot be used."""

    def __init__(
        self,
        config: NodeConfig,
        store: Store,
        chain: SharedChain,
        node_key: bytes,
        *,
        send: Callable[[], None],
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self._chain, self._send, self._spawn = chain, send, spawn
        self._replicas = config.routing.replicas
        self.table = RoutingTable(store)
        self.holding = Holding(self.table, node_key, config.routing.limits)
        self.core = RoutingCore(self.table, chain.is_announced, chain.instance_keys, self.holding)
        files = open_store(config.routing, config.home, node_key.hex()[:OWNER_CHARACTERS], os.environ)
        self.table.use_other_store(None if files is None else config.routing.cache_bytes)
        self.storage = None if files is None else FileStorage(self.table, files, lost=self._lost, spawn=spawn)

    def begin_era(self, plan: EraPlan) -> None:
        """The era of `plan` begins, or goes on after a start."""
        before = self._chain.plan_of(plan.era - 1) if plan.era else None
        self.core.place(Placement.of(plan, before, self._replicas), _now_s())

    def each_second(self) -> None:
        """Time has passed."""
        self.core.tick(_now_s())
        self._carry_out()

    async def close(self) -> None:
        """End what is under way with the other store."""
        if self.storage is not None:
            await self.storage.close()

    # Clients

    def put_service_file(self, data: bytes) -> None:
        """Store a service file that the ledger announces, and tell the other routing nodes. Raises typed errors."""
        self.core.put_file(data)
        self._carry_out()

    def put_address_record(self, data: bytes) -> None:
        """Store a signed address record, and tell the other routing nodes. Raises typed errors."""
        self.core.put_record(data, _now_s())
        self._carry_out()

    async def service_file(self, file_hash: bytes) -> bytes | None:
        """The service file of this hash, or None. Raises StoreFailed or Busy."""
        return self.table.file(file_hash) if self.storage is None else await self.storage.read(file_hash)

    def address_records(self, name: str) -> list[bytes]:
        """The records of `name` whose lease runs."""
        return self.table.records(name, _now_s())

    # Peers

    def connected(self, peer: int, node_key: bytes) -> None:
        """A link is up."""
        self.core.peer_connected(peer, node_key)

    def lost(self, peer: int) -> None:
        """A link is gone."""
        self.core.peer_lost(peer)

    def receive(self, peer: int, data: bytes) -> None:
        """A message of a linked peer. Raises a PeerFault that blames it."""
        try:
            self.core.receive(peer, data, _now_s())
        finally:
            self._carry_out()

    def report(self) -> dict[str, Any]:
        """What `blockcloud status` shows of it."""
        return {
            "mode": "full" if self.holding.full else "placed",
            "files": self.table.files,
            "records": self.table.live_records,
            "bytes": self.table.held_bytes,
            "replicas": self._replicas,
            "wanted": self.core.wanted,
            "given_away": self.core.shedding.dropped,
            "store": None if self.storage is None else self.storage.report(),
        }

    def _carry_out(self) -> None:
        """What the core wants done."""
        for peer, file_hash in self.core.loads():
            self._spawn(self._load(peer, file_hash))
        self._send()
        if self.storage is not None:
            self.storage.look()

    async def _load(self, peer: int, file_hash: bytes) -> None:
        """Read a file from the other store for a peer; if that fails, the peer asks others."""
        try:
            data = await self.service_file(file_hash)
        except (StoreFailed, Busy):
            return
        if data is not None:
            self.core.loaded(peer, data)
            self._send()

    def _lost(self, file_hash: bytes) -> None:
        self.core.seek(file_hash, _now_s())
        self._send()


def _now_s() -> int:
    return unix_ms() // 1_000
