"""Errors as problem+json (RFC 9457). The `code` of the error tree is what scripts should look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.responses import Response

from blockcloud.node.object_store import StoreFailed
from blockcloud.primitives.errors import (
    BlockCloudError,
    Busy,
    LocalFault,
    NotTakingPart,
    Oversized,
    PeerFault,
    Rejected,
    TimedOut,
)
from blockcloud.routing.errors import RoutingFull
from blockcloud.service_chain.state import FutureHeight, NotACheckpoint, Pruned

MEDIA_TYPE: Final = "application/problem+json"


class NotFound(BlockCloudError):
    """There is no such thing on this ledger."""

    code = "not_found"


class UnknownRoute(PeerFault):
    """This API has no such path."""

    code = "unknown_route"
    hint = "The paths are listed at /docs and in /openapi.json."


class WrongMethod(PeerFault):
    """The path exists, but not with this method."""

    code = "wrong_method"


class MisdirectedHost(PeerFault):
    """The Host header names another place; a page in a browser may be trying to reach this node."""

    code = "misdirected_host"
    hint = "Address the node by its IP address, or as localhost."


class RequestFailed(LocalFault):
    """The node failed at this request."""

    code = "internal_error"
    hint = "It is the node's fault, not the request's; the node's log has the reason."


# First match wins, so a class stands before its parents.
_STATUS: Final[tuple[tuple[type[BlockCloudError], int], ...]] = (
    (NotFound, 404),
    (NotACheckpoint, 404),
    (FutureHeight, 404),
    (UnknownRoute, 404),
    (WrongMethod, 405),
    (Pruned, 410),
    (MisdirectedHost, 421),
    (Oversized, 413),
    (Busy, 503),
    (NotTakingPart, 503),
    (RoutingFull, 503),
    (StoreFailed, 503),
    (TimedOut, 504),
    (PeerFault, 400),
    (Rejected, 409),
)


def status_of(error: BlockCloudError) -> int:
    """HTTP status of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem(error: BlockCloudError, headers: Mapping[str, str] | None = None) -> Response:
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
    more = dict(headers or {})
    if isinstance(error, Busy):
        body["retry_after_ms"] = error.retry_after_ms
        more["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    return Response(msgspec.json.encode(body), status, headers=more, media_type=MEDIA_TYPE)
