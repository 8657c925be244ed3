"""`POST /v1/transactions`: the way into the ledger, and `GET /v1/transactions/{id}`: the receipt.

The body is one canonical msgpack list of at most 1,000 signed transactions; the answer has one item for each, in
order. Nothing here verifies a signature: the validator does, off the event loop, after admission.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from blockcloud.api.answers import MSGPACK, answer, bounded_body, hex_bytes, optional_integer, wants_msgpack
from blockcloud.api.description import ERRORS, described, query
from blockcloud.api.inclusion import find_inclusion
from blockcloud.api.problems import NotFound
from blockcloud.api.views import inclusion_view, receipt_view
from blockcloud.node.validator import SubmissionResult, Validator
from blockcloud.primitives import codec
from blockcloud.primitives.errors import Malformed, Oversized
from blockcloud.primitives.limits import HTTP_BODY_BYTES, SUBMISSION_TRANSACTIONS

DEFAULT_WAIT_MS: Final = 10_000
LONGEST_WAIT_MS: Final = 60_000
_WAIT: Final = query("wait", "`committed` answers with receipts.", kind="string", enum=["none", "committed"])
_TIMEOUT: Final = query("timeout", "Milliseconds to wait.", minimum=1, maximum=LONGEST_WAIT_MS, default=DEFAULT_WAIT_MS)


def transaction_routes(validator: Validator) -> APIRouter:
    """The routes over `validator`."""
    router = APIRouter(prefix="/v1/transactions", tags=["transactions"], responses=ERRORS)

    @router.post("", summary="Submit signed transactions", openapi_extra=described(_WAIT, _TIMEOUT, body=MSGPACK))
    async def submit(request: Request) -> Response:
        """Body: msgpack list of signed transactions. Each gets `accepted`, `committed` with its receipt, `rejected`
        with a code, or `busy` with a time after which to try again."""
        wait = request.query_params.get("wait", "none")
        if wait not in ("none", "committed"):
            raise Malformed("wait is 'none' or 'committed'", wait=wait[:40])
        timeout_ms = optional_integer(request, "timeout", 1, LONGEST_WAIT_MS) or DEFAULT_WAIT_MS
        payloads = codec.decode(await bounded_body(request, HTTP_BODY_BYTES), list[bytes], limit=HTTP_BODY_BYTES)
        if not 1 <= len(payloads) <= SUBMISSION_TRANSACTIONS:
            raise Oversized(f"a submission has 1 to {SUBMISSION_TRANSACTIONS} transactions", transactions=len(payloads))
        client = request.client.host if request.client is not None else ""
        results = await validator.submit(
            payloads, wait=wait == "committed", timeout_s=timeout_ms / 1_000, client=client
        )
        return answer(request, [_item(result) for result in results])

    @router.get("/{transaction_id}", summary="The receipt of a committed transaction", openapi_extra=described())
    async def receipt(request: Request, transaction_id: str) -> Response:
        found = validator.chain.receipt(hex_bytes(transaction_id, 32))
        if found is None:
            raise NotFound("no receipt under this id: not committed, or rejected without a fee")
        return answer(request, receipt_view(found))

    @router.get(
        "/{transaction_id}/proof",
        summary="A committed transaction with the proof of its place in the ledger",
        openapi_extra=described(),
    )
    async def proof(request: Request, transaction_id: str) -> Response:
        """As msgpack: the canonical bytes of the proven transaction, which a client checks."""
        identifier = hex_bytes(transaction_id, 32)
        proven = await asyncio.to_thread(find_inclusion, validator, identifier)
        if wants_msgpack(request):
            return Response(codec.encode(proven), media_type=MSGPACK)
        return answer(request, inclusion_view(proven))

    return router


def _item(result: SubmissionResult) -> dict[str, Any]:
    item: dict[str, Any] = {"id": result.id.hex(), "status": result.status}
    if result.code:
        item["code"] = result.code
    if result.hint:
        item["hint"] = result.hint
    if result.retry_after_ms is not None:
        item["retry_after_ms"] = result.retry_after_ms
    if result.receipt is not None:
        item["receipt"] = receipt_view(result.receipt)
    return item
