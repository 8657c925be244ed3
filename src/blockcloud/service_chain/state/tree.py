"""The authenticated map in memory: a 4-ary compact sparse Merkle tree in flat arrays, fast in large batches.

The root is the one of `specification.specified_root`; all else here is local and may differ between nodes. The upper
`depth` levels are complete: one array for each level, whose groups are the 129 bytes a node hashes (the tag and four
children), so that hashing a node is one slice. Below stand 4^depth buckets of sorted records. A batch groups its keys
by bucket, rewrites those buckets, and lifts the changed hashes level by level: with numpy's gather and scatter where
many nodes changed, with a plain loop near the root.

Whoever grinds key hashes can fill one bucket on purpose. Above BUCKET_RECORDS a bucket becomes a small tree of its
own on the next eight bits, and so on, so that an update stays logarithmic however the keys were chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import chain, pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from blockcloud.service_chain.state.records import RECORD_BYTES, find, fold, insert
from blockcloud.service_chain.state.specification import DIGITS, HASH_BYTES, ZERO

GROUP_BYTES: Final = 129
# What a node holds; its sum over a group says how to make the parent.
NOTHING: Final = 0
LEAF: Final = 1
INNER: Final = 2

DEPTH_MIN: Final = 4
DEPTH_MAX: Final = 13
NESTED_DEPTH: Final = 4
# A bucket above the first number of records becomes a nested tree, a nested tree at or below the second a bucket.
BUCKET_RECORDS: Final = 32
NESTED_RECORDS_MIN: Final = 16
# Changed nodes of a level from which numpy is faster than a loop.
VECTOR_NODES: Final = 48
# A tree with more than 3/2 keys for each bucket gets deeper.
KEYS_PER_TWO_BUCKETS: Final = 3

# Offset of the only leaf of a group, by its four flags read as one little-endian number.
_LONE_OFFSET: Final = {1 << (8 * child): 1 + HASH_BYTES * child for child in range(4)}

Indices = npt.NDArray[np.int64]


def _lone(group: bytes, flags: int) -> bytes:
    """The only leaf of a group, which stands for its parent too."""
    at = _LONE_OFFSET[flags]
    return group[at : at + HASH_BYTES]


def depth_for(keys: int) -> int:
    """The depth for that many keys: the smallest with 4^depth >= keys / 1.5."""
    depth = DEPTH_MIN
    while depth < DEPTH_MAX and 2 * keys > KEYS_PER_TWO_BUCKETS * 4**depth:
        depth += 1
    return depth


class Tree:
    """The tree over {key hash: leaf}. `depth` and `vector_nodes` change the speed, never the root.

    A nested tree (`offset` > 0) holds keys that share `offset` digits. 1,000,000 keys take about 180 MB.
    """

    __slots__ = (
        "_buckets",
        "_flags",
        "_nodes",
        "_root",
        "_root_flag",
        "_vector_nodes",
        "_views",
        "count",
        "depth",
        "offset",
    )

    def __init__(self, depth: int = DEPTH_MIN, *, offset: int = 0, vector_nodes: int = VECTOR_NODES) -> None:
        self.offset = offset
        self.count = 0
        self._vector_nodes = vector_nodes
        self._load(b"", depth)

    @classmethod
    def of(cls, records: bytes, depth: int | None = None, *, vector_nodes: int = VECTOR_NODES) -> Tree:
        """The tree over sorted records (key hash, leaf; 64 bytes each), built in one pass."""
        tree = cls(vector_nodes=vector_nodes)
        tree._load(records, depth_for(len(records) // RECORD_BYTES) if depth is None else depth)
        return tree

    def root(self) -> bytes:
        """The root, 32 bytes: ZERO for the empty tree, the leaf itself for a single key."""
        return self._root

    def node(self, level: int, index: int) -> tuple[int, bytes]:
        """What stands at a place of level 0 (the root) to `depth`: NOTHING, LEAF or INNER, and the hash."""
        if not level:
            return self._root_flag, self._root
        at = (index >> 2) * GROUP_BYTES + 1 + HASH_BYTES * (index & 3)
        return self._flags[level - 1][index], bytes(self._nodes[level - 1][at : at + HASH_BYTES])

    def bucket(self, index: int) -> bytes | Tree:
        """The records below a place of level `depth`, or the nested tree that holds them."""
        return self._buckets[index]

    def _index(self, hashed_key: bytes) -> int:
        """The bucket of a key."""
        return int.from_bytes(hashed_key) >> 2 * (DIGITS - self.offset - self.depth) & ((1 << 2 * self.depth) - 1)

    def leaf(self, hashed_key: bytes) -> bytes | None:
        """The leaf of a key, or None."""
        bucket = self._buckets[self._index(hashed_key)]
        if isinstance(bucket, Tree):
            return bucket.leaf(hashed_key)
        at = find(bucket, hashed_key)
        return bucket[at + HASH_BYTES : at + RECORD_BYTES] if at >= 0 else None

    def records(self) -> Iterator[bytes]:
        """All records in order, in pieces."""
        for bucket in self._buckets:
            if isinstance(bucket, Tree):
                yield from bucket.records()
            elif bucket:
                yield bucket

    def update(self, changes: Mapping[bytes, bytes | None]) -> bytes:
        """Set (or, with None, remove) leaves by key hash. Returns what it replaced: sorted records (key hash, old leaf
        or ZERO) of the keys that really changed; updating with them undoes it."""
        hashed_keys = sorted(changes)
        if not self.offset and 2 * (self.count + len(changes)) > KEYS_PER_TWO_BUCKETS * 4**self.depth:
            self._grow(changes)
        undo, dirty, pending = self._write(hashed_keys, changes)
        if dirty:
            self._lift(dirty, *self._fold_buckets(dirty, pending))
        return b"".join(undo)

    def _grow(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Rebuild deeper when the batch will leave too many keys for the buckets there are."""
        new = sum(leaf is not None and self.leaf(hashed_key) is None for hashed_key, leaf in changes.items())
        depth = depth_for(self.count + new)
        if depth > self.depth:
            self._load(b"".join(self.records()), depth)

    def _bucket_indices(self, hashed_keys: list[bytes]) -> list[int]:
        if self.offset or len(hashed_keys) < self._vector_nodes:
            return [self._index(hashed_key) for hashed_key in hashed_keys]
        heads = np.frombuffer(b"".join(hashed_keys), dtype=">u4")[:: HASH_BYTES // 4]
        indices: list[int] = (heads >> np.uint32(32 - 2 * self.depth)).tolist()
        return indices

    def _write(
        self, hashed_keys: list[bytes], changes: Mapping[bytes, bytes | None]
    ) -> tuple[list[bytes], list[int], dict[int, dict[bytes, bytes | None]]]:
        """Rewrite the buckets: (undo pieces, changed buckets in order, changes that nested trees have still to do)."""
        buckets, count, last = self._buckets, self.count, -1
        undo: list[bytes] = []
        dirty: list[int] = []
        pending: dict[int, dict[bytes, bytes | None]] = {}
        for hashed_key, index in zip(hashed_keys, self._bucket_indices(hashed_keys), strict=True):
            leaf, bucket = changes[hashed_key], buckets[index]
            if isinstance(bucket, bytes):
                at = bucket.find(hashed_key)
                if at > 0 and at & 63:
                    at = find(bucket, hashed_key)
                if at >= 0:
                    old = bucket[at + 32 : at + 64]
                    if leaf is None:
                        buckets[index] = bucket[:at] + bucket[at + 64 :]
                        count -= 1
                    elif leaf == old:
                        continue
                    elif len(bucket) == 64:
                        buckets[index] = hashed_key + leaf
                    else:
                        buckets[index] = b"%b%b%b" % (bucket[: at + 32], leaf, bucket[at + 64 :])
                elif leaf is None:
                    continue
                else:
                    old = ZERO
                    bucket = insert(bucket, hashed_key, leaf) if bucket else hashed_key + leaf
                    buckets[index] = bucket if len(bucket) <= BUCKET_RECORDS * RECORD_BYTES else self._nested(bucket)
                    count += 1
            else:
                old = bucket.leaf(hashed_key) or ZERO
                if old == (leaf or ZERO):
                    continue
                count += (leaf is not None) - (old != ZERO)
                pending.setdefault(index, {})[hashed_key] = leaf
            undo += (hashed_key, old)
            if index != last:
                dirty.append(index)
                last = index
        self.count = count
        return undo, dirty, pending

    def _nested(self, records: bytes) -> Tree:
        offset = self.offset + self.depth
        tree = Tree(1, offset=offset)
        tree._load(records, min(NESTED_DEPTH, DIGITS - offset))
        return tree

    def _fold_buckets(
        self, dirty: list[int], pending: Mapping[int, Mapping[bytes, bytes | None]]
    ) -> tuple[list[bytes], bytearray]:
        """The hashes and flags of those buckets, nested trees brought up to date first."""
        buckets, depth = self._buckets, self.offset + self.depth
        hashes: list[bytes] = []
        flags = bytearray(len(dirty))
        for position, index in enumerate(dirty):
            bucket = buckets[index]
            if isinstance(bucket, Tree):
                bucket.update(pending.get(index, {}))
                if bucket.count > NESTED_RECORDS_MIN:
                    flags[position] = INNER
                    hashes.append(bucket.root())
                    continue
                bucket = buckets[index] = b"".join(bucket.records())
            size = len(bucket)
            if size > RECORD_BYTES:
                flags[position] = INNER
                hashes.append(fold(bucket, depth))
            elif size:
                flags[position] = LEAF
                hashes.append(bucket[HASH_BYTES:])
            else:
                hashes.append(ZERO)
        return hashes, flags

    def _lift(self, indices: list[int], hashes: list[bytes], flags: bytearray) -> None:
        """Carry the new hashes of the given places of level `depth` up to the root."""
        level = self.depth
        if len(indices) >= self._vector_nodes and not self.offset:
            many = np.array(indices, dtype=np.int64)
            while level and len(many) >= self._vector_nodes:
                level -= 1
                many, hashes, flags = self._lift_many(level, many, hashes, flags)
            indices = many.tolist()
        while level:
            level -= 1
            indices, hashes, flags = self._lift_few(level, indices, hashes, flags)
        self._root, self._root_flag = hashes[0], flags[0]

    def _lift_few(
        self, level: int, indices: list[int], hashes: list[bytes], flags: bytearray
    ) -> tuple[list[int], list[bytes], bytearray]:
        nodes, kinds = self._nodes[level], self._flags[level]
        groups: list[int] = []
        for index, digest, flag in zip(indices, hashes, flags, strict=True):
            group = index >> 2
            at = group * GROUP_BYTES + 1 + HASH_BYTES * (index & 3)
            nodes[at : at + HASH_BYTES] = digest
            kinds[index] = flag
            if not groups or groups[-1] != group:
                groups.append(group)
        parents: list[bytes] = []
        parent_flags = bytearray()
        for group in groups:
            kind = kinds[4 * group : 4 * group + 4]
            at, held = group * GROUP_BYTES, sum(kind)
            if held >= INNER:
                parents.append(sha256(nodes[at : at + GROUP_BYTES]).digest())
            elif held:
                at += 1 + HASH_BYTES * kind.index(LEAF)
                parents.append(bytes(nodes[at : at + HASH_BYTES]))
            else:
                parents.append(ZERO)
            parent_flags.append(min(held, INNER))
        return groups, parents, parent_flags

    def _lift_many(
        self, level: int, indices: Indices, hashes: list[bytes], flags: bytearray
    ) -> tuple[Indices, list[bytes], bytearray]:
        slots, rows, kinds, group_kinds = self._views[level]
        groups = indices >> 2
        slots[groups, indices & 3] = np.frombuffer(b"".join(hashes), dtype="V32")
        kinds[indices] = np.frombuffer(flags, dtype=np.uint8)
        first = np.empty(len(groups), dtype=np.bool_)
        first[0] = True
        np.not_equal(groups[1:], groups[:-1], out=first[1:])
        groups = groups[first]
        kind = group_kinds[groups]
        held = (kind * np.uint32(0x01010101)) >> np.uint32(24)
        gathered: list[bytes] = rows.take(groups).tolist()
        if int(held.min()) >= INNER:
            return groups, [node.digest() for node in map(sha256, gathered)], bytearray([INNER]) * len(groups)
        parents = [
            sha256(row).digest() if count >= INNER else _lone(row, flag) if count else ZERO
            for row, count, flag in zip(gathered, held.tolist(), kind.tolist(), strict=True)
        ]
        return groups, parents, bytearray(np.minimum(held, INNER).astype(np.uint8).tobytes())

    def _load(self, records: bytes, depth: int) -> None:
        """Start anew at `depth` with these sorted records."""
        self.depth, self.count = depth, len(records) // RECORD_BYTES
        self._nodes = [bytearray(b"N" + bytes(GROUP_BYTES - 1)) * 4**level for level in range(depth)]
        self._flags = [bytearray(4 ** (level + 1)) for level in range(depth)]
        self._views = [] if self.offset else [_views(*pair) for pair in zip(self._nodes, self._flags, strict=True)]
        self._root, self._root_flag = ZERO, NOTHING
        self._buckets: list[bytes | Tree] = [b""] * 4**depth
        if not records:
            return
        hashed_keys = [records[at : at + HASH_BYTES] for at in range(0, len(records), RECORD_BYTES)]
        places = self._bucket_indices(hashed_keys)
        starts = [0, *(at for at, (one, next_) in enumerate(pairwise(places), 1) if one != next_)]
        for start, stop in pairwise(chain(starts, (self.count,))):
            bucket = records[start * RECORD_BYTES : stop * RECORD_BYTES]
            self._buckets[places[start]] = bucket if stop - start <= BUCKET_RECORDS else self._nested(bucket)
        dirty = [places[start] for start in starts]
        self._lift(dirty, *self._fold_buckets(dirty, {}))


class _Views(NamedTuple):
    """One level's arrays as numpy sees them: the same memory, so neither side may ever be resized."""

    slots: npt.NDArray[np.void]  # [group, child]: 32 bytes
    rows: npt.NDArray[np.void]  # [group]: the 129 bytes a node hashes
    flags: npt.NDArray[np.uint8]  # [node]
    group_flags: npt.NDArray[np.uint32]  # [group]: its four flags as one number


def _views(nodes: bytearray, flags: bytearray) -> _Views:
    groups = len(nodes) // GROUP_BYTES
    slot = np.dtype((np.void, HASH_BYTES))
    return _Views(
        np.ndarray((groups, 4), slot, nodes, 1, (GROUP_BYTES, HASH_BYTES)),
        np.frombuffer(nodes, np.dtype((np.void, GROUP_BYTES))),
        np.frombuffer(flags, np.uint8),
        np.frombuffer(flags, np.dtype("<u4")),
    )
