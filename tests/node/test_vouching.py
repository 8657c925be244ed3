"""Vouched blocks at a node: what is asked for, and what is verified all the same."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from blockcloud.node.verification import Verification
from blockcloud.node.vouching import AHEAD_COMMITS, COMMITS_RETRY_MS, Vouching
from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, DOMAIN, Certificate, SignedStatement, Statement
from blockcloud.primitives.errors import BadSignature, BelowQuorum, Malformed, PeerFault, WrongChain
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.merkle import merkle_root
from blockcloud.primitives.storage import MemoryStore
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.transaction_chain.block import (
    Block,
    BlockReference,
    BlockRules,
    Header,
    InvalidBlock,
    WireBlock,
    genesis_reference,
    sign_block,
)
from blockcloud.transaction_chain.commit import CommitRecord
from blockcloud.transaction_chain.committee import Committee, Member
from blockcloud.transaction_chain.messages import COMMITS_ASKED, Commits
from tests.node.cluster import USERS, Cluster, make_genesis

CHAIN = b"c" * 32
KEYS = sorted((SigningKey(bytes([number + 1]) * 32) for number in range(4)), key=lambda key: key.public)
COMMITTEE = Committee(Member(key.public, 1) for key in KEYS)
RULES = BlockRules(CHAIN, 0, COMMITTEE, b"g" * 32)
NEXT_RULES = BlockRules(CHAIN, 1, COMMITTEE, b"n" * 32)
PEER, OTHER_PEER = 1, 2


def block(author: int, payload: tuple[bytes, ...] = (), *, time_ms: int = 0, key: SigningKey | None = None) -> Block:
    parents = sorted((genesis_reference(member, b"g" * 32) for member in range(4)), key=lambda p: p.author != author)
    lie = SignedStatement(Statement(CHECKPOINT, CHAIN, 0, 10, (b"a" * 32, b"b" * 32)), KEYS[0].public, bytes(64))
    header = Header(CHAIN, 0, author, 1, tuple(parents), time_ms, merkle_root(payload), (lie,))
    return sign_block(header, payload, key or KEYS[author])


def chain(blocks: list[BlockReference], count: int = 3, era: int = 0) -> tuple[list[bytes], CommitRecord]:
    """Records of `count` commits, of which the first has `blocks`."""
    raws, previous = [], sha256(b"before")
    for height in range(1, count + 1):
        record = CommitRecord(era, height, height, previous, (), tuple(blocks) if height == 1 else (), height)
        raws.append(codec.encode(record))
        previous = record.digest()
    return raws, record


def certify(record: CommitRecord, signers: int = 3) -> Certificate:
    statement = Statement(CHECKPOINT, CHAIN, record.era, record.height, (record.digest(), bytes(32)))
    message = codec.encode(statement)
    return Certificate(statement, tuple((key.public, key.sign(DOMAIN, message)) for key in KEYS[:signers]))


def vouching_for(blocks: list[BlockReference]) -> Vouching:
    vouching = Vouching()
    assert vouching.ask(PEER, RULES, 0, 0)
    raws, last = chain(blocks)
    vouching.answered(PEER, Commits(0, tuple(raws), certify(last)))
    return vouching


# The requests


def test_one_request_at_a_time_until_enough_is_known() -> None:
    vouching = Vouching()
    asked = vouching.ask(PEER, RULES, 7, 0)
    assert asked is not None
    assert (asked.era, asked.first, asked.last) == (0, 8, 7 + COMMITS_ASKED)
    assert vouching.ask(PEER, RULES, 7, COMMITS_RETRY_MS - 1) is None
    assert vouching.ask(PEER, RULES, 7, COMMITS_RETRY_MS) == asked, "not answered in time"
    assert vouching.ask(OTHER_PEER, RULES, 7, COMMITS_RETRY_MS + 1) == asked, "the chunks come from another peer now"
    vouching.lost(OTHER_PEER)
    assert vouching.ask(OTHER_PEER, RULES, 7, COMMITS_RETRY_MS + 2) == asked, "the link is gone"


def test_it_goes_on_from_what_is_known_and_not_too_far() -> None:
    vouching, heights, previous = Vouching(), 0, sha256(b"before")
    while asked := vouching.ask(PEER, RULES, 0, 0):
        assert asked.first == heights + 1
        raws = []
        for heights in range(asked.first, asked.first + 100):
            last = CommitRecord(0, heights, heights, previous, (), (), heights)
            raws.append(codec.encode(last))
            previous = last.digest()
        vouching.answered(PEER, Commits(0, tuple(raws), certify(last)))
    assert AHEAD_COMMITS <= heights < AHEAD_COMMITS + 100
    decided = heights - AHEAD_COMMITS + 1
    asked = vouching.ask(PEER, RULES, decided, 0)
    assert asked is not None
    assert asked.first == heights + 1


def test_nothing_that_was_not_asked_for_vouches() -> None:
    one = block(1)
    raws, last = chain([one.reference])
    answer = Commits(0, tuple(raws), certify(last))
    vouching = Vouching()
    vouching.answered(PEER, answer)
    assert not vouching.vouches(RULES, one)
    vouching.ask(PEER, RULES, 0, 0)
    vouching.answered(OTHER_PEER, answer)
    vouching.answered(PEER, replace(answer, raws=answer.raws[1:]))
    assert not vouching.vouches(RULES, one)
    vouching.answered(PEER, answer)
    assert vouching.vouches(RULES, one)
    assert not vouching.vouches(NEXT_RULES, one)
    assert vouching.ask(PEER, NEXT_RULES, 0, 0) is not None, "another era begins with nothing"
    assert not vouching.vouches(RULES, one)


def test_an_empty_answer_lets_the_next_chunk_ask_again() -> None:
    vouching = Vouching()
    first = vouching.ask(PEER, RULES, 0, 0)
    vouching.answered(PEER, Commits(0, ()))
    assert vouching.ask(PEER, RULES, 0, 1) == first


def test_a_refused_answer_is_the_peers_fault_and_vouches_for_nothing() -> None:
    one = block(1)
    raws, last = chain([one.reference])
    vouching = Vouching()
    vouching.ask(PEER, RULES, 0, 0)
    with pytest.raises(BelowQuorum):
        vouching.answered(PEER, Commits(0, tuple(raws), certify(last, signers=2)))
    assert not vouching.vouches(RULES, one)


# The verification


@dataclass
class Outcome:
    blocks: list[Block] = field(default_factory=list)
    fault: PeerFault | None = None


async def verified(raws: list[bytes], vouched: list[BlockReference], *, fetched: bool = True) -> tuple[Outcome, int]:
    """What the pool says to `raws`, and how many of them needed less. Payload items that begin with `bad` have a bad
    signature, with `ugly` they cannot be parsed."""
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def check_vouched(payload: bytes) -> int:
        if payload.startswith(b"ugly"):
            raise Malformed("not a payload")
        return 1

    def check(payload: bytes) -> int:
        if payload.startswith(b"bad"):
            raise BadSignature("payload")
        return check_vouched(payload)

    pool = Verification(
        check=check,
        check_submitted=check,
        deliver=lambda peer, blocks, fault, fetched, rules: done.set_result(Outcome(blocks, fault)),
        failed=done.set_exception,
        check_vouched=check_vouched,
    )
    pool.vouching = vouching_for(vouched)
    try:
        pool.add_blocks(PEER, raws, RULES, fetched=fetched)
        async with asyncio.timeout(20):
            return await done, pool.vouching.blocks
    finally:
        pool.close()


def verify(raws: list[bytes], vouched: list[BlockReference], *, fetched: bool = True) -> tuple[Outcome, int]:
    return asyncio.run(verified(raws, vouched, fetched=fetched))


def faulty(time_ms: int = 0) -> Block:
    """A block that only a quorum's word can carry: a statement in it and its payload have bad signatures."""
    return block(1, (b"bad",), time_ms=time_ms)


