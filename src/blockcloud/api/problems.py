"""Errors as problem+json (RFC 9457). The `code` of the error tree is what scripts should look at."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from blockcloud.primitives.errors import BlockCloudError, Busy, LocalFault, Oversized, PeerFault, Rejected, TimedOut

MEDIA_TYPE = "application/problem+json"


class NotFound(BlockCloudError):
    """There is no such thing on this ledger."""

    code = "not_found"


class MisdirectedHost(PeerFault):
    """The Host header names another place; a page in a browser may be trying to reach this node."""

    code = "misdirected_host"


# First match wins, so a class stands before its parents.
_STATUS: tuple[tuple[type[BlockCloudError], int], ...] = (
    (NotFound, 404),
    (MisdirectedHost, 421),
    (Oversized, 413),
    (Busy, 503),
    (TimedOut, 504),
    (PeerFault, 400),
    (Rejected, 409),
    (LocalFault, 500),
)


def status_of(error: BlockCloudError) -> int:
    """HTTP status of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem(error: BlockCloudError) -> Response:
    """The response that tells a client what happened, why, and what to do."""
    status = status_of(error)
    body = {
        "type": f"urn:blockcloud:error:{error.code}",
        "title": error.message,
        "status": status,
        "detail": str(error),
        "code": error.code,
    }
    if error.hint:
        body["hint"] = error.hint
    headers = {}
    if isinstance(error, Busy):
        body["retry_after_ms"] = error.retry_after_ms
        headers["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    return Response(msgspec.json.encode(body), status, headers=headers, media_type=MEDIA_TYPE)
