"""Admission by measured capacity, and who is told what when a commit is applied."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from blockcloud.node.applying import Applied
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


def fill(submissions: Submissions, count: int, start: int = 0, now_s: float = 0.0) -> None:
    for number in range(start, start + count):
        submissions.add(identifier(number), payload_of(identifier(number)), now_s)


@given(st.lists(st.integers(1, 1_000), min_size=1, max_size=60))
def test_what_is_admitted_never_exceeds_the_limit(batches: list[int]) -> None:
    submissions, taken = Submissions(), 0
    for wanted in batches:
        admitted = submissions.admit(wanted)
        assert 0 <= admitted <= wanted
        taken += admitted
        assert taken <= submissions.limit
        room = submissions.limit - taken
        assert room or not submissions.admit(1)
    fill(submissions, taken)
    submissions.release(taken)
    assert submissions.reserved == 0


def test_one_large_submission_leaves_room_for_others() -> None:
    submissions = Submissions()
    first = submissions.admit(1_000)
    assert first == OUTSTANDING_MIN // 2
    assert submissions.admit(1_000) == (OUTSTANDING_MIN - first) // 2


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
    assert submissions.admit(1) == 0


async def test_each_waiter_gets_the_outcome_of_its_own() -> None:
    submissions = Submissions()
    fill(submissions, 3)
    loop = asyncio.get_running_loop()
    waiters = [
        Waiter([SubmissionResult(identifier(number), ACCEPTED) for number in (0, 1, 2)], loop.create_future())
        for _ in range(2)
    ]
    for position in range(3):
        submissions.wait_for(identifier(position), waiters[0], position)
    submissions.wait_for(identifier(1), waiters[1], 1)
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
    submissions.wait_for(identifier(0), waiter, 0)
    submissions.expire(LIFETIME_S)
    assert waiter.done.done()
    assert waiter.results[0].status == ACCEPTED
    assert [submissions.is_outstanding(identifier(number)) for number in (0, 1)] == [False, True]


async def test_a_void_copy_under_another_signature_says_nothing_about_the_transaction() -> None:
    submissions = Submissions()
    fill(submissions, 1, start=1)
    waiter = Waiter([SubmissionResult(identifier(1), ACCEPTED)], asyncio.get_running_loop().create_future())
    submissions.wait_for(identifier(1), waiter, 0)
    submissions.applied(applied([(identifier(1), "wrong_signer")], [], [b"signed by somebody else"]), 1.0)
    assert not waiter.done.done()
    receipt = Receipt(identifier(1), 1, 1, "ok", 13)
    submissions.applied(applied([(identifier(1), "ok")], [receipt]), 2.0)
    assert waiter.results[0].receipt == receipt
