"""The verification pool: order within a source, fair turns between sources, typed faults, bounded queues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from threading import Event

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.node import verification
from blockcloud.node.verification import Verification
from blockcloud.primitives.errors import BadSignature, Malformed, PeerFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.merkle import merkle_root
from blockcloud.transaction_chain.block import Block, BlockRules, Header, genesis_reference, sign_block
from blockcloud.transaction_chain.committee import Committee, Member

CHAIN, GENESIS = b"c" * 32, b"g" * 32
KEYS = [SigningKey(bytes([number]) * 32) for number in range(4)]
COMMITTEE = Committee(Member(key.public, 1) for key in KEYS)
RULES = BlockRules(CHAIN, 0, COMMITTEE, GENESIS)
NEXT_KEYS = [SigningKey(bytes([50 + number]) * 32) for number in range(4)]
NEXT_RULES = BlockRules(CHAIN, 1, Committee(Member(key.public, 1) for key in NEXT_KEYS), b"n" * 32)


def block(
    author: int, payload: tuple[bytes, ...] = (), *, time_ms: int = 0, key: SigningKey | None = None, era: int = 0
) -> Block:
    genesis = (RULES, NEXT_RULES)[era].genesis
    parents = sorted((genesis_reference(member, genesis) for member in range(4)), key=lambda p: p.author != author)
    header = Header(CHAIN, era, author, 1, tuple(parents), time_ms, merkle_root(payload))
    return sign_block(header, payload, key or (KEYS, NEXT_KEYS)[era][author])


def check(payload: bytes) -> int:
    if payload.startswith(b"bad"):
        raise Malformed("bad payload")
    return len(payload)


@pytest.fixture(autouse=True)
def _nothing_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about the threads; one below is about small messages."""
    monkeypatch.setattr(verification, "INLINE_BYTES", 0)


@dataclass
class Delivered:
    messages: list[tuple[int, list[Block], PeerFault | None, bool]] = field(default_factory=list)
    rules: list[BlockRules] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, peer: int, blocks: list[Block], fault: PeerFault | None, fetched: bool, rules: BlockRules) -> None:
        self.messages.append((peer, blocks, fault, fetched))
        self.rules.append(rules)
        self.changed.set()

    def fail(self, error: BaseException) -> None:
        self.failures.append(error)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def pool(
    check: Callable[[bytes], int] = check, *, threads: int = 2
) -> AsyncIterator[tuple[Verification, Delivered]]:
    delivered = Delivered()
    verifying = Verification(
        check=check,
        check_submitted=check,
        deliver=delivered.take,
        failed=delivered.fail,
        threads=threads,
    )
    try:
        yield verifying, delivered
    finally:
        verifying.close()


async def test_good_blocks_arrive_in_the_order_of_their_source() -> None:
    async with pool() as (verifying, delivered):
        sent: dict[int, list[Block]] = {peer: [] for peer in (1, 2, 3)}
        for time_ms in range(30):
            for peer in sent:
                one = block(peer, (b"%d" % time_ms,) * (time_ms % 7), time_ms=time_ms)
                sent[peer].append(one)
                assert verifying.add_blocks(peer, (one.raw,), RULES, fetched=time_ms % 2 == 1)
        await delivered.until(lambda: len(delivered.messages) == 90)
        for peer, blocks in sent.items():
            mine = [message for message in delivered.messages if message[0] == peer]
            assert [message[1][0].reference for message in mine] == [one.reference for one in blocks]
            assert [message[3] for message in mine] == [time_ms % 2 == 1 for time_ms in range(30)]
            assert all(message[2] is None for message in mine)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5), chunk=st.integers(1, 7), threads=st.integers(1, 3))
async def test_every_payload_is_checked_whatever_the_chunks(sizes: list[int], chunk: int, threads: int) -> None:
    seen: list[bytes] = []

    def spy(payload: bytes) -> int:
        seen.append(payload)
        return check(payload)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "CHUNK_CHECKS", chunk)
        async with pool(spy, threads=threads) as (verifying, delivered):
            blocks = [
                block(1, tuple(b"%d/%d" % (number, item) for item in range(size))) for number, size in enumerate(sizes)
            ]
            verifying.add_blocks(1, [one.raw for one in blocks], RULES, fetched=True)
            payloads = [b"client/%d" % item for item in range(20)]
            verdicts = await verifying.check_payloads([*payloads, b"bad one"])
            await delivered.until(lambda: bool(delivered.messages))
    assert [one.reference for one in delivered.messages[0][1]] == [one.reference for one in blocks]
    assert verdicts[:-1] == [len(payload) for payload in payloads]
    assert isinstance(verdicts[-1], Malformed)
    assert sorted(seen) == sorted([*(item for one in blocks for item in one.payload), *payloads, b"bad one"])


async def test_faults_are_typed_and_end_their_message() -> None:
    forged = block(2, key=KEYS[3])
    unsigned_payload = block(2, (b"fine", b"bad payload"))
    async with pool() as (verifying, delivered):
        verifying.add_blocks(1, (block(1).raw, forged.raw, block(3).raw), RULES, fetched=True)
        verifying.add_blocks(2, (unsigned_payload.raw,), RULES, fetched=False)
        verifying.add_blocks(3, (b"garbage",), RULES, fetched=False)
        verifying.add_blocks(3, (block(3).raw,), RULES, fetched=False)
        await delivered.until(lambda: len(delivered.messages) == 4)
    found = {(peer, type(fault).__name__, len(blocks)) for peer, blocks, fault, _ in delivered.messages}
    assert found == {(1, BadSignature.__name__, 1), (2, "Malformed", 0), (3, "Malformed", 0), (3, "NoneType", 1)}


