"""The JSON shapes of what the ledger holds. Amounts appear as decimal BLOC and as integers in micro-BLOC."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.amounts import format_amount
from blockcloud.primitives.errors import Malformed
from blockcloud.service_chain.receipts import Receipt
from blockcloud.service_chain.records import Account, NameRecord

MSGPACK = "application/msgpack"


def answer(request: Request, body: object, status: int = 200) -> Response:
    """`body` as msgpack where the client asks for it, else as JSON."""
    if MSGPACK in request.headers.get("accept", ""):
        return Response(msgspec.msgpack.encode(body), status, media_type=MSGPACK)
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def account_view(public_key: bytes, account: Account | None) -> dict[str, Any]:
    """An account; one that the ledger does not know has nothing and starts at sequence 0."""
    balance = account.balance if account else 0
    return {
        "address": format_address(public_key),
        "balance": format_amount(balance),
        "balance_micro_bloc": balance,
        "sequence": account.sequence if account else 0,
        "exists": account is not None,
    }


def name_view(record: NameRecord) -> dict[str, Any]:
    """A name as the registry holds it."""
    return {
        "name": record.name,
        "owner": format_address(record.owner),
        "service_file_hash": record.service_file_hash.hex(),
        "instance_keys": [key.hex() for key in record.instance_keys],
        "registered_height": record.registered_height,
        "expires_height": record.expires_height,
        "changed_height": record.changed_height,
        "revoked": bool(getattr(record, "revoked", False)),
    }


def receipt_view(receipt: Receipt) -> dict[str, Any]:
    """A receipt: what a committed transaction did and cost."""
    return {
        "id": receipt.transaction_id.hex(),
        "height": receipt.height,
        "index": receipt.index,
        "code": receipt.code,
        "fee": format_amount(receipt.fee),
        "fee_micro_bloc": receipt.fee,
    }


def hex_bytes(text: str, length: int | None = None) -> bytes:
    """Bytes of a hexadecimal path or query value. Raises Malformed."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise Malformed("not a hexadecimal text", text=text[:80]) from None
    if length is not None and len(data) != length:
        raise Malformed(f"expected {length} bytes in hexadecimal", bytes=len(data))
    return data


def optional_integer(request: Request, name: str, low: int, high: int) -> int | None:
    """The integer query value `name`, or None. Raises Malformed when it is not a number in [low, high]."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and low <= int(text) <= high):
        raise Malformed(f"{name} is a whole number from {low} to {high}", text=text[:40])
    return int(text)
