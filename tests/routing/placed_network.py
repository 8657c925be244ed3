"""Routing nodes that keep their share, era after era, with nodes that join, leave, crash, lie and lose messages.

The cores, tables and placements are those of production; clock, links and membership are the simulation's. A reader
does what `sdk.keepers` does: it asks the holders that its plan names, then everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.hashes import sha256, tagged_hash
from blockcloud.primitives.storage import MemoryStore
from blockcloud.routing.holding import Holding, Limits, placement_key
from blockcloud.routing.messages import Check, Delivery, Held, decode_routing, encode_routing
from blockcloud.routing.placement import Placement
from blockcloud.routing.replication import RoutingCore
from blockcloud.routing.service_file import build_service_file
from blockcloud.routing.store import Entry, RoutingTable
from blockcloud.transaction_chain.era import EraPlan, Seat, placement_salt

START = 1_800_000_000
NOTHING_WHOLE = Limits(0, 0, 0)


def file_number(number: int) -> bytes:
    return build_service_file("thermo.kitchen.acme", f"Version {number}")


class PlacedNode:
    """One node. A liar says that it holds whatever it is asked about, and delivers nothing."""

    def __init__(self, number: int, network: PlacedNetwork) -> None:
        self.number = number
        self.key = tagged_hash("test-node/v1", number.to_bytes(8))
        self.salt = b""
        self.lies = False
        table = RoutingTable(MemoryStore())
        self.holding = Holding(table, self.key, network.limits)
        self.core = RoutingCore(table, network.announced.__contains__, lambda _: network.instance_keys, self.holding)

    def seat(self, beacon: bytes) -> Seat:
        self.salt = self.salt or placement_salt(self.key, beacon)
        return Seat(self.key, self.key, 1, 1, "", "", self.salt)


class PlacedNetwork:
    """Nodes that are linked all to all. `lost_of_hundred` messages do not arrive."""

    def __init__(
        self, seed: int, members: int, replicas: int, limits: Limits = NOTHING_WHOLE, lost_of_hundred: int = 0
    ) -> None:
        self.random = Random(seed)
        self.now = START
        self.limits, self.replicas, self.lost_of_hundred = limits, replicas, lost_of_hundred
        self.announced: set[bytes] = set()
        self.instance_keys: tuple[bytes, ...] = ()
        self.nodes: dict[int, PlacedNode] = {}
        self.faults: list[PeerFault] = []
        self.before: EraPlan | None = None
        self.plan = EraPlan(0, 1, tagged_hash("test-beacon/v1", b"%d" % seed), 1, ())
        self._numbers = 0
        self.begin_era([self.join() for _ in range(members)])

    # Who is there

    def join(self) -> PlacedNode:
        """A node with nothing comes up and is linked to all."""
        node = PlacedNode(self._numbers, self)
        self._numbers += 1
        for other in self.nodes.values():
            other.core.peer_connected(node.number, node.key)
            node.core.peer_connected(other.number, other.key)
        self.nodes[node.number] = node
        if self.plan.seats:
            node.core.place(self.placement(), self.now)
        return node

    def end(self, node: PlacedNode) -> None:
        """A node goes, and all that it held."""
        del self.nodes[node.number]
        for other in self.nodes.values():
            other.core.peer_lost(node.number)

    def members(self) -> list[PlacedNode]:
        keys = {seat.node_key for seat in self.plan.seats}
        return [node for node in self.nodes.values() if node.key in keys]

    def begin_era(self, members: Sequence[PlacedNode]) -> None:
        beacon = sha256(self.plan.beacon)
        plan = EraPlan(self.plan.era + 1, 1, beacon, 1, tuple(node.seat(beacon) for node in members))
        self.before, self.plan = (self.plan if self.plan.seats else None), plan
        for node in self.nodes.values():
            node.core.place(self.placement(), self.now)

    def placement(self) -> Placement:
        return Placement.of(self.plan, self.before, self.replicas)

    # What happens

    def put(self, data: bytes) -> bool:
        """A client gives a file to the nodes that are to hold it; whether an honest one has said that it has it."""
        self.announced.add(sha256(data))
        holders = self.placement().holders(sha256(data))
        took = [node for node in self.nodes.values() if node.key in holders]
        for node in took:
            node.core.put_file(data)
        return any(not node.lies for node in took)

    def second(self) -> None:
        self.now += 1
        for node in self.nodes.values():
            node.core.tick(self.now)
        self.settle()

    def settle(self) -> None:
        """Deliver until nothing is under way."""
        for _ in range(1_000):
            sent = [(node, *item) for node in self.nodes.values() for item in node.core.outgoing()]
            if not sent:
                return
            for source, target, data in sent:
                if self.random.randrange(100) >= self.lost_of_hundred and target in self.nodes:
                    self._deliver(source, self.nodes[target], data)
        raise AssertionError("the exchange does not come to rest")

    def _deliver(self, source: PlacedNode, target: PlacedNode, data: bytes) -> None:
        message = decode_routing(data)
        if source.lies and isinstance(message, Delivery):
            return
        if target.lies and isinstance(message, Check):
            claim = encode_routing(Held(tuple(entry.id for entry in message.entries)))
            source.core.receive(target.number, claim, self.now)
        try:
            target.core.receive(source.number, data, self.now)
        except PeerFault as fault:
            self.faults.append(fault)

    # What readers see

    def find(self, file_hash: bytes) -> bytes | None:
        """What a reader gets: from the holders, else from anybody."""
        by_key = {node.key: node for node in self.nodes.values()}
        holders = [by_key[key] for key in self.placement().holders(file_hash) if key in by_key]
        for node in [*holders, *self.nodes.values()]:
            data = None if node.lies else node.core.table.file(file_hash)
            if data is not None and sha256(data) == file_hash:
                return data
        return None

    def misplaced(self) -> list[tuple[int, str]]:
        """Honest nodes that hold what they are not to hold, or lack what they are to hold."""
        wrong = []
        for node in self.nodes.values():
            held = {placement_key(entry) for entry in node.core.table.page(b"", 100_000)}
            due = {key for key in self.announced if node.key in self.placement().holders(key)}
            if not node.lies and held != due:
                wrong.append((node.number, f"{len(held - due)} too many, {len(due - held)} too few"))
        return wrong


__all__ = ["NOTHING_WHOLE", "START", "Entry", "PlacedNetwork", "PlacedNode", "file_number"]
