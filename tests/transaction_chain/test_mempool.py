"""The mempool: nothing accepted is lost, nothing is proposed twice, and the limits hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from blockcloud.primitives.errors import Malformed, Oversized
from blockcloud.primitives.limits import TRANSACTION_BYTES
from blockcloud.transaction_chain import mempool as module
from blockcloud.transaction_chain.mempool import Mempool

PAYLOADS = [bytes([65 + index]) * (index + 1) for index in range(8)]


def test_takes_the_oldest_within_both_limits() -> None:
    pool = Mempool()
    for index in range(5):
        assert pool.add(b"%d" % index * 10, 3)
    assert pool.take(35, 100) == (b"0" * 10, b"1" * 10, b"2" * 10)
    assert pool.take(100, 5) == (b"3" * 10,)
    assert pool.take(100, 5) == (b"4" * 10,)
    assert pool.take(100, 5) == ()
    assert (len(pool), pool.bytes) == (0, 0)


def test_more_operations_than_the_cap_go_alone() -> None:
    pool = Mempool()
    pool.add(b"large", 100)
    pool.add(b"small", 1)
    assert pool.take(1_000, 50) == (b"large",)
    assert pool.take(1_000, 50) == (b"small",)


def test_refuses_what_it_knows_and_what_does_not_fit() -> None:
    pool = Mempool(max_payloads=2, max_bytes=10)
    assert pool.add(b"a", 1)
    assert not pool.add(b"a", 1)
    assert not pool.add(b"x" * 10, 1)
    before = pool.is_full
    assert pool.add(b"b", 1)
    assert (before, pool.is_full) == (False, True)
    assert not pool.add(b"c", 1)
    assert pool.take(100, 100) == (b"a", b"b")
    assert not pool.add(b"a", 1), "it is in a block now"
    pool.committed([b"a"])
    assert pool.add(b"a", 1), "after the commit the service machine decides"


def test_refuses_what_can_never_be_in_a_block() -> None:
    with pytest.raises(Malformed):
        Mempool().add(b"", 1)
    with pytest.raises(Oversized):
        Mempool().add(bytes(TRANSACTION_BYTES + 1), 1)


def test_what_others_carry_is_not_proposed() -> None:
    pool = Mempool()
    pool.add(b"mine", 1)
    pool.seen_in_block([b"mine", b"theirs"])
    assert pool.take(100, 100) == ()
    assert b"theirs" in pool
    pool.put_back([b"mine", b"theirs"])
    assert pool.take(100, 100) == (b"mine",), "what this node was given it proposes again, the rest is not its business"


def test_what_fell_out_comes_first() -> None:
    pool = Mempool()
    pool.add(b"first", 1)
    pool.add(b"second", 1)
    assert pool.take(100, 100) == (b"first", b"second")
    pool.add(b"third", 1)
    pool.put_back([b"first", b"second"])
    assert pool.take(100, 100) == (b"first", b"second", b"third")


def test_what_was_committed_does_not_come_back() -> None:
    pool = Mempool()
    pool.add(b"a", 1)
    pool.take(100, 100)
    pool.committed([b"a"])
    pool.put_back([b"a"])
    assert len(pool) == 0


def test_own_blocks_of_a_life_before() -> None:
    pool = Mempool()
    pool.recovered([b"a"])
    assert pool.take(100, 100) == ()
    pool.put_back([b"a"])
    assert pool.take(100, 100) == (b"a",)


def test_carried_payloads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CARRIED_PAYLOADS", 3)
    pool = Mempool()
    pool.seen_in_block([b"%d" % index for index in range(10)])
    assert [b"%d" % index in pool for index in range(10)] == [False] * 7 + [True] * 3


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 60), st.integers(1, 20))
def test_a_block_is_the_longest_prefix_that_fits(sizes: list[int], max_bytes: int, max_operations: int) -> None:
    pool = Mempool()
    payloads = [index.to_bytes(1, "big") * size for index, size in enumerate(sizes)]
    for payload in payloads:
        pool.add(payload, 1)
    taken = pool.take(max_bytes, max_operations)
    assert list(taken) == payloads[: len(taken)]
    assert sum(map(len, taken)) <= max_bytes
    assert len(taken) <= max_operations
    if len(taken) < min(len(payloads), max_operations):
        assert sum(map(len, payloads[: len(taken) + 1])) > max_bytes


class Machine(RuleBasedStateMachine):
    """What a node was given is pending, carried or committed: never lost, never in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Mempool(max_payloads=5, max_bytes=25)
        self.given: dict[bytes, None] = {}
        self.blocks: list[tuple[bytes, ...]] = []

    @rule(payload=st.sampled_from(PAYLOADS))
    def add(self, payload: bytes) -> None:
        if self.pool.add(payload, 1):
            assert payload not in self.given
            self.given[payload] = None

    @rule(operations=st.integers(1, 3))
    def take(self, operations: int) -> None:
        taken = self.pool.take(100, operations)
        assert all(payload in self.given for payload in taken)
        assert not any(payload in block for payload in taken for block in self.blocks)
        self.blocks.append(taken)

    @rule(payload=st.sampled_from(PAYLOADS))
    def seen(self, payload: bytes) -> None:
        if not any(payload in block for block in self.blocks):
            self.blocks.append((payload,))
        self.pool.seen_in_block([payload])

    @rule(data=st.data())
    def commit_or_fall_out(self, data: st.DataObject) -> None:
        if not self.blocks:
            return
        block = self.blocks.pop(data.draw(st.integers(0, len(self.blocks) - 1)))
        if data.draw(st.booleans()):
            self.pool.committed(block)
            for payload in block:
                self.given.pop(payload, None)
        else:
            self.pool.put_back(block)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert all(payload in self.pool for payload in self.given)
        carried = [payload for block in self.blocks for payload in block]
        assert len(self.pool) == sum(payload not in carried for payload in self.given)
        assert self.pool.bytes == sum(len(payload) for payload in self.given if payload not in carried)


TestMempool = Machine.TestCase
