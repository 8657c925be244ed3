"""The whole state in chunks, each of which proves itself against the root.

The tree is cut into the largest sub-trees whose entries fit into a chunk. Their roots are the `Part`s; folded they give
the state root, so a list of parts is checked before any chunk is asked for, and each chunk by its own part, in any
order and from anybody. Only nodes with two leaves or more are cut, so no node above a part stands for a lone leaf.

`entries_at` reads an older height from a store that goes on: a latest value that is not younger counts as it is, other
keys are looked up in the history, and those deleted since are found in the lists of changed keys. No lock, no copy.
Rule: `reference/state.md` section 4, with cuts by size instead of by first byte, so that chunks are bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.limits import STATE_KEY_BYTES, STATE_VALUE_BYTES
from blockcloud.primitives.storage import Batch, Store
from blockcloud.service_chain.state.records import fold
from blockcloud.service_chain.state.specification import (
    DIGITS,
    HASH_BYTES,
    ZERO,
    key_hash,
    leaf_hash,
    node_hash,
    value_hash,
)
from blockcloud.service_chain.state.tables import CHANGES, HISTORY, LATEST, ROOTS, STATE_TABLES, UNDO
from blockcloud.service_chain.state.versioned import (
    OLDEST_KEY,
    decode_changes,
    height_bytes,
    history_key,
    latest_entry,
    latest_row,
    value_at,
)

# More than the largest entry, so that a lone one always fits.
CHUNK_BYTES: Final = 256 * 1024
# Parts of one snapshot; together at most 16 GiB.
PARTS: Final = 65_536
# More than what the encoding adds to a key and a value, and to a chunk.
ENTRY_BYTES: Final = 16
CHUNK_HEAD_BYTES: Final = 8
# Rows of the store that are looked at in one go.
SLICE_ROWS: Final = 512

# Key hash, key, value.
Entry: TypeAlias = tuple[bytes, bytes, bytes]
_Key: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=STATE_KEY_BYTES)]
_Value: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=STATE_VALUE_BYTES)]
_Pairs: TypeAlias = tuple[tuple[_Key, _Value], ...]


class BadSnapshot(PeerFault):
    """A snapshot or a chunk of one does not lead to the certified state root."""

    code = "bad_snapshot"


class Part(Struct, frozen=True):
    """A sub-tree: how many digits its keys share (0 to 128), these digits (four a byte, filled up with zeros), and its
    root."""

    depth: Annotated[int, Meta(ge=0, le=DIGITS)]
    prefix: Annotated[bytes, Meta(max_length=HASH_BYTES)]
    root: Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]


def fold_parts(parts: Sequence[Part]) -> bytes:
    """The state root over `parts`, which must be in order. Raises BadSnapshot if they cannot be parts of one tree."""
    if len(parts) > PARTS:
        raise BadSnapshot("too many parts", parts=len(parts), limit=PARTS)
    for part in parts:
        size = (part.depth + 3) // 4
        spare = 2 * (4 * size - part.depth)
        if len(part.prefix) != size or int.from_bytes(part.prefix) & ((1 << spare) - 1) or part.root == ZERO:
            raise BadSnapshot("a part is malformed", depth=part.depth, prefix=part.prefix.hex())
    return _fold_range(parts, 0, len(parts), 0)


def _fold_range(parts: Sequence[Part], start: int, stop: int, depth: int) -> bytes:
    """The node over the parts from `start` to before `stop`, which share `depth` digits."""
    if start == stop:
        return ZERO
    if parts[start].depth <= depth:
        if stop - start > 1:
            raise BadSnapshot("parts overlap", depth=depth, prefix=parts[start].prefix.hex())
        return parts[start].root
    children: list[bytes] = []
    at = start
    for digit in range(4):
        first = at
        while at < stop and parts[at].depth > depth and _digit(parts[at].prefix, depth) == digit:
            at += 1
        children.append(_fold_range(parts, first, at, depth + 1))
    if at != stop:
        raise BadSnapshot("parts overlap or are out of order", prefix=parts[at].prefix.hex())
    return node_hash(b"".join(children))


def _digit(prefix: bytes, depth: int) -> int:
    return prefix[depth >> 2] >> (6 - 2 * (depth & 3)) & 3


def open_chunk(part: Part, data: bytes) -> list[Entry]:
    """The entries in `data`, which are exactly those below `part`. Raises BadSnapshot, whatever the bytes."""
    try:
        pairs = codec.decode(data, _Pairs, limit=CHUNK_BYTES + CHUNK_HEAD_BYTES)
    except PeerFault as fault:
        raise BadSnapshot(f"a chunk does not decode: {fault.message}", prefix=part.prefix.hex()) from None
    entries = [(key_hash(key), key, value) for key, value in pairs]
    low, high = _bounds(part.depth, part.prefix)
    last = b""
    for hashed_key, _, _ in entries:
        if not last < hashed_key or hashed_key < low or (high is not None and hashed_key >= high):
            raise BadSnapshot("a chunk has a key out of its place", prefix=part.prefix.hex())
        last = hashed_key
    if _root(entries, part.depth) != part.root:
        raise BadSnapshot("a chunk does not have the root of its part", prefix=part.prefix.hex())
    return entries


def _root(entries: Iterable[Entry], depth: int) -> bytes:
    records = (hashed_key + leaf_hash(hashed_key, value_hash(value)) for hashed_key, _, value in entries)
    return fold(b"".join(records), depth)


def _bounds(depth: int, prefix: bytes) -> tuple[bytes, bytes | None]:
    """The lowest key hash below a place, and the first one behind it; None if nothing is behind it."""
    low = int.from_bytes(prefix.ljust(HASH_BYTES, b"\0"))
    high = low + (1 << 2 * (DIGITS - depth))
    return low.to_bytes(HASH_BYTES), high.to_bytes(HASH_BYTES) if high >> 2 * DIGITS == 0 else None


# Export


def cut(entries: Iterator[Entry]) -> Iterator[tuple[Part, bytes]]:
    """The parts of a state, given in the order of the key hashes, each with its chunk. Holds one chunk in memory."""
    yield from _cut(_Ahead(entries), 0, b"")


def _cut(ahead: _Ahead, depth: int, prefix: bytes) -> Iterator[tuple[Part, bytes]]:
    _, high = _bounds(depth, prefix)
    entries = ahead.take_fitting(high)
    if entries is None:
        for digit in range(4):
            yield from _cut(ahead, depth + 1, _longer(prefix, depth, digit))
    elif entries:
        part = Part(depth, prefix, _root(entries, depth))
        yield part, codec.encode([(key, value) for _, key, value in entries])


def _longer(prefix: bytes, depth: int, digit: int) -> bytes:
    if depth % 4 == 0:
        return prefix + bytes((digit << 6,))
    return prefix[:-1] + bytes((prefix[-1] | digit << (6 - 2 * (depth & 3)),))


class _Ahead:
    """An ordered stream of entries, of which so much is read ahead as tells whether a sub-tree fits into a chunk."""

    def __init__(self, entries: Iterator[Entry]) -> None:
        self._entries = entries
        self._read: list[Entry] = []
        self._bytes = 0
        self._ended = False

    def take_fitting(self, high: bytes | None) -> list[Entry] | None:
        """The entries before `high` (None: all that are left), or None if they are too many for a chunk."""
        read = self._read
        while not self._ended and self._bytes <= CHUNK_BYTES:
            if read and high is not None and read[-1][0] >= high:
                break
            entry = next(self._entries, None)
            if entry is None:
                self._ended = True
            else:
                read.append(entry)
                self._bytes += _size(entry)
        stop = len(read) if high is None else bisect_left(read, high, key=lambda entry: entry[0])
        whole = self._ended or stop < len(read)
        size = sum(_size(entry) for entry in read[:stop])
        if not whole or size > CHUNK_BYTES:
            return None
        taken, self._read = read[:stop], read[stop:]
        self._bytes -= size
        return taken


def _size(entry: Entry) -> int:
    return len(entry[1]) + len(entry[2]) + ENTRY_BYTES


def entries_at(store: Store, height: int) -> Iterator[Entry]:
    """All entries as they were after the commit at `height`, by key hash, while the store goes on.

    Costs a read of the latest values and, for each key that changed since, one of the history.
    """
    changed = _ChangedSince(store, height)
    start: bytes | None = b""
    while start is not None:
        rows = list(store.scan(LATEST, start, limit=SLICE_ROWS))
        stop = rows[-1][0] + b"\0" if len(rows) == SLICE_ROWS else None
        # After the rows: a key that is missing among them was deleted by a commit whose list is there by now.
        changed.read_on()
        seen = {hashed_key for hashed_key, _ in rows}
        gone = [(hashed_key, key) for hashed_key, key in changed.between(start, stop) if hashed_key not in seen]
        found: list[Entry] = []
        for hashed_key, row in rows:
            version, key, value = latest_entry(row)
            if version <= height:
                found.append((hashed_key, key, value))
            else:
                gone.append((hashed_key, key))
        for hashed_key, key in gone:
            before = value_at(store, hashed_key, height)
            if before is not None:
                found.append((hashed_key, key, before))
        yield from sorted(found) if gone else found
        start = stop


class _ChangedSince:
    """The keys that commits above a height changed, by first byte of their hashes."""

    def __init__(self, store: Store, height: int) -> None:
        self._store, self._next = store, height_bytes(height + 1)
        self._keys: list[dict[bytes, bytes]] = [{} for _ in range(256)]

    def read_on(self) -> None:
        """Take in what was committed meanwhile."""
        for height, row in self._store.scan(CHANGES, self._next):
            for key in decode_changes(row):
                hashed_key = key_hash(key)
                self._keys[hashed_key[0]][hashed_key] = key
            self._next = height + b"\0"

    def between(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """The changed keys in a range of key hashes, in no particular order."""
        for first in range(start[0] if start else 0, 256 if stop is None else stop[0] + 1):
            for hashed_key, key in self._keys[first].items():
                if hashed_key >= start and (stop is None or hashed_key < stop):
                    yield hashed_key, key


# Import


def clear(batch: Batch) -> None:
    """Delete the whole state."""
    for table in STATE_TABLES:
        batch.delete_range(table, b"", b"\xff" * (2 * HASH_BYTES))


def put_entries(height: int, entries: Iterable[Entry], batch: Batch) -> None:
    """Put entries of a checked chunk into an empty state: values from `height` on; what was before is not known."""
    for hashed_key, key, value in entries:
        batch.put(LATEST, hashed_key, latest_row(height, key, value))
        batch.put(HISTORY, history_key(hashed_key, height), value)


def put_root(height: int, root: bytes, batch: Batch) -> None:
    """Make `height` the oldest and only checkpoint. Opening the state then compares it with the tree of the values."""
    batch.put(ROOTS, height_bytes(height), root)
    batch.put(UNDO, OLDEST_KEY, height_bytes(height))
