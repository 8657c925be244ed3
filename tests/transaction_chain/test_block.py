"""Blocks: what is checked without another block, one typed error for each rule."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, DOMAIN, SignedStatement, Statement
from blockcloud.primitives.errors import BadSignature, Malformed, NonCanonical, Oversized, PeerFault, WrongChain
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import (
    BLOCK_BYTES,
    BLOCK_OPERATIONS,
    BLOCK_PAYLOAD_BYTES,
    BLOCK_STATEMENTS,
    TRANSACTION_BYTES,
)
from blockcloud.primitives.merkle import merkle_root
from blockcloud.transaction_chain.block import (
    Block,
    BlockReference,
    Header,
    InvalidBlock,
    WireBlock,
    genesis_reference,
    parse_block,
    parse_own,
    sign_block,
    verify_block_signature,
)
from blockcloud.transaction_chain.committee import Committee, Member

CHAIN, GENESIS = bytes([1]) * 32, bytes([2]) * 32
KEYS = [SigningKey(bytes([1 + index]) * 32) for index in range(4)]
COMMITTEE = Committee(Member(key.public, 1) for key in KEYS)
OTHERS = tuple(BlockReference(4, author, bytes([author]) * 32) for author in range(1, 4))
OWN = BlockReference(4, 0, bytes(32))
PAYLOAD = (b"one", b"two")
HEADER = Header(CHAIN, 0, 0, 5, (OWN, *OTHERS), 1_000, merkle_root(PAYLOAD))


def parse(raw: bytes) -> Block:
    return parse_block(raw, CHAIN, 0, COMMITTEE, GENESIS)


def raw_block(payload: tuple[bytes, ...] = PAYLOAD, **changes: object) -> bytes:
    return raw_block_with({"payload_root": merkle_root(payload), **changes}, payload)


def raw_block_with(changes: dict[str, object], payload: tuple[bytes, ...] = PAYLOAD) -> bytes:
    return sign_block(msgspec.structs.replace(HEADER, **changes), payload, KEYS[0]).raw


def signed_statement(key: SigningKey) -> SignedStatement:
    statement = Statement(CHECKPOINT, CHAIN, 0, 10, (bytes(32), bytes(32)))
    return SignedStatement(statement, key.public, key.sign(DOMAIN, codec.encode(statement)))


def test_round_trip() -> None:
    block = sign_block(HEADER, PAYLOAD, KEYS[0])
    for parsed in (parse(block.raw), parse_own(block.raw)):
        assert parsed.reference == block.reference
        assert (parsed.header, parsed.payload, parsed.signature) == (HEADER, PAYLOAD, block.signature)
        verify_block_signature(parsed, COMMITTEE)


def test_the_digest_does_not_depend_on_the_signature() -> None:
    block = sign_block(HEADER, PAYLOAD, KEYS[0])
    other = parse(codec.encode(WireBlock(codec.encode(HEADER), PAYLOAD, bytes(64))))
    assert other.reference == block.reference
    with pytest.raises(BadSignature):
        verify_block_signature(other, COMMITTEE)


def test_the_key_of_another_member() -> None:
    with pytest.raises(BadSignature):
        verify_block_signature(sign_block(HEADER, PAYLOAD, KEYS[1]), COMMITTEE)


def test_a_statement_with_a_wrong_signature() -> None:
    good = signed_statement(KEYS[2])
    verify_block_signature(parse(raw_block(statements=(good,))), COMMITTEE)
    bad = msgspec.structs.replace(good, signature=bytes(64))
    with pytest.raises(BadSignature):
        verify_block_signature(parse(raw_block(statements=(bad,))), COMMITTEE)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"era": 1}, "another era"),
        ({"author": 4}, "not in the committee"),
        ({"author": 1}, "own previous block comes first"),
        ({"level": 0, "parents": ()}, "level starts at 1"),
        ({"timestamp_ms": -1}, "time at 0"),
        ({"parents": ()}, "one to n parents"),
        ({"parents": (OWN, *OTHERS, OTHERS[0])}, "one to n parents"),
        ({"parents": (OTHERS[0], OWN, *OTHERS[1:])}, "own previous block comes first"),
        ({"parents": (OWN, OTHERS[0], OTHERS[0])}, "at most one parent"),
        ({"parents": (OWN, *OTHERS[:2], BlockReference(4, 4, bytes(32)))}, "each committee member"),
        ({"parents": (OWN, *OTHERS[:2], BlockReference(5, 3, bytes(32)))}, "not below"),
        ({"parents": (OWN, *OTHERS[:2], BlockReference(-1, 3, bytes(32)))}, "not below"),
        ({"parents": (OWN, *OTHERS[:2], BlockReference(4, 3, bytes(31)))}, "not below"),
        ({"parents": (BlockReference(0, 0, bytes(32)), *OTHERS)}, "not the genesis"),
        ({"parents": (OWN, OTHERS[0])}, "less weight than a quorum"),
        ({"parents": (OWN, OTHERS[0], BlockReference(3, 2, bytes(32)))}, "less weight than a quorum"),
        ({"payload_root": bytes(32)}, "Merkle root"),
        ({"statements": (signed_statement(KEYS[1]),) * (BLOCK_STATEMENTS + 1)}, "too many statements"),
        ({"statements": (signed_statement(SigningKey(bytes(32))),)}, "stranger"),
        ({"onion_reveal": bytes(31)}, "reveal"),
    ],
)
def test_one_broken_rule(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidBlock, match=reason):
        parse(raw_block_with(changes))


def test_another_chain() -> None:
    with pytest.raises(WrongChain):
        parse(raw_block(chain_id=bytes(32)))


@pytest.mark.parametrize(
    "parents",
    [
        (genesis_reference(0, GENESIS), *OTHERS),
        (BlockReference(2, 0, bytes(32)), *OTHERS),
        (OWN, *OTHERS[:2], BlockReference(1, 3, bytes(32))),
        (OWN, *OTHERS[:2]),
    ],
    ids=["first block of a late author", "own previous further down", "weak link", "a quorum"],
)
def test_valid_parents(parents: tuple[BlockReference, ...]) -> None:
    assert parse(raw_block(parents=parents)).parents == parents


def test_the_first_level_stands_on_the_genesis() -> None:
    parents = tuple(genesis_reference(author, GENESIS) for author in range(4))
    assert parse(raw_block(level=1, parents=parents)).level == 1


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ((b"",), Malformed),
        ((bytes(TRANSACTION_BYTES + 1),), Malformed),
        ((b"x",) * (BLOCK_OPERATIONS + 1), Oversized),
        ((bytes(TRANSACTION_BYTES),) * (BLOCK_PAYLOAD_BYTES // TRANSACTION_BYTES + 1), Oversized),
    ],
    ids=["empty item", "large item", "too many items", "too many bytes"],
)
def test_payload_limits(payload: tuple[bytes, ...], error: type[PeerFault]) -> None:
    with pytest.raises(error):
        parse(raw_block(payload))


def test_the_largest_payload() -> None:
    payload = (bytes(TRANSACTION_BYTES),) * (BLOCK_PAYLOAD_BYTES // TRANSACTION_BYTES)
    assert parse(raw_block(payload)).payload == payload


def test_a_block_is_bounded_before_it_is_decoded() -> None:
    with pytest.raises(Oversized):
        parse(bytes(BLOCK_BYTES + 1))


def test_a_longer_form_of_the_same_header() -> None:
    header = codec.encode(HEADER)
    longer = header.replace(b"\x05", b"\xcc\x05", 1)
    assert longer != header
    with pytest.raises(NonCanonical):
        parse(codec.encode(WireBlock(longer, PAYLOAD, bytes(64))))


RAW = raw_block(statements=(signed_statement(KEYS[1]),))


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_noticed(at: int, flip: int) -> None:
    damaged = RAW[:at] + bytes([RAW[at] ^ flip]) + RAW[at + 1 :]
    with pytest.raises(PeerFault):
        verify_block_signature(parse(damaged), COMMITTEE)


@given(st.binary(max_size=300))
def test_noise(raw: bytes) -> None:
    with pytest.raises(PeerFault):
        parse(raw)
