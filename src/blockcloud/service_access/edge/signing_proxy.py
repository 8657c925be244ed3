"""`publish NAME --to HOST:PORT --http`: a reverse proxy before an unmodified HTTP server that signs what it answers.

An answer to GET that is not about one person (`http_signature.signable`) is held until it is complete, at most
`OBJECT_BYTES` and `HOLD_SECONDS`, and goes out signed. Everything else passes as it comes: larger content, streams of
events, other methods. A 304 carries the signature of the answer that it stands for, where this proxy has signed that
before: so a cache can go on with what it has and show that it is current.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Final, Protocol

import structlog

from blockcloud.primitives.errors import BlockCloudError, PeerFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.edge.cache import OBJECT_BYTES
from blockcloud.service_access.edge.errors import ConnectionBroken, ServerFailed
from blockcloud.service_access.edge.exchange import ClientSide, ServerSide, refuse
from blockcloud.service_access.edge.http_message import (
    Fields,
    Request,
    RequestHead,
    Response,
    ResponseHead,
    combined,
    end_to_end,
    values,
    without,
)
from blockcloud.service_access.edge.http_signature import content_digest, sign_digest, signable, varied_by
from blockcloud.service_access.edge.streams import ByteStream, SessionStream, TcpStream
from blockcloud.service_access.listener import Listener

HOLD_SECONDS: Final = 1.0  # for content of unknown length, which may be a stream
REMEMBERED: Final = 4_096
MODIFIED_BEFORE_SECONDS: Final = 2  # RFC 9110 8.8.2.2: a date of that age tells contents apart
EVENT_STREAM: Final = "text/event-stream"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Signed:
    """What a 304 says is still so: status, digest and those fields that a 304 may leave out."""

    status: int
    digest: str
    fields: Fields


class Signer:
    """Signs answers of one name, and remembers the digests of what it signed. `default_cache_control` is for answers
    that say nothing about caching."""

    def __init__(
        self,
        key: SigningKey,
        name: str,
        *,
        default_cache_control: str = "",
        now_s: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self.name = name
        self._key, self._now_s = key, now_s
        self._default = default_cache_control
        self._remembered: OrderedDict[tuple[str, str, tuple[str | None, ...]], _Signed] = OrderedDict()

    def prepared(self, response: Response) -> Response:
        """`response` with the rules for caching that it lacks."""
        if not self._default or values(response.fields, "cache-control"):
            return response
        return replace(response, fields=(*response.fields, ("cache-control", self._default)))

    def sign(self, request: Request, response: Response) -> Response:
        """A whole, signable response, signed."""
        now_s = self._now_s()
        digest = content_digest(response.body)
        signed = sign_digest(self._key, self.name, request, response, digest, now_s=now_s)
        if (validator := _validator(response, now_s)) is not None:
            varied = tuple(combined(request.fields, each) for each in varied_by(response.fields) or ())
            self._remembered[request.target, validator, varied] = _Signed(response.status, digest, response.fields)
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return signed

    def sign_not_modified(self, request: Request, response: Response) -> Response:
        """A 304 with the signature of what it stands for; as it is where this proxy never signed that."""
        asked = combined(request.fields, "if-none-match") or combined(request.fields, "if-modified-since")
        validator = combined(response.fields, "etag") or combined(response.fields, "last-modified") or asked
        vary = varied_by(response.fields) or ()
        known = self._remembered.get(
            (request.target, validator or "", tuple(combined(request.fields, each) for each in vary))
        )
        if known is None or request.method != "GET":
            return response
        newer = {name for name, _ in response.fields}
        whole = Response(known.status, tuple(each for each in known.fields if each[0] not in newer) + response.fields)
        if not signable(request, known.status, whole.fields):
            return response
        signed = sign_digest(self._key, self.name, request, whole, known.digest, now_s=self._now_s())
        return replace(response, fields=signed.fields)


def _validator(response: Response, now_s: int) -> str | None:
    """What tells this content apart from every other one of its path; None where nothing does for sure."""
    etag, modified = combined(response.fields, "etag"), combined(response.fields, "last-modified")
    if etag is not None:
        return None if etag.startswith("W/") else etag
    if modified is None:
        return None
    try:
        age_s = now_s - parsedate_to_datetime(modified).timestamp()
    except (ValueError, OverflowError):
        return None
    return modified if age_s >= MODIFIED_BEFORE_SECONDS else None


class Door(Protocol):
    """Decides which requests are answered."""

    async def admit(self, request: Request) -> Response | tuple[Request, Fields]:
        """(The request to answer, what to add to the answer), or what to answer instead."""


class SigningProxy:
    """Serves sessions, each over a connection of its own to `server`. `counts`: answers by what was done with them.

    With a `door` requests are answered that are paid for; nobody else keeps an answer that was.
    """

    def __init__(self, signer: Signer, server: HostPort, door: Door | None = None) -> None:
        self._signer, self._server, self.door = signer, server, door
        self.counts: Counter[str] = Counter()

    async def run(self, listener: Listener) -> None:
        """Serve the sessions of `listener`, until cancelled."""
        running: set[asyncio.Task[None]] = set()
        try:
            async for session in listener:
                task = asyncio.get_running_loop().create_task(self.serve(SessionStream(session)))
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def serve(self, stream: ByteStream) -> None:
        """Answer the requests of one stream until it ends."""
        client = ServerSide(stream)
        server: ClientSide | None = None
        try:
            while (head := await client.next_request()) is not None:
                paid: Fields = ()
                if self.door is not None:
                    verdict = await self.door.admit(head.request)
                    if isinstance(verdict, Response):
                        self.counts["not_paid"] += 1
                        await client.answer(verdict)
                        continue
                    head, paid = replace(head, request=verdict[0]), verdict[1]
                if server is None or not server.reusable:
                    if server is not None:
                        server.abort()
                    server = ClientSide(await TcpStream.connect(self._server))
                await self._exchange(head, client, server, paid)
            await stream.close()
        except BlockCloudError as error:
            await self._fail(client, stream, error)
        except asyncio.CancelledError:
            stream.abort()
            raise
        finally:
            if server is not None:
                server.abort()

    async def _fail(self, client: ServerSide, stream: ByteStream, error: BlockCloudError) -> None:
        """Say what is wrong, if an answer may still begin, and close."""
        log.info("http_exchange_failed", name=self._signer.name, code=error.code, reason=str(error))
        if client.begun or isinstance(error, ConnectionBroken):
            stream.abort()
            return
        await refuse(client, stream, 400 if isinstance(error, PeerFault) else 502, error)

    async def _exchange(self, head: RequestHead, client: ServerSide, server: ClientSide, paid: Fields) -> None:
        has_content = head.length is None or head.length > 0
        answer = await server.ask(head.request, client.content() if has_content else None, head.length)
        response = self._signer.prepared(replace(answer.response, fields=end_to_end(answer.response.fields)))
        if paid:
            kept = without(response.fields, ("cache-control",))
            response = replace(response, fields=(*kept, ("cache-control", "private"), *paid))
        if response.status == 304:
            await _drained(server)
            await client.answer(self._signer.sign_not_modified(head.request, response))
            self.counts["not_modified"] += 1
        elif self._is_to_sign(head.request, response, answer):
            await self._hold(head.request, response, answer, client, server)
        else:
            await self._pass(response, answer.length, [], client, server)

    def _is_to_sign(self, request: Request, response: Response, answer: ResponseHead) -> bool:
        if answer.length is not None and answer.length > OBJECT_BYTES:
            return False
        if (combined(response.fields, "content-type") or "").startswith(EVENT_STREAM):
            return False
        return signable(request, response.status, response.fields)

    async def _hold(
        self, request: Request, response: Response, answer: ResponseHead, client: ServerSide, server: ClientSide
    ) -> None:
        """Collect the content and sign it, or pass on what turns out to be too much or too slow."""
        pieces: list[bytes] = []
        size, next_piece = 0, None
        deadline = None if answer.length is not None else asyncio.get_running_loop().time() + HOLD_SECONDS
        while size <= OBJECT_BYTES:
            if deadline is None:
                piece = await server.piece()
            else:
                next_piece = asyncio.ensure_future(server.piece())
                left_s = max(0.0, deadline - asyncio.get_running_loop().time())
                done, _ = await asyncio.wait((next_piece,), timeout=left_s)
                if not done:
                    break
                piece, next_piece = next_piece.result(), None
            if not piece:
                await client.answer(self._signer.sign(request, replace(response, body=b"".join(pieces))))
                self.counts["signed"] += 1
                return
            pieces.append(piece)
            size += len(piece)
        try:
            await self._pass(response, answer.length, pieces, client, server, next_piece)
        finally:
            if next_piece is not None:
                next_piece.cancel()

    async def _pass(
        self,
        response: Response,
        length: int | None,
        pieces: list[bytes],
        client: ServerSide,
        server: ClientSide,
        next_piece: asyncio.Future[bytes] | None = None,
    ) -> None:
        """Pass an answer on, unsigned, as it comes."""
        self.counts["unsigned"] += 1
        await client.begin(response, length)
        for piece in pieces:
            await client.piece(piece)
        piece = await (next_piece if next_piece is not None else server.piece())
        while piece:
            await client.piece(piece)
            piece = await server.piece()
        await client.end()


async def _drained(server: ClientSide) -> None:
    """Read the end of an answer that has no content. Raises ServerFailed if it has some."""
    if await server.piece():
        raise ServerFailed("content behind a head that has none")
