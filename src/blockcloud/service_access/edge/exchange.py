"""HTTP/1.1 exchanges over a stream, one at a time, from either side. An adaptor: what a message is says `http_message`.

Nothing is pipelined towards a server: the next request goes out when the answer to the one before is complete, so that
each answer belongs to the request it seems to.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from blockcloud.primitives.errors import BlockCloudError, Oversized, TimedOut
from blockcloud.service_access.edge.errors import BadMessage, ConnectionBroken, ServerFailed
from blockcloud.service_access.edge.http_message import (
    NO_BODY_STATUS,
    End,
    Event,
    Request,
    RequestHead,
    RequestParser,
    Response,
    ResponseHead,
    ResponseParser,
    end_to_end,
    values,
)
from blockcloud.service_access.edge.streams import ByteStream

IDLE_SECONDS: Final = 75.0
HEAD_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 60.0
UNREAD_BYTES: Final = 64 * 1024  # of a request's content that is read away so that the connection lives on
CHUNKED: Final = (("transfer-encoding", "chunked"),)
CLOSING: Final = (("connection", "close"),)


class ServerSide:
    """The requests that come in over `stream`."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._parser = RequestParser()
        self._events: deque[Event] = deque()
        self._head: RequestHead | None = None
        self._body_done = True
        self._chunked = False
        self.keep_alive = True
        self.begun = False  # the head of the present answer is out

    async def next_request(self) -> RequestHead | None:
        """The next one, or None at the end. Raises BadMessage, ConnectionBroken, TimedOut."""
        if self._head is not None and not await self._skip_content():
            return None
        if not self.keep_alive:
            return None
        limit_s = IDLE_SECONDS
        while not self._events:
            try:
                async with asyncio.timeout(limit_s):
                    data = await self._stream.read()
            except TimeoutError:
                raise TimedOut("no request came in time", seconds=limit_s) from None
            except ConnectionBroken:
                if limit_s == IDLE_SECONDS:
                    return None  # between requests anybody may leave
                raise
            if not data:
                return None
            self._events.extend(self._parser.feed(data))
            limit_s = HEAD_SECONDS
        head = self._events.popleft()
        assert isinstance(head, RequestHead), "a message begins with its head"
        self._head, self._body_done, self.begun = head, False, False
        self.keep_alive = head.keep_alive
        return head

    async def content(self) -> AsyncIterator[bytes]:
        """The content of the present request, in pieces. Raises BadMessage, ConnectionBroken, TimedOut."""
        head = self._head
        assert head is not None, "a request is there"
        if head.expects_continue and not self._body_done and not self._events:
            await self._stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._body_done:
            if not self._events:
                self._events.extend(self._parser.feed(await self._more()))
                continue
            event = self._events.popleft()
            if isinstance(event, End):
                self._body_done = True
            elif isinstance(event, bytes):
                yield event

    async def _more(self) -> bytes:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                data = await self._stream.read()
        except TimeoutError:
            raise TimedOut("the rest of a request did not come", seconds=ANSWER_SECONDS) from None
        if not data:
            raise ConnectionBroken("the client left in the middle of a request")
        return data

    async def _skip_content(self) -> bool:
        """Read away what is left of the last request; False if that is not worth it."""
        skipped = 0
        if self._head is not None and self._head.expects_continue and not self._events:
            return self._body_done
        async for piece in self.content():
            skipped += len(piece)
            if skipped > UNREAD_BYTES:
                return False
        return True

    # --- answers ----------------------------------------------------------------------------------------------------

    async def answer(self, response: Response) -> None:
        """Send a whole response."""
        if self._head is not None and self._head.request.method == "HEAD":
            await self.begin(response, len(response.body))
            return
        length = () if response.status in NO_BODY_STATUS else (("content-length", str(len(response.body))),)
        self.begun = True
        await self._stream.write(response.head(length + self._closing()) + response.body)

    async def answer_with(self, head: bytes, response: Response) -> None:
        """As `answer`, for a request with content in its answer, where `head` is at hand as bytes, but for its end."""
        if response.status not in NO_BODY_STATUS:
            head += b"content-length: %d\r\n" % len(response.body)
        if not self.keep_alive:
            head += b"connection: close\r\n"
        self.begun = True
        await self._stream.write(b"%b\r\n%b" % (head, response.body))

    async def begin(self, response: Response, length: int | None) -> None:
        """Send the head of a response whose content follows by `piece`, then `end`. `length` None: not known."""
        framing = () if length is None else (("content-length", str(length)),)
        self._chunked = False
        bodiless = response.status in NO_BODY_STATUS or (self._head and self._head.request.method == "HEAD")
        if bodiless:
            framing = framing if response.status not in NO_BODY_STATUS else ()
        elif length is None:
            self._chunked = self._head is not None and self._head.version == "1.1"
            self.keep_alive = self.keep_alive and self._chunked  # or the end of the connection is that of the content
            framing = CHUNKED if self._chunked else ()
        self.begun = True
        await self._stream.write(response.head(framing + self._closing()))

    async def piece(self, data: bytes) -> None:
        """A piece of the content."""
        if data:
            await self._stream.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def end(self) -> None:
        """The content is complete."""
        if self._chunked:
            await self._stream.write(b"0\r\n\r\n")

    def _closing(self) -> tuple[tuple[str, str], ...]:
        return () if self.keep_alive else CLOSING


