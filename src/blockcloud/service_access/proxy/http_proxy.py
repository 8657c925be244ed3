"""The HTTP proxy: CONNECT for tunnels, and plain requests for `http://name/...`, each name over a session of its own.

`http_rules` decides what passes and `h11` reads and writes; here are the sockets. A connection of a program may carry
several plain requests one after the other; its session is kept for the next one to the same host.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, TypeAlias

import h11

from blockcloud.primitives.errors import BlockCloudError, TimedOut
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.front import Front, Room
from blockcloud.service_access.proxy.errors import Truncated
from blockcloud.service_access.proxy.http_rules import (
    HEAD_BYTES,
    Target,
    answer_for_program,
    check_token,
    problem,
    read_target,
    refused_by_parser,
    request_for_origin,
)
from blockcloud.service_access.proxy.names import ServiceNames
from blockcloud.service_access.splice import TcpSide, splice
from blockcloud.service_access.stream import Session

Event: TypeAlias = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]

HEAD_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 120.0  # until the service's answer begins
SWITCHING_PROTOCOLS: Final = 101


@dataclass
class _Origin:
    """A session to a service, and how far its HTTP has come."""

    target: Target
    session: Session
    http: h11.Connection

    def fits(self, target: Target) -> bool:
        """Whether the next request may go here, too."""
        same = (target.host, target.port) == (self.target.host, self.target.port)
        return same and self.session.error is None and not self.session.core.peer_ended


class HttpProxy(Front):
    """See the module's text. `token`, where there is one, is the password that programs must show."""

    kind = "http_proxy"

    def __init__(
        self, connector: Connector, names: ServiceNames, *, token: bytes = b"", room: Room | None = None
    ) -> None:
        super().__init__(room)
        self._connector = connector
        self._names = names
        self._token = token

    async def serve(self, tcp: TcpSide) -> None:
        await _Conversation(self, tcp, self._connector, self._names, self._token).run()


