"""Admission by measured capacity, and who is told what when a commit is applied."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.node.applying import Applied
from blockcloud.node.fair_shares import HEAVY_S
from blockcloud.node.submissions import (
    ACCEPTED,
    LIFETIME_S,
    OUTSTANDING_MIN,
    RETRY_MAX_MS,
    RETRY_MIN_MS,
    WINDOW_S,
    Rate,
    SubmissionResult,
    Submissions,
    Waiter,
)
from blockcloud.primitives import codec
from blockcloud.primitives.limits import MEMPOOL_TRANSACTIONS, WAITING_SUBMISSIONS
from blockcloud.service_chain.receipts import Receipt
from blockcloud.transaction_chain.block import Block, BlockReference, Header
from blockcloud.transaction_chain.commit import Commit, genesis_record
from blockcloud.transaction_chain.machine import Result


def identifier(number: int) -> bytes:
    return number.to_bytes(32, "big")


def payload_of(transaction_id: bytes) -> bytes:
    return b"signed " + transaction_id


def applied(outcomes: list[tuple[bytes, str]], receipts: list[Receipt], payloads: list[bytes] | None = None) -> Applied:
    payload = tuple(payload_of(each) for each, _ in outcomes) if payloads is None else tuple(payloads)
    header = Header(bytes(32), 0, 0, 1, (), 0, bytes(32))
    block = Block(header, payload, BlockReference(1, 0, bytes(32)), bytes(64), b"")
    commit = Commit(genesis_record(0, bytes(32), 0), bytes(32), (block,))
    return Applied(
        commit,
        Result(1, bytes(32), None, tuple(outcomes)),
        {receipt.transaction_id: codec.encode(receipt) for receipt in receipts},
    )


def sender(number: int) -> bytes:
    return number.to_bytes(32, "little")


def fill(submissions: Submissions, count: int, start: int = 0, now_s: float = 0.0) -> None:
    """So many transactions of one sender each are outstanding."""
    for number in range(start, start + count):
        (position,) = submissions.admit("filler", [sender(number)], now_s)
        assert position == 0
        submissions.add(identifier(number), payload_of(identifier(number)), ("filler", sender(number)), now_s)


class Greedy:
    """Hands in batch after batch of `senders`, as many as are let in, and remembers what it holds."""

    def __init__(self, submissions: Submissions, client: str, senders: list[bytes]) -> None:
        self.submissions, self.client, self.senders = submissions, client, senders
        self.held: list[tuple[str, bytes]] = []

    def press(self, batches: int, now_s: float) -> None:
        for _ in range(batches):
            positions = self.submissions.admit(self.client, self.senders, now_s)
            self.held += [(self.client, self.senders[position]) for position in positions]

    def finish(self, count: int) -> None:
        """The oldest `count` are through."""
        done, self.held = self.held[:count], self.held[count:]
        self.submissions.release(done)


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 9), min_size=1, max_size=300)), max_size=40))
def test_what_is_admitted_never_exceeds_the_limit_and_comes_back(batches: list[tuple[int, list[int]]]) -> None:
    submissions, holders = Submissions(), []
    for client, senders in batches:
        keys = [sender(number) for number in senders]
        admitted = submissions.admit(str(client), keys, 0.0)
        refused = [position for position in range(len(keys)) if position not in admitted]
        # A later one without an earlier one would be out of sequence.
        first_refused = {keys[position]: position for position in reversed(refused)}
        assert all(position < first_refused.get(keys[position], len(keys)) for position in admitted)
        holders += [(str(client), keys[position]) for position in admitted]
        assert submissions.reserved == len(holders) <= submissions.limit * 9 // 8
    submissions.release(holders)
    assert submissions.reserved == 0
    fill(submissions, submissions.limit, now_s=HEAVY_S)


def test_one_large_submission_leaves_room_for_others() -> None:
    submissions = Submissions()
    first = submissions.admit("one", [sender(number) for number in range(1_000)], 0.0)
    assert first == list(range(OUTSTANDING_MIN // 2))
    second = submissions.admit("one", [sender(number) for number in range(1_000)], 0.0)
    assert len(second) == (OUTSTANDING_MIN - len(first)) // 2


@pytest.mark.parametrize("hosts", [("one", "other"), ("one", "one")], ids=["two clients", "two senders of one client"])
def test_two_greedy_ones_share_alike_however_hard_they_press(hosts: tuple[str, str]) -> None:
    submissions = Submissions()
    hard = Greedy(submissions, hosts[0], [sender(1)] * 400)
    soft = Greedy(submissions, hosts[1], [sender(2)] * 40)
    for turn in range(100):
        hard.press(10, turn * 0.05)
        soft.press(4, turn * 0.05)
        hard.finish(20)
        soft.finish(20)
    hard.press(10, turn * 0.05)
    soft.press(4, turn * 0.05)
    assert len(hard.held) + len(soft.held) >= submissions.limit * 9 // 10
    assert abs(len(hard.held) - len(soft.held)) <= submissions.limit // 10


def test_who_asks_for_little_gets_it_beside_a_greedy_one() -> None:
    submissions = Submissions()
    greedy = Greedy(submissions, "one", [sender(1)] * 400)
    for turn in range(50):
        greedy.press(20, turn * 0.05)
        assert submissions.admit("one", [sender(1)], turn * 0.05) == []
        modest = submissions.admit("another", [sender(2)] * 4, turn * 0.05)
        assert modest == [0, 1, 2, 3]
        submissions.release([("another", sender(2))] * 4)
        greedy.finish(30)


def test_a_client_alone_may_have_everything() -> None:
    submissions = Submissions()
    alone = Greedy(submissions, "one", [sender(1)] * 400)
    alone.press(50, 0.0)
    assert len(alone.held) == submissions.limit


def test_who_was_greedy_and_is_no_more_leaves_all_to_the_other() -> None:
    submissions = Submissions()
    one, other = (Greedy(submissions, client, [sender(1)] * 400) for client in ("one", "other"))
    one.press(1, 0.0)
    other.press(20, 0.1)
    one.finish(400)
    other.press(20, 0.2)
    assert len(other.held) <= submissions.limit // 2
    other.press(20, 0.1 + HEAVY_S)
    assert len(other.held) == submissions.limit


def test_many_names_of_one_client_take_no_more_than_its_share() -> None:
    """Who claims other senders cannot push other clients aside."""
    submissions = Submissions()
    crowd = Greedy(submissions, "one", [sender(number) for number in range(1_000)])
    other = Greedy(submissions, "other", [sender(1)] * 400)
    for turn in range(100):
        crowd.press(10, turn * 0.05)
        other.press(10, turn * 0.05)
        crowd.finish(10)
        other.finish(10)
    crowd.press(10, turn * 0.05)
    other.press(10, turn * 0.05)
    assert abs(len(crowd.held) - len(other.held)) <= submissions.limit // 10


def test_the_limit_follows_the_rate_between_its_bounds() -> None:
    submissions = Submissions()
    assert submissions.limit == OUTSTANDING_MIN
    submissions.rate.per_s = 10_000.0
    assert submissions.limit == int(10_000 * WINDOW_S)
    submissions.rate.per_s = 1e9
    assert submissions.limit == MEMPOOL_TRANSACTIONS


@given(st.floats(1, 50_000), st.floats(0.05, 1.0))
def test_a_steady_rate_is_found(per_s: float, step_s: float) -> None:
    rate = Rate()
    total = counted = 0.0
    for step in range(int(30 / step_s) + 2):
        total = step * step_s * per_s
        rate.add(int(total) - int(counted), step * step_s)
        counted = total
    assert abs(rate.per_s - per_s) <= 0.02 * per_s + 2 / step_s


def test_busy_says_when_to_come_back() -> None:
    submissions = Submissions()
    assert submissions.busy_result(b"").retry_after_ms == RETRY_MIN_MS
    fill(submissions, 300)
    submissions.rate.per_s = 1_000.0
    assert submissions.busy_result(b"").retry_after_ms == 150
    submissions.rate.per_s = 0.0
    assert submissions.busy_result(b"").retry_after_ms == RETRY_MAX_MS
    submissions.waiting = WAITING_SUBMISSIONS
    assert submissions.admit("one", [sender(1)], 0.0) == []


async def test_each_waiter_gets_the_outcome_of_its_own() -> None:
    submissions = Submissions()
    fill(submissions, 3)
    loop = asyncio.get_running_loop()
    waiters = [
        Waiter([SubmissionResult(identifier(number), ACCEPTED) for number in (0, 1, 2)], loop.create_future())
        for _ in range(2)
    ]
    for position in range(3):
        submissions.wait_for(payload_of(identifier(position)), waiters[0], position)
    submissions.wait_for(payload_of(identifier(1)), waiters[1], 1)
    paid = Receipt(identifier(0), 1, 0, "ok", 5)
    failed = Receipt(identifier(1), 1, 1, "insufficient_balance", 5)
    submissions.applied(
        applied([(identifier(0), "ok"), (identifier(1), failed.code), (identifier(9), "ok")], [paid, failed]), 1.0
    )
    assert waiters[1].done.done()
    assert not waiters[0].done.done()
    assert waiters[1].results[1] == SubmissionResult(
        identifier(1), "committed", "insufficient_balance", "", None, failed
    )
    submissions.applied(applied([(identifier(2), "stale_sequence")], []), 2.0)
    assert waiters[0].done.done()
    assert [(result.status, result.code) for result in waiters[0].results] == [
        ("committed", ""),
        ("committed", "insufficient_balance"),
        ("rejected", "stale_sequence"),
    ]
    assert (submissions.committed, submissions.rejected, len(submissions)) == (2, 1, 0)


async def test_what_never_gets_an_outcome_is_forgotten_in_the_end() -> None:
    submissions = Submissions()
    fill(submissions, 1)
    fill(submissions, 1, start=1, now_s=10.0)
    waiter = Waiter([SubmissionResult(identifier(0), ACCEPTED)], asyncio.get_running_loop().create_future())
    submissions.wait_for(payload_of(identifier(0)), waiter, 0)
    submissions.expire(LIFETIME_S)
    assert waiter.done.done()
    assert waiter.results[0].status == ACCEPTED
    assert [submissions.is_outstanding(payload_of(identifier(number))) for number in (0, 1)] == [False, True]


async def test_a_void_copy_under_another_signature_says_nothing_about_the_transaction() -> None:
    submissions = Submissions()
    fill(submissions, 1, start=1)
    waiter = Waiter([SubmissionResult(identifier(1), ACCEPTED)], asyncio.get_running_loop().create_future())
    submissions.wait_for(payload_of(identifier(1)), waiter, 0)
    submissions.applied(applied([(identifier(1), "wrong_signer")], [], [b"signed by somebody else"]), 1.0)
    assert not waiter.done.done()
    receipt = Receipt(identifier(1), 1, 1, "ok", 13)
    submissions.applied(applied([(identifier(1), "ok")], [receipt]), 2.0)
    assert waiter.results[0].receipt == receipt


async def test_a_void_copy_that_came_first_does_not_stand_in_for_the_good_one() -> None:
    submissions, bad = Submissions(), b"signed by somebody else too"
    submissions.admit("stranger", [sender(1)], 0.0)
    submissions.add(identifier(1), bad, ("stranger", sender(1)), 0.0)
    assert not submissions.is_outstanding(payload_of(identifier(1)))
    fill(submissions, 1, start=1)
    waiters = [
        Waiter([SubmissionResult(identifier(1), ACCEPTED)], asyncio.get_running_loop().create_future())
        for _ in range(2)
    ]
    for waiter, payload in zip(waiters, (bad, payload_of(identifier(1))), strict=True):
        submissions.wait_for(payload, waiter, 0)
    submissions.applied(applied([(identifier(1), "wrong_signer")], [], [bad]), 1.0)
    assert waiters[0].results[0].code == "wrong_signer"
    assert not waiters[1].done.done()
    receipt = Receipt(identifier(1), 1, 1, "ok", 13)
    submissions.applied(applied([(identifier(1), "ok")], [receipt]), 2.0)
    assert waiters[1].results[0].receipt == receipt
    assert len(submissions) == 0


async def test_a_receipt_is_that_of_all_copies() -> None:
    submissions, other = Submissions(), b"signed by other keys of the account"
    fill(submissions, 1, start=1)
    submissions.admit("other", [sender(1)], 0.0)
    submissions.add(identifier(1), other, ("other", sender(1)), 0.0)
    waiter = Waiter([SubmissionResult(identifier(1), ACCEPTED)], asyncio.get_running_loop().create_future())
    submissions.wait_for(other, waiter, 0)
    receipt = Receipt(identifier(1), 1, 1, "ok", 13)
    submissions.applied(applied([(identifier(1), "ok")], [receipt]), 2.0)
    assert waiter.results[0].receipt == receipt
    assert len(submissions) == 0
    submissions.applied(applied([(identifier(1), "duplicate")], [], [other]), 3.0)
