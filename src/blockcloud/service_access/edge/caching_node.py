"""`edge cache NAME...`: serves HTTP services from nearby, out of a cache of verified responses. An adaptor.

It is reached by plain HTTP (the Host field names the service) and by sessions with the edge's own name. Whoever asks is
let in by the policy of the service, as at the provider: in a session by the key that the handshake has proven, over
plain HTTP from this machine as the edge itself, whose user that is. What is not proven to be the provider's is passed
on and never stored; what comes out of the cache carries the provider's signature, so that the edge need not be trusted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from blockcloud.primitives.errors import BlockCloudError, PeerFault, Unreachable
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.admission import AccessRequest, Gate, PolicyDenied
from blockcloud.service_access.edge.cache import (
    ERROR_STATUS,
    SAFE_METHODS,
    Cache,
    Key,
    Kind,
    Stored,
    conditional,
    fields_for_client,
    freshened,
    is_not_modified,
    why_not_shared,
)
from blockcloud.service_access.edge.cache_control import parse_cache_control
from blockcloud.service_access.edge.errors import BadMessage, ConnectionBroken, ResponseRefused
from blockcloud.service_access.edge.exchange import ClientSide, ServerSide, refuse
from blockcloud.service_access.edge.http_message import (
    Request,
    RequestHead,
    Response,
    ResponseHead,
    combined,
    end_to_end,
    values,
    without,
)
from blockcloud.service_access.edge.http_signature import verify
from blockcloud.service_access.edge.streams import READ_BYTES, ByteStream, SessionStream, TcpStream
from blockcloud.service_access.edge.trust import Trust
from blockcloud.service_access.edge.upstream import Upstream
from blockcloud.service_access.policy import Decision
from blockcloud.service_access.stream import Session

PLAIN_CONNECTIONS: Final = 1_024
PERMIT_SECONDS: Final = 0.25  # a quarter of the time in which a change of a policy must be in force
LABEL: Final = "blockcloud-edge"
CONDITIONS: Final = ("if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range")

log = structlog.get_logger(__name__)


class NotServedHere(PeerFault):
    """This edge node does not serve the name in the Host field."""

    code = "not_served_here"
    hint = "Start it with the name: blockcloud edge cache NAME..."


class OnlyIfCached(PeerFault):
    """The request wants an answer from the cache only, and there is none."""

    code = "only_if_cached"


class AccessGate(Protocol):
    """Decides by the policy of a service; `admit` also logs the decision, and raises PolicyDenied."""

    @property
    def active(self) -> bool: ...

    def decide(self, request: AccessRequest) -> Decision: ...

    def admit(self, request: AccessRequest) -> None: ...


class ConsumerGate:
    """The gate of the edge's own name: asks `inner`, and remembers who each session is, for the services' policies.
    Role and grant, where a consumer shows some, are for those."""

    def __init__(self, inner: Gate) -> None:
        self._inner = inner
        self._consumers: dict[Session, AccessRequest] = {}

    @property
    def active(self) -> bool:
        return self._inner.active

    @property
    def digest(self) -> bytes:
        return self._inner.digest

    def admit(self, request: AccessRequest) -> None:
        self._inner.admit(replace(request, role="", grant=b""))

    def opened(self, request: AccessRequest, session: Session) -> None:
        self._inner.opened(replace(request, role="", grant=b""), session)
        self._consumers[session] = request

    def take(self, session: Session) -> AccessRequest:
        """Who began `session`; asked once."""
        return self._consumers.pop(session)


class Service:
    """One name that is served from here. `trust` is asked for each request and answers from what it knows."""

    def __init__(
        self,
        name: str,
        dial: Callable[[], Awaitable[ByteStream]],
        trust: Callable[[], Awaitable[Trust]],
        gate: AccessGate | None,
    ) -> None:
        self.name, self.trust, self.gate = name, trust, gate
        self.upstream = Upstream(dial)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What to answer; `stream` where the rest of the content is still to come from there."""

    response: Response
    status: str
    stream: ClientSide | None = None
    length: int | None = None


