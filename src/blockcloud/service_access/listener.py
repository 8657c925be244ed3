"""`listen(name)` and `connect(name)`: what programs use.

    async with listen("thermo.kitchen", key, announcer=...) as listener:
        while True:
            session = await listener.accept()

`listen` binds, signs and announces; leaving the block ends the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.names import parse_name
from blockcloud.service_access.addresses import Address, HostPort
from blockcloud.service_access.admission import NO_CREDENTIALS, Credentials, Gate
from blockcloud.service_access.announce import DEFAULT_LEASE_S, AddressAnnouncer
from blockcloud.service_access.connector import CONNECT_TIMEOUT_MS, Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.load import CAPACITY_SESSIONS, LoadMeter
from blockcloud.service_access.resolution import Announcer, Resolver
from blockcloud.service_access.session import Role, SessionParameters
from blockcloud.service_access.stream import Session

DEFAULT_ADDRESS: HostPort = ("127.0.0.1", 0)


class Listener:
    """Sessions that consumers began with a name served here."""

    def __init__(
        self,
        name: str,
        endpoint: ServiceEndpoint,
        queue: asyncio.Queue[Session],
        announcing: AddressAnnouncer | None = None,
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self._queue = queue
        self._announcing = announcing
        self._drains = asyncio.Event()
        self.decisions: Counter[str] = Counter()  # "allowed" and "denied", where a gate counts them

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it listens."""
        return self.endpoint.addresses

    async def accept(self) -> Session:
        """The next session. `session.peer_key` is the consumer's identity."""
        return await self._queue.get()

    async def move(self, host: str, port: int = 0) -> Address:
        """Go elsewhere while sessions go on; the new address."""
        return await self.endpoint.move(host, port)

    @property
    def session_count(self) -> int:
        """Sessions with this name that go on."""
        return session_count(self.endpoint, self.name)

    def drain(self, draining: bool = True) -> None:
        """Take no new sessions from now on, and announce it; those that are there go on. False takes it back."""
        if draining:
            self.endpoint.draining.add(self.name)
            self._drains.set()
        else:
            self.endpoint.draining.discard(self.name)
            self._drains.clear()
        if self._announcing is not None:
            self._announcing.draining = draining
            self._announcing.announce_now()

    async def drained(self) -> None:
        """Wait until `drain` was called and the last session has ended."""
        changed = asyncio.Event()

        def note(_: Session) -> None:
            changed.set()

        self.endpoint.ended.append(note)
        try:
            while not self._drains.is_set() or self.session_count:
                await self._drains.wait()
                changed.clear()
                if self.session_count:
                    await changed.wait()
        finally:
            self.endpoint.ended.remove(note)

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Session:
        return await self.accept()


def session_count(endpoint: ServiceEndpoint, name: str) -> int:
    """Sessions of `endpoint` that consumers began with `name` and that go on."""
    return sum(each.name == name and each.role is Role.RESPONDER for each in endpoint.sessions.values())


@contextlib.asynccontextmanager
async def listen(
    name: str,
    key: SigningKey,
    *,
    announcer: Announcer | None = None,
    address: HostPort = DEFAULT_ADDRESS,
    endpoint: ServiceEndpoint | None = None,
    parameters: SessionParameters | None = None,
    lease_s: int = DEFAULT_LEASE_S,
    service_file_hash: bytes = b"",
    gate: Gate | None = None,
    capacity: int = CAPACITY_SESSIONS,
) -> AsyncIterator[Listener]:
    """Serve `name` with the instance key `key` (which the name's owner has put on the ledger).

    Without `endpoint` a new one listens at `address` and is closed at the end. With `announcer` the address is
    announced now, at half of every lease, and after every move, with the measured load; `capacity` is with how many
    sessions the instance is full. `gate` decides who is let in (None: everybody).
    """
    parse_name(name)
    async with contextlib.AsyncExitStack() as stack:
        if endpoint is None:
            endpoint = await stack.enter_async_context(ServiceEndpoint(key, parameters=parameters))
            await endpoint.start(*address)
        queue = endpoint.bind_name(name, key, gate)
        stack.callback(endpoint.unbind_name, name)
        announcing: AddressAnnouncer | None = None
        if announcer is not None:
            own = endpoint
            announcing = AddressAnnouncer(
                name,
                key,
                lambda: own.addresses,
                announcer,
                lease_s=lease_s,
                service_file_hash=service_file_hash,
                sessions=lambda: session_count(own, name),
                meter=LoadMeter(capacity),
            )
            endpoint.moved.append(announcing.announce_now)
            stack.callback(endpoint.moved.remove, announcing.announce_now)
            stack.push_async_callback(announcing.close)
            await announcing.start()
        yield Listener(name, endpoint, queue, announcing)


async def connect(
    name: str,
    *,
    resolver: Resolver,
    key: SigningKey | None = None,
    endpoint: ServiceEndpoint | None = None,
    timeout_ms: float = CONNECT_TIMEOUT_MS,
    parameters: SessionParameters | None = None,
    credentials: Credentials = NO_CREDENTIALS,
) -> Session:
    """A session with the best instance of `name`; errors as `Connector.connect`.

    Without `endpoint` the session gets one of its own, which goes with it. `key` is this side's identity there, a new
    one if None.
    """
    own = endpoint or ServiceEndpoint(key or SigningKey.generate(), parameters=parameters)
    try:
        session = await Connector(own, resolver, credentials).connect(name, timeout_ms=timeout_ms)
    except BlockCloudError:
        if endpoint is None:
            await own.close()
        raise
    return session
