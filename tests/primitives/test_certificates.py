"""Certified statements: what a certificate must carry, and what it must not."""

import pytest

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import (
    CERTIFICATE_BYTES,
    CHECKPOINT,
    DOMAIN,
    Certificate,
    SignedStatement,
    Statement,
    quorum_weight,
)
from blockcloud.primitives.errors import BadCertificate, BadSignature
from blockcloud.primitives.keys import SigningKey

KEYS = sorted((SigningKey(bytes([i]) * 32) for i in range(4)), key=lambda key: key.public)
WEIGHTS = {key.public: 10 for key in KEYS}
STATEMENT = Statement(CHECKPOINT, bytes(32), 0, 10, (bytes(32), bytes([1]) * 32))


def certificate(keys: list[SigningKey], statement: Statement = STATEMENT) -> Certificate:
    message = codec.encode(statement)
    return Certificate(statement, tuple((key.public, key.sign(DOMAIN, message)) for key in keys))


@pytest.mark.parametrize(("total", "quorum"), [(1, 1), (3, 3), (4, 3), (7, 5), (10, 7), (40, 27)])
def test_two_quorums_share_more_than_a_third(total: int, quorum: int) -> None:
    assert quorum_weight(total) == quorum
    assert 2 * quorum - total > (total - 1) // 3


def test_a_quorum_certifies_and_survives_the_codec() -> None:
    certified = certificate(KEYS[:3])
    certified.verify(WEIGHTS)
    codec.decode(codec.encode(certified), Certificate, limit=CERTIFICATE_BYTES).verify(WEIGHTS)


def test_below_the_quorum() -> None:
    with pytest.raises(BadCertificate, match="weight"):
        certificate(KEYS[:2]).verify(WEIGHTS)


def test_a_signer_twice() -> None:
    with pytest.raises(BadCertificate, match="repetition"):
        certificate([KEYS[0], KEYS[1], KEYS[1]]).verify(WEIGHTS)


def test_a_stranger() -> None:
    stranger = SigningKey(bytes([9]) * 32)
    with pytest.raises(BadCertificate, match="committee"):
        certificate(sorted([*KEYS[:3], stranger], key=lambda key: key.public)).verify(WEIGHTS)


def test_a_signature_for_another_statement() -> None:
    other = certificate(KEYS[:3], Statement(CHECKPOINT, bytes(32), 0, 20, STATEMENT.digests))
    with pytest.raises(BadSignature):
        Certificate(STATEMENT, other.signatures).verify(WEIGHTS)


def test_a_signed_statement_is_bound_to_its_signer() -> None:
    signature = KEYS[0].sign(DOMAIN, codec.encode(STATEMENT))
    SignedStatement(STATEMENT, KEYS[0].public, signature).verify()
    with pytest.raises(BadSignature):
        SignedStatement(STATEMENT, KEYS[1].public, signature).verify()