async def test_a_huge_source_does_not_stall_another() -> None:
    going, many = Event(), tuple(b"huge/%d" % item for item in range(1_500))

    def slow(payload: bytes) -> int:
        if payload.startswith(b"huge"):
            going.wait(timeout=20)
        return 1

    async with pool(slow, threads=1) as (verifying, delivered):
        for time_ms in range(3):
            verifying.add_blocks(1, (block(1, many, time_ms=time_ms).raw,), RULES, fetched=False)
        verifying.add_blocks(2, (block(2, (b"small",)).raw,), RULES, fetched=False)
        going.set()
        await delivered.until(lambda: len(delivered.messages) == 4)
    assert [peer for peer, *_ in delivered.messages] == [2, 1, 1, 1]


async def test_a_full_queue_says_so_and_says_when_it_is_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    going = Event()

    def slow(payload: bytes) -> int:
        going.wait(timeout=20)
        return 1

    raws = [block(1, (b"x" * 1_000,), time_ms=time_ms).raw for time_ms in range(10)]
    monkeypatch.setattr(verification, "SOURCE_BYTES", 5 * len(raws[0]))
    async with pool(slow) as (verifying, delivered):
        assert [verifying.add_blocks(1, (raw,), RULES, fetched=False) for raw in raws] == [True] * 5 + [False] * 5
        assert verifying.add_blocks(2, (raws[0],), RULES, fetched=False)
        waiting = asyncio.create_task(verifying.drained(1))
        await asyncio.sleep(0)
        assert not waiting.done()
        going.set()
        await asyncio.wait_for(waiting, 20)
        await delivered.until(lambda: len(delivered.messages) == 11)


async def test_a_bug_in_a_check_stops_the_node_instead_of_blaming_the_peer() -> None:
    def broken(payload: bytes) -> int:
        raise ZeroDivisionError

    async with pool(broken) as (verifying, delivered):
        verifying.add_blocks(1, (block(1, (b"one",)).raw,), RULES, fetched=False)
        await delivered.until(lambda: bool(delivered.failures))
    assert isinstance(delivered.failures[0], ZeroDivisionError)
    assert not delivered.messages


async def test_forgetting_a_peer_drops_what_waits_of_it() -> None:
    going = Event()

    def slow(payload: bytes) -> int:
        going.wait(timeout=20)
        return 1

    async with pool(slow, threads=1) as (verifying, delivered):
        for time_ms in range(5):
            verifying.add_blocks(1, (block(1, (b"one",), time_ms=time_ms).raw,), RULES, fetched=False)
        verifying.forget(1)
        verifying.add_blocks(2, (block(2).raw,), RULES, fetched=False)
        going.set()
        await delivered.until(lambda: any(message[0] == 2 for message in delivered.messages))
    assert len([message for message in delivered.messages if message[0] == 1]) <= 1


async def test_small_messages_are_checked_at_once_up_to_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "INLINE_BYTES", 2_000)
    monkeypatch.setattr(verification, "INLINE_PER_SECOND", 3)
    async with pool() as (verifying, delivered):
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 5.0)
        for time_ms in range(5):
            verifying.add_blocks(1, (block(1, time_ms=time_ms).raw,), RULES, fetched=False)
        verifying.add_blocks(2, (block(2, key=KEYS[3]).raw,), RULES, fetched=False)
        at_once = list(delivered.messages)
        monkeypatch.undo()
        await delivered.until(lambda: len(delivered.messages) == 6)
    assert [(peer, type(fault)) for peer, _, fault, _ in at_once] == [(1, type(None))] * 3 + [(2, BadSignature)]
    assert [one.header.timestamp_ms for peer, blocks, _, _ in delivered.messages if peer == 1 for one in blocks] == [
        0,
        1,
        2,
        3,
        4,
    ]


@pytest.mark.parametrize("inline_bytes", [0, 2_000], ids=["in a thread", "at once"])
async def test_blocks_are_checked_by_the_rules_they_come_with(
    monkeypatch: pytest.MonkeyPatch, inline_bytes: int
) -> None:
    monkeypatch.setattr(verification, "INLINE_BYTES", inline_bytes)
    old, new, forged = block(1), block(1, era=1), block(1, era=1, key=KEYS[1])
    sent = [(old, RULES), (old, NEXT_RULES), (new, RULES), (new, NEXT_RULES), (forged, NEXT_RULES)]
    async with pool() as (verifying, delivered):
        for one, rules in sent:
            verifying.add_blocks(1, (one.raw,), rules, fetched=False)
        await delivered.until(lambda: len(delivered.messages) == len(sent))
    assert [len(blocks) for _, blocks, _, _ in delivered.messages] == [1, 0, 0, 1, 0]
    assert [fault is None for _, _, fault, _ in delivered.messages] == [True, False, False, True, False]
    assert isinstance(delivered.messages[4][2], BadSignature)
    assert delivered.rules == [rules for _, rules in sent]
