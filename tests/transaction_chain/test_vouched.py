"""What a quorum vouches for: certified chains of commits are taken, and nothing else vouches for a block."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, DOMAIN, HANDOVER, Certificate, Statement
from blockcloud.primitives.errors import (
    BadCertificate,
    BadSignature,
    BelowQuorum,
    DoubledSigner,
    PeerFault,
    WrongChain,
)
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.transaction_chain import vouched as module
from blockcloud.transaction_chain.block import BlockReference
from blockcloud.transaction_chain.commit import CommitRecord
from blockcloud.transaction_chain.committee import Committee, Member
from blockcloud.transaction_chain.vouched import BrokenCommitChain, Vouched

CHAIN, ERA, FIRST = b"c" * 32, 3, 41
KEYS = sorted((SigningKey(bytes([number + 1]) * 32) for number in range(4)), key=lambda key: key.public)
COMMITTEE = Committee(Member(key.public, 10) for key in KEYS)


def digest_of(height: int, number: int, lie: str = "") -> bytes:
    return sha256(b"%d/%d" % (height, number) + lie.encode())


def commits(count: int, width: int = 3, *, lie: str = "", era: int = ERA, first: int = FIRST) -> list[CommitRecord]:
    records: list[CommitRecord] = []
    previous = sha256(b"before")
    for height in range(first, first + count):
        blocks = tuple(BlockReference(height, number, digest_of(height, number, lie)) for number in range(width))
        records.append(CommitRecord(era, height, height, previous, blocks[:1], blocks, height))
        previous = records[-1].digest()
    return records


def raws_of(records: list[CommitRecord]) -> list[bytes]:
    return [codec.encode(record) for record in records]


def certify(record: CommitRecord, keys: list[SigningKey] | None = None, **changes: object) -> Certificate:
    statement = Statement(CHECKPOINT, CHAIN, ERA, record.height, (record.digest(), sha256(b"root")))
    statement = replace(statement, **changes)
    message = codec.encode(statement)
    return Certificate(statement, tuple((key.public, key.sign(DOMAIN, message)) for key in keys or KEYS[:3]))


def all_digests(records: list[CommitRecord]) -> list[bytes]:
    return [reference.digest for record in records for reference in record.blocks]


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(0, 5),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    passed=st.integers(FIRST - 2, FIRST + 50),
)
def test_certified_ranges_vouch_for_their_blocks_until_they_are_passed(
    width: int, cuts: list[int], passed: int
) -> None:
    records = commits(sum(cuts), width)
    known = Vouched(COMMITTEE, CHAIN, ERA)
    start = 0
    for cut in cuts:
        part = records[start : start + cut]
        known.take(raws_of(part), certify(part[-1]))
        start += cut
        assert known.reached == part[-1].height
        assert all(known.vouches(digest) for digest in all_digests(records[:start]))
        assert not any(known.vouches(digest) for digest in all_digests(records[start:]))
    known.passed(passed)
    for record in records:
        assert all(known.vouches(digest) == (record.height > passed) for digest in all_digests([record]))
    assert len(known) == len(all_digests([record for record in records if record.height > passed]))


def test_the_handover_that_ends_the_era_certifies_too() -> None:
    records = commits(5)
    known = Vouched(COMMITTEE, CHAIN, ERA)
    digests = (records[-1].digest(), sha256(b"root"), sha256(b"plan"))
    known.take(raws_of(records), certify(records[-1], kind=HANDOVER, digests=digests))
    assert all(known.vouches(digest) for digest in all_digests(records))


def _forged(certificate: Certificate) -> Certificate:
    (signer, signature), *others = certificate.signatures
    return replace(certificate, signatures=((signer, bytes([signature[0] ^ 1]) + signature[1:]), *others))


GOOD = commits(6)
OTHER = commits(6, lie="lie")
STRANGERS = sorted((SigningKey(bytes([90 + number]) * 32) for number in range(4)), key=lambda key: key.public)
LAST = GOOD[-1]
Case = tuple[list[CommitRecord], Callable[[], Certificate], type[PeerFault]]
REFUSED: dict[str, Case] = {
    "forged signature": (GOOD, lambda: _forged(certify(LAST)), BadSignature),
    "signed something else": (
        OTHER,
        lambda: replace(certify(LAST), statement=certify(OTHER[-1]).statement),
        BadSignature,
    ),
    "below quorum": (GOOD, lambda: certify(LAST, KEYS[:2]), BelowQuorum),
    "doubled signer": (GOOD, lambda: certify(LAST, [KEYS[0], KEYS[0], KEYS[1]]), DoubledSigner),
    "strangers": (GOOD, lambda: certify(LAST, STRANGERS), BadCertificate),
    "another era": (commits(6, era=ERA + 1), lambda: certify(commits(6, era=ERA + 1)[-1], era=ERA + 1), BadCertificate),
    "another chain": (GOOD, lambda: certify(LAST, chain_id=b"d" * 32), WrongChain),
    "another kind": (GOOD, lambda: certify(LAST, kind="payment"), BadCertificate),
    "no digest": (GOOD, lambda: certify(LAST, digests=()), BadCertificate),
    "short digest": (GOOD, lambda: certify(LAST, digests=(b"short", b"root")), BadCertificate),
    "another chain of commits": (OTHER, lambda: certify(LAST), BrokenCommitChain),
    "another beginning": (OTHER[:3] + GOOD[3:], lambda: certify(LAST), BrokenCommitChain),
    "another middle": ([*GOOD[:3], OTHER[3], *GOOD[4:]], lambda: certify(LAST), BrokenCommitChain),
    "a gap": (GOOD[:2] + GOOD[3:], lambda: certify(LAST), BrokenCommitChain),
    "one too many": ([*GOOD, commits(7)[-1]], lambda: certify(LAST), BrokenCommitChain),
    "another order": ([GOOD[1], GOOD[0], *GOOD[2:]], lambda: certify(LAST), BrokenCommitChain),
    "certified at another height": (GOOD, lambda: certify(LAST, height=LAST.height + 1), BrokenCommitChain),
    "records of another era": (
        commits(6, era=ERA + 1),
        lambda: certify(commits(6, era=ERA + 1)[-1]),
        BrokenCommitChain,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_vouches_for_nothing(name: str) -> None:
    records, certificate, fault = REFUSED[name]
    known = Vouched(COMMITTEE, CHAIN, ERA)
    with pytest.raises(fault) as raised:
        known.take(raws_of(records), certificate())
    assert raised.type is fault
    assert len(known) == 0
    assert known.reached == 0
    assert not any(known.vouches(digest) for digest in all_digests(GOOD + OTHER + records))


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 5), byte=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_damaged_record_is_refused(at: int, byte: int, flip: int) -> None:
    raws = raws_of(GOOD)
    damaged = bytearray(raws[at])
    damaged[byte % len(damaged)] ^= flip
    raws[at] = bytes(damaged)
    known = Vouched(COMMITTEE, CHAIN, ERA)
    with pytest.raises(PeerFault):
        known.take(raws, certify(LAST))
    assert len(known) == 0


def test_it_holds_no_more_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VOUCHED_BLOCKS", 10)
    known = Vouched(COMMITTEE, CHAIN, ERA)
    known.take(raws_of(GOOD), certify(LAST))
    assert len(known) == 9
    assert known.reached == FIRST + 2
    known.passed(FIRST + 2)
    known.take(raws_of(GOOD), certify(LAST))
    assert known.reached == LAST.height
    assert [known.vouches(digest) for digest in all_digests(GOOD)] == [False] * 9 + [True] * 9
