"""Reading requests and answering them: bounded bodies, integers and hexadecimal texts, JSON or msgpack.

The two forms of an answer have the same content: `Accept: application/msgpack` chooses the second.
"""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from blockcloud.primitives.errors import Malformed, Oversized

MSGPACK: Final = "application/msgpack"
JSON: Final = "application/json"
INTEGER_DIGITS: Final = 18


def wants_msgpack(request: Request) -> bool:
    """Whether the client asks for msgpack."""
    return MSGPACK in request.headers.get("accept", "")


def answer(request: Request, body: object, status: int = 200) -> Response:
    """`body` as msgpack where the client asks for it, else as JSON."""
    if wants_msgpack(request):
        return Response(msgspec.msgpack.encode(body), status, media_type=MSGPACK)
    return Response(msgspec.json.encode(body), status, media_type=JSON)


async def bounded_body(request: Request, limit: int) -> bytes:
    """The body of a request, if it has at most `limit` bytes; what is beyond is not read. Raises Oversized."""
    declared = request.headers.get("content-length")
    if declared is not None and int(declared) > limit:  # a number: the guard has looked
        raise Oversized("the body is larger than its limit", bytes=int(declared), limit=limit)
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise Oversized("the body is larger than its limit", limit=limit)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


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
    return None if text is None else whole_number(text, name, low, high)


def whole_number(text: str, name: str, low: int, high: int) -> int:
    """The integer in `text`. Raises Malformed when it is not a number in [low, high]."""
    if not (text.isascii() and text.isdigit() and len(text) <= INTEGER_DIGITS and low <= int(text) <= high):
        raise Malformed(f"{name} is a whole number from {low} to {high}", text=text[:40])
    return int(text)
