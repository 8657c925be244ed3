"""A world on loopback for the service access layer: a registry in memory, listeners, connectors, random bytes."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.address_record import verify_record
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.listener import Listener, listen
from blockcloud.service_access.load import CAPACITY_SESSIONS
from blockcloud.service_access.resolution import Instance, Resolution, UnknownName
from blockcloud.service_access.session import SessionParameters
from blockcloud.service_access.stream import Session

NAME = "files.acme"
WAIT_SECONDS = 20.0
PIECE_BYTES = 50_000
T = TypeVar("T")


@dataclass
class Registry:
    """A resolver and announcer in one: what the ledger and the routing nodes would say."""

    keys: dict[str, list[bytes]] = field(default_factory=dict)
    instances: dict[str, dict[bytes, Instance]] = field(default_factory=dict)
    resolved: int = 0
    announced: int = 0
    silent: bool = False  # it takes questions and never answers

    async def announce(self, record: bytes) -> None:
        verified = verify_record(record, _now_s())
        known = self.instances.setdefault(verified.name, {})
        before = known.get(verified.instance_key)
        assert before is None or before.sequence < verified.sequence
        self.announced += 1
        known[verified.instance_key] = Instance(
            verified.instance_key,
            verified.endpoints,
            verified.sequence,
            verified.expires_s,
            verified.load,
            verified.draining,
        )

    async def resolve(self, name: str, *, max_age_s: int = 60) -> Resolution:
        self.resolved += 1
        if self.silent:
            await asyncio.get_running_loop().create_future()
        if name not in self.keys:
            raise UnknownName(name=name)
        found = tuple(each for each in self.instances.get(name, {}).values() if each.endpoints)
        return Resolution(name, bytes(32), bytes(32), tuple(self.keys[name]), found, 1, 0)


def _now_s() -> int:
    return int(time.time())


@dataclass
class World:
    """Makes parts and closes them at the end of the test."""

    stack: AsyncExitStack
    registry: Registry = field(default_factory=Registry)

    def key(self, name: str = NAME) -> SigningKey:
        """A new instance key that the ledger lists for `name`."""
        key = SigningKey.generate()
        self.registry.keys.setdefault(name, []).append(key.public)
        return key

    async def listener(
        self,
        *,
        name: str = NAME,
        key: SigningKey | None = None,
        host: str = "127.0.0.1",
        announce: bool = True,
        parameters: SessionParameters | None = None,
        capacity: int = CAPACITY_SESSIONS,
    ) -> Listener:
        """A served name."""
        context = listen(
            name,
            key or self.key(name),
            announcer=self.registry if announce else None,
            address=(host, 0),
            parameters=parameters,
            capacity=capacity,
        )
        return await self.stack.enter_async_context(context)

    async def endpoint(
        self, *, host: str | None = None, parameters: SessionParameters | None = None
    ) -> ServiceEndpoint:
        """A consumer's endpoint; with `host` it listens there."""
        endpoint = ServiceEndpoint(SigningKey.generate(), parameters=parameters)
        await self.stack.enter_async_context(endpoint)
        if host is not None:
            await endpoint.start(host, 0)
        return endpoint

    async def pair(
        self, *, consumer_host: str | None = None, parameters: SessionParameters | None = None
    ) -> tuple[Listener, ServiceEndpoint, Session, Session]:
        """(listener, consumer's endpoint, provider's session, consumer's session)."""
        listener = await self.listener(parameters=parameters)
        endpoint = await self.endpoint(host=consumer_host, parameters=parameters)
        consumer = await Connector(endpoint, self.registry).connect(NAME)
        provider = await bounded(listener.accept())
        return listener, endpoint, provider, consumer


async def bounded(awaitable: Awaitable[T]) -> T:
    """The result, within a time that only a hang exceeds."""
    async with asyncio.timeout(WAIT_SECONDS):
        return await awaitable


def random_bytes(count: int, seed: int = 1) -> bytes:
    """The same bytes every time."""
    return random.Random(seed).randbytes(count)


async def send_all(session: Session, data: bytes, moves: Moves | None = None) -> None:
    """Write `data` in pieces and end the stream, not before all `moves` are done."""
    for start in range(0, len(data), PIECE_BYTES):
        await session.write(data[start : start + PIECE_BYTES])
    if moves is not None:
        await moves.done.wait()
    session.write_eof()


class Moves:
    """Starts one step after the other, each when that many more bytes have come; the last ones may run at once."""

    def __init__(self, steps: list[Callable[[], Awaitable[object]]], every_bytes: int) -> None:
        self.done = asyncio.Event()
        self._steps = steps
        self._every_bytes = every_bytes
        self._tasks: list[asyncio.Future[object]] = []

    def at(self, count: int) -> None:
        """So many bytes have come."""
        if len(self._tasks) < len(self._steps) and count > self._every_bytes * (len(self._tasks) + 1):
            task = asyncio.ensure_future(self._steps[len(self._tasks)]())
            self._tasks.append(task)
            task.add_done_callback(self._finished)

    def _finished(self, _: asyncio.Future[object]) -> None:
        if len(self._tasks) == len(self._steps) and all(task.done() for task in self._tasks):
            self.done.set()

    def results(self) -> list[object]:
        """What the steps returned; raises what one of them raised."""
        return [task.result() for task in self._tasks]


async def digest_of(session: Session, each: Callable[[int], None] | None = None) -> tuple[int, str]:
    """(bytes, SHA-256) of the peer's whole stream; `each` sees the count so far."""
    count, digest = 0, hashlib.sha256()
    while part := await session.read():
        count += len(part)
        digest.update(part)
        if each is not None:
            each(count)
    return count, digest.hexdigest()


async def until(condition: Callable[[], object]) -> None:
    """Wait for `condition` within a time that only a hang exceeds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)
