"""The authenticated map as the protocol defines it: five hashes and one recursive rule over a set of leaves.

This is the whole consensus definition (`reference/state.md` section 4). Everything else in this package,
flat arrays, buckets, nested trees, is a way to compute the same root faster and may differ from node to node. The root
depends on the final map only, never on the order or the grouping of the writes that led to it.

A path through the tree is the hash of the key, two bits at a time from the most significant one: 128 digits of 0..3.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
DIGITS: Final = 128
ZERO: Final = bytes(HASH_BYTES)


def key_hash(key: bytes) -> bytes:
    """The place of `key` in the tree. Keys are hashed so that nobody can cheaply build deep chains."""
    return sha256(b"K" + key).digest()


def value_hash(value: bytes) -> bytes:
    """What a leaf and a proof say about a value. Values are never empty: the empty value means deleted."""
    return sha256(b"V" + value).digest()


def leaf_hash(hashed_key: bytes, hashed_value: bytes) -> bytes:
    """The leaf of one (key, value), 32 bytes."""
    return sha256(b"L" + hashed_key + hashed_value).digest()


def node_hash(children: bytes) -> bytes:
    """An inner node over its four children, 128 bytes: ZERO for an empty one, the leaf itself for a single leaf."""
    return sha256(b"N" + children).digest()


def digit_of(hashed_key: bytes, depth: int) -> int:
    """Digit `depth` (0..127) of the path of `hashed_key`: which of four children it goes through."""
    return (hashed_key[depth >> 2] >> (6 - 2 * (depth & 3))) & 3


def specified_root(leaves: Mapping[bytes, bytes], depth: int = 0) -> bytes:
    """The root over {hashed key: leaf}, slowly and by the letter: what every fast tree must equal."""
    if not leaves:
        return ZERO
    if len(leaves) == 1:
        return next(iter(leaves.values()))
    parts = [{key: leaf for key, leaf in leaves.items() if digit_of(key, depth) == digit} for digit in range(4)]
    return node_hash(b"".join(specified_root(part, depth + 1) for part in parts))
