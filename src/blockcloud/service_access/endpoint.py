"""A service endpoint: where sessions come in, and who finds new links for those that lost theirs.

It owns at most one listening TLS socket, the sessions of this process that use it, and the address that it dials from.
`move` changes that address while sessions go on: the new listener is bound first, then every session gets a new link
(dialled by us if the peer listens, by the peer after MOVED if not), then the old links go. DESIGN section 5.2.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

import structlog

from blockcloud.primitives.codec import Struct, decode, encode
from blockcloud.primitives.errors import BlockCloudError, Busy, Malformed, PeerFault, TimedOut, Unreachable
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import HALF_OPEN_HANDSHAKES, HANDSHAKE_SECONDS, MOVED_ADDRESSES, NAME_BYTES, SESSIONS
from blockcloud.service_access import tls
from blockcloud.service_access.addresses import TLS, Address, check_addresses, dialled
from blockcloud.service_access.admission import (
    NO_CREDENTIALS,
    AccessRequest,
    Credentials,
    Gate,
    PolicyDenied,
)
from blockcloud.service_access.errors import (
    AlreadyListening,
    SessionEnded,
    SessionReset,
    TooMany,
    UnexpectedFrame,
    UnknownSession,
)
from blockcloud.service_access.frames import (
    RESUME_NONCE_BYTES,
    SESSION_ID_BYTES,
    Admitted,
    Challenge,
    HandshakeFrame,
    Kind,
    Proof,
    Resume,
    Rst,
    encode_frame,
    encode_handshake,
)
from blockcloud.service_access.handshake import HANDSHAKE_PAYLOAD_BYTES, RANDOMNESS_BYTES, Initiator, Responder
from blockcloud.service_access.links import TLS_SHUTDOWN_SECONDS, Link, dial, time_limit
from blockcloud.service_access.redial import Redialler
from blockcloud.service_access.resolution import Resolver
from blockcloud.service_access.service_table import Action, Rule, ServiceTable
from blockcloud.service_access.session import Role, SessionCore, SessionParameters, State
from blockcloud.service_access.stream import Session

PURPOSE: Final = "session/v1"
ACCEPT_QUEUE: Final = 256
LISTEN_BACKLOG: Final = 512
ACCEPT_PAUSE_SECONDS: Final = 0.05
MOVES_AT_ONCE: Final = 64
WINDOW_BYTES_MAX: Final = 64 * 1024 * 1024

log = structlog.get_logger(__name__)


class SessionHello(Struct, frozen=True):
    """What each side adds to the handshake: how much it takes unacknowledged, and where it can be dialled. A provider
    says whether it will answer with ADMITTED, because a policy is bound; a consumer adds its credentials."""

    window: int
    addresses: tuple[Address, ...]
    guarded: bool = False
    role: str = ""
    grant: bytes = b""


def _read_hello(payload: bytes) -> SessionHello:
    hello = decode(payload, SessionHello, limit=HANDSHAKE_PAYLOAD_BYTES)
    check_addresses(hello.addresses)
    if not 1 <= hello.window <= WINDOW_BYTES_MAX:
        raise Malformed("window of a session is out of range", window=hello.window)
    if len(hello.role) > NAME_BYTES:
        raise Malformed("a role is a name", characters=len(hello.role))
    return hello


def _session_id(secret: bytes) -> bytes:
    return hmac.digest(secret, b"blockcloud/session-id/v1", "sha256")[:SESSION_ID_BYTES]


def _refusal(frame: Rst) -> BlockCloudError:
    if frame.code == PolicyDenied.code:
        return PolicyDenied(frame.reason)
    return SessionReset(f"the peer refused: {frame.reason}", reset_code=frame.code)


async def _admitted(link: Link, timeout_ms: float) -> None:
    """Wait until the provider lets us in. Raises PolicyDenied, SessionReset, UnexpectedFrame, TimedOut."""
    async with time_limit(timeout_ms, "the provider did not say whether it lets us in"):
        answer = await link.next_frame()
    if isinstance(answer, Rst):
        raise _refusal(answer)
    if not isinstance(answer, Admitted):
        raise UnexpectedFrame("ADMITTED was expected", frame=type(answer).__name__)


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
        self._names: dict[str, tuple[SigningKey, asyncio.Queue[Session], int]] = {}
        self._gates: dict[str, Gate] = {}
        self._server: tuple[ssl.SSLContext, bytes] | None = None  # made by the first listener
        self._client_context = tls.client_context()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._half_open: set[asyncio.Task[None]] = set()
        self._redialler = Redialler(self)
        self._moving = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._closed = False

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self, host: str, port: int) -> Address:
        """Listen at `host`:`port` (0 takes a free one) and dial from `host`; the address. Raises Unreachable."""
        return self._switch_listener(host, port)

    async def close(self) -> None:
        """Close the listener, reset the sessions that are left, stop all tasks."""
        self._closed = True
        self._close_listener()
        for session in list(self.sessions.values()):
            session.abort("closed", "the peer's process stops")
        self._redialler.close()
        for task in list(self._half_open):
            task.cancel()
        await asyncio.gather(*self._half_open, *self._redialler.tasks(), return_exceptions=True)
        await asyncio.sleep(0)

    async def __aenter__(self) -> ServiceEndpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _switch_listener(self, host: str, port: int) -> Address:
        """Bind the new listener first, then close the old one."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind((host, port))
            listener.listen(LISTEN_BACKLOG)
        except OSError as error:
            listener.close()
            raise Unreachable(f"cannot listen: {error.strerror}", address=f"{host}:{port}") from None
        if self._server is None:
            self._server = tls.server_context()
        self._close_listener()
        self._listener = listener
        address = Address(TLS, host, int(listener.getsockname()[1]))
        self.addresses = (address,)
        self.source = host
        self._accepting = self._loop.create_task(self._accept(listener, *self._server))
        return address

    def _close_listener(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    # --- names ------------------------------------------------------------------------------------------------------

    def bind_name(self, name: str, key: SigningKey, gate: Gate | None = None) -> asyncio.Queue[Session]:
        """Answer for `name` with `key`: the queue of accepted sessions. `gate` decides who is let in, None lets
        everybody in. Raises AlreadyListening, InvalidName."""
        if name in self._names:
            raise AlreadyListening(name=name)
        queue: asyncio.Queue[Session] = asyncio.Queue(ACCEPT_QUEUE)
        number = self.table.add(Rule(name, Action.DEMUX), self.now_ms())
        self._names[name] = key, queue, number
        if gate is not None:
            self._gates[name] = gate
        return queue

    def unbind_name(self, name: str) -> None:
        """Answer for `name` no more; sessions go on."""
        _, _, number = self._names.pop(name)
        self._gates.pop(name, None)
        self.table.remove(number, self.now_ms())

    def _key_for(self, name: str) -> SigningKey | None:
        rule = self.table.lookup(name, self.now_ms(), 0) if name in self._names else None
        return self._names[name][0] if rule is not None and rule.action is Action.DEMUX else None

    def now_ms(self) -> float:
        """The loop's clock in ms."""
        return self._loop.time() * 1_000

    # --- links that come in -----------------------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket, context: ssl.SSLContext, certificate_hash: bytes) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(listener)
            except OSError as error:  # out of file descriptors, or the peer was gone already
                log.warning("accept_failed", reason=error.strerror)
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            if len(self._half_open) >= HALF_OPEN_HANDSHAKES:
                self.faults["too_many"] += 1
                connection.close()
                continue
            task = self._loop.create_task(self._serve(connection, context, certificate_hash))
            self._half_open.add(task)
            task.add_done_callback(self._half_open.discard)

    async def _serve(self, connection: socket.socket, context: ssl.SSLContext, certificate_hash: bytes) -> None:
        """Authenticate one incoming link and give it to its session. Whatever the peer sends, nobody else notices."""
        link = Link()
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with time_limit(HANDSHAKE_SECONDS * 1_000, "the peer did not finish its handshake"):
                await self._loop.connect_accepted_socket(
                    lambda: link,
                    connection,
                    ssl=context,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
                )
                first = await link.next_frame()
                if isinstance(first, HandshakeFrame) and first.kind is Kind.HELLO:
                    await self._serve_hello(link, first, certificate_hash)
                elif isinstance(first, Resume):
                    await self._serve_resume(link, first, certificate_hash)
                else:
                    raise UnexpectedFrame("a link begins with HELLO or RESUME", frame=type(first).__name__)
        except PeerFault as fault:
            self.faults[fault.code] += 1
            log.info("link_refused", code=fault.code, reason=str(fault))
            link.refuse(fault)
        except (TimedOut, Unreachable, Busy) as error:
            self.faults[error.code] += 1
            link.abort()
        except OSError:  # TLS failed: garbage, a scanner, or the peer left
            self.faults["tls_failed"] += 1
            link.abort()
        except asyncio.CancelledError:
            link.abort()
            raise

    async def _serve_hello(self, link: Link, first: HandshakeFrame, certificate_hash: bytes) -> None:
        # Said before the name is known, so it is about all names of the endpoint.
        guarded = any(gate.active for gate in self._gates.values())
        payload = encode(SessionHello(self.parameters.buffer_bytes, self.addresses, guarded))
        responder = Responder(
            keys=self._key_for,
            purpose=PURPOSE,
            certificate_hash=certificate_hash,
            randomness=os.urandom(RANDOMNESS_BYTES),
            payload=payload,
        )
        link.send(encode_handshake(Kind.REPLY, responder.receive_hello(first.message)))
        finish = await link.next_frame()
        if not isinstance(finish, HandshakeFrame) or finish.kind is not Kind.FINISH:
            raise UnexpectedFrame("FINISH was expected", frame=type(finish).__name__)
        responder.receive_finish(finish.message)
        if len(self.sessions) >= SESSIONS:
            raise TooMany("as many sessions as there may be", limit=SESSIONS)
        bound = self._names.get(responder.target)
        if bound is None or bound[1].full():
            raise TooMany("the service takes no more sessions now", name=responder.target)
        hello = _read_hello(responder.peer_payload)
        name, key = responder.target, responder.peer_key
        gate = self._gates.get(name)
        request = AccessRequest(name, key, link.peer_host(), hello.role, hello.grant)
        if gate is not None:
            gate.admit(request)
        session = self._new_session(Role.RESPONDER, responder.secret, hello, name=name, peer_key=key)
        bound[1].put_nowait(session)
        if guarded:
            link.send(encode_frame(Admitted(gate.digest if gate is not None else b"")))
        if gate is not None:
            gate.opened(request, session)
        session.adopt(link, 0)

    async def _serve_resume(self, link: Link, first: Resume, certificate_hash: bytes) -> None:
        session = self.sessions.get(first.session_id)
        if session is None:
            raise UnknownSession
        nonce = os.urandom(RESUME_NONCE_BYTES)
        attempt, challenge = session.core.resume_asked(first, nonce, certificate_hash, self.addresses)
        link.send(challenge)
        proof = await link.next_frame()
        if not isinstance(proof, Proof):
            raise UnexpectedFrame("PROOF was expected", frame=type(proof).__name__)
        session.core.proven(attempt, proof, self.now_ms())
        session.adopt(link, attempt.counter)

    def _new_session(self, role: Role, secret: bytes, hello: SessionHello, *, name: str, peer_key: bytes) -> Session:
        core = SessionCore(
            session_id=_session_id(secret),
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
    ) -> Session:
        """Begin a session with whoever answers for `name` at `address` and holds one of the keys `expected`.

        Raises PolicyDenied, WrongKey, BadSignature and other PeerFaults, SessionReset (refused), Unreachable, TimedOut.
        """
        if len(self.sessions) >= SESSIONS:
            raise Busy("as many sessions as there may be", retry_after_ms=1_000, limit=SESSIONS)
        link = await dial(address, self._client_context, source=self.source, timeout_ms=timeout_ms)
        try:
            initiator = Initiator(
                key=self.key,
                purpose=PURPOSE,
                target=name,
                expected=expected,
                randomness=os.urandom(RANDOMNESS_BYTES),
                payload=encode(
                    SessionHello(
                        self.parameters.buffer_bytes,
                        self.addresses,
                        role=credentials.role,
                        grant=credentials.grant,
                    )
                ),
            )
            link.send(encode_handshake(Kind.HELLO, initiator.hello()))
            async with time_limit(timeout_ms, "the peer did not finish its handshake"):
                reply = await link.next_frame()
            if isinstance(reply, Rst):
                raise _refusal(reply)
            if not isinstance(reply, HandshakeFrame) or reply.kind is not Kind.REPLY:
                raise UnexpectedFrame("REPLY was expected", frame=type(reply).__name__)
            finish = initiator.receive(reply.message, link.peer_certificate_hash())
            hello = _read_hello(initiator.peer_payload)
            link.send(encode_handshake(Kind.FINISH, finish))
            if hello.guarded:
                await _admitted(link, timeout_ms)
        except BaseException:
            link.abort()
            raise
        addresses = (address, *(each for each in hello.addresses if each != address))[:MOVED_ADDRESSES]
        hello = SessionHello(hello.window, addresses)
        session = self._new_session(Role.INITIATOR, initiator.secret, hello, name=name, peer_key=initiator.peer_key)
        session.adopt(link, 0)
        return session

    async def resume(self, session: Session, address: Address, *, timeout_ms: float) -> None:
        """Give `session` a new link to `address`, from our present address.

        Raises UnknownSession and other PeerFaults, SessionReset (refused), Unreachable, TimedOut; the session stays
        as it was.
        """
        link = await dial(address, self._client_context, source=self.source, timeout_ms=timeout_ms)
        try:
            attempt, frame = session.core.begin_resume(os.urandom(RESUME_NONCE_BYTES))
            link.send(frame)
            async with time_limit(timeout_ms, "no answer to a resume"):
                answer = await link.next_frame()
            if isinstance(answer, Rst):
                raise _refusal(answer)
            if not isinstance(answer, Challenge):
                raise UnexpectedFrame("CHALLENGE was expected", frame=type(answer).__name__)
            certificate_hash = link.peer_certificate_hash()
            proof = session.core.challenged(attempt, answer, certificate_hash, self.addresses, self.now_ms())
        except BaseException:
            link.abort()
            raise
        link.send(proof)
        session.adopt(link, attempt.counter)

    # --- SessionKeeper ----------------------------------------------------------------------------------------------

    def link_needed(self, session: Session) -> None:
        """A session lost its link, or its peer has moved."""
        if not self._closed:
            self._redialler.start(session)

    def session_over(self, session: Session) -> None:
        """Forget a session."""
        self.sessions.pop(session.core.session_id, None)
        self._redialler.stop(session)

    # --- moving -----------------------------------------------------------------------------------------------------

    async def move(self, host: str, port: int = 0) -> Address:
        """Move to `host`:`port` while sessions go on; the new address. Raises Unreachable if it cannot be bound.

        An endpoint that does not listen changes the address that it dials from.
        """
        async with self._moving:
            if self._listener is None:
                self.source = host
                address = Address(TLS, host, 0)
            else:
                address = self._switch_listener(host, port)
            self.table.note("move", str(address), self.now_ms())
            for callback in list(self.moved):
                callback()
            limit = asyncio.Semaphore(MOVES_AT_ONCE)
            await asyncio.gather(*(self._move_session(session, limit) for session in list(self.sessions.values())))
            return address

    async def _move_session(self, session: Session, limit: asyncio.Semaphore) -> None:
        """A new link for one session; afterwards the link from the old address is closed, whatever happened."""
        async with limit:
            if session.core.state not in (State.ATTACHED, State.DETACHED):
                return
            before = session.core.link
            timeout_ms = self.parameters.dead_after_ms
            for address in dialled(session.core.peer_addresses):
                try:
                    await self.resume(session, address, timeout_ms=timeout_ms)
                    return
                except (BlockCloudError, SessionEnded) as error:
                    log.info("move_dial_failed", address=str(address), reason=str(error))
            if self.addresses and session.linked and session.core.link == before:
                session.announce_move(self.addresses)
                try:
                    async with asyncio.timeout(timeout_ms / 1_000):
                        await session.attached_beyond(before)
                except TimeoutError:
                    log.warning("move_not_followed", name=session.name)
            if session.core.link == before:
                session.drop_link()
