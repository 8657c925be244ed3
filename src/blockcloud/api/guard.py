"""What stands before every route: the Host check, and limits on the body before it is read.

The Host check keeps a web page that a browser on this machine shows from talking to the node through a name that
resolves to loopback (DNS rebinding). Written as plain ASGI, because it runs for every request.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blockcloud.api.problems import MisdirectedHost, problem
from blockcloud.primitives.errors import BlockCloudError, Malformed, Oversized
from blockcloud.primitives.limits import HTTP_BODY_BYTES


class Guard:
    """ASGI middleware. `hosts` are the host names (without port) under which this node may be addressed."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            length = self._check(dict(scope["headers"]))
        except BlockCloudError as error:
            await problem(error)(scope, receive, send)
            return
        await self._app(scope, receive if length is not None else _bounded(receive), send)

    def _check(self, headers: dict[bytes, bytes]) -> int | None:
        host = headers.get(b"host", b"").decode("latin-1")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name not in self._hosts:
            raise MisdirectedHost(host=host[:80])
        declared = headers.get(b"content-length")
        if declared is None:
            return None
        if not declared.isdigit():
            raise Malformed("Content-Length is not a number")
        if int(declared) > HTTP_BODY_BYTES:
            raise Oversized("request body is larger than its limit", bytes=int(declared), limit=HTTP_BODY_BYTES)
        return int(declared)


def _bounded(receive: Receive) -> Receive:
    """`receive` for a body of undeclared length: the request ends as disconnected once it passes the limit."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return message if seen <= HTTP_BODY_BYTES else {"type": "http.disconnect"}

    return counted
