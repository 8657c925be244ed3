"""The HTTP input: readings by POST or PUT to /readings, in the formats of `formats`. uvicorn.

    curl -H 'content-type: application/json' -d 21.5 http://127.0.0.1:8081/readings/porch/temperature

The answer comes when the readings are durable. A body has to name its format: what a web page may send unasked (a form,
plain text) is refused, so no page that somebody visits can post to a feed on the loopback interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Final

import msgspec
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from blockcloud.primitives.errors import BlockCloudError, Busy, Malformed, Oversized, PeerFault, Unreachable
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.edge.feed.errors import BadReading, BadToken, OutboxFull, UnknownFormat
from blockcloud.service_access.edge.feed.formats import MEDIA_TYPES, check_token, parse
from blockcloud.service_access.edge.feed.intake import Intake, now_us
from blockcloud.service_access.edge.feed.readings import MESSAGE_BYTES

CONNECTIONS: Final = 256
REQUEST_SECONDS: Final = 10
KEEP_ALIVE_SECONDS: Final = 30
SHUTDOWN_SECONDS: Final = 1
PATH: Final = "/readings"
RETRY_SECONDS: Final = 1
BEARER: Final = b"Bearer "


class WrongPath(PeerFault):
    """There is only /readings here."""

    code = "unknown_path"


class WrongMethod(PeerFault):
    """Readings come by POST or PUT."""

    code = "wrong_method"


_STATUS: Final[tuple[tuple[type[BlockCloudError], int], ...]] = (
    (BadToken, 401),
    (WrongPath, 404),
    (WrongMethod, 405),
    (Oversized, 413),
    (UnknownFormat, 415),
    (BadReading, 400),
    (Malformed, 400),
    (Busy, 503),
    (OutboxFull, 503),
    (PeerFault, 422),
)


class _Connection(HttpToolsProtocol):
    """uvicorn's connection, cut off when there are too many or a request takes too long to arrive."""

    _arriving: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
            return
        self._arriving = self.loop.call_later(REQUEST_SECONDS, transport.abort)

    def on_message_begin(self) -> None:
        if self._arriving is None:
            self._arriving = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._stop_timer()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None


class _Server(uvicorn.Server):
    """uvicorn in the running loop; who may stop the process is not its business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """None."""
        yield


class HttpInput:
    """Takes readings by HTTP into `intake`."""

    def __init__(self, intake: Intake, token: bytes) -> None:
        self._intake = intake
        self._token = token
        self._serving: asyncio.Task[None] | None = None
        self._server = _Server(
            uvicorn.Config(
                self._application,
                interface="asgi3",
                http=_Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )

    async def start(self, host: str, port: int) -> HostPort:
        """Listen; the address. Raises Unreachable."""
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(CONNECTIONS)
        except OSError as error:
            listener.close()
            raise Unreachable(f"cannot listen for HTTP: {error.strerror}", address=f"{host}:{port}") from None
        listener.setblocking(False)
        address = host, int(listener.getsockname()[1])
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([listener]))
        return address

    async def close(self) -> None:
        """Stop, after what runs has its answer or SHUTDOWN_SECONDS have gone by."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer, status = {"taken": await self._take(scope, receive)}, 200
        except BlockCloudError as error:
            status = next((number for kind, number in _STATUS if isinstance(error, kind)), 500)
            answer = {"status": status, "code": error.code, "detail": str(error), "hint": error.hint}  # type: ignore[dict-item]
        headers = [(b"content-type", b"application/json" if status == 200 else b"application/problem+json")]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if status == 503:
            headers.append((b"retry-after", str(RETRY_SECONDS).encode()))
        if status in (413, 503):
            headers.append((b"connection", b"close"))  # the rest of the body is not read
        body = msgspec.json.encode(answer) + b"\n"
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _take(self, scope: Scope, receive: Receive) -> int:
        """Take the readings of a request; how many are new."""
        headers = dict(scope["headers"])
        try:
            check_token(self._token, headers.get(b"authorization", b"").removeprefix(BEARER))
            series = _series(scope)
            if scope["method"] not in ("POST", "PUT"):
                raise WrongMethod(method=scope["method"][:20])
            media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
            payload = await _body(receive)
            batch = parse(payload, MEDIA_TYPES.get(media_type), now_us(), "http", series)
        except BlockCloudError as error:
            self._intake.count_refusal(error)
            raise
        return await self._intake.take(batch)


def _series(scope: Scope) -> str:
    path = str(scope["path"])
    if path != PATH and not path.startswith(f"{PATH}/"):
        raise WrongPath(path=path[:80])
    return path[len(PATH) + 1 :]


async def _body(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Malformed("the client left in the middle of the request")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MESSAGE_BYTES:
            raise Oversized("the body is too long", limit=MESSAGE_BYTES)
        if not message.get("more_body", False):
            return b"".join(parts)
