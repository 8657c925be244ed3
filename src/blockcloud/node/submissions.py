"""Transactions that clients hand in: admission before verification, then waiting for the outcome.

What a node takes on is bounded by what it gets committed: at most about WINDOW_S worth of its own committed rate may be
outstanding (Little's law: outstanding = rate x latency, so this bounds latency, and blocks do not grow without end
under overload). Everything above is answered `busy` at once and costs no signature check, so that throughput stays near
its peak instead of collapsing. One submission gets at most half of the room that is left, so that a client with large
batches leaves room for the others. The room is shared fairly (`fair_shares.py`) among clients, by their host, and
within a client among the senders that its transactions name. Who names somebody else's account takes that sender's
share of his own client only.

An outstanding transaction ends with its outcome in a commit, or after LIFETIME_S without one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from blockcloud.node.applying import Applied
from blockcloud.node.fair_shares import FairShares
from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.limits import MEMPOOL_TRANSACTIONS, WAITING_SUBMISSIONS
from blockcloud.service_chain.receipts import Receipt, decode_receipt
from blockcloud.service_chain.rejections import OK
from blockcloud.service_chain.transaction import DOMAIN, TransactionBody, WireTransaction

WINDOW_S: Final = 0.3
RATE_TIME_CONSTANT_S: Final = 1.5
OUTSTANDING_MIN: Final = 500  # transactions: room to find the rate from a standing start
ROOM_UNSHARED: Final = 64  # below this much room nothing is kept back for other clients
RESERVE_DIVISOR: Final = 8  # so much more than the limit there is for who holds little
RETRY_MIN_MS: Final = 50
RETRY_MAX_MS: Final = 2_000
LIFETIME_S: Final = 60.0

ACCEPTED: Final = "accepted"
COMMITTED: Final = "committed"
REJECTED: Final = "rejected"
BUSY: Final = "busy"

_wire = msgspec.msgpack.Decoder(WireTransaction).decode
_body = msgspec.msgpack.Decoder(TransactionBody).decode


@dataclass(frozen=True, slots=True)
class SubmissionResult:
    """What became of one submitted transaction. `id` is empty if the bytes are not a transaction at all."""

    id: bytes
    status: str
    code: str = ""
    hint: str = ""
    retry_after_ms: int | None = None
    receipt: Receipt | None = None


def identify(payload: bytes) -> tuple[bytes, bytes]:
    """The id that the payload has if it is a transaction, else empty; and the sender that it names, if it names one."""
    try:
        body = _wire(payload).body
        return tagged_hash(DOMAIN, body), _body(body).sender
    except (msgspec.DecodeError, ValueError, RecursionError):
        return b"", b""


def body_of(payload: bytes) -> TransactionBody:
    """The body of a payload that has passed `check`."""
    return _body(_wire(payload).body)


def refusal(identifier: bytes, error: BlockCloudError) -> SubmissionResult:
    """`rejected` with the reason of `error`."""
    return SubmissionResult(identifier, REJECTED, error.code, str(error) + (f". {error.hint}" if error.hint else ""))


class Rate:
    """Events a second, as an exponentially weighted mean over RATE_TIME_CONSTANT_S. `now_s` is a monotonic clock."""

    def __init__(self) -> None:
        self.per_s = 0.0
        self._since_s: float | None = None
        self._pending = 0

    def add(self, count: int, now_s: float) -> None:
        """`count` more have happened up to now."""
        self._pending += count
        if self._since_s is None:
            self._since_s = now_s
            return
        elapsed_s = now_s - self._since_s
        if elapsed_s < 0.05:
            return
        weight = 1 - math.exp(-elapsed_s / RATE_TIME_CONSTANT_S)
        self.per_s += weight * (self._pending / elapsed_s - self.per_s)
        self._since_s, self._pending = now_s, 0


@dataclass(slots=True, eq=False)
class Waiter:
    """One submission that waits for outcomes."""

    results: list[SubmissionResult]
    done: asyncio.Future[None]
    left: int = 0


# Whose share a transaction counts for: the client's host, and the sender it names.
Holder: TypeAlias = tuple[str, bytes]


@dataclass(slots=True, eq=False)
class _Outstanding:
    id: bytes
    holder: Holder
    since_s: float
    waiters: list[tuple[Waiter, int]] = field(default_factory=list)


class Submissions:
    """The bookkeeping of outstanding transactions. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        # By payload: copies of a transaction with other signatures are different ones until one has a receipt.
        self._outstanding: dict[bytes, _Outstanding] = {}
        self._copies: dict[bytes, tuple[bytes, ...]] = {}  # id -> payloads that are outstanding
        self.reserved = 0  # admitted, being verified
        self._clients, self._senders = FairShares(), FairShares()
        self.waiting = 0  # submissions
        self.rate = Rate()
        self.committed = self.rejected = self.busy = 0
        self.latency_s = 0.0  # of the newest outcomes, smoothed

    def __len__(self) -> int:
        return len(self._outstanding)

    @property
    def limit(self) -> int:
        """How many may be outstanding now."""
        return min(MEMPOOL_TRANSACTIONS, max(OUTSTANDING_MIN, int(self.rate.per_s * WINDOW_S)))

    def admit(self, client: str, senders: Sequence[bytes], now_s: float) -> list[int]:
        """Which of the transactions of `senders` that `client` hands in may be verified now, by position; reserves room
        for them until `release`. Of one sender no later one gets in if an earlier one does not."""
        if self.waiting >= WAITING_SUBMISSIONS:
            return []
        limit, taken = self.limit, len(self._outstanding) + self.reserved
        room, reserve = limit - taken, limit // RESERVE_DIVISOR
        at_most = max(room // 2, min(room, ROOM_UNSHARED))
        clients, by_sender, admitted = self._clients, self._senders, list[int]()
        clients.look(now_s)
        by_sender.look(now_s)
        for position, sender in enumerate(senders):
            holder = client, sender
            if len(admitted) < at_most:
                fits = clients.fits(client, limit) and by_sender.fits(holder, limit)
            else:
                # Half of the reserve is for those who ask for little beside a greedy sender of the same client.
                most = limit + (reserve if clients.is_light(client) else reserve // 2)
                fits = room <= 0 and taken < most and clients.fits(client, most) and by_sender.is_light(holder)
            if fits:
                clients.take(client, now_s)
                by_sender.take(holder, now_s)
                taken += 1
                admitted.append(position)
        self.reserved += len(admitted)
        return admitted

    def release(self, holders: Sequence[Holder]) -> None:
        """The verification of these is over, and they are not to be outstanding."""
        self.reserved -= len(holders)
        for holder in holders:
            self._give_back(holder)

    def busy_result(self, identifier: bytes) -> SubmissionResult:
        """`busy`, with the time after which about half of what is outstanding will be through."""
        self.busy += 1
        rate = max(self.rate.per_s, 1.0)
        retry_ms = int(1_000 * (len(self._outstanding) + self.reserved) / rate / 2)
        return SubmissionResult(identifier, BUSY, BUSY, "", min(max(retry_ms, RETRY_MIN_MS), RETRY_MAX_MS))

    def is_outstanding(self, payload: bytes) -> bool:
        """Whether this node has taken it on and knows no outcome yet."""
        return payload in self._outstanding

    def add(self, identifier: bytes, payload: bytes, holder: Holder, now_s: float) -> None:
        """An admitted transaction, which is not outstanding yet, was verified and is in the mempool."""
        self.reserved -= 1
        self._outstanding[payload] = _Outstanding(identifier, holder, now_s)
        self._copies[identifier] = (*self._copies.get(identifier, ()), payload)

    def wait_for(self, payload: bytes, waiter: Waiter, position: int) -> None:
        """Let `waiter` have the outcome of an outstanding transaction as its result at `position`."""
        self._outstanding[payload].waiters.append((waiter, position))
        waiter.left += 1

    def applied(self, applied: Applied, now_s: float) -> None:
        """A commit was applied: tell who waits for its transactions.

        A body that somebody else signed may be void and has the same id: without a receipt, only the bytes that were
        handed in here count; a receipt is that of all copies.
        """
        own = 0
        payloads = [payload for block in applied.commit.blocks for payload in block.payload]
        for payload, (identifier, code) in zip(payloads, applied.result.outcomes, strict=True):
            copies = self._copies.get(identifier)
            if copies is None:
                continue
            data = applied.receipts.get(identifier)
            if data is None:
                copies = (payload,) if payload in copies else ()
            for copy in copies:
                entry = self._end(copy)
                own += 1
                self.latency_s += 0.01 * (now_s - entry.since_s - self.latency_s)
                if data is not None:
                    self.committed += 1
                else:
                    self.rejected += 1
                for waiter, position in entry.waiters:
                    self._settle(waiter, position, outcome(identifier, code, data))
        self.rate.add(own, now_s)

    def expire(self, now_s: float) -> None:
        """Forget what has been outstanding for too long; whoever waited keeps `accepted`."""
        while self._outstanding:
            payload, entry = next(iter(self._outstanding.items()))
            if now_s - entry.since_s < LIFETIME_S:
                return
            self._end(payload)
            for waiter, position in entry.waiters:
                self._settle(waiter, position, waiter.results[position])

    def _end(self, payload: bytes) -> _Outstanding:
        """It is outstanding no more."""
        entry = self._outstanding.pop(payload)
        left = tuple(copy for copy in self._copies[entry.id] if copy != payload)
        if left:
            self._copies[entry.id] = left
        else:
            del self._copies[entry.id]
        self._give_back(entry.holder)
        return entry

    def _give_back(self, holder: Holder) -> None:
        self._clients.give_back(holder[0])
        self._senders.give_back(holder)

    @staticmethod
    def _settle(waiter: Waiter, position: int, result: SubmissionResult) -> None:
        waiter.results[position] = result
        waiter.left -= 1
        if not waiter.left and not waiter.done.done():
            waiter.done.set_result(None)


def outcome(identifier: bytes, code: str, receipt: bytes | None) -> SubmissionResult:
    """The result of a transaction with this outcome in a commit: with a receipt it was paid for, else it was void."""
    if receipt is None:
        return SubmissionResult(identifier, REJECTED, code)
    decoded = decode_receipt(receipt)
    return SubmissionResult(identifier, COMMITTED, "" if decoded.code == OK else decoded.code, "", None, decoded)