class ClientSide:
    """Requests that go out over `stream`."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.reusable = True
        self._parser = ResponseParser("GET")
        self._events: deque[Event] = deque()
        self._until_close = False
        self._keep = False
        self._sending: asyncio.Task[None] | None = None

    async def ask(
        self, request: Request, content: AsyncIterator[bytes] | None = None, length: int | None = 0
    ) -> ResponseHead:
        """Send a request and wait for the head of its answer; the content follows by `piece`.

        `length` None: not known. Raises ServerFailed, TimedOut, and what `content` raises.
        """
        self.reusable = False  # until the answer is complete
        self._parser, self._events = ResponseParser(request.method), deque()
        request = Request(request.method, request.target, end_to_end(request.fields))
        framing = CHUNKED if length is None else (("content-length", str(length)),) if content is not None else ()
        await self._write(request.head(framing))
        if content is not None:
            # Beside the answer, because a server may answer before it has read everything.
            self._sending = asyncio.get_running_loop().create_task(self._send(content, chunked=length is None))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while not self._events:
                    await self._read_on()
        except TimeoutError:
            raise TimedOut("the server did not answer in time", seconds=ANSWER_SECONDS) from None
        head = self._events.popleft()
        assert isinstance(head, ResponseHead), "a message begins with its head"
        self._until_close = head.length is None and not values(head.response.fields, "transfer-encoding")
        self._keep = head.keep_alive and not self._until_close
        return head

    async def piece(self) -> bytes:
        """The next piece of the answer's content, b"" at its end. Raises as `ask`."""
        while True:
            if not self._events:
                await self._read_on()
                continue
            event = self._events.popleft()
            if isinstance(event, bytes):
                return event
            self.reusable = self._keep and (self._sending is None or self._sending.done())
            self._stop_sending()
            return b""

    async def whole(self, limit_bytes: int) -> bytes:
        """All of the content. Raises Oversized, and as `piece`."""
        pieces, size = [], 0
        while piece := await self.piece():
            size += len(piece)
            if size > limit_bytes:
                raise Oversized("a response is larger than its limit", limit=limit_bytes)
            pieces.append(piece)
        return b"".join(pieces)

    def abort(self) -> None:
        """Give the connection up."""
        self.reusable = False
        self._stop_sending()
        self.stream.abort()

    async def _send(self, content: AsyncIterator[bytes], *, chunked: bool) -> None:
        async for piece in content:
            await self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            await self._write(b"0\r\n\r\n")

    async def _write(self, data: bytes) -> None:
        try:
            await self.stream.write(data)
        except ConnectionBroken as error:
            raise ServerFailed(str(error)) from None

    def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    async def _read_on(self) -> None:
        data = await self._next_bytes()
        if data:
            try:
                self._events.extend(self._parser.feed(data))
            except BadMessage as error:
                raise ServerFailed(str(error)) from None
        elif self._until_close:
            self._events.append(End())
        else:
            raise ServerFailed("it left in the middle of an answer")

    async def _next_bytes(self) -> bytes:
        """What comes next; where the rest of the request cannot be sent, the exchange ends with the reason."""
        if self._sending is None or self._sending.done():
            return await self._read()
        reading = asyncio.ensure_future(self._read())
        try:
            await asyncio.wait((reading, self._sending), return_when=asyncio.FIRST_COMPLETED)
            if self._sending.done() and not reading.done():
                self._sending.result()
            return await reading
        finally:
            reading.cancel()

    async def _read(self) -> bytes:
        try:
            return await self.stream.read()
        except ConnectionBroken as error:
            raise ServerFailed(str(error)) from None


async def refuse(client: ServerSide, stream: ByteStream, status: int, error: BlockCloudError) -> None:
    """Answer with what is wrong, and close."""
    client.keep_alive = False
    said = f"{error} [{error.code}]\n" + (f"hint: {error.hint}\n" if error.hint else "")
    try:
        await client.answer(Response(status, (("content-type", "text/plain; charset=utf-8"),), said.encode()))
        await stream.close()
    except ConnectionBroken:
        stream.abort()
