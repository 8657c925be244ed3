"""The proof of a transaction's place: it verifies under the genesis's committee, and nothing in it can be changed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, Certificate, Statement
from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.hashes import ZERO_DIGEST
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.merkle import merkle_root
from blockcloud.service_chain.inclusion import ProvenTransaction, prove_transaction
from blockcloud.service_chain.operations import Transfer
from blockcloud.service_chain.transaction import TransactionBody, parse_transaction, sign_transaction
from blockcloud.transaction_chain.block import Header, genesis_reference, sign_block
from blockcloud.transaction_chain.commit import CommitRecord

CHAIN = b"c" * 32
KEYS = sorted((SigningKey(bytes([number]) * 32) for number in range(1, 5)), key=lambda key: key.public)
WEIGHTS = {key.public: 1 for key in KEYS}
PAYLOADS = tuple(
    sign_transaction(TransactionBody(CHAIN, KEYS[0].public, 0, sequence, 9, 9, (Transfer(b"t" * 32, 1),)), KEYS[0])
    for sequence in range(5)
)
IDS = [parse_transaction(payload).id for payload in PAYLOADS]


def certify(digest: bytes, height: int, signers: list[SigningKey], **changes: Any) -> Certificate:
    statement = Statement(CHECKPOINT, CHAIN, 0, height, (digest, ZERO_DIGEST))
    statement = msgspec.structs.replace(statement, **changes)
    message = codec.encode(statement)
    return Certificate(statement, tuple(sorted((key.public, key.sign("statement/v1", message)) for key in signers)))


def proof_of(number: int, later: int = 3) -> ProvenTransaction:
    """The proof of PAYLOADS[number], whose commit has `later` commits above it up to the checkpoint."""
    parents = tuple(genesis_reference(author, CHAIN) for author in range(4))
    block = sign_block(Header(CHAIN, 0, 0, 1, parents, 5, merkle_root(PAYLOADS)), PAYLOADS, KEYS[0])
    records = [CommitRecord(0, 7, 1, b"p" * 32, (block.reference,), (block.reference,), 5)]
    for step in range(later):
        records.append(CommitRecord(0, 8 + step, 2 + step, records[-1].digest(), (), (), 6 + step))
    certificate = certify(records[-1].digest(), records[-1].height, KEYS[:3])
    return prove_transaction(block, number, [codec.encode(record) for record in records], certificate)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("later", [0, 3])
def test_a_true_proof_gives_the_height(number: int, later: int) -> None:
    proven = codec.decode(codec.encode(proof_of(number, later)), ProvenTransaction, limit=10**6)
    assert proven.verify(IDS[number], CHAIN, WEIGHTS) == 7


def changes() -> dict[str, ProvenTransaction]:
    true = proof_of(1)
    other = CommitRecord(0, 7, 1, b"q" * 32, (), (), 5)
    replace = msgspec.structs.replace
    certified = true.certificate.statement
    return {
        "another transaction": replace(true, transaction=PAYLOADS[2]),
        "another index": replace(true, index=2),
        "a shorter path": replace(true, path=true.path[:-1]),
        "an altered path": replace(true, path=(ZERO_DIGEST, *true.path[1:])),
        "an altered header": replace(true, header=true.header[:-1] + bytes([true.header[-1] ^ 1])),
        "no commits": replace(true, commits=()),
        "a missing commit": replace(true, commits=true.commits[:1] + true.commits[2:]),
        "without the last commit": replace(true, commits=true.commits[:-1]),
        "another first commit": replace(true, commits=(codec.encode(other), *true.commits[1:])),
        "the wrong first commit": replace(true, commits=true.commits[1:]),
        "too few signers": replace(true, certificate=certify(certified.digests[0], 10, KEYS[:2])),
        "another chain": replace(true, certificate=certify(certified.digests[0], 10, KEYS, chain_id=b"d" * 32)),
        "another statement": replace(true, certificate=certify(certified.digests[0], 10, KEYS, kind="other")),
    }


@pytest.mark.parametrize("change", changes())
def test_a_changed_proof_is_refused(change: str) -> None:
    with pytest.raises(PeerFault):
        changes()[change].verify(IDS[1], CHAIN, WEIGHTS)


def test_a_proof_of_another_transaction_is_refused() -> None:
    with pytest.raises(PeerFault, match="another transaction"):
        proof_of(1).verify(IDS[2], CHAIN, WEIGHTS)
