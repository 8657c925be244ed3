"""The way from a key's place to the root, in the tree as it is or as it was.

The tree in memory is the newest one. An older one is read through a `Past`: what stood at level 4 (one node for each
first byte of the key hash) where that changed since, and what the leaves below such a node were. Nodes below which
nothing changed are taken as they are; the others are computed again, at a cost in proportion to the changes below the
one level-4 node that the key lives under.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final, NamedTuple

from blockcloud.service_chain.state.proof import Path
from blockcloud.service_chain.state.records import RECORD_BYTES, find, fold, insert, walk
from blockcloud.service_chain.state.specification import DIGITS, HASH_BYTES, ZERO, node_hash
from blockcloud.service_chain.state.tree import INNER, LEAF, NOTHING, Tree

# The level whose nodes are kept for the past: one for each first byte of the key hashes below it.
TOP_LEVEL: Final = 4

# Computed parents that a view of the past keeps between paths.
PARENTS_KEPT: Final = 4_096

# A flag and a hash.
Node = tuple[int, bytes]
# Old leaves (ZERO: absent) by key hash.
Leaves = Mapping[bytes, bytes]


class Place(NamedTuple):
    """A node of a tree or nested tree: its level there, and all digits from the root as one number."""

    tree: Tree
    level: int
    digits: int

    @property
    def index_in_level(self) -> int:
        return self.digits & ((1 << 2 * self.level) - 1)

    @property
    def depth(self) -> int:
        return self.tree.offset + self.level

    def children(self) -> list[Place]:
        return [Place(self.tree, self.level + 1, 4 * self.digits + digit) for digit in range(4)]


class Past:
    """The tree as it was: `tops` are the level-4 nodes that differ now, by first byte; `changed_leaves(byte)` gives the
    leaves below one of them that differ. Without either it is the tree as it is."""

    def __init__(self, tree: Tree, tops: Mapping[int, Node], changed_leaves: Callable[[int], Leaves]) -> None:
        self._tree = tree
        self._tops = tops
        self._leaves = cache(changed_leaves)
        self._sorted = cache(lambda byte: sorted(self._leaves(byte)))
        # Parents already computed, by depth and digits: all paths share the upper ones, and one path asks for each
        # of its own again and again.
        self._parents: dict[tuple[int, int], Node] = {}

    def root(self) -> bytes:
        """The root as it was."""
        return self._node(Place(self._tree, 0, 0))[1]

    def path(self, hashed_key: bytes) -> Path:
        """The path of `hashed_key`: what stood at its place, and the siblings."""
        if len(self._parents) > PARENTS_KEPT:
            self._parents.clear()
        siblings: list[bytes] = []
        place = Place(self._tree, 0, 0)
        flag, _ = self._node(place)
        while flag == INNER:
            bucket = place.tree.bucket(place.index_in_level) if place.level == place.tree.depth else None
            if isinstance(bucket, Tree):
                place = Place(bucket, 0, place.digits)
            elif bucket is not None:
                found, below = walk(self._restored(place, bucket), place.depth, hashed_key)
                return Path(found, siblings + below)
            else:
                taken = hashed_key[place.depth >> 2] >> (6 - 2 * (place.depth & 3)) & 3
                nodes = [(child, *self._node(child)) for child in place.children()]
                siblings += [digest for digit, (_, _, digest) in enumerate(nodes) if digit != taken]
                place, flag, _ = nodes[taken]
        return Path(self._lone_key(place) if flag == LEAF else None, siblings)

    def _node(self, place: Place) -> Node:
        """What stood at a place."""
        tree, depth = place.tree, place.depth
        if depth == TOP_LEVEL and place.digits in self._tops:
            return self._tops[place.digits]
        if not self._tops or (depth >= TOP_LEVEL and not self._changed(place)):
            return tree.node(place.level, place.index_in_level)
        if place.level < tree.depth:
            key = (depth, place.digits)
            if key not in self._parents:
                self._parents[key] = self._parent(place)
            return self._parents[key]
        bucket = tree.bucket(place.index_in_level)
        if isinstance(bucket, Tree):
            return self._node(Place(bucket, 0, place.digits))
        records = self._restored(place, bucket)
        return min(len(records) // RECORD_BYTES, INNER), fold(records, depth)

    def _parent(self, place: Place) -> Node:
        """What stood at a place, by what stood at the four below it."""
        children = [self._node(child) for child in place.children()]
        held = sum([flag for flag, _ in children])
        if held >= INNER:
            return INNER, node_hash(b"".join([digest for _, digest in children]))
        return held, next((digest for flag, digest in children if flag), ZERO)

    def _lone_key(self, place: Place) -> bytes:
        """The key hash of the only leaf that stood below a place."""
        while place.depth < TOP_LEVEL:
            place = next(child for child in place.children() if self._node(child)[0] != NOTHING)
        return self._restored(place, _records_below(place))[:HASH_BYTES]

    def _changed(self, place: Place) -> list[bytes]:
        """The key hashes below a place (at level 4 or deeper) whose leaf was another."""
        shift = 2 * (DIGITS - place.depth)
        hashed_keys = self._sorted(place.digits << shift >> 2 * (DIGITS - TOP_LEVEL))
        low = (place.digits << shift).to_bytes(HASH_BYTES)
        high = ((place.digits << shift) | ((1 << shift) - 1)).to_bytes(HASH_BYTES)
        return hashed_keys[bisect_left(hashed_keys, low) : bisect_left(hashed_keys, high + b"\0")]

    def _restored(self, place: Place, records: bytes) -> bytes:
        """The records now below a place, turned into what they were."""
        for hashed_key in self._changed(place) if self._tops else ():
            at = find(records, hashed_key)
            if at >= 0:
                records = records[:at] + records[at + RECORD_BYTES :]
            old = self._leaves(hashed_key[0])[hashed_key]
            if old != ZERO:
                records = insert(records, hashed_key, old)
        return records


def live_path(tree: Tree, hashed_key: bytes) -> Path:
    """The path of `hashed_key` in the tree as it is."""
    return Past(tree, {}, lambda byte: {}).path(hashed_key)


def _records_below(place: Place) -> bytes:
    """The records now below a place. Empty subtrees are not entered."""
    if place.level == place.tree.depth:
        bucket = place.tree.bucket(place.index_in_level)
        return b"".join(bucket.records()) if isinstance(bucket, Tree) else bucket
    if place.tree.node(place.level, place.index_in_level)[0] == NOTHING:
        return b""
    return b"".join(_records_below(child) for child in place.children())
