"""Proofs that a key has a value, or that it is absent, under a root. Needs the standard library only.

A proof walks from the place of a key up to the root. Its bytes:

    kind u8          0: the place is empty; 1: this key's leaf; 2: the leaf of another key, which rules this one out
    other kh 32      kind 2 only
    vh 32            kinds 1 and 2
    depth u8         digits from the root to the place
    bitmap           3 bits for each level, from the root down, siblings in the order of their digits, little-endian:
                     1 where the sibling is not ZERO; ceil(3 * depth / 8) bytes
    siblings 32 each the ones the bitmap names, in its order

One place and one root have exactly one proof: spare bits, wrong lengths and a kind 2 that does not share the path are
refused. That the leaf stands no deeper than needed follows from the root, which a quorum computed honestly.
Rule: `reference/state.md` section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from blockcloud.service_chain.state.specification import (
    DIGITS,
    HASH_BYTES,
    ZERO,
    digit_of,
    key_hash,
    leaf_hash,
    node_hash,
    value_hash,
)

EMPTY: Final = 0
PRESENT: Final = 1
OTHER: Final = 2
ALL: Final = 0b111  # no sibling of a level is ZERO
# The longest proof there is: a full path with every sibling.
PROOF_BYTES_MAX: Final = 2 + 2 * HASH_BYTES + 3 * DIGITS // 8 + 3 * DIGITS * HASH_BYTES


@dataclass(frozen=True, slots=True)
class Path:
    """What stands at the place of a key, and the siblings (3 a level, root first) that lead from it to the root.

    `hashed_key` is the key hash of the leaf found there, None if the place is empty.
    """

    hashed_key: bytes | None
    siblings: Sequence[bytes]


def encode_proof(hashed_key: bytes, path: Path, hashed_value: bytes) -> bytes:
    """Proof bytes for `hashed_key`; `hashed_value` belongs to the leaf at the end of the path, if there is one."""
    if path.hashed_key is None:
        head = bytes((EMPTY,))
    elif path.hashed_key == hashed_key:
        head = bytes((PRESENT,)) + hashed_value
    else:
        head = bytes((OTHER,)) + path.hashed_key + hashed_value
    bitmap = sum(1 << index for index, sibling in enumerate(path.siblings) if sibling != ZERO)
    depth = len(path.siblings) // 3
    return b"".join(
        (
            head,
            bytes((depth,)),
            bitmap.to_bytes((3 * depth + 7) // 8, "little"),
            *(sibling for sibling in path.siblings if sibling != ZERO),
        )
    )


def verify(root: bytes, key: bytes, value: bytes | None, proof: bytes) -> bool:
    """Whether `proof` shows that `key` has `value` (None: is absent) under `root`. Never raises, whatever the bytes."""
    if len(proof) > PROOF_BYTES_MAX or not proof:
        return False
    hashed_key = key_hash(key)
    opened = _open(hashed_key, value, proof)
    if opened is None:
        return False
    place, rest = opened
    depth = rest[0] if rest else DIGITS + 1
    bitmap_bytes = (3 * depth + 7) // 8
    siblings_at = 1 + bitmap_bytes
    bitmap = int.from_bytes(rest[1:siblings_at], "little")
    if depth > DIGITS or bitmap >> (3 * depth) or len(rest) != siblings_at + bitmap.bit_count() * HASH_BYTES:
        return False
    if proof[0] == OTHER and not _shares_path(hashed_key, proof[1 : 1 + HASH_BYTES], depth):
        return False
    end = len(rest)
    for level in range(depth - 1, -1, -1):
        present = bitmap >> 3 * level & 7
        begin = end - present.bit_count() * HASH_BYTES
        siblings = rest[begin:end] if present == ALL else _with_zeros(rest[begin:end], present)
        own = digit_of(hashed_key, level) * HASH_BYTES
        place = node_hash(siblings[:own] + place + siblings[own:])
        end = begin
    return place == root


def _with_zeros(siblings: bytes, present: int) -> bytes:
    """All three siblings of a level, of which `siblings` has those whose bit is set in `present`."""
    parts, at = [], 0
    for bit in range(3):
        if present >> bit & 1:
            parts.append(siblings[at : at + HASH_BYTES])
            at += HASH_BYTES
        else:
            parts.append(ZERO)
    return b"".join(parts)


def _open(hashed_key: bytes, value: bytes | None, proof: bytes) -> tuple[bytes, bytes] | None:
    """What the proof says stands at the place, and the bytes behind it; None if that does not show `value`."""
    kind = proof[0]
    if kind == EMPTY and value is None:
        return ZERO, proof[1:]
    if kind == PRESENT and value:
        hashed_value = proof[1 : 1 + HASH_BYTES]
        if hashed_value == value_hash(value):
            return leaf_hash(hashed_key, hashed_value), proof[1 + HASH_BYTES :]
    if kind == OTHER and value is None and len(proof) > 2 * HASH_BYTES:
        other, hashed_value = proof[1 : 1 + HASH_BYTES], proof[1 + HASH_BYTES : 1 + 2 * HASH_BYTES]
        return leaf_hash(other, hashed_value), proof[1 + 2 * HASH_BYTES :]
    return None


def _shares_path(hashed_key: bytes, other: bytes, depth: int) -> bool:
    """Whether two different keys go the same way for `depth` digits, so that they would meet at this place."""
    shift = 8 * HASH_BYTES - 2 * depth
    return other != hashed_key and int.from_bytes(other) >> shift == int.from_bytes(hashed_key) >> shift
