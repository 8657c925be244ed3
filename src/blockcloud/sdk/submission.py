"""Getting signed transactions into the ledger: one validator at a time, the next when it fails, never a double spend.

A transaction's bytes are fixed by its signature and its lane's sequence lets it execute once, so sending the same
bytes again, to anybody, is always safe. An answer that it is stale or a duplicate may then mean that an earlier copy
was committed: the receipt decides. DESIGN section 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from blockcloud.primitives import codec
from blockcloud.primitives.addresses import parse_address
from blockcloud.primitives.errors import (
    BlockCloudError,
    Busy,
    InvalidAddress,
    NotTakingPart,
    Oversized,
    PeerFault,
    TimedOut,
    Unreachable,
)
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.limits import SUBMISSION_TRANSACTIONS
from blockcloud.sdk.errors import BadAnswer, Refused
from blockcloud.sdk.transport import Transport, decode_object
from blockcloud.service_chain.receipts import Receipt
from blockcloud.service_chain.rejections import DUPLICATE, StaleSequence
from blockcloud.service_chain.transaction import parse_transaction

WAIT_SECONDS: Final = 10.0  # how long one validator may take to commit before the next is asked
BACKOFF_SECONDS: Final = 0.2
RETRY_MS_MAX: Final = 60_000

Wait = Literal["none", "committed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one transaction: `committed` (then `receipt` is set), `accepted` or `rejected` (then `code`)."""

    id: bytes
    status: Literal["committed", "accepted", "rejected"]
    code: str = ""
    receipt: Receipt | None = None


class _Item(msgspec.Struct):
    """One item of a node's answer."""

    id: str
    status: Literal["accepted", "committed", "rejected", "busy"]
    code: str = ""
    hint: str = ""
    retry_after_ms: int = 1_000
    receipt: dict[str, Any] | None = None


_items = msgspec.json.Decoder(list[_Item])


def validator_order(era: int, sender: bytes, lane: int, validators: Sequence[tuple[bytes, str]]) -> list[str]:
    """URLs of (key, URL) in the order in which a lane is sent to them: H(era, sender, lane, validator)."""

    def rank(key: bytes) -> bytes:
        return tagged_hash("lane-order/v1", codec.encode((era, sender, lane, key)))

    return [url for _, url in sorted(validators, key=lambda item: rank(item[0]))]


def read_receipt(view: dict[str, Any]) -> Receipt:
    """The receipt in a node's JSON. Raises BadAnswer."""
    try:
        return msgspec.convert(
            (
                *(bytes.fromhex(view["id"]), view["height"], view["index"], view["code"], view["fee_micro_bloc"]),
                *_contract_part(view),
            ),
            Receipt,
            strict=True,
        )
    except (KeyError, ValueError, TypeError, AttributeError, InvalidAddress) as error:
        raise BadAnswer(f"not a receipt: {error}") from None


def _contract_part(view: dict[str, Any]) -> tuple[Any, ...]:
    """What contracts used, answered and told, in the order of a receipt; nothing where none ran."""
    if "fuel" not in view:
        return ()
    events = [
        (parse_address(item["contract"]), item["topic"].encode("ascii"), bytes.fromhex(item["data"]))
        for item in view["events"]
    ]
    output = view["reason"].encode("ascii") if "reason" in view else bytes.fromhex(view["output"])
    return view["fuel"], output, events


