"""Checkpoint statements: certificates of a quorum, the first statement counts, lies are kept as evidence, room is
bounded."""

from __future__ import annotations

import itertools

import pytest

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, DOMAIN, SignedStatement, Statement
from blockcloud.primitives.errors import BadSignature, Malformed, UnknownSigner, WrongChain
from blockcloud.primitives.keys import SigningKey
from blockcloud.transaction_chain.checkpoints import STATEMENTS_PER_MEMBER, CheckpointCollector
from blockcloud.transaction_chain.committee import Committee, Member

CHAIN = bytes([1]) * 32
KEYS = [SigningKey(bytes([i]) * 32) for i in range(4)]
COMMITTEE = Committee(Member(key.public, 10) for key in KEYS)


def statement(height: int, root: int = 0, *, chain: bytes = CHAIN, era: int = 0) -> Statement:
    return Statement(CHECKPOINT, chain, era, height, (bytes(32), bytes([root]) * 32))


def signed(key: SigningKey, claim: Statement) -> SignedStatement:
    return SignedStatement(claim, key.public, key.sign(DOMAIN, codec.encode(claim)))


def collector() -> CheckpointCollector:
    return CheckpointCollector(COMMITTEE, CHAIN, 0)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_the_statement_that_completes_the_quorum_certifies(order: tuple[int, ...]) -> None:
    checkpoints = collector()
    given = [checkpoints.add(signed(KEYS[index], statement(10))) for index in order]
    assert [certificate is not None for certificate in given] == [False, False, True, False]
    assert given[2] is not None
    given[2].verify(COMMITTEE.weights_by_key)
    assert checkpoints.newest == given[2]


def test_one_member_counts_once() -> None:
    checkpoints = collector()
    for _ in range(3):
        assert checkpoints.add(signed(KEYS[0], statement(10))) is None
        assert checkpoints.add(signed(KEYS[1], statement(10))) is None
    assert checkpoints.newest is None


def test_weight_counts_not_heads() -> None:
    heavy = Committee([Member(KEYS[0].public, 100), *(Member(key.public, 1) for key in KEYS[1:])])
    checkpoints = CheckpointCollector(heavy, CHAIN, 0)
    assert [checkpoints.add(signed(key, statement(10))) for key in KEYS[1:]] == [None] * 3
    assert checkpoints.add(signed(KEYS[0], statement(10))) is not None


def test_different_statements_do_not_add_up() -> None:
    checkpoints = collector()
    for index, root in enumerate([1, 1, 2, 2]):
        assert checkpoints.add(signed(KEYS[index], statement(10, root))) is None
    assert checkpoints.conflicts == [], "two members that disagree are not a lie of either"


def test_a_member_that_contradicts_itself() -> None:
    checkpoints = collector()
    first, second, third = (signed(KEYS[0], statement(10, root)) for root in (1, 2, 3))
    for one in (first, second, third, second):
        assert checkpoints.add(one) is None
    assert checkpoints.conflicts == [(first, second)]
    assert checkpoints.add(signed(KEYS[1], statement(10, 2))) is None
    assert checkpoints.add(signed(KEYS[2], statement(10, 2))) is None, "its second statement counts for nothing"
    assert checkpoints.add(signed(KEYS[3], statement(10, 2))) is not None


def test_the_newest_never_goes_back() -> None:
    checkpoints = collector()
    for key in KEYS[:3]:
        checkpoints.add(signed(key, statement(20)))
    assert [checkpoints.add(signed(key, statement(10))) for key in KEYS] == [None] * 4
    assert checkpoints.newest is not None
    assert checkpoints.newest.statement.height == 20


def test_what_is_not_a_statement_of_this_committee() -> None:
    checkpoints = collector()
    with pytest.raises(UnknownSigner):
        checkpoints.add(signed(SigningKey(bytes([9]) * 32), statement(10)))
    with pytest.raises(WrongChain):
        checkpoints.add(signed(KEYS[0], statement(10, chain=bytes(32))))
    with pytest.raises(Malformed):
        checkpoints.add(signed(KEYS[0], Statement("handover", CHAIN, 0, 10, (bytes(32), bytes(32)))))
    with pytest.raises(Malformed):
        checkpoints.add(signed(KEYS[0], Statement(CHECKPOINT, CHAIN, 0, 10, (bytes(32),))))
    with pytest.raises(BadSignature):
        checkpoints.add(SignedStatement(statement(10), KEYS[0].public, bytes(64)))
    assert checkpoints.add(signed(KEYS[0], statement(10, era=1))) is None


def test_a_bad_signature_does_not_take_the_place_of_the_good_one() -> None:
    checkpoints = collector()
    with pytest.raises(BadSignature):
        checkpoints.add(SignedStatement(statement(10, 5), KEYS[0].public, bytes(64)))
    for key in KEYS[:3]:
        checkpoints.add(signed(key, statement(10)))
    assert checkpoints.newest is not None
    assert checkpoints.conflicts == []


def test_a_member_that_invents_heights_pushes_out_its_own_only() -> None:
    checkpoints = collector()
    for key in KEYS[1:3]:
        checkpoints.add(signed(key, statement(10)))
    for height in range(11, 11 + 2 * STATEMENTS_PER_MEMBER):
        checkpoints.add(signed(KEYS[0], statement(height)))
    assert checkpoints.add(signed(KEYS[3], statement(10))) is not None
