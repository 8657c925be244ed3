"""A transaction that proves where the ledger has it: what a client gets from a node that it does not trust.

transaction -> Merkle root in its block's header -> commit record, which lists the block's digest -> the commits after
it, each with the digest of the one before -> a certified checkpoint, whose commit digest a quorum signed. It proves
that the transaction stands at this height, so that every honest node executes it there; what it did is in the state,
which has proofs of its own (`proven`). DESIGN sections 3.2 and 3.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, Certificate
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadCertificate, BadProof, WrongChain
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.limits import BLOCK_BYTES
from blockcloud.primitives.merkle import inclusion_proof, verify_inclusion
from blockcloud.service_chain.transaction import parse_transaction
from blockcloud.transaction_chain.block import DIGEST_DOMAIN, Block, Header
from blockcloud.transaction_chain.commit import COMMIT_BYTES, CommitRecord

COMMITS_MAX = 1_024


class ProvenTransaction(Struct, frozen=True):
    """`transaction` is number `index` of the `size` items of the block with `header`; `path` are Merkle siblings.

    `commits` are the bytes of the commit records from the block's up to the certified one.
    """

    transaction: bytes
    index: int
    size: int
    path: tuple[bytes, ...]
    header: bytes
    commits: tuple[bytes, ...]
    certificate: Certificate

    def verify(self, transaction_id: bytes, chain_id: bytes, weights: Mapping[bytes, int]) -> int:
        """The height at which the transaction with this id stands, if a quorum of `weights` vouches for it.

        Raises BadCertificate, BadSignature, WrongChain, BadProof, or what decoding the parts raises.
        """
        statement = self.certificate.statement
        if statement.kind != CHECKPOINT or len(statement.digests) != 2:
            raise BadCertificate("not the certificate of a checkpoint", kind=statement.kind[:32])
        if statement.chain_id != chain_id:
            raise WrongChain("certificate of another chain", chain=statement.chain_id.hex()[:16])
        self.certificate.verify(weights)
        record = self._first_commit(statement.digests[0])
        digest = tagged_hash(DIGEST_DOMAIN, self.header)
        if all(reference.digest != digest for reference in record.blocks):
            raise BadProof("the commit does not have the block", height=record.height)
        header = codec.decode(self.header, Header, limit=BLOCK_BYTES)
        if not verify_inclusion(header.payload_root, self.transaction, self.index, self.size, self.path):
            raise BadProof("the block does not have the transaction", height=record.height)
        if parse_transaction(self.transaction).id != transaction_id:
            raise BadProof("the proof is about another transaction", asked=transaction_id.hex()[:16])
        return record.height

    def _first_commit(self, certified: bytes) -> CommitRecord:
        """The commit that the others lead to, from the certified digest back."""
        if not 1 <= len(self.commits) <= COMMITS_MAX:
            raise BadProof("a proof has one commit or more", commits=len(self.commits), limit=COMMITS_MAX)
        wanted = certified
        record = None
        for data in reversed(self.commits):
            record = codec.decode(data, CommitRecord, limit=COMMIT_BYTES)
            if record.digest() != wanted:
                raise BadProof("the commits do not lead to the certified one", height=record.height)
            wanted = record.previous
        assert record is not None, "there is one at least"
        return record


def prove_transaction(
    block: Block, index: int, commits: Sequence[bytes], certificate: Certificate
) -> ProvenTransaction:
    """The proof for payload item `index` of `block`, which the first of `commits` lists."""
    header = codec.encode(block.header)
    path = tuple(inclusion_proof(block.payload, index))
    return ProvenTransaction(block.payload[index], index, len(block.payload), path, header, tuple(commits), certificate)
