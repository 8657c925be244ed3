"""The state of the ledger: an authenticated map with history, kept in a store and proved from memory.

Every commit writes its changes (`apply`): the latest value of each changed key, one history row for it, and the list of
changed keys. Every checkpoint (`checkpoint`) brings the tree up to date with what changed since the one before, gives
the root that validators sign, and writes one undo record: the leaves and level-4 nodes it replaced. A proof at an older
checkpoint reads the tree through the undo records since; the last RETAINED_CHECKPOINTS can be proved. Nothing of the
tree itself is stored: it is built again from the latest values at start. An idle network writes 40 bytes a checkpoint.

All rows go into the caller's batch, so that a commit of the ledger stays one atomic write. THE MEMORY IS AHEAD OF THE
STORE UNTIL THAT BATCH IS WRITTEN: when the write fails, the process must stop and start again from the store. A batch
must be written before the second `apply` after it, and before anything but `get` is asked about its height.

Tables (heights are 8 bytes, big-endian; kh is the key's hash):

    latest    kh                        height of the last change, key length (2 bytes), key, value
    history   kh, inverted height       the value from that height on; empty: deleted
    changes   height                    msgpack list of the changed keys, sorted
    undo      height                    see `undo.py`
              nine bytes of 255         height of the snapshot that this state began with, if it did
    roots     height                    root

Rule: DESIGN sections 3.4 and 4; `reference/state.md` sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import msgspec

from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.limits import STATE_KEY_BYTES, STATE_VALUE_BYTES
from blockcloud.primitives.storage import Batch, Store
from blockcloud.service_chain.state.cache import Recent
from blockcloud.service_chain.state.errors import HeightOrder, InvalidChange, NotACheckpoint, Pruned, StateCorrupt
from blockcloud.service_chain.state.paths import Past, live_path
from blockcloud.service_chain.state.proof import encode_proof
from blockcloud.service_chain.state.specification import ZERO, key_hash, value_hash
from blockcloud.service_chain.state.tables import CHANGES, HISTORY, LATEST, ROOTS, UNDO
from blockcloud.service_chain.state.tree import Tree
from blockcloud.service_chain.state.undo import UndoRecords, encode_undo, tops_of

# How many checkpoints back proofs can be made.
RETAINED_CHECKPOINTS: Final = 64
# Keys whose value is kept in memory, and keys whose hash is, twice over at most. A hash is made again in a microsecond.
CACHED_KEYS: Final = 98_304
CACHED_HASHES: Final = 32_768
# Older checkpoints whose view is kept until the next one: clients ask for the newest certified ones again and again.
CACHED_PASTS: Final = 4

_HEIGHT_BYTES: Final = 8
_HEIGHT_MAX: Final = 2 ** (8 * _HEIGHT_BYTES) - 1
_ROW_HEAD_BYTES: Final = _HEIGHT_BYTES + 2
# The row of `undo`, behind those of all heights, that says where the history begins; missing: at height 0.
OLDEST_KEY: Final = b"\xff" * (_HEIGHT_BYTES + 1)
_encode = msgspec.msgpack.Encoder().encode
# The keys in a row of `changes`.
decode_changes = msgspec.msgpack.Decoder(list[bytes]).decode


def changes_digest(height: int, changes: Mapping[bytes, bytes | None]) -> bytes:
    """What a commit changed, in 32 bytes: SHA-256 over the height and the canonical msgpack of the sorted pairs."""
    return _digest(height, sorted(changes.items()))


def _digest(height: int, items: list[tuple[bytes, bytes | None]]) -> bytes:
    return tagged_hash("state-changes", height_bytes(height) + _encode(items))


def height_bytes(height: int) -> bytes:
    """A height as it stands in the keys of rows."""
    return height.to_bytes(_HEIGHT_BYTES)


def _inverted(height: int) -> bytes:
    return (_HEIGHT_MAX - height).to_bytes(_HEIGHT_BYTES)


def history_key(hashed_key: bytes, height: int) -> bytes:
    """Where `history` has the value that a key got at `height`."""
    return hashed_key + _inverted(height)


def latest_row(height: int, key: bytes, value: bytes) -> bytes:
    """The row of `latest` for a key that got its value at `height`."""
    return height_bytes(height) + len(key).to_bytes(2) + key + value


def latest_entry(row: bytes) -> tuple[int, bytes, bytes]:
    """The height, key and value in a row of `latest`."""
    middle = _ROW_HEAD_BYTES + (row[8] << 8 | row[9])
    return int.from_bytes(row[:_HEIGHT_BYTES]), row[_ROW_HEAD_BYTES:middle], row[middle:]


def value_at(store: Store, hashed_key: bytes, height: int) -> bytes | None:
    """The value that a key had after the commit at `height`, or None, as far back as `store` knows."""
    if height < 0:
        return None
    start, stop = hashed_key + _inverted(height), hashed_key + _inverted(0) + b"\0"
    for _, value in store.scan(HISTORY, start, stop, limit=1):
        return value or None
    return None


class VersionedState:
    """The state over `store`. Heights grow; values are never empty (None deletes). Opening rebuilds the tree as of the
    last checkpoint (a few seconds for 1,000,000 keys) and raises StateCorrupt if it does not have the stored root."""

    def __init__(
        self, store: Store, *, retained_checkpoints: int = RETAINED_CHECKPOINTS, cached_keys: int = CACHED_KEYS
    ) -> None:
        self._store = store
        self._retained_checkpoints = max(1, retained_checkpoints)
        self._values = Recent(self._stored_value, cached_keys)
        self._hashed_keys = Recent(key_hash, min(cached_keys, CACHED_HASHES))
        # Checkpoints that can be proved, oldest first: height -> root. The last is the one the tree stands at.
        self._roots: dict[int, bytes] = {}
        # What changed since the last checkpoint, by key hash.
        self._dirty: dict[bytes, bytes | None] = {}
        # Views of older checkpoints, by height; good until the tree changes.
        self._pasts: dict[int, Past] = {}
        self._height = -1
        # The height from which on values are known: 0, or that of the snapshot that this state began with.
        self.oldest = int.from_bytes(store.get(UNDO, OLDEST_KEY) or b"")
        self._tree = self._recovered()

    @property
    def height(self) -> int:
        """The last height that changed something or was a checkpoint; -1 before the first."""
        return max(self._height, self.checkpoint_height)

    @property
    def checkpoint_height(self) -> int:
        """The newest checkpoint; -1 before the first."""
        return next(reversed(self._roots), -1)

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The checkpoints at which proofs can be made, ascending."""
        return tuple(self._roots)

    @property
    def keys_at_checkpoint(self) -> int:
        """How many keys the state had at the newest checkpoint."""
        return self._tree.count

    def get(self, key: bytes) -> bytes | None:
        """The latest value of `key`, or None."""
        return self._values.get(key)

    def get_at(self, key: bytes, height: int) -> bytes | None:
        """The value `key` had after the commit at `height`, or None. Raises Pruned below `oldest`."""
        if 0 <= height < self.oldest:
            raise Pruned(height=height, oldest=self.oldest)
        return value_at(self._store, key_hash(key), height)

    def changes_at(self, height: int) -> list[bytes]:
        """The keys that the commit at `height` changed, sorted. Raises Pruned up to where a snapshot was imported."""
        if self.oldest and 0 <= height <= self.oldest:
            raise Pruned(height=height, oldest=self.oldest + 1)
        row = self._store.get(CHANGES, height_bytes(height))
        return [] if row is None else decode_changes(row)

    def root_at(self, height: int) -> bytes:
        """The root of the checkpoint at `height`. Raises NotACheckpoint, or Pruned below `oldest`."""
        if 0 <= height < self.oldest:
            raise Pruned(height=height, oldest=self.oldest)
        root = self._roots.get(height) or self._store.get(ROOTS, height_bytes(height))
        if root is None:
            raise NotACheckpoint(height=height, newest=self.checkpoint_height)
        return root

    def apply(self, height: int, changes: Mapping[bytes, bytes | None], batch: Batch) -> bytes:
        """One commit: add its rows to `batch` and return the digest of its changes. No change, no rows.

        Raises InvalidChange (nothing has happened then) and HeightOrder.
        """
        if height <= self.height:
            raise HeightOrder(height=height, last=self.height)
        items = sorted(changes.items())
        if not items:
            return _digest(height, items)
        _check(items)
        self._values.turn()
        self._hashed_keys.turn()
        self._values.update(changes)
        known, hash_of = self._hashed_keys.young.get, self._hashed_keys.get
        hashed_keys = [known(key) or hash_of(key) for key, _ in items]
        version, inverted = height_bytes(height), _inverted(height)
        heads = {length: version + length.to_bytes(2) for length in dict.fromkeys([len(key) for key, _ in items])}
        batch.writes += [
            (LATEST, hashed_key, None if value is None else heads[len(key)] + key + value)
            for hashed_key, (key, value) in zip(hashed_keys, items, strict=True)
        ]
        batch.writes += [
            (HISTORY, hashed_key + inverted, value or b"")
            for hashed_key, (_, value) in zip(hashed_keys, items, strict=True)
        ]
        batch.put(CHANGES, version, _encode([key for key, _ in items]))
        self._dirty.update(zip(hashed_keys, [value for _, value in items], strict=True))
        self._height = height
        return _digest(height, items)

    def checkpoint(self, height: int, batch: Batch) -> bytes:
        """The root after the commit at `height`: the tree takes in all changes since the last checkpoint, and what a
        proof at older checkpoints needs goes into `batch`. Raises HeightOrder."""
        if height < self._height or height <= self.checkpoint_height:
            raise HeightOrder(height=height, last=self._height, last_checkpoint=self.checkpoint_height)
        tops = tops_of(self._tree, self._dirty)
        replaced = self._tree.update(_leaves(self._dirty))
        self._dirty, self._pasts = {}, {}
        if replaced and self._roots:
            batch.put(UNDO, height_bytes(height), encode_undo(tops, replaced))
        self._roots[height] = root = self._tree.root()
        batch.put(ROOTS, height_bytes(height), root)
        if len(self._roots) > self._retained_checkpoints:
            del self._roots[next(iter(self._roots))]
            # Nothing older than this one can be proved, so what it replaced is of no more use.
            batch.delete(UNDO, height_bytes(next(iter(self._roots))))
        return root

    def prove(self, key: bytes, height: int) -> bytes:
        """The proof that `key` has the value it has, or none, under the root at `height` (see `proof.verify`).

        A fraction of a millisecond; at an older checkpoint some milliseconds for the first one.
        Raises NotACheckpoint, Pruned.
        """
        if height not in self._roots:
            self.root_at(height)
            raise Pruned(height=height, oldest=next(iter(self._roots)))
        hashed_key = key_hash(key)
        if height == self.checkpoint_height:
            path = live_path(self._tree, hashed_key)
        else:
            path = self._past(height).path(hashed_key)
        if path.hashed_key is None:
            return encode_proof(hashed_key, path, b"")
        value = value_at(self._store, path.hashed_key, height)
        if value is None:
            raise StateCorrupt("a leaf has no value", height=height, key_hash=path.hashed_key.hex())
        return encode_proof(hashed_key, path, value_hash(value))

    def _past(self, height: int) -> Past:
        """The tree as it was at an older checkpoint. Raises Pruned if the undo records since are not all there."""
        if height not in self._pasts:
            start, stop = height_bytes(height + 1), height_bytes(self.checkpoint_height + 1)
            records = UndoRecords([row for _, row in self._store.scan(UNDO, start, stop)])
            past = Past(self._tree, records.tops(), records.leaves)
            if past.root() != self._roots[height]:
                raise Pruned("the undo records do not reach back to this height", height=height)
            if len(self._pasts) >= CACHED_PASTS:
                del self._pasts[next(iter(self._pasts))]
            self._pasts[height] = past
        return self._pasts[height]

    def _stored_value(self, key: bytes) -> bytes | None:
        row = self._store.get(LATEST, key_hash(key))
        return None if row is None else row[_ROW_HEAD_BYTES + len(key) :]

    def _recovered(self) -> Tree:
        """The tree as of the last checkpoint; what changed since is dirty again."""
        store, last = self._store, height_bytes(_HEIGHT_MAX)
        newest = list(store.scan(ROOTS, last, reverse=True, limit=self._retained_checkpoints))
        self._roots = {int.from_bytes(height): root for height, root in reversed(newest)}
        checkpoint = self.checkpoint_height
        for height, _ in store.scan(CHANGES, last, reverse=True, limit=1):
            self._height = int.from_bytes(height)
        for _, row in store.scan(CHANGES, height_bytes(checkpoint + 1)):
            self._dirty.update((key_hash(key), self._stored_value(key)) for key in decode_changes(row))
        tree = Tree.of(self._records())
        tree.update(_leaves({hashed_key: value_at(store, hashed_key, checkpoint) for hashed_key in self._dirty}))
        expected = self._roots.get(checkpoint, ZERO)
        if tree.root() != expected:
            raise StateCorrupt(checkpoint=checkpoint, root=tree.root().hex(), expected=expected.hex())
        return tree

    def _records(self) -> bytes:
        """The tree's records of the keys that did not change since the last checkpoint, in one scan."""
        dirty, digest = self._dirty, sha256
        records: list[bytes] = []
        for hashed_key, row in self._store.scan(LATEST, b""):
            if hashed_key not in dirty:
                value = row[_ROW_HEAD_BYTES + (row[8] << 8 | row[9]) :]
                hashed_value = digest(b"V" + value).digest()
                records += (hashed_key, digest(b"L" + hashed_key + hashed_value).digest())
        return b"".join(records)


def _leaves(values: Mapping[bytes, bytes | None]) -> dict[bytes, bytes | None]:
    """Leaves for values, by key hash."""
    digest = sha256
    return {
        hashed_key: None if value is None else digest(b"L" + hashed_key + digest(b"V" + value).digest()).digest()
        for hashed_key, value in values.items()
    }


def _check(items: list[tuple[bytes, bytes | None]]) -> None:
    """Raise InvalidChange for empty or oversized keys and values."""
    for key, value in items:
        if not 0 < len(key) <= STATE_KEY_BYTES or not (value is None or 0 < len(value) <= STATE_VALUE_BYTES):
            size = None if value is None else len(value)
            raise InvalidChange(key=key[:STATE_KEY_BYTES].hex(), key_bytes=len(key), value_bytes=size)
