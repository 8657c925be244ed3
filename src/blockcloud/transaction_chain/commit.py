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
    """The commit of height 0 that an era's DAG starts from; its `previous` is the genesis digest."""
    return CommitRecord(era, 0, 0, genesis, (), (), time_ms)