class Submission:
    """Some transactions on their way. `order` are the validators' URLs, the one to prefer first."""

    def __init__(self, transport: Transport, transactions: Sequence[bytes], order: Sequence[str]) -> None:
        if not 1 <= len(transactions) <= SUBMISSION_TRANSACTIONS:
            raise Oversized("too many transactions, or none", limit=SUBMISSION_TRANSACTIONS, given=len(transactions))
        self._transport = transport
        self._order = list(order)
        self._ids = [parse_transaction(raw).id for raw in transactions]
        self._raw = dict(zip(self._ids, transactions, strict=True))
        self._outcomes: dict[bytes, Outcome] = {}

    async def run(self, wait: Wait, timeout_s: float) -> list[Outcome]:
        """The outcomes in the order of the transactions. Raises Busy, TimedOut, Unreachable or a refusal if some
        have none when `timeout_s` has passed: those may still be committed later."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        turn = refusals = 0
        busy_until = 0.0  # how long to wait for room at this node; 0: it has not been busy yet
        late = TimedOut("not committed within the time allowed", seconds=timeout_s)
        last: BlockCloudError = late
        while len(self._outcomes) < len(self._raw):
            remaining = deadline - loop.time()
            if remaining <= 0:
                raise last
            url = self._order[turn % len(self._order)]
            delay_s = BACKOFF_SECONDS
            try:
                await self._round(url, wait, remaining)
                last, busy_until = late, 0.0
                turn += 1  # what is left has waited long enough at this one
            except Busy as error:
                last, delay_s = error, error.retry_after_ms / 1_000
                busy_until = busy_until or loop.time() + WAIT_SECONDS
                if loop.time() >= busy_until:
                    turn, busy_until = turn + 1, 0.0
            except (Unreachable, TimedOut, NotTakingPart, PeerFault, Refused) as error:
                # Even a node that fell silent may have taken them; sending them again is safe.
                turn += 1
                refusals += isinstance(error, Refused)
                if refusals >= len(self._order):
                    raise
                if isinstance(error, PeerFault):
                    self._transport.refused.append((url, error))
                last, delay_s = error, BACKOFF_SECONDS if turn % len(self._order) == 0 else 0.0
            if len(self._outcomes) < len(self._raw):
                await asyncio.sleep(max(0.0, min(delay_s, deadline - loop.time())))
        return [self._outcomes[identifier] for identifier in self._ids]

    async def _round(self, url: str, wait: Wait, remaining: float) -> None:
        """Send what has no outcome yet to one node. Raises Busy if it did not take all."""
        pending = [identifier for identifier in self._raw if identifier not in self._outcomes]
        wait_s = min(WAIT_SECONDS, remaining)
        body = await self._transport.once(
            url,
            "POST",
            "/v1/transactions",
            params={"wait": wait, "timeout": str(max(1, int(wait_s * 1_000)))},
            content=codec.encode([self._raw[identifier] for identifier in pending]),
            timeout_s=min(wait_s + 2.0, remaining + 0.5),
        )
        busy_ms: list[int] = []
        for identifier, item in zip(pending, self._items(body, pending), strict=True):
            if item.status == "busy":
                busy_ms.append(min(max(item.retry_after_ms, 1), RETRY_MS_MAX))
            else:
                await self._note(identifier, item, wait)
        if busy_ms:
            raise Busy("the node works at its capacity", retry_after_ms=max(busy_ms), transactions=len(busy_ms))

    def _items(self, body: bytes, pending: list[bytes]) -> list[_Item]:
        try:
            items = _items.decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise BadAnswer(f"not the outcomes of transactions: {error}") from None
        if [item.id for item in items] != [identifier.hex() for identifier in pending]:
            raise BadAnswer("outcomes of other transactions than those that were sent")
        return items

    async def _note(self, identifier: bytes, item: _Item, wait: Wait) -> None:
        match item.status:
            case "committed":
                receipt = read_receipt(item.receipt or {})
                if receipt.transaction_id != identifier:
                    raise BadAnswer("the receipt of another transaction")
                self._outcomes[identifier] = Outcome(identifier, "committed", receipt.code, receipt)
            case "accepted":
                if wait == "none":
                    self._outcomes[identifier] = Outcome(identifier, "accepted")
            case "rejected":
                found = None
                if item.code in (DUPLICATE, StaleSequence.code):
                    # An earlier copy may have been committed.
                    found = await find_receipt(self._transport, identifier)
                if found is not None:
                    self._outcomes[identifier] = Outcome(identifier, "committed", found.code, found)
                elif item.code != DUPLICATE:
                    self._outcomes[identifier] = Outcome(identifier, "rejected", item.code)
            case "busy":
                raise AssertionError("handled by the caller")


async def find_receipt(transport: Transport, identifier: bytes) -> Receipt | None:
    """The receipt under a transaction id, from the first node that has it; None if none has."""

    async def attempt(url: str) -> Receipt:
        view = decode_object(await transport.once(url, "GET", f"/v1/transactions/{identifier.hex()}"))
        receipt = read_receipt(view)
        if receipt.transaction_id != identifier:
            raise BadAnswer("the receipt of another transaction")
        return receipt

    try:
        return await transport.first(attempt)
    except Refused:
        return None
