"""A state value that proves itself: what a light client gets from a node that it does not trust.

The certificate says what commit digest and state root a quorum signed; the commit record, whose digest that is, says
when that was; the proof leads from the value to the root. Nothing else of the answer counts. DESIGN section 3.6.
"""

from __future__ import annotations

from collections.abc import Mapping

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, HANDOVER, Certificate
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadCertificate, BadProof, WrongChain
from blockcloud.service_chain.state.proof import verify
from blockcloud.transaction_chain.commit import COMMIT_BYTES, CommitRecord


class ProvenValue(Struct, frozen=True):
    """`value` is empty if the key is absent; `commit` are the bytes of the certified CommitRecord."""

    key: bytes
    value: bytes
    proof: bytes
    certificate: Certificate
    commit: bytes

    def verify(
        self, chain_id: bytes, weights: Mapping[bytes, int], *, past: bool = False
    ) -> tuple[bytes | None, int, int]:
        """(value or None, height, commit time in milliseconds), if a quorum of `weights` (key -> bond) vouches for it.

        The last checkpoint of an era has no certificate but that of the hand-over, which says the same and more: it
        counts where somebody asks for a height of the `past`.

        Raises BadCertificate, BadSignature, WrongChain, BadProof, or what decoding the commit raises. Whoever calls
        this also compares `key` with the key that was asked for, and the time with how old an answer may be.
        """
        statement = self.certificate.statement
        digests = {CHECKPOINT: 2, HANDOVER: 3} if past else {CHECKPOINT: 2}
        if len(statement.digests) != digests.get(statement.kind):
            raise BadCertificate("not the certificate of a checkpoint", kind=statement.kind[:32])
        if statement.chain_id != chain_id:
            raise WrongChain("certificate of another chain", chain=statement.chain_id.hex()[:16])
        self.certificate.verify(weights)
        commit_digest, root = statement.digests[:2]
        record = codec.decode(self.commit, CommitRecord, limit=COMMIT_BYTES)
        if record.digest() != commit_digest or record.height != statement.height or record.era != statement.era:
            raise BadProof("the commit is not the certified one", height=statement.height)
        value = self.value or None
        if not verify(root, self.key, value, self.proof):
            raise BadProof("the proof does not lead to the certified root", height=statement.height)
        return value, statement.height, record.time_ms
