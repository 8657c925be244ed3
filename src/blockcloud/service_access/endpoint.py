"""A service endpoint: where sessions come in, and who finds new links for those that lost theirs.

It owns the listeners, one for each address and of any kind of link, the sessions of this process that use them, and
the host that it dials from. `move_to` changes all that while sessions go on: the new listeners are bound first, then
every session gets a new link (dialled by us if the peer listens, by the peer after MOVED if not), then the old links
go. DESIGN section 5.2.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from blockcloud.primitives.codec import encode
from blockcloud.primitives.errors import Busy, Unreachable
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import MOVED_ADDRESSES, SESSIONS
from blockcloud.service_access.addresses import QUIC, RELAY, TLS, Address
from blockcloud.service_access.admission import NO_CREDENTIALS, Credentials, Gate
from blockcloud.service_access.errors import AlreadyListening, SessionLost, UnexpectedFrame
from blockcloud.service_access.frames import (
    RESUME_NONCE_BYTES,
    Admitted,
    Challenge,
    HandshakeFrame,
    Kind,
    Rst,
    encode_handshake,
)
from blockcloud.service_access.handshake import RANDOMNESS_BYTES, Initiator
from blockcloud.service_access.hello import PURPOSE, SessionHello, read_hello, refusal, session_id_of
from blockcloud.service_access.links.all_kinds import link_kinds
from blockcloud.service_access.links.kind import LinkListener
from blockcloud.service_access.links.link import Link, time_limit
from blockcloud.service_access.links.relayed import RelayLinks
from blockcloud.service_access.peer_search import PeerSearch
from blockcloud.service_access.reception import Reception
from blockcloud.service_access.redial import Redialler
from blockcloud.service_access.relay.places import RelayPlaces
from blockcloud.service_access.replica_choice import ReplicaChoice
from blockcloud.service_access.resolution import Resolver
from blockcloud.service_access.service_table import Action, Rule, ServiceTable
from blockcloud.service_access.session import Role, SessionCore, SessionParameters, State
from blockcloud.service_access.stream import Session

ACCEPT_QUEUE: Final = 256
MOVES_AT_ONCE: Final = 64

log = structlog.get_logger(__name__)


async def _admitted(link: Link, timeout_ms: float) -> None:
    """Wait until the provider lets us in. Raises PolicyDenied, SessionReset, UnexpectedFrame, TimedOut."""
    async with time_limit(timeout_ms, "the provider did not say whether it lets us in"):
        answer = await link.next_frame()
    if isinstance(answer, Rst):
        raise refusal(answer)
    if not isinstance(answer, Admitted):
        raise UnexpectedFrame("ADMITTED was expected", frame=type(answer).__name__)


@dataclass(frozen=True)
class BoundName:
    """A name that an endpoint answers for: with which key, where its sessions go, who is let in (None: everybody)."""

    key: SigningKey
    queue: asyncio.Queue[Session]
    gate: Gate | None
    rule: int


class ServiceEndpoint:
    """See the module's text. `key` is the identity that this side shows when it begins a session."""

    def __init__(
        self,
        key: SigningKey,
        *,
        parameters: SessionParameters | None = None,
        resolver: Resolver | None = None,
        table: ServiceTable | None = None,
    ) -> None:
        self.key = key
        self.parameters = parameters or SessionParameters()
        self.resolver = resolver
        self.table = table or ServiceTable()
        self.source: str | None = None
        self.addresses: tuple[Address, ...] = ()
        self.faults: Counter[str] = Counter()  # by error code: what peers did wrong
        self.sessions: dict[bytes, Session] = {}
        self.moved: list[Callable[[], None]] = []  # called after the endpoint has a new address
        self.ended: list[Callable[[Session], None]] = []  # called after a session has ended
        self.draining: set[str] = set()  # bound names that take no new sessions
        self.choice = ReplicaChoice(secrets.randbelow)
        self.kinds = link_kinds(self.parameters)
        self.relays = RelayPlaces(key, source=lambda: self.source, incoming=self._relayed, changed=self._relays_changed)
        self._names: dict[str, BoundName] = {}
        self._listeners: list[LinkListener] = []
        self._reception = Reception(self)
        self._redialler = Redialler(self)
        self._moving = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._closed = False

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self, host: str, port: int = 0, *, kind: str = TLS) -> Address:
        """Listen at `host`:`port` (0 takes a free one) too, and dial from the first such host; the address.

        For the kind "unix", `host` is the path of the socket. Raises Unreachable.
        """
        listener = await self._listen(Address(kind, host, port))
        self._listeners.append(listener)
        self._settle_addresses()
        return listener.address

    async def close(self) -> None:
        """Close the listener, reset the sessions that are left, stop all tasks."""
        self._closed = True
        self.stop_listening()
        for session in list(self.sessions.values()):
            session.abort("closed", "the peer's process stops")
        self._redialler.close()
        await self.relays.close()
        await self._reception.close()
        await asyncio.gather(*self._redialler.tasks(), return_exceptions=True)
        for kind in self.kinds.values():
            kind.close()
        await asyncio.sleep(0)

    async def __aenter__(self) -> ServiceEndpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _listen(self, address: Address) -> LinkListener:
        kind = self.kinds.get(address.kind)
        if kind is None:
            raise Unreachable("no links of this kind are made here", address=str(address))
        return await kind.listen(address, self._reception.incoming)

    async def _switch_listeners(self, addresses: Sequence[Address]) -> None:
        """Listen at exactly `addresses`: bind what is new first, then close what is not among them."""
        present = {each.address: each for each in self._listeners}
        chosen: list[LinkListener] = []
        try:
            for address in addresses:
                chosen.append(present.get(address) or await self._listen(address))
        except BaseException:
            for listener in chosen:
                if listener not in self._listeners:
                    listener.close()
            raise
        before, self._listeners = self._listeners, chosen
        for listener in before:
            if listener not in chosen:
                listener.close()
        self._settle_addresses()

    def _settle_addresses(self) -> None:
        own = tuple(each.address for each in self._listeners)
        self.addresses = (*own, *self.relays.addresses())[:MOVED_ADDRESSES]
        if own:
            self.source = _source(own)

    def _relays_changed(self) -> None:
        """A relay can be dialled for us, or cannot any more: whoever announces our addresses has to know."""
        if not self._closed:
            self._settle_addresses()
            for callback in list(self.moved):
                callback()

    def _relayed(self, connection: socket.socket) -> None:
        """Somebody has come through a relay."""
        links = self.kinds[RELAY]
        assert isinstance(links, RelayLinks)
        if self._closed or not self._reception.incoming(partial(links.accept, connection)):
            connection.close()

    def stop_listening(self) -> None:
        """No more links come in; those that are there, and their sessions, go on."""
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    # --- names ------------------------------------------------------------------------------------------------------

    def bind_name(self, name: str, key: SigningKey, gate: Gate | None = None) -> asyncio.Queue[Session]:
        """Answer for `name` with `key`: the queue of accepted sessions. `gate` decides who is let in, None lets
        everybody in. Raises AlreadyListening, InvalidName."""
        if name in self._names:
            raise AlreadyListening(name=name)
        queue: asyncio.Queue[Session] = asyncio.Queue(ACCEPT_QUEUE)
        number = self.table.add(Rule(name, Action.DEMUX), self.now_ms())
        self._names[name] = BoundName(key, queue, gate, number)
        return queue

    def unbind_name(self, name: str) -> None:
        """Answer for `name` no more; sessions go on."""
        self.table.remove(self._names.pop(name).rule, self.now_ms())
        self.draining.discard(name)

    def bound_name(self, name: str) -> BoundName | None:
        """What answers for `name`."""
        return self._names.get(name)

    def rule_for(self, name: str) -> Rule | None:
        """What the service table says of a session that comes in; looked up once for each. None: nobody answers."""
        return self.table.lookup(name, self.now_ms(), 0, incoming=True) if name in self._names else None

    @property
    def is_guarded(self) -> bool:
        """A policy decides about at least one of the names."""
        return any(bound.gate is not None and bound.gate.active for bound in self._names.values())

    def now_ms(self) -> float:
        """The loop's clock in ms."""
        return self._loop.time() * 1_000

    def new_session(self, role: Role, secret: bytes, hello: SessionHello, *, name: str, peer_key: bytes) -> Session:
        """A session that a handshake has just given."""
        core = SessionCore(
            session_id=session_id_of(secret),
            secret=secret,
            role=role,
            now_ms=self.now_ms(),
            peer_addresses=hello.addresses,
            peer_window=hello.window,
            parameters=self.parameters,
        )
        session = Session(core, name=name, peer_key=peer_key, keeper=self)
        self.sessions[core.session_id] = session
        return session

    # --- links that go out ------------------------------------------------------------------------------------------

    async def open(
        self,
        name: str,
        address: Address,
        expected: Collection[bytes],
        *,
        timeout_ms: float,
        credentials: Credentials = NO_CREDENTIALS,
        instance: bytes = b"",
    ) -> Session:
        """Begin a session with whoever answers for `name` at `address` and holds one of the keys `expected`.

        `instance` is the key of the instance that is meant, where the caller has one in mind: a relay has to know.
        Raises PolicyDenied, WrongKey, BadSignature and other PeerFaults, SessionReset (refused), Unreachable, TimedOut.
        """
        if len(self.sessions) >= SESSIONS:
            raise Busy("as many sessions as there may be", retry_after_ms=1_000, limit=SESSIONS)
        own = SessionHello(self.parameters.buffer_bytes, self.addresses, role=credentials.role, grant=credentials.grant)
        initiator = Initiator(
            key=self.key,
            purpose=PURPOSE,
            target=name,
            expected=expected,
            randomness=os.urandom(RANDOMNESS_BYTES),
            payload=encode(own),
        )
        hello_frame = encode_handshake(Kind.HELLO, initiator.hello())
        link = await self._dial(address, instance, timeout_ms, hello_frame)
        try:
            finish, round_trip_ms = await self._greet(link, initiator, timeout_ms)
            hello = read_hello(initiator.peer_payload)
            link.send(encode_handshake(Kind.FINISH, finish))
            if hello.guarded:
                await _admitted(link, timeout_ms)
        except BaseException:
            link.abort()
            raise
        addresses = (address, *(each for each in hello.addresses if each != address))[:MOVED_ADDRESSES]
        hello = SessionHello(hello.window, addresses)
        session = self.new_session(Role.INITIATOR, initiator.secret, hello, name=name, peer_key=initiator.peer_key)
        session.statistics.round_trip_ms = round_trip_ms
        self.choice.measured(session.peer_key, round_trip_ms, self.now_ms())
        self.choice.began(session.peer_key)
        session.adopt(link, 0)
        return session

    async def probe(self, name: str, address: Address, key: bytes, *, timeout_ms: float) -> float:
        """How long the instance with `key` takes to prove itself at `address`, in ms. No session begins.

        Raises as `open`.
        """
        randomness = os.urandom(RANDOMNESS_BYTES)
        initiator = Initiator(key=self.key, purpose=PURPOSE, target=name, expected=(key,), randomness=randomness)
        link = await self._dial(address, key, timeout_ms, encode_handshake(Kind.HELLO, initiator.hello()))
        try:
            return (await self._greet(link, initiator, timeout_ms))[1]
        finally:
            link.abort()

    async def _greet(self, link: Link, initiator: Initiator, timeout_ms: float) -> tuple[bytes, float]:
        """(the FINISH to send, how long the provider took to prove itself). HELLO has just been sent."""
        asked_ms = self.now_ms()
        async with time_limit(timeout_ms, "the peer did not finish its handshake"):
            reply = await link.next_frame()
        if isinstance(reply, Rst):
            raise refusal(reply)
        if not isinstance(reply, HandshakeFrame) or reply.kind is not Kind.REPLY:
            raise UnexpectedFrame("REPLY was expected", frame=type(reply).__name__)
        round_trip_ms = self.now_ms() - asked_ms
        return initiator.receive(reply.message, link.binding), round_trip_ms

    async def resume(self, session: Session, address: Address, *, timeout_ms: float) -> None:
        """Give `session` a new link to `address`, from our present address.

        Raises UnknownSession and other PeerFaults, SessionReset (refused), Unreachable, TimedOut; the session stays
        as it was.
        """
        link = await self._dial(address, session.peer_key, timeout_ms)
        try:
            attempt, frame = session.core.begin_resume(os.urandom(RESUME_NONCE_BYTES))
            link.send(frame)
            async with time_limit(timeout_ms, "no answer to a resume"):
                answer = await link.next_frame()
            if isinstance(answer, Rst):
                raise refusal(answer)
            if not isinstance(answer, Challenge):
                raise UnexpectedFrame("CHALLENGE was expected", frame=type(answer).__name__)
            proof = session.core.challenged(attempt, answer, link.binding, self.addresses, self.now_ms())
        except BaseException:
            link.abort()
            raise
        link.send(proof)
        session.adopt(link, attempt.counter)

    async def _dial(self, address: Address, peer: bytes, timeout_ms: float, first: bytes = b"") -> Link:
        kind = self.kinds.get(address.kind)
        if kind is None:
            raise Unreachable("no links of this kind are made here", address=str(address))
        return await kind.dial(address, peer=peer, source=self.source, timeout_ms=timeout_ms, first=first)

    # --- SessionKeeper ----------------------------------------------------------------------------------------------

    def link_needed(self, session: Session) -> None:
        """A session lost its link, or its peer has moved."""
        if not self._closed:
            self._redialler.start(session)

    def session_over(self, session: Session) -> None:
        """Forget a session."""
        self.sessions.pop(session.core.session_id, None)
        self._redialler.stop(session)
        if session.role is Role.INITIATOR:
            self.choice.ended(session.peer_key)
            if isinstance(session.error, SessionLost):
                self.choice.failed(session.peer_key, self.now_ms())
        for callback in list(self.ended):
            callback(session)

    # --- moving -----------------------------------------------------------------------------------------------------

    async def move(self, host: str, port: int = 0, *, kind: str = TLS) -> Address:
        """Move to `host`:`port` while sessions go on; the new address. Raises Unreachable if it cannot be bound.

        An endpoint that does not listen changes the address that it dials from.
        """
        return (await self.move_to((Address(kind, host, port),)))[0]

    async def move_to(self, addresses: Sequence[Address]) -> tuple[Address, ...]:
        """Move to all of `addresses`, at most four, and nowhere else; as they are afterwards. See `move`."""
        async with self._moving:
            if self._listeners:
                await self._switch_listeners(addresses)
                reached = self.addresses
            else:
                reached = tuple(addresses)
                self.source = _source(reached)
            self.table.note("move", ", ".join(map(str, reached)), self.now_ms())
            for callback in list(self.moved):
                callback()
            limit = asyncio.Semaphore(MOVES_AT_ONCE)
            kinds = [RELAY, *(address.kind for address in reached)]
            await asyncio.gather(
                self._renew_relays(),
                *(self._move_session(session, kinds, limit) for session in list(self.sessions.values())),
            )
            return reached

    async def _renew_relays(self) -> None:
        """Register from where we are now, beside the sessions; no relay holds up the move for long."""
        try:
            async with asyncio.timeout(self.parameters.dead_after_ms / 1_000):
                await self.relays.renew()
        except TimeoutError:
            log.warning("relays_not_renewed", relays=self.relays.status())

    async def _move_session(self, session: Session, kinds: list[str], limit: asyncio.Semaphore) -> None:
        """A new link for one session, of one of `kinds` if that can be; afterwards the link from the old address is
        closed, whatever happened."""
        async with limit:
            if session.core.state not in (State.ATTACHED, State.DETACHED):
                return
            before = session.core.link
            limit_ms = self.parameters.dead_after_ms
            search = PeerSearch(self, session, lambda address: address.kind in kinds)
            if await search.run(limit_ms=limit_ms, rounds=1, announce=True):
                return
            if session.core.link == before:
                await PeerSearch(self, session, lambda address: address.kind not in kinds).run(
                    limit_ms=limit_ms, rounds=1
                )
            if session.core.link == before:
                log.warning("move_not_followed", name=session.name)
                session.drop_link()


def _source(addresses: Sequence[Address]) -> str | None:
    """The local host to dial from: that of the first address that has one."""
    return next((each.host for each in addresses if each.kind in (TLS, QUIC)), None)
