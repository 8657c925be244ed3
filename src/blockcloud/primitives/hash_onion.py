"""Hash onions: a chain of hashes whose tip is published first and whose preimages are revealed one by one.

Who published the tip is bound to every later value, yet nobody can know a value before it is revealed (Lamport 1981).
Three uses, one onion for each: the beacon, verifier sortition, and PayWord micro-payments.
"""

from __future__ import annotations

from blockcloud.primitives.hashes import tagged_hash

_DOMAIN = "onion/v1"


def peel(value: bytes) -> bytes:
    """The layer around `value`: H(value). The tip is the outermost layer."""
    return tagged_hash(_DOMAIN, value)


class HashOnion:
    """The secret side. Keeps every `stride`-th layer, so a reveal costs at most `stride` hashes."""

    def __init__(self, core: bytes, length: int, stride: int = 64) -> None:
        if len(core) != 32 or length < 1 or stride < 1:
            raise ValueError("an onion has a 32-byte core and at least one layer")
        self.length = length
        self._stride = stride
        self._kept = [core]
        value = core
        for layer in range(1, length + 1):
            value = peel(value)
            if layer % stride == 0:
                self._kept.append(value)
        self.tip = value

    def reveal(self, number: int) -> bytes:
        """Reveal number 1, 2, ... : the layer that many steps below the tip. Raises IndexError past the core."""
        if not 1 <= number <= self.length:
            raise IndexError(number)
        layer = self.length - number
        value = self._kept[layer // self._stride]
        for _ in range(layer % self._stride):
            value = peel(value)
        return value


def verify_reveal(known: bytes, reveal: bytes, steps: int) -> bool:
    """Whether `reveal` lies exactly `steps` layers below `known` (the tip or an earlier reveal)."""
    if steps < 1:
        return False
    for _ in range(steps):
        reveal = peel(reveal)
    return reveal == known
