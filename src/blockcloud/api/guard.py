"""What stands before every route: the Host check and the limit on declared bodies; and what catches a route's bug.

The Host check keeps a web page that a browser on this machine shows from talking to the node through a name that
resolves to it (DNS rebinding): such a page can only send names, so known names and, where the node listens on all
addresses, IP literals are let in. Written as plain ASGI, because it runs for every request.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from blockcloud.api.problems import MisdirectedHost, problem
from blockcloud.primitives.errors import BlockCloudError, Malformed, Oversized
from blockcloud.primitives.limits import HTTP_BODY_BYTES

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

log = structlog.get_logger(__name__)


class Guard:
    """ASGI middleware around the API of a node that listens on `host` and is also addressed by `names`."""

    def __init__(self, app: ASGIApp, host: str, names: Iterable[str] = ()) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in (*LOOPBACK_NAMES, host, *names))
        self._literals = host in ("", "0.0.0.0", "::")  # noqa: S104  it is compared, not bound

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope["headers"])
        except BlockCloudError as error:
            await problem(error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001  a bug in one route must not end the others, nor show a trace
            # The application has answered with a problem, if it still could.
            log.error("api_failed", method=scope["method"], path=scope["path"][:200], error=error)

    def _check(self, headers: list[tuple[bytes, bytes]]) -> None:
        host = declared = b""
        for name, value in headers:
            if name == b"host":
                host = value
            elif name == b"content-length":
                declared = value
        if not self._is_ours(host.decode("latin-1").lower()):
            raise MisdirectedHost(host=host.decode("latin-1")[:80])
        if not declared:
            return
        if not declared.isdigit() or len(declared) > 18:
            raise Malformed("Content-Length is not a number")
        if int(declared) > HTTP_BODY_BYTES:
            raise Oversized("the body is larger than its limit", bytes=int(declared), limit=HTTP_BODY_BYTES)

    def _is_ours(self, host: str) -> bool:
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name in self._names:
            return True
        if not self._literals:
            return False
        try:
            ip_address(name)
        except ValueError:
            return False
        return True
