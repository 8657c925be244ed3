"""A relay on loopback, instances that are registered at it, and those who dial them, as bare connections."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass, field

from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.address_record import AddressRecord, Endpoint, sign_record
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.relay.dialling import open_connection
from blockcloud.service_access.relay.messages import Preamble, Wish
from blockcloud.service_access.relay.registration import RENDEZVOUS, RelayRegistration
from blockcloud.service_access.relay.rendezvous import RelayLimits
from blockcloud.service_access.relay.server import Permits, RelayServer, everybody
from tests.service_access.access_world import World, bounded

RELAY = "relay.acme"
TIMEOUT_MS = 10_000


@dataclass
class Instance:
    """A registered instance; who comes through the relay to it waits in `arrived`."""

    world: World
    key: SigningKey
    relay: str
    arrived: asyncio.Queue[socket.socket] = field(default_factory=asyncio.Queue)
    changes: list[HostPort | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registration = RelayRegistration(
            self.relay,
            self.key,
            self.world.registry,
            source=lambda: None,
            incoming=self.arrive,
            changed=lambda: self.changes.append(self.registration.place),
        )

    async def next(self) -> socket.socket:
        return await bounded(self.arrived.get())

    def arrive(self, connection: socket.socket) -> None:
        self.world.stack.callback(connection.close)
        self.arrived.put_nowait(connection)


async def relay(
    world: World,
    name: str = RELAY,
    *,
    key: SigningKey | None = None,
    limits: RelayLimits | None = None,
    permits: Permits = everybody,
    port: int = 0,
) -> RelayServer:
    """A relay that the registry knows."""
    key = key or world.key(name)
    server = RelayServer(name, key, limits=limits, permits=permits)
    await world.stack.enter_async_context(server)
    host, port = await server.start("127.0.0.1", port)
    await announce(world, name, key, (host, port))
    return server


async def announce(world: World, name: str, key: SigningKey, place: HostPort) -> None:
    now_s = int(time.time())
    endpoints = (Endpoint(RENDEZVOUS, *place),)
    await world.registry.announce(
        sign_record(AddressRecord(name, key.public, time.time_ns(), now_s, now_s + 60, b"", endpoints), key)
    )


async def instance(world: World, name: str = RELAY, *, key: SigningKey | None = None) -> Instance:
    """An instance that has tried to register once."""
    made = Instance(world, key or SigningKey.generate(), name)
    await bounded(made.registration.start())
    world.stack.push_async_callback(made.registration.close)
    return made


async def dial_through(world: World, server: RelayServer, key: bytes) -> socket.socket:
    """A connection through the relay to the instance `key`."""
    return await opened(world, server, Preamble(Wish.DIAL, key))


async def opened(world: World, server: RelayServer, preamble: Preamble) -> socket.socket:
    """A connection to whose preamble the relay said OK, closed at the end of the test."""
    assert server.address is not None
    connection = await open_connection(server.address, preamble, source=None, timeout_ms=TIMEOUT_MS)
    world.stack.callback(connection.close)
    return connection
