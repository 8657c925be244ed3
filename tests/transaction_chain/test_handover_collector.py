"""Collecting the signatures that end an era: a quorum of the old committee, each member once, the first word counts."""

from __future__ import annotations

import pytest

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import DOMAIN, HANDOVER, SignedStatement, Statement
from blockcloud.primitives.errors import BadSignature, Malformed, PeerFault, UnknownSigner, WrongChain
from blockcloud.primitives.keys import SigningKey
from blockcloud.transaction_chain.committee import Committee, Member
from blockcloud.transaction_chain.era import EraPlan, HandoverCollector, Seat, handover_statement

CHAIN = b"c" * 32
KEYS = [SigningKey(bytes([1 + number]) * 32) for number in range(4)]
COMMITTEE = Committee(Member(key.public, 1) for key in KEYS)
SEATS = tuple(Seat(key.public, key.public, 1, 1, "127.0.0.1:1", "http://127.0.0.1:2") for key in KEYS)
PLAN = EraPlan(6, 101, b"b" * 32, 1, SEATS)
STATEMENT = handover_statement(CHAIN, 100, b"d" * 32, b"r" * 32, PLAN)


def signed(key: SigningKey, statement: Statement = STATEMENT) -> SignedStatement:
    return SignedStatement(statement, key.public, key.sign(DOMAIN, codec.encode(statement)))


def other(root: bytes = b"x" * 32) -> Statement:
    return handover_statement(CHAIN, 100, b"d" * 32, root, PLAN)


def test_a_quorum_makes_the_certificate_and_less_does_not() -> None:
    collector = HandoverCollector(COMMITTEE, CHAIN, 5)
    for key in KEYS[:2]:
        collector.add(signed(key))
    collector.add(signed(KEYS[0]))
    assert collector.certificate(STATEMENT) is None
    collector.add(signed(KEYS[3]))
    certificate = collector.certificate(STATEMENT)
    assert certificate is not None
    certificate.verify(COMMITTEE.weights_by_key)
    assert len(certificate.signatures) == 3


def test_different_statements_do_not_add_up_and_the_first_counts() -> None:
    collector = HandoverCollector(COMMITTEE, CHAIN, 5)
    for key in KEYS[:2]:
        collector.add(signed(key))
    for key in KEYS[1:]:
        collector.add(signed(key, other()))
    assert collector.certificate(STATEMENT) is None
    assert collector.certificate(other()) is None
    ((first, second),) = collector.conflicts.values()
    assert (first.statement, second.statement) == (STATEMENT, other())
    collector.add(signed(KEYS[1], other(b"y" * 32)))
    assert len(collector.conflicts) == 1


@pytest.mark.parametrize(
    ("statement", "key", "error"),
    [
        (Statement("checkpoint", CHAIN, 5, 100, (b"d" * 32, b"r" * 32)), KEYS[0], Malformed),
        (Statement(HANDOVER, CHAIN, 4, 100, STATEMENT.digests), KEYS[0], Malformed),
        (Statement(HANDOVER, b"o" * 32, 5, 100, STATEMENT.digests), KEYS[0], WrongChain),
        (STATEMENT, SigningKey(b"s" * 32), UnknownSigner),
    ],
)
def test_what_does_not_belong_is_refused(statement: Statement, key: SigningKey, error: type[PeerFault]) -> None:
    with pytest.raises(error):
        HandoverCollector(COMMITTEE, CHAIN, 5).add(signed(key, statement))


def test_a_forged_signature_counts_nothing() -> None:
    collector = HandoverCollector(COMMITTEE, CHAIN, 5)
    for key in KEYS[:2]:
        collector.add(signed(key))
    with pytest.raises(BadSignature):
        collector.add(SignedStatement(STATEMENT, KEYS[2].public, bytes(64)))
    assert collector.certificate(STATEMENT) is None


def test_the_statement_covers_the_whole_plan() -> None:
    moved = EraPlan(6, 101, b"b" * 32, 2, SEATS)
    assert handover_statement(CHAIN, 100, b"d" * 32, b"r" * 32, moved) != STATEMENT
    assert STATEMENT.era == 5
