"""Leaves in a row: the sorted 64-byte records (key hash, leaf) below one place of the tree, and what they fold to."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from blockcloud.service_chain.state.specification import HASH_BYTES, ZERO, digit_of

RECORD_BYTES: Final = 2 * HASH_BYTES

# The bytes of a node before, between and behind two children x < y whose siblings are empty.
_HEADS: Final = tuple(b"N" + ZERO * before for before in range(4))
_GAPS: Final = tuple(ZERO * between for between in range(4))


def find(records: bytes, hashed_key: bytes) -> int:
    """Where the record of `hashed_key` starts, or -1. A match inside a record is none."""
    at = records.find(hashed_key)
    while at > 0 and at % RECORD_BYTES:
        at = records.find(hashed_key, at + 1)
    return at


def insert(records: bytes, hashed_key: bytes, leaf: bytes) -> bytes:
    """`records` with one more, whose key is not among them, in its sorted place."""
    at, end = 0, len(records)
    while at < end and records[at : at + HASH_BYTES] < hashed_key:
        at += RECORD_BYTES
    return b"%b%b%b%b" % (records[:at], hashed_key, leaf, records[at:])


def split(records: bytes, depth: int) -> tuple[bytes, bytes, bytes, bytes]:
    """`records` by digit `depth` of their keys."""
    shift = 6 - 2 * (depth & 3)
    digits = [(byte >> shift) & 3 for byte in records[depth >> 2 :: RECORD_BYTES]]
    one = digits.count(0) * RECORD_BYTES
    two = one + digits.count(1) * RECORD_BYTES
    three = two + digits.count(2) * RECORD_BYTES
    return records[:one], records[one:two], records[two:three], records[three:]


def fold(records: bytes, depth: int) -> bytes:
    """The root over `records`, which share `depth` digits: `specified_root` on sorted bytes."""
    size = len(records)
    if size <= RECORD_BYTES:
        return records[HASH_BYTES:] if size else ZERO
    if size == 2 * RECORD_BYTES:
        at, shift = depth >> 2, 6 - 2 * (depth & 3)
        first, second = (records[at] >> shift) & 3, (records[at + RECORD_BYTES] >> shift) & 3
        if first != second:
            return sha256(
                b"%b%b%b%b%b"
                % (_HEADS[first], records[32:64], _GAPS[second - first - 1], records[96:], _GAPS[3 - second])
            ).digest()
    a, b, c, d = split(records, depth)
    depth += 1
    return sha256(b"N%b%b%b%b" % (fold(a, depth), fold(b, depth), fold(c, depth), fold(d, depth))).digest()


def walk(records: bytes, depth: int, hashed_key: bytes) -> tuple[bytes | None, list[bytes]]:
    """From the place of `records` down the path of `hashed_key`: the key hash of the leaf found, and the siblings."""
    siblings: list[bytes] = []
    while len(records) > RECORD_BYTES:
        parts = split(records, depth)
        taken = digit_of(hashed_key, depth)
        depth += 1
        siblings.extend(fold(part, depth) for digit, part in enumerate(parts) if digit != taken)
        records = parts[taken]
    return records[:HASH_BYTES] if records else None, siblings
