"""Commits: what consensus outputs, one after another, the same at every honest node.

The committed leaders of one level with their newly reached ancestors are one commit with a height. Its digest chains
the one before, so a single certified digest vouches for the whole order. DESIGN section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.transaction_chain.block import Block, BlockReference

COMMIT_DOMAIN = "commit/v1"
COMMIT_BYTES = 1024 * 1024


class CommitRecord(Struct, frozen=True):
    """A commit without its blocks: what is stored, chained and sent. Height 0 is the genesis, whose level is 0."""

    era: int
    height: int
    level: int
    previous: bytes
    leaders: tuple[BlockReference, ...]
    blocks: tuple[BlockReference, ...]
    time_ms: int

    def digest(self) -> bytes:
        """Digest over (previous digest, leaders, ordered blocks, time): 32 bytes."""
        return tagged_hash(COMMIT_DOMAIN, codec.encode(self))


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit with its blocks in execution order."""

    record: CommitRecord
    digest: bytes
    blocks: tuple[Block, ...]

    @property
    def height(self) -> int:
        return self.record.height


def genesis_record(era: int, genesis: bytes, time_ms: int) -> CommitRecord:
    """The commit of height 0 that the first era's DAG starts from; its `previous` is the genesis digest."""
    return CommitRecord(era, 0, 0, genesis, (), (), time_ms)


@dataclass(frozen=True, slots=True)
class EraStart:
    """What an era's first commit follows: height, digest and time of the last commit before it, and the genesis of the
    era's DAG (both digests have 32 bytes; in the first era they belong to height 0)."""

    height: int
    digest: bytes
    time_ms: int
    genesis: bytes

    @staticmethod
    def of_chain(genesis: bytes, time_ms: int) -> EraStart:
        """The start of the first era."""
        return EraStart(0, genesis_record(0, genesis, time_ms).digest(), time_ms, genesis)

    def record(self, era: int) -> CommitRecord:
        """It stands in the place of the last commit until the era has one of its own; its level is 0."""
        return CommitRecord(era, self.height, 0, self.genesis, (), (), self.time_ms)
