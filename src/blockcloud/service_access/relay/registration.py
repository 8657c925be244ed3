"""Being reachable through a relay: a registration that is kept, and the connections that come through it.

The relay is found by its name: the ledger lists its keys, an address record says where it is. Whoever answers there
must prove one of those keys before we register. A lost registration is renewed with a growing pause for as long as the
process lives; meanwhile the relay's address is not among ours. An asyncio adaptor.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import structlog

from blockcloud.primitives.errors import BlockCloudError, TimedOut, Unreachable
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import HANDSHAKE_SECONDS
from blockcloud.service_access import tls
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.handshake import RANDOMNESS_BYTES, Initiator
from blockcloud.service_access.relay.control_stream import ControlStream
from blockcloud.service_access.relay.dialling import open_connection
from blockcloud.service_access.relay.errors import Replaced, UnexpectedMessage
from blockcloud.service_access.relay.messages import (
    RELAY_PURPOSE,
    HandshakePart,
    Invite,
    MessageKind,
    Preamble,
    Refused,
    Registered,
    RelayPing,
    RelayPong,
    Wish,
)
from blockcloud.service_access.resolution import NoInstances, Resolver

RENDEZVOUS: Final = "rendezvous"  # protocol of a relay's own endpoint in its address record
CONNECT_MS: Final = 3_000
FIRST_PAUSE_MS: Final = 50
LAST_PAUSE_MS: Final = 10_000
MEETINGS_AT_ONCE: Final = 64
LOST_HEARTBEATS: Final = 3

log = structlog.get_logger(__name__)


class RefusedByRelay(Unreachable):
    """The relay does not register us; `reason` is the code of its refusal."""

    code = "refused_by_relay"
    hint = "Ask whoever runs the relay to allow this instance's key, or name another relay."

    def __init__(self, message: str = "", *, reason: str, **values: object) -> None:
        super().__init__(message, reason=reason, **values)
        self.reason = reason


class RelayRegistration:
    """One instance's registration, under `key`, at the relay `name`.

    `source` is asked for the local address to connect from. `incoming` gets each connection that a dialler has come
    through, ready for TLS. `changed` is called when `place`, where the relay can be dialled, has changed.
    """

    def __init__(
        self,
        name: str,
        key: SigningKey,
        resolver: Resolver,
        *,
        source: Callable[[], str | None],
        incoming: Callable[[socket.socket], None],
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self.place: HostPort | None = None
        self.error: BlockCloudError | None = None  # why there is no registration now
        self.counts: Counter[str] = Counter()
        self._key = key
        self._resolver = resolver
        self._source = source
        self._incoming = incoming
        self._changed = changed
        self._context = tls.client_context()
        self._loop = asyncio.get_running_loop()
        self._heard_ms = 0.0
        self._attempted = asyncio.Event()
        self._renew = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._meetings: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Register, and keep the registration until `close`. Returns after the first attempt: `error` says why it
        failed, if it did."""
        self._keeping = self._loop.create_task(self._keep())
        await self._attempted.wait()

    async def close(self) -> None:
        """Give the registration up."""
        tasks = [*self._meetings, *([self._keeping] if self._keeping is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.place = None

    async def renew(self) -> None:
        """Register again from the present source address (we have moved); returns after that attempt."""
        self._attempted.clear()
        self._renew.set()
        await self._attempted.wait()

    def status(self) -> dict[str, Any]:
        """What an operator wants to know."""
        return {
            "relay": self.name,
            "registered_at": f"{self.place[0]}:{self.place[1]}" if self.place is not None else None,
            "error": str(self.error) if self.error is not None else None,
            "counts": dict(self.counts),
        }

    # --- the control connection -------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        pause_ms = FIRST_PAUSE_MS
        while True:
            self._renew.clear()
            try:
                stream, place, heartbeat_ms = await self._register()
            except BlockCloudError as error:
                self._lost(error)
                self._attempted.set()
            else:
                since_s = self._loop.time()
                self._registered(place)
                try:
                    await self._serve(stream, place, heartbeat_ms)
                finally:
                    stream.abort()
                if self._renew.is_set():
                    continue
                if self._loop.time() - since_s > LAST_PAUSE_MS / 1_000:
                    pause_ms = FIRST_PAUSE_MS
            if isinstance(self.error, RefusedByRelay) and self.error.reason == Replaced.code:
                pause_ms = LAST_PAUSE_MS  # another process has our key: do not take turns with it many times a second
            await self._wait(random.uniform(0.5, 1.0) * pause_ms)  # noqa: S311 - spread, not a secret
            pause_ms = min(2 * pause_ms, LAST_PAUSE_MS)

    def _registered(self, place: HostPort) -> None:
        self.error, self.place = None, place
        self.counts["registered"] += 1
        self._attempted.set()
        self._changed()

    def _lost(self, error: BlockCloudError) -> None:
        log.warning("relay_lost", relay=self.name, code=error.code, reason=str(error))
        self.error = error
        self.counts[error.code] += 1
        if self.place is not None:
            self.place = None
            self._changed()

    async def _wait(self, pause_ms: float) -> None:
        """A pause, which a move cuts short."""
        try:
            async with asyncio.timeout(pause_ms / 1_000):
                await self._renew.wait()
        except TimeoutError:
            return

    async def _register(self) -> tuple[ControlStream, HostPort, int]:
        """At the first instance of the relay that takes us. Raises UnknownName, NoInstances, or why none did."""
        resolution = await self._resolver.resolve(self.name, max_age_s=0 if self.error is not None else 60)
        places = [
            ((endpoint.host, endpoint.port), instance.key)
            for instance in resolution.instances
            if instance.key in resolution.instance_keys
            for endpoint in instance.endpoints
            if endpoint.protocol == RENDEZVOUS
        ]
        last: BlockCloudError = NoInstances("no relay of this name is running", name=self.name)
        for place, key in places:
            try:
                return await self._register_at(place, key)
            except BlockCloudError as error:
                last = error
        raise last

    async def _register_at(self, place: HostPort, relay_key: bytes) -> tuple[ControlStream, HostPort, int]:
        connection = await open_connection(place, Preamble(Wish.CONTROL), source=self._source(), timeout_ms=CONNECT_MS)
        stream = await ControlStream.upgrade(connection, self._context, timeout_s=HANDSHAKE_SECONDS)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                registered = await self._authenticate(stream, relay_key)
        except TimeoutError:
            stream.abort()
            raise TimedOut("the relay did not finish its handshake", relay=self.name) from None
        except BaseException:
            stream.abort()
            raise
        return stream, place, registered.heartbeat_ms

    async def _authenticate(self, stream: ControlStream, relay_key: bytes) -> Registered:
        initiator = Initiator(
            key=self._key,
            purpose=RELAY_PURPOSE,
            target=self.name,
            expected=(relay_key,),
            randomness=os.urandom(RANDOMNESS_BYTES),
        )
        stream.send(HandshakePart(MessageKind.HELLO, initiator.hello()))
        answer = await stream.receive()
        if isinstance(answer, Refused):
            raise RefusedByRelay(f"the relay refused: {answer.reason}", reason=answer.code)
        if not isinstance(answer, HandshakePart) or answer.kind is not MessageKind.REPLY:
            raise UnexpectedMessage("REPLY was expected", got=type(answer).__name__)
        finish = initiator.receive(answer.message, stream.peer_certificate_hash())
        stream.send(HandshakePart(MessageKind.FINISH, finish))
        answer = await stream.receive()
        if isinstance(answer, Refused):
            raise RefusedByRelay(f"the relay refused: {answer.reason}", reason=answer.code)
        if not isinstance(answer, Registered):
            raise UnexpectedMessage("REGISTERED was expected", got=type(answer).__name__)
        return answer

    async def _serve(self, stream: ControlStream, place: HostPort, heartbeat_ms: int) -> None:
        """Take invitations until the connection is lost, or we move."""
        self._heard_ms = self._loop.time() * 1_000
        receiving = self._loop.create_task(self._receive(stream, place))
        renewing = self._loop.create_task(self._renew.wait())
        number = 0
        try:
            while not renewing.done():
                number += 1
                stream.send(RelayPing(number))
                await asyncio.wait(
                    (receiving, renewing), timeout=heartbeat_ms / 1_000, return_when=asyncio.FIRST_COMPLETED
                )
                if receiving.done():
                    receiving.result()
                if self._loop.time() * 1_000 - self._heard_ms > LOST_HEARTBEATS * heartbeat_ms:
                    raise TimedOut("the relay does not answer any more")
        except BlockCloudError as error:
            self._lost(error)
        finally:
            for task in (receiving, renewing):
                task.cancel()
            await asyncio.gather(receiving, renewing, return_exceptions=True)

    async def _receive(self, stream: ControlStream, place: HostPort) -> None:
        """Raises whatever ends the connection."""
        while True:
            message = await stream.receive()
            self._heard_ms = self._loop.time() * 1_000
            if isinstance(message, Invite):
                self._invited(place, message.token)
            elif isinstance(message, Refused):
                raise RefusedByRelay(f"the relay refused: {message.reason}", reason=message.code)
            elif not isinstance(message, RelayPong):
                raise UnexpectedMessage("the relay may not send this now", got=type(message).__name__)

    # --- connections that come through ------------------------------------------------------------------------------

    def _invited(self, place: HostPort, token: bytes) -> None:
        if len(self._meetings) >= MEETINGS_AT_ONCE:
            self.counts["too_many"] += 1  # a relay cannot make us open connections without end
            return
        task = self._loop.create_task(self._meet(place, token))
        self._meetings.add(task)
        task.add_done_callback(self._meetings.discard)

    async def _meet(self, place: HostPort, token: bytes) -> None:
        try:
            connection = await open_connection(
                place, Preamble(Wish.MEET, token), source=self._source(), timeout_ms=CONNECT_MS
            )
        except BlockCloudError as error:
            self.counts[error.code] += 1
            log.info("meeting_failed", relay=self.name, reason=str(error))
            return
        self.counts["met"] += 1
        self._incoming(connection)