class _Conversation:
    """One connection of a program."""

    def __init__(self, front: HttpProxy, tcp: TcpSide, connector: Connector, names: ServiceNames, token: bytes) -> None:
        self._front = front
        self._tcp = tcp
        self._connector = connector
        self._names = names
        self._token = token
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._origin: _Origin | None = None
        self._method = b""

    async def run(self) -> None:
        """Answer requests until one side has had enough."""
        patience_seconds = HEAD_SECONDS
        try:
            while await self._one(patience_seconds):
                self._http.start_next_cycle()
                patience_seconds = IDLE_SECONDS
            self._tcp.close()
            if self._origin is not None:
                await self._origin.session.close()
        finally:
            self._leave_origin()

    async def _one(self, patience_seconds: float) -> bool:
        """Answer one request; whether another may follow on this connection."""
        try:
            async with asyncio.timeout(patience_seconds):
                request = await self._program_event()
            if not isinstance(request, h11.Request):
                return False  # the program has left
            self._method = bytes(request.method)
            check_token(request, self._token)
            target = read_target(request)
            name = self._names.service(target.host)
            if request.method == b"CONNECT":
                await self._tunnel(name)
                return False
            await self._reach(target, name)
        except h11.RemoteProtocolError as error:
            await self._refuse(refused_by_parser(error))
            return False
        except BlockCloudError as error:
            await self._refuse(error)
            return False
        await self._exchange(request, target)
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _tunnel(self, name: str) -> None:
        session = await self._connector.connect(name)
        self._leave_origin()
        await self._program_event()  # the end of the request, which has no body
        await self._send(h11.Response(status_code=200, reason=b"Connection established", headers=[]))
        early, _ = self._http.trailing_data
        self._tcp.put_back(early)
        ended = await splice(session, self._tcp)
        if ended is not None:
            self._front.failed(ended)

    async def _reach(self, target: Target, name: str) -> None:
        """Make sure that there is a session to the target."""
        origin = self._origin
        if origin is not None and origin.fits(target):
            origin.target = target
            return
        self._leave_origin()
        session = await self._connector.connect(name)
        self._origin = _Origin(target, session, h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES))

    def _leave_origin(self) -> None:
        origin, self._origin = self._origin, None
        if origin is not None:
            origin.session.abort("closed", "the program behind the session needs it no more")

    # One request and its answer

    async def _exchange(self, request: h11.Request, target: Target) -> None:
        """Pass the request and its answer, both as they come, until the answer is complete. A program that closes its
        direction meanwhile has left, as far as a proxy can tell, and ends it."""
        origin = self._origin
        assert origin is not None
        upward = asyncio.ensure_future(self._pass_request(origin, request, target))
        downward = asyncio.ensure_future(self._pass_answer(origin))
        gone = asyncio.ensure_future(self._tcp.gone())
        waiting = {upward, downward, gone}
        try:
            while not downward.done() and not gone.done():
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                waiting -= done
                if upward in done and not downward.done() and isinstance(upward.exception(), h11.RemoteProtocolError):
                    break  # the body breaks the rules: no answer is worth waiting for
        finally:
            for task in (upward, downward, gone):
                task.cancel()
            results = await asyncio.gather(upward, downward, gone, return_exceptions=True)
        await self._conclude(origin, results[0], results[1])

    async def _conclude(self, origin: _Origin, upward: object, downward: object) -> None:
        """After an exchange: keep the session for the next one, or see that nobody takes a part for the whole."""
        if downward is None and upward is None and origin.http.our_state is origin.http.their_state is h11.DONE:
            origin.http.start_next_cycle()
            return
        self._leave_origin()
        if downward is None:
            return
        for error in (upward, downward):
            if isinstance(error, Exception) and not isinstance(error, BlockCloudError | h11.ProtocolError):
                raise error
        if isinstance(upward, h11.RemoteProtocolError):
            await self._refuse(refused_by_parser(upward))
        elif isinstance(downward, BlockCloudError):
            await self._refuse(downward)
        elif isinstance(downward, h11.RemoteProtocolError):
            await self._refuse(Truncated(f"the service does not speak HTTP/1.1: {downward}"))

    async def _pass_request(self, origin: _Origin, request: h11.Request, target: Target) -> None:
        await self._to_origin(origin, request_for_origin(request, target))
        while True:
            event = await self._program_event()
            if isinstance(event, h11.EndOfMessage):
                await self._to_origin(origin, h11.EndOfMessage())
                return
            if not isinstance(event, h11.Data):
                return  # the program has left
            await self._to_origin(origin, h11.Data(data=event.data))

    async def _to_origin(self, origin: _Origin, event: h11.Event) -> None:
        data = origin.http.send(event)
        if data:
            await origin.session.write(data)

    async def _pass_answer(self, origin: _Origin) -> None:
        """Raises Truncated, SessionEnded's children, TimedOut, h11.RemoteProtocolError."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                event = await self._origin_event(origin)
                while isinstance(event, h11.InformationalResponse):
                    if event.status_code != SWITCHING_PROTOCOLS:  # nobody was asked to
                        await self._send(answer_for_program(event))
                    event = await self._origin_event(origin)
        except TimeoutError:
            raise TimedOut("the service did not answer in time") from None
        if not isinstance(event, h11.Response):
            raise Truncated
        await self._send(answer_for_program(event))
        while isinstance(event := await self._origin_event(origin), h11.Data):
            await self._send(h11.Data(data=event.data))
        if not isinstance(event, h11.EndOfMessage):
            raise Truncated
        await self._send(h11.EndOfMessage())

    async def _origin_event(self, origin: _Origin) -> Event:
        while (event := origin.http.next_event()) is h11.NEED_DATA:
            origin.http.receive_data(await origin.session.read())
        return event

    async def _program_event(self) -> Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._tcp.receive())
        return event

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self._tcp.write([memoryview(data)])

    async def _refuse(self, error: BlockCloudError) -> None:
        """Say why, where nothing was said yet; otherwise reset, so that a part is not taken for the whole."""
        self._front.failed(error)
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self._tcp.reset()
            return
        response, body = problem(error)
        await self._send(response)
        if self._method != b"HEAD":
            await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())
