"""A relay's asyncio side: it listens, carries out what `rendezvous` decides, and passes bytes.

One task a connection. Until its preamble has come (and, for a control connection, its handshake is over) it is one of
a bounded number that are half open, and has a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, assert_never

import structlog

from blockcloud.primitives.errors import PeerFault, TimedOut, Unreachable
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import HALF_OPEN_HANDSHAKES, HANDSHAKE_SECONDS
from blockcloud.service_access import tls
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.handshake import RANDOMNESS_BYTES, Responder
from blockcloud.service_access.relay.control_stream import ControlStream
from blockcloud.service_access.relay.dialling import receive_exactly
from blockcloud.service_access.relay.errors import (
    NotAllowed,
    RelayFull,
    RelayRefusal,
    SpokeTooSoon,
    Status,
    UnexpectedMessage,
)
from blockcloud.service_access.relay.messages import (
    PREAMBLE_BYTES,
    RELAY_PURPOSE,
    HandshakePart,
    Invite,
    MessageKind,
    Registered,
    RelayPing,
    RelayPong,
    Wish,
    decode_preamble,
    encode_answer,
)
from blockcloud.service_access.relay.pipe import splice_sockets
from blockcloud.service_access.relay.rendezvous import Effect, End, Join, RelayLimits, Rendezvous, Summon

LISTEN_BACKLOG: Final = 512
ACCEPT_PAUSE_SECONDS: Final = 0.05

Permits = Callable[[bytes], Awaitable[bool]]

log = structlog.get_logger(__name__)


async def everybody(_: bytes) -> bool:
    """Any instance may register."""
    return True


class RelayServer:
    """The relay `name`, which proves itself with `key`. `permits` says which instance keys may register."""

    def __init__(
        self, name: str, key: SigningKey, *, limits: RelayLimits | None = None, permits: Permits = everybody
    ) -> None:
        self.name = name
        self.faults: Counter[str] = Counter()  # by error code: what peers did wrong
        self.address: HostPort | None = None
        self._key = key
        self._permits = permits
        self._loop = asyncio.get_running_loop()
        self._core = Rendezvous(limits or RelayLimits(), os.urandom, self._now_ms())
        self._context, self._certificate_hash = tls.server_context()
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._opening: dict[int, None] = {}  # connections that have not said or proven yet what they are
        self._controls: dict[int, ControlStream] = {}
        self._dials: dict[int, asyncio.Future[socket.socket]] = {}  # done with the connection of who came to meet
        self._meetings: dict[int, socket.socket] = {}
        self._splicing: dict[int, asyncio.Future[None]] = {}  # done when a splice has to end
        self._timer: asyncio.TimerHandle | None = None

    def _now_ms(self) -> float:
        return self._loop.time() * 1_000

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self, host: str, port: int) -> HostPort:
        """Listen at `host`:`port` (0 takes a free one); where. Raises Unreachable."""
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind((host, port))
            listener.listen(LISTEN_BACKLOG)
        except OSError as error:
            listener.close()
            raise Unreachable(f"cannot listen: {error.strerror}", address=f"{host}:{port}") from None
        self._listener = listener
        self.address = host, int(listener.getsockname()[1])
        self._start(self._accept(listener))
        return self.address

    async def close(self) -> None:
        """Stop: all connections are cut."""
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def __aenter__(self) -> RelayServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def status(self) -> dict[str, Any]:
        """What an operator wants to know."""
        core = self._core
        return {
            "name": self.name,
            "listening": f"{self.address[0]}:{self.address[1]}" if self.address is not None else None,
            "registered": core.registered,
            "waiting_dials": core.waiting,
            "splices": core.spliced,
            "bytes_passed": core.bytes_passed,
            "half_open": len(self._opening),
            "counts": dict(core.counts),
            "faults": dict(self.faults),
        }

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(listener)
            except OSError as error:  # out of file descriptors, or the peer was gone already
                log.warning("accept_failed", reason=error.strerror)
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            if len(self._opening) >= HALF_OPEN_HANDSHAKES:
                self.faults["too_many"] += 1
                connection.close()
                continue
            self._numbers += 1
            self._opening[self._numbers] = None
            self._start(self._serve(self._numbers, connection))

    # --- connections ------------------------------------------------------------------------------------------------

    async def _serve(self, number: int, connection: socket.socket) -> None:
        """One connection from its preamble to its end. Whatever the peer sends, nobody else notices."""
        with contextlib.ExitStack() as owned:
            owned.callback(self._opening.pop, number, None)
            closing = owned.enter_context(contextlib.ExitStack())
            closing.callback(connection.close)
            try:
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                async with asyncio.timeout(HANDSHAKE_SECONDS):
                    preamble = decode_preamble(await receive_exactly(connection, PREAMBLE_BYTES))
                if preamble.wish is Wish.CONTROL:
                    connection.send(encode_answer(Status.OK))
                    closing.pop_all()  # whoever makes TLS of it closes it
                    await self._control(number, connection)
                elif preamble.wish is Wish.DIAL:
                    self._opening.pop(number)
                    await self._dial(number, connection, preamble.subject)
                else:
                    self._meetings[number] = connection
                    closing.callback(self._meetings.pop, number, None)
                    self._carry_out(self._core.meet(number, preamble.subject, self._now_ms()))
                    closing.pop_all()  # the dialler's task has it
            except PeerFault as fault:
                self._refuse(connection, fault)
            except (TimedOut, Unreachable) as error:
                self.faults[error.code] += 1
            except TimeoutError:
                self.faults[TimedOut.code] += 1
            except (EOFError, OSError):
                self.faults["left"] += 1

    def _refuse(self, connection: socket.socket, fault: PeerFault) -> None:
        self.faults[fault.code] += 1
        log.info("relay_refused", code=fault.code, reason=str(fault))
        status = fault.status if isinstance(fault, RelayRefusal) else Status.REFUSED
        with contextlib.suppress(OSError):
            connection.send(encode_answer(status))

    # --- instances --------------------------------------------------------------------------------------------------

    async def _control(self, number: int, connection: socket.socket) -> None:
        """A control connection, which is closed at the end."""
        stream = await ControlStream.upgrade(connection, self._context, timeout_s=HANDSHAKE_SECONDS, server_side=True)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                key = await self._authenticate(stream)
            effects = self._core.register(number, key, self._now_ms())
            self._controls[number] = stream
            self._opening.pop(number)
            stream.send(Registered(self._core.limits.heartbeat_ms))
            self._carry_out(effects)
            while True:
                message = await stream.receive()
                if not isinstance(message, RelayPing):
                    raise UnexpectedMessage("a registered instance sends PING only", got=type(message).__name__)
                self._core.heard(number, self._now_ms())
                stream.send(RelayPong(message.number))
        except PeerFault as fault:
            self.faults[fault.code] += 1
            log.info("registration_refused", code=fault.code, reason=str(fault))
            stream.refuse(fault)
        finally:
            self._controls.pop(number, None)
            self._core.control_lost(number)
            stream.close()

    async def _authenticate(self, stream: ControlStream) -> bytes:
        """The key that the peer proves to hold. Raises PeerFault's children, ControlLost."""
        responder = Responder(
            keys=lambda name: self._key if name == self.name else None,
            purpose=RELAY_PURPOSE,
            certificate_hash=self._certificate_hash,
            randomness=os.urandom(RANDOMNESS_BYTES),
        )
        reply = responder.receive_hello(await stream.receive_part(MessageKind.HELLO))
        stream.send(HandshakePart(MessageKind.REPLY, reply))
        responder.receive_finish(await stream.receive_part(MessageKind.FINISH))
        if not await self._permits(responder.peer_key):
            raise NotAllowed(key=responder.peer_key.hex()[:16])
        return responder.peer_key

    # --- diallers ---------------------------------------------------------------------------------------------------

    async def _dial(self, number: int, connection: socket.socket, key: bytes) -> None:
        """Wait for the instance, then pass bytes to the end. Raises RelayRefusal, OSError."""
        met: asyncio.Future[socket.socket] = self._loop.create_future()
        self._dials[number] = met
        early = self._loop.create_task(_receive_one(connection))
        try:
            self._carry_out(self._core.dial(number, key, self._now_ms()))
            await asyncio.wait((met, early), return_when=asyncio.FIRST_COMPLETED)
            if early.done():
                raise SpokeTooSoon
            met.result()  # raises why nobody came
            early.cancel()
            await asyncio.gather(early, return_exceptions=True)
            await self._splice(number, connection, met.result())
        finally:
            early.cancel()
            self._dials.pop(number, None)
            self._core.dial_lost(number)
            self._core.splice_ended(number)
            if met.done() and met.exception() is None:
                met.result().close()

    async def _splice(self, number: int, dialler: socket.socket, instance: socket.socket) -> None:
        for each in (instance, dialler):
            each.send(encode_answer(Status.OK))
        cut: asyncio.Future[None] = self._loop.create_future()
        self._splicing[number] = cut
        passing = self._loop.create_task(
            splice_sockets(dialler, instance, lambda count: self._core.passed(number, count, self._now_ms()))
        )
        try:
            await asyncio.wait((passing, cut), return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._splicing[number]
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)

    # --- what the core decides --------------------------------------------------------------------------------------

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Summon(control=control, token=token):
                    self._summon(control, token)
                case Join(dial=dial, meeting=meeting):
                    self._dials[dial].set_result(self._meetings.pop(meeting))
                case End(connection=connection, reason=reason):
                    self._end(connection, reason)
                case _:
                    assert_never(effect)
        self._schedule()

    def _summon(self, control: int, token: bytes) -> None:
        stream = self._controls[control]
        try:
            stream.send(Invite(token))
        except RelayFull as full:
            self.faults[full.code] += 1
            stream.abort()

    def _end(self, connection: int, reason: RelayRefusal) -> None:
        if stream := self._controls.get(connection):
            stream.refuse(reason)
        elif met := self._dials.get(connection):
            if not met.done():
                met.set_exception(reason)
            elif cut := self._splicing.get(connection):
                cut.set_result(None)

    def _schedule(self) -> None:
        due_ms = self._core.next_timer()
        if due_ms is None:
            return
        if self._timer is not None:
            if self._timer.when() <= due_ms / 1_000 + 0.001:
                return  # it fires early enough, and then sets itself again
            self._timer.cancel()
        self._timer = self._loop.call_at(due_ms / 1_000 + 0.001, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._carry_out(self._core.tick(self._now_ms()))


async def _receive_one(connection: socket.socket) -> bytes:
    """The next byte; empty at the end, also where the connection broke."""
    try:
        return await asyncio.get_running_loop().sock_recv(connection, 1)
    except OSError:
        return b""
