"""Merkle trees as RFC 6962 / RFC 9162 define them: leaves and inner nodes are hashed under different prefixes.

Without the prefixes an inner node could be shown as a leaf (second preimage). Used for block payloads, receipts and
logs; the state map has its own tree (`service_chain/state`).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """H(0x00 | data)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """H(0x01 | left | right)."""
    return sha256(b"\x01" + left + right).digest()


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """All levels of the tree, leaves first; an odd node at the end of a level moves up unchanged."""
    # The hashes of `leaf_hash` and `node_hash` written out: every payload of every block comes through here.
    level = [sha256(b"\x00" + leaf).digest() for leaf in leaves]
    levels = [level]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        above = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
        if len(level) % 2:
            above.append(level[-1])
        levels.append(above)
        level = above
    return levels


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Root over `leaves` in their order; of none, the hash of the empty string."""
    return _levels(leaves)[-1][0] if leaves else EMPTY_ROOT


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Sibling hashes from leaf `index` up to the root. Raises IndexError if there is no such leaf."""
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    proof = []
    for level in _levels(leaves)[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            proof.append(level[sibling])
        index >>= 1
    return proof


def verify_inclusion(root: bytes, leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bool:
    """Whether `leaf` is number `index` of the `size` leaves under `root` (RFC 9162 section 2.1.3.2). Never raises."""
    if not 0 <= index < size:
        return False
    node, last, steps = leaf_hash(leaf), size - 1, iter(proof)
    for sibling in steps:
        if last == 0 or len(sibling) != 32:
            return False
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while index and not index & 1:
                index >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        index >>= 1
        last >>= 1
    return last == 0 and node == root
