"""Certified statements: the one kind of certificate in the system.

Checkpoints, era hand-overs, snapshots, light clients and other chains all use the same thing: a statement, and
signatures of committee members whose weight reaches the quorum q = floor(2W/3) + 1. Any two quorums share an honest
member as long as less than a third of the weight lies, so two certificates can never contradict each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadCertificate, BelowQuorum, DoubledSigner
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import verify
from blockcloud.primitives.limits import COMMITTEE_MEMBERS

DOMAIN = "statement/v1"
STATEMENT_BYTES = 1_024
CERTIFICATE_BYTES = STATEMENT_BYTES + 128 * COMMITTEE_MEMBERS

CHECKPOINT = "checkpoint"
HANDOVER = "handover"


def quorum_weight(total: int) -> int:
    """q = floor(2W/3) + 1."""
    return total * 2 // 3 + 1


class Statement(Struct, frozen=True):
    """What is certified. `digests` depends on `kind`; a checkpoint's are (commit digest, state root), a
    hand-over's the same and the digest of the next era's plan."""

    kind: str
    chain_id: bytes
    era: int
    height: int
    digests: tuple[bytes, ...]

    def digest(self) -> bytes:
        """The identity of the statement, 32 bytes."""
        return tagged_hash(DOMAIN, codec.encode(self))


class SignedStatement(Struct, frozen=True):
    """One member's signature under a statement."""

    statement: Statement
    signer: bytes
    signature: bytes

    def verify(self) -> None:
        """Raise BadSignature unless the signer signed it. Says nothing about who the signer is."""
        verify(self.signer, DOMAIN, codec.encode(self.statement), self.signature)


class Certificate(Struct, frozen=True):
    """A statement with (signer, signature) pairs in ascending order of signer, each signer once."""

    statement: Statement
    signatures: tuple[tuple[bytes, bytes], ...]

    def verify(self, weights: Mapping[bytes, int]) -> None:
        """Raise DoubledSigner, BadCertificate (a stranger signed), BelowQuorum or BadSignature unless members of
        `weights` (key -> weight) with weight >= q signed."""
        signers = [signer for signer, _ in self.signatures]
        if any(first >= second for first, second in pairwise(signers)):
            raise DoubledSigner("signers are not in ascending order without repetition")
        strangers = [signer for signer in signers if signer not in weights]
        if strangers:
            raise BadCertificate("a signer is not in the committee", signer=strangers[0].hex()[:16])
        weight = sum(weights[signer] for signer in signers)
        needed = quorum_weight(sum(weights.values()))
        if weight < needed:
            raise BelowQuorum("not enough weight signed", weight=weight, needed=needed)
        message = codec.encode(self.statement)
        for signer, signature in self.signatures:
            verify(signer, DOMAIN, message, signature)
