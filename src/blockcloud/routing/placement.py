"""Who keeps what once there is too much for everybody: rendezvous hashing over the routing nodes of an era.

The routing nodes are the seats of the era's plan (DESIGN 3.3): bonded, named by the ledger, and certified, so that a
light client knows them as well as a node does. Each has a salt for life (`transaction_chain.era.placement_salt`), and
score(node, key) = H(salt, key). A key is kept by the `replicas` nodes that score highest for it. From that follows

- balance: each node keeps about replicas/n of all keys;
- minimal movement: a node that joins takes about 1/n of the keys' places and nothing else moves; one that leaves gives
  its places, and only those, to the next in the ranking;
- no place can be bought: the salt comes out of a beacon that nobody knows when the node's key is written down, and it
  does not change when the key of somebody's file becomes known later.

For the era after a change both the old and the new nodes keep a key, so that the new ones can fetch it from the old.

What is placed: a service file by its hash, an address record by its slot (`store.slot_of`). `replicas` is the same at
all nodes of a network; where somebody has another value, he asks in vain before he asks the rest. With up to f nodes
that lie or are silent, a key is certain to be found if replicas > f, or if an honest node keeps everything. DESIGN 5.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from blockcloud.primitives.hashes import tagged
from blockcloud.transaction_chain.era import EraPlan, Seat

REPLICAS: Final = 3
REPLICAS_MAX: Final = 16
_SCORE: Final = tagged("placement-score/v1", b"")


def score(salt: bytes, key: bytes) -> bytes:
    """How well the node with this salt stands for `key`, 32 bytes; the highest keeps it."""
    return sha256(_SCORE + salt + key).digest()


class Placement:
    """Who keeps what in the era of one plan, after that of another. Nodes are named by their node keys."""

    def __init__(self, members: Sequence[Seat], before: Sequence[Seat] = (), replicas: int = REPLICAS) -> None:
        if not 1 <= replicas <= REPLICAS_MAX:
            raise ValueError(f"1 to {REPLICAS_MAX} replicas, not {replicas}")
        self.replicas = replicas
        self.members = tuple(seat.node_key for seat in members)
        self._present = _salts(members)
        self._past = _salts(before)
        # An era with the members of the one before has one ranking.
        self._moves = dict(self._present) != dict(self._past) and bool(self._past)

    @classmethod
    def of(cls, plan: EraPlan, before: EraPlan | None, replicas: int = REPLICAS) -> Placement:
        """The placement in the era of `plan`; `before` is the plan of the era before, None in the first."""
        return cls(plan.seats, () if before is None else before.seats, replicas)

    @property
    def scores_for_a_key(self) -> int:
        """How many scores one question costs."""
        return len(self._present) + (len(self._past) if self._moves else 0)

    def keepers(self, key: bytes) -> tuple[bytes, ...]:
        """The nodes of this era that keep `key`, best first: where it is to be from now on."""
        return self._ranked(self._present, key)[: self.replicas]

    def holders(self, key: bytes) -> tuple[bytes, ...]:
        """Who should have `key` in this era: its keepers, then those of the era before."""
        present = self.keepers(key)
        if not self._moves:
            return present
        past = self._ranked(self._past, key)[: self.replicas]
        return present + tuple(node for node in past if node not in present)

    def ranking(self, key: bytes) -> tuple[bytes, ...]:
        """All nodes of this era, in the order in which they would keep `key`."""
        return self._ranked(self._present, key)

    def share(self, keys: int) -> int:
        """How many of `keys` keys one node keeps, at the mean."""
        nodes = max(1, len(self.members))
        return keys * min(self.replicas, nodes) // nodes

    def total(self, kept: int) -> int:
        """How many keys there are if one node keeps `kept` of them: the inverse of `share`, an estimate."""
        nodes = max(1, len(self.members))
        return kept * nodes // min(self.replicas, nodes)

    @staticmethod
    def _ranked(salts: Iterable[tuple[bytes, bytes]], key: bytes) -> tuple[bytes, ...]:
        return tuple(node for _, node in sorted(((score(salt, key), node) for node, salt in salts), reverse=True))


def _salts(seats: Sequence[Seat]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((seat.node_key, seat.placement_salt) for seat in seats)
