"""How submitted transactions get into the mempool: admission, verification, then waiting for the outcome if asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from blockcloud.node.applying import SharedChain
from blockcloud.node.submissions import (
    ACCEPTED,
    Holder,
    SubmissionResult,
    Submissions,
    Waiter,
    body_of,
    identify,
    outcome,
    refusal,
)
from blockcloud.node.verification import Verdict
from blockcloud.primitives import codec
from blockcloud.service_chain.rejections import StaleSequence, TransactionExpired
from blockcloud.transaction_chain.mempool import Mempool

Verify = Callable[[Sequence[bytes], str], Awaitable[list[Verdict]]]


def check_submitted(chain: SharedChain, payload: bytes) -> int:
    """`chain.check`, and early refusal of what can never be executed. For worker threads.

    Only what stays true is refused here: a node that lags a little must not refuse what the others would execute. And
    only what costs next to nothing to find out: execution refuses the rest. Raises a PeerFault, TransactionExpired or
    StaleSequence.
    """
    operations = chain.check(payload)
    body, height = body_of(payload), chain.applied_height
    if body.valid_until <= height:
        raise TransactionExpired(valid_until=body.valid_until, height=height)
    if body.lane == 0:
        # Memory may be ahead of what is stored, receipts included. A client that is told that its sequence is used up
        # signs anew, so this is said only once the receipt of whatever used it can be found.
        reached = chain.sequence_in_memory(body.sender)
        if reached is not None and body.sequence < reached:
            account = chain.account(body.sender)
            if account is not None and body.sequence < account.sequence:
                raise StaleSequence(sequence=body.sequence, next=account.sequence)
    return operations


class Intake:
    """Takes submissions. `open_now` says whether the node has room for anything, or raises NotTakingPart if it can
    get nothing committed; `submitted` is told of news."""

    def __init__(
        self,
        chain: SharedChain,
        mempool: Mempool,
        submissions: Submissions,
        *,
        verify: Verify,
        open_now: Callable[[], bool],
        submitted: Callable[[], None],
    ) -> None:
        self._chain, self._mempool, self._submissions = chain, mempool, submissions
        self._verify, self._open_now, self._submitted = verify, open_now, submitted
        self._loop = asyncio.get_running_loop()

    async def submit(
        self, payloads: Sequence[bytes], *, wait: bool, timeout_s: float, client: str
    ) -> list[SubmissionResult]:
        """One result for each payload, in order; see `Validator.submit`."""
        submissions = self._submissions
        named = [identify(payload) for payload in payloads]
        senders = [sender for _, sender in named]
        admitted = submissions.admit(client, senders, self._loop.time()) if self._open_now() else []
        holders = {position: (client, named[position][1]) for position in admitted}
        results = [
            SubmissionResult(identifier, ACCEPTED) if position in holders else submissions.busy_result(identifier)
            for position, (identifier, _) in enumerate(named)
        ]
        if not admitted:
            return results
        waiter = Waiter(results, self._loop.create_future())
        try:
            verdicts = await self._verify([payloads[position] for position in admitted], client)
            now_s = self._loop.time()
            for position, verdict in zip(admitted, verdicts, strict=True):
                if self._take(payloads[position], verdict, waiter, position, holders[position], now_s):
                    del holders[position]
        finally:
            submissions.release(list(holders.values()))
        self._submitted()
        if wait and waiter.left:
            submissions.waiting += 1
            try:
                await asyncio.wait((waiter.done,), timeout=timeout_s)
            finally:
                submissions.waiting -= 1
        return results

    def _take(
        self, payload: bytes, verdict: Verdict, waiter: Waiter, position: int, holder: Holder, now_s: float
    ) -> bool:
        """Put one verified transaction into the mempool, or say why not. Whether it is outstanding now and was not."""
        submissions, results = self._submissions, waiter.results
        identifier = results[position].id
        if isinstance(verdict, int):
            is_new = not submissions.is_outstanding(payload)
            if is_new:
                if not self._mempool.add(payload, verdict) and payload not in self._mempool:
                    results[position] = submissions.busy_result(identifier)
                    return False
                submissions.add(identifier, payload, holder, now_s)
            submissions.wait_for(payload, waiter, position)
            return is_new
        receipt = self._chain.receipt(identifier) if isinstance(verdict, StaleSequence) else None
        if receipt is not None:
            results[position] = outcome(identifier, receipt.code, codec.encode(receipt))
        else:
            submissions.rejected += 1
            results[position] = refusal(identifier, verdict)
        return False
