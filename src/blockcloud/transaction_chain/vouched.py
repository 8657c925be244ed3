"""What a quorum vouches for: the blocks of past commits, for a node that is behind (DESIGN section 3.5, ADR 18).

A certificate of a commit digest, which chains the digest of the commit before and so on, covers the digests of all
blocks in them. At least one honest member has signed, and it signs what it has executed: each of those blocks was
verified whole, by it or by a quorum before it. Whether a payload item is valid in itself depends on its bytes alone,
and the block's digest covers these through the payload root; so it need not be found out again. What the digest does
*not* cover is the author's signature under the block, which whoever serves the block may have replaced.

Nothing depends on this but speed. What nobody vouches for is verified as ever, and what is vouched for goes through the
DAG and the commit rule like anything else: the order is computed here, not believed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, HANDOVER, Certificate
from blockcloud.primitives.errors import BadCertificate, PeerFault, WrongChain
from blockcloud.primitives.hashes import DIGEST_BYTES, tagged_hash
from blockcloud.primitives.limits import COMMIT_RANGE, COMMITTEE_MEMBERS
from blockcloud.transaction_chain.commit import COMMIT_BYTES, COMMIT_DOMAIN, CommitRecord
from blockcloud.transaction_chain.committee import Committee

# Blocks vouched for and not yet passed: of eight ranges of commits in which each member has a block at each height.
VOUCHED_BLOCKS = 8 * COMMIT_RANGE * COMMITTEE_MEMBERS
_DIGESTS = {CHECKPOINT: 2, HANDOVER: 3}


class BrokenCommitChain(PeerFault):
    """Commit records do not lead, one to the other, to the certified one."""

    code = "broken_commit_chain"


class Vouched:
    """The blocks of one era that a quorum vouches for. `reached` is the height up to which they are here, 0 for none.

    `vouches` may be asked from any thread; the rest belongs to one.
    """

    def __init__(self, committee: Committee, chain_id: bytes, era: int) -> None:
        self._committee, self._chain_id, self.era = committee, chain_id, era
        self._digests: dict[bytes, None] = {}
        self._commits: deque[tuple[int, tuple[bytes, ...]]] = deque()  # (height, digests of its blocks), ascending
        self.reached = 0

    def __len__(self) -> int:
        return len(self._digests)

    def vouches(self, digest: bytes) -> bool:
        """Whether a quorum has committed the block with this digest."""
        return digest in self._digests

    def take(self, raws: Sequence[bytes], certificate: Certificate) -> None:
        """Take commit records, in their order and without gaps, of which the last is the certified one. What does not
        fit into the limit is left out, the highest commits first.

        Costs one Ed25519 verification for each signature of the certificate and one hash for each record. Raises
        WrongChain, BadCertificate (also if it is of another era), DoubledSigner, BelowQuorum, BadSignature,
        BrokenCommitChain, Oversized, Malformed or NonCanonical; then nothing of it is taken.
        """
        self._check(certificate)
        for record in self._chained(raws, certificate):
            if record.height > self.reached and not self._add(record):
                break

    def passed(self, height: int) -> None:
        """The commits up to `height` have been decided here: their blocks are known."""
        while self._commits and self._commits[0][0] <= height:
            for digest in self._commits.popleft()[1]:
                self._digests.pop(digest, None)

    def _check(self, certificate: Certificate) -> None:
        statement = certificate.statement
        if statement.chain_id != self._chain_id:
            raise WrongChain("certificate of another chain", chain=statement.chain_id.hex()[:16])
        if _DIGESTS.get(statement.kind) != len(statement.digests) or len(statement.digests[0]) != DIGEST_BYTES:
            raise BadCertificate("not the certificate of a commit", kind=statement.kind[:32])
        if statement.era != self.era:
            raise BadCertificate("certificate of another era", era=statement.era, expected=self.era)
        certificate.verify(self._committee.weights_by_key)

    def _chained(self, raws: Sequence[bytes], certificate: Certificate) -> list[CommitRecord]:
        """The records in ascending order. From the certified one downwards: each is trusted before it is read."""
        records: list[CommitRecord] = []
        digest, height = certificate.statement.digests[0], certificate.statement.height
        for raw in reversed(raws):
            if tagged_hash(COMMIT_DOMAIN, raw) != digest:
                raise BrokenCommitChain("the record has not the digest that is certified", height=height)
            record = codec.decode(raw, CommitRecord, limit=COMMIT_BYTES)
            if record.height != height or record.era != self.era:
                raise BrokenCommitChain("not the record of this height and era", height=height, record=record.height)
            records.append(record)
            digest, height = record.previous, height - 1
        return records[::-1]

    def _add(self, record: CommitRecord) -> bool:
        if len(self._digests) + len(record.blocks) > VOUCHED_BLOCKS:
            return False
        digests = tuple(reference.digest for reference in record.blocks)
        self._digests.update(dict.fromkeys(digests))
        self._commits.append((record.height, digests))
        self.reached = record.height
        return True