class _Connection:
    """One connection of a consumer, and what was decided about it last, so that only changes are logged."""

    def __init__(self, side: ServerSide, consumer: AccessRequest) -> None:
        self.side, self.consumer = side, consumer
        self._noted: dict[
            str, tuple[Decision, float]
        ] = {}  # by name: the last one, and until when it need not be asked

    def admit(self, service: Service) -> None:
        """Raises PolicyDenied."""
        gate = service.gate
        if gate is None:
            return
        if not self.consumer.key:
            if gate.active:
                raise PolicyDenied("plain HTTP from another machine does not say who asks")
            return
        now = asyncio.get_running_loop().time()
        before, holds_until = self._noted.get(service.name, (None, 0.0))
        if now < holds_until:
            return
        request = replace(self.consumer, name=service.name)
        decision = gate.decide(request)
        if before != decision or not decision.allowed:
            gate.admit(request)
        self._noted[service.name] = decision, now + PERMIT_SECONDS


class CachingNode:
    """Serves `services` by name out of `cache`. `counts`: answers by what was done for them."""

    def __init__(
        self,
        services: Mapping[str, Service],
        cache: Cache,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.services, self.cache = services, cache
        self.counts: Counter[str] = Counter()
        self._now_s = now_s
        self._flights: dict[Key, asyncio.Future[None]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    # --- life -------------------------------------------------------------------------------------------------------

    async def listen(self, host: str, port: int, key: bytes, credentials: tuple[str, bytes] = ("", b"")) -> HostPort:
        """Take plain HTTP at `host`:`port`; from this machine it acts as the holder of `key`. Raises Unreachable."""

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stream = TcpStream(reader, writer)
            if len(self._running) >= PLAIN_CONNECTIONS:
                stream.abort()
                return
            local = _is_loopback(stream.peer_host)
            consumer = AccessRequest("", key if local else b"", stream.peer_host, *(credentials if local else ()))
            self._start(stream, consumer)

        try:
            self._server = await asyncio.start_server(accept, host, port, limit=READ_BYTES)
        except OSError as error:
            raise Unreachable(f"cannot listen: {error.strerror}", address=f"{host}:{port}") from None
        return host, int(self._server.sockets[0].getsockname()[1])

    def accept(self, session: Session, consumer: AccessRequest) -> None:
        """Serve a session with the edge's own name."""
        self._start(SessionStream(session), consumer)

    def _start(self, stream: ByteStream, consumer: AccessRequest) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(stream, consumer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Stop; what is under way is reset."""
        if self._server is not None:
            self._server.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for service in self.services.values():
            service.upstream.close()

    # --- one connection ---------------------------------------------------------------------------------------------

    async def _serve(self, stream: ByteStream, consumer: AccessRequest) -> None:
        side = ServerSide(stream)
        connection = _Connection(side, consumer)
        try:
            while (head := await side.next_request()) is not None:
                await self._answer(head, connection)
            await stream.close()
        except BlockCloudError as error:
            self.counts[error.code] += 1
            if side.begun or isinstance(error, ConnectionBroken):
                stream.abort()
            else:
                await refuse(side, stream, _status_of(error), error)
        except asyncio.CancelledError:
            stream.abort()
            raise

    async def _answer(self, head: RequestHead, connection: _Connection) -> None:
        request = head.request
        service = self._service_of(request)
        connection.admit(service)
        reason = why_not_shared(request)
        if reason or head.length != 0:
            await self._pass(service, head, connection.side, reason or "content")
            return
        await self._from_cache(service, request, connection.side)

    def _service_of(self, request: Request) -> Service:
        host = (combined(request.fields, "host") or "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        service = self.services.get(name.removesuffix("."))
        if service is None:
            raise NotServedHere(host=host[:80], served=sorted(self.services)[:8])
        return service

    async def _pass(self, service: Service, head: RequestHead, side: ServerSide, reason: str) -> None:
        """Pass a request on and its answer back; nothing is stored."""
        self.counts["passed"] += 1
        content = side.content() if head.length != 0 else None
        async with service.upstream.asked(head.request, content, head.length) as (client, answer):
            if head.request.method not in SAFE_METHODS and answer.response.status < 400:
                key = Key.of(service.name, head.request)
                self.cache.invalidate(key._replace(method="GET"))
            response = _marked(answer.response, f"fwd=bypass; detail={reason}")
            await _stream(side, _Outcome(response, "", client, answer.length))

    # --- the cache --------------------------------------------------------------------------------------------------

    async def _from_cache(self, service: Service, request: Request, side: ServerSide) -> None:
        """Answer out of the cache, or fetch: one fetch for all who want the same at the same time."""
        key = Key.of(service.name, request)
        trust = await service.trust()
        kind, stored = self._look(key, request, trust)
        if kind is not Kind.HIT and (flight := self._flights.get(key)) is not None:
            await asyncio.shield(flight)
            trust = await service.trust()
            kind, stored = self._look(key, request, trust)
        if kind is Kind.HIT and stored is not None:
            self.counts["hit"] += 1
            if values(request.fields, "if-none-match"):
                await side.answer(self._served(request, stored, "hit"))
            else:
                await side.answer_with(stored.head + self._hit(stored), stored.response)
            return
        if parse_cache_control(combined(request.fields, "cache-control")).only_if_cached:
            raise OnlyIfCached(path=request.path)
        if key in self._flights:  # somebody's answer was not for everybody: then each asks for itself
            await self._fetch(service, request, side, key, stored, trust)
            return
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            await self._fetch(service, request, side, key, stored, trust, flight)
        finally:
            self._land(key, flight)

    def _land(self, key: Key, flight: asyncio.Future[None] | None) -> None:
        """Whoever waited looks into the cache now."""
        if flight is not None and not flight.done():
            del self._flights[key]
            flight.set_result(None)

    def _look(self, key: Key, request: Request, trust: Trust) -> tuple[Kind, Stored | None]:
        digest = _listed(request, trust)
        found = self.cache.lookup(key, request, self._now_s(), digest=digest)
        if found.stored is not None and found.stored.key and found.stored.key not in trust.keys:
            self.cache.invalidate(key)  # the ledger does not list its key any more
            return Kind.MISS, None
        return found.kind, found.stored

    def _hit(self, stored: Stored) -> bytes:
        return b"age: %d\r\ncache-status: %b; hit\r\n" % (stored.age_s(self._now_s()), LABEL.encode())

    def _served(self, request: Request, stored: Stored, status: str) -> Response:
        response = replace(stored.response, fields=fields_for_client(stored, self._now_s()))
        if is_not_modified(request, response):
            response = Response(304, without(response.fields, ("content-type",)))
        return _marked(response, status)

    async def _fetch(
        self,
        service: Service,
        request: Request,
        side: ServerSide,
        key: Key,
        stored: Stored | None,
        trust: Trust,
        flight: asyncio.Future[None] | None = None,
    ) -> None:
        plain = replace(request, fields=without(request.fields, CONDITIONS))
        asked = conditional(plain, stored) if stored is not None else plain
        try:
            async with service.upstream.asked(asked) as (client, answer):
                outcome = await self._taken(service, request, client, answer, key, stored, trust)
                if outcome is not None:
                    self._land(key, flight)
                    self.counts["forwarded"] += 1
                    await _stream(side, outcome)
                    return
        except BlockCloudError as error:
            if side.begun or isinstance(error, ConnectionBroken) or stored is None:
                raise
            if not stored.is_usable_on_error(self._now_s()):
                raise
            log.info("served_stale", name=service.name, code=error.code)
            self.counts["stale"] += 1
            await side.answer(self._served(request, stored, "hit; detail=stale-if-error"))
            return
        # What was stored could not be shown to be current: fetch it whole.
        await self._fetch(service, request, side, key, None, trust, flight)

    async def _taken(
        self,
        service: Service,
        request: Request,
        client: ClientSide,
        answer: ResponseHead,
        key: Key,
        stored: Stored | None,
        trust: Trust,
    ) -> _Outcome | None:
        """What becomes of an answer. None: a 304 that proves nothing."""
        now = self._now_s()
        response = replace(answer.response, fields=without(end_to_end(answer.response.fields), ("age",)))
        if response.status == 304 and stored is not None:
            await client.whole(0)
            if not values(response.fields, "signature"):
                return None  # the old signature would still hold, but says nothing of now
            whole = freshened(stored.response, response)
            status = "fwd=stale; fwd-status=304"
            try:
                kept = self._verified(service, request, whole, trust)
            except ResponseRefused:
                return None
            self.cache.store(key, request, kept)
            return _Outcome(self._served(request, kept, status), status)
        if response.status in ERROR_STATUS and stored is not None and stored.is_usable_on_error(now):
            self.counts["stale"] += 1
            return _Outcome(self._served(request, stored, "hit; detail=stale-if-error"), "")
        body, complete = await _held(client, answer.length, self.cache.object_bytes)
        response = replace(response, body=body)
        status = f"fwd={'stale' if stored is not None else 'miss'}; fwd-status={response.status}"
        if not complete:
            return _Outcome(_marked(response, f"{status}; detail=size"), status, client, answer.length)
        try:
            kept = self._verified(service, request, response, trust)
        except ResponseRefused as refused:
            return _Outcome(_marked(response, f"{status}; detail={refused.code}"), status)
        why = self.cache.store(key, request, kept)
        return _Outcome(self._served(request, kept, f"{status}; {f'detail={why}' if why else 'stored'}"), status)

    def _verified(self, service: Service, request: Request, response: Response, trust: Trust) -> Stored:
        """Raises ResponseRefused's children."""
        now = self._now_s()
        verified = verify(request, response, name=service.name, keys=trust.keys, digests=trust.digests, now_s=now)
        digest = _listed(request, trust) if response.status == 200 else b""
        return Stored(response, verified.created_s, verified.expires_s, verified.key, digest)


def _listed(request: Request, trust: Trust) -> bytes:
    return trust.digests.get(request.path, b"") if request.query == "?" else b""


async def _held(client: ClientSide, length: int | None, limit: int) -> tuple[bytes, bool]:
    """The content, if it is within `limit`, else what came of it so far; whether it is complete."""
    if length is not None and length > limit:
        return b"", False
    pieces: list[bytes] = []
    size = 0
    while piece := await client.piece():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            return b"".join(pieces), False
    return b"".join(pieces), True


async def _stream(side: ServerSide, outcome: _Outcome) -> None:
    """Answer with what is there, and with the rest as it comes."""
    if outcome.stream is None:
        await side.answer(outcome.response)
        return
    await side.begin(outcome.response, outcome.length)
    await side.piece(outcome.response.body)
    while piece := await outcome.stream.piece():
        await side.piece(piece)
    await side.end()


def _marked(response: Response, status: str) -> Response:
    """With the field that says what the cache did (RFC 9211)."""
    fields = without(end_to_end(response.fields), ("cache-status",))
    return replace(response, fields=(*fields, ("cache-status", f"{LABEL}; {status}")))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _status_of(error: BlockCloudError) -> int:
    if isinstance(error, PolicyDenied):
        return 403
    if isinstance(error, NotServedHere):
        return 404
    if isinstance(error, OnlyIfCached):
        return 504
    return 400 if isinstance(error, BadMessage) else 502