def test_a_vouched_block_is_not_verified_again() -> None:
    one = faulty()
    outcome, count = verify([one.raw], [one.reference])
    assert outcome.fault is None
    assert [found.reference for found in outcome.blocks] == [one.reference]
    assert count == 1


def test_a_block_of_the_range_that_is_not_vouched_is_verified_whole() -> None:
    one, other = faulty(), faulty(time_ms=1)
    outcome, count = verify([one.raw, other.raw], [one.reference])
    assert isinstance(outcome.fault, BadSignature)
    assert len(outcome.blocks) == 1
    assert count == 1


def test_a_new_block_is_verified_whole_whoever_vouches() -> None:
    one = faulty()
    outcome, count = verify([one.raw], [one.reference], fetched=False)
    assert isinstance(outcome.fault, BadSignature)
    assert count == 0


def test_the_signature_of_a_vouched_block_is_verified() -> None:
    """The digest does not cover it. Whoever took it unseen would pass it on, and be blamed."""
    one = faulty()
    forged = sign_block(one.header, one.payload, KEYS[0])
    assert forged.reference == one.reference
    outcome, count = verify([forged.raw], [one.reference])
    assert isinstance(outcome.fault, BadSignature)
    assert (outcome.blocks, count) == ([], 0)


def test_the_payload_of_a_vouched_block_is_that_of_its_header() -> None:
    one = faulty()
    raw = codec.encode(WireBlock(codec.encode(one.header), (b"other",), one.signature))
    outcome, _ = verify([raw], [one.reference])
    assert isinstance(outcome.fault, InvalidBlock)


def test_the_payload_of_a_vouched_block_is_parsed() -> None:
    one = block(1, (b"ugly",))
    outcome, _ = verify([one.raw], [one.reference])
    assert isinstance(outcome.fault, Malformed)


def test_a_vouched_payload_must_be_a_transaction_of_this_chain(tmp_path: Path) -> None:
    genesis = make_genesis(4)
    machine = ServiceChain(genesis, MemoryStore())
    made = Cluster(tmp_path, genesis)
    good = made.transfer(0, 0, USERS[1].public, 1)
    forged = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(BadSignature):
        machine.check(forged)
    assert machine.check_vouched(good) == machine.check(good) == 1
    with pytest.raises(Malformed):
        machine.check_vouched(b"garbage")
    other = Cluster(tmp_path, replace(genesis, name="another"))
    with pytest.raises(WrongChain):
        machine.check_vouched(other.transfer(0, 0, USERS[1].public, 1))
    with pytest.raises(BadSignature):
        machine.check(forged)
