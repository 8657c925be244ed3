"""What a checkpoint replaced, so that the tree before it can still be read.

tops u16                                how many level-4 nodes it replaced, then for each, by rising first byte:
    first byte u8, flag u8, hash 32     the node as it was
    end u32                             how many of the leaves below belong to this byte or a smaller one
key hash 32, leaf 32, ...               the leaves it replaced as they were (ZERO: absent), sorted
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct

from blockcloud.service_chain.state.paths import TOP_LEVEL, Node
from blockcloud.service_chain.state.records import RECORD_BYTES
from blockcloud.service_chain.state.specification import HASH_BYTES
from blockcloud.service_chain.state.tree import Tree

_COUNT = Struct(">H")
_TOP = Struct(">BB32sI")


def tops_of(tree: Tree, hashed_keys: Iterable[bytes]) -> dict[int, Node]:
    """The level-4 nodes above these keys, by first byte."""
    return {first: tree.node(TOP_LEVEL, first) for first in dict.fromkeys([key[0] for key in hashed_keys])}


def encode_undo(tops: Mapping[int, Node], replaced: bytes) -> bytes:
    """The record for the replaced leaves; `tops` holds at least the nodes above them, as they were."""
    firsts = replaced[::RECORD_BYTES]
    rows = []
    end = 0
    for first in dict.fromkeys(firsts):
        end += firsts.count(first)
        rows.append(_TOP.pack(first, *tops[first], end))
    return b"".join((_COUNT.pack(len(rows)), *rows, replaced))


class UndoRecords:
    """Undo records of consecutive checkpoints, oldest first: what differs between before the first and now."""

    def __init__(self, rows: list[bytes]) -> None:
        self._tops: dict[int, Node] = {}
        # (record, start, stop) of each record's leaves, by first byte.
        self._spans: dict[int, list[tuple[bytes, int, int]]] = {}
        for row in rows:
            (count,) = _COUNT.unpack_from(row)
            leaves_at = _COUNT.size + count * _TOP.size
            start = leaves_at
            for first, flag, digest, end in _TOP.iter_unpack(row[_COUNT.size : leaves_at]):
                self._tops.setdefault(first, (flag, digest))
                stop = leaves_at + end * RECORD_BYTES
                self._spans.setdefault(first, []).append((row, start, stop))
                start = stop

    def tops(self) -> dict[int, Node]:
        """The level-4 nodes that were others, by first byte."""
        return self._tops

    def leaves(self, first: int) -> dict[bytes, bytes]:
        """The leaves with this first byte that were others; the oldest record that names a key counts."""
        leaves: dict[bytes, bytes] = {}
        for row, start, stop in self._spans.get(first, ()):
            for at in range(start, stop, RECORD_BYTES):
                middle = at + HASH_BYTES
                leaves.setdefault(row[at:middle], row[middle : middle + HASH_BYTES])
        return leaves
