"""Strangers at a QUIC port, by the thousand: what they cost is bounded, and whoever means it still gets in."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from blockcloud.service_access.connector import Connector
from blockcloud.service_access.links.quic_listener import FIRST_DATAGRAM_BYTES, RETRY_FROM, QuicListener
from blockcloud.service_access.listener import Listener
from tests.service_access.access_world import NAME, World, bounded, until

STRANGERS = 100  # ports
INITIALS = 3_000
BURST = 50
LARGEST_DATAGRAM = 65_000


@contextmanager
def strangers(listener: Listener) -> Iterator[list[socket.socket]]:
    """Sockets with ports of their own, connected to the listener's."""
    with ExitStack() as stack:
        found = []
        for _ in range(STRANGERS):
            stranger = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            stranger.setblocking(False)
            stranger.connect((listener.addresses[0].host, listener.addresses[0].port))
            found.append(stranger)
        yield found


async def by_quic(world: World) -> tuple[Listener, QuicListener]:
    """A provider that listens by QUIC only."""
    listener = await world.listener()
    await listener.endpoint.move("127.0.0.1", kind="quic")
    (found,) = listener.endpoint._listeners
    assert isinstance(found, QuicListener)
    await until(lambda: [each.protocol for each in _announced(world)] == ["quic"])
    return listener, found


def _announced(world: World) -> list[object]:
    return [each for instance in world.registry.instances[NAME].values() for each in instance.endpoints]


def initial(chance: random.Random, token: bytes = b"") -> bytes:
    """What looks like the first packet of a connection until somebody tries to decrypt it."""
    numbers = b"\x08" + chance.randbytes(8) + b"\x08" + chance.randbytes(8)
    length = (0x4000 | 1_100).to_bytes(2)
    head = b"\xc3\x00\x00\x00\x01" + numbers + (0x4000 | len(token)).to_bytes(2) + token + length
    return (head + chance.randbytes(1_400))[: FIRST_DATAGRAM_BYTES + len(token)]


def send(stranger: socket.socket, datagram: bytes) -> None:
    try:
        stranger.send(datagram)
    except (BlockingIOError, ConnectionRefusedError):
        return  # the network may lose what strangers send


async def test_thousands_of_first_packets_cost_a_bounded_amount_and_keep_nobody_out(world: World) -> None:
    chance = random.Random(11)
    listener, port = await by_quic(world)
    most = 0
    with strangers(listener) as crowd:
        for start in range(0, INITIALS, BURST):
            for number in range(start, start + BURST):
                send(crowd[number % STRANGERS], initial(chance))
            await asyncio.sleep(0)  # let the listener read, or the system drops what comes after
            # Our datagram to the port is behind theirs: once it is answered, theirs have been read.
            if start % (10 * BURST) == 0:
                consumer = await bounded(Connector(await world.endpoint(), world.registry).connect(NAME))
                provider = await bounded(listener.accept())
                await consumer.write(b"unharmed")
                assert await bounded(provider.read()) == b"unharmed"
                most = max(most, len(port._half_open))
                assert len(port._links) <= RETRY_FROM + len(listener.endpoint.sessions)
                assert len(port._routes) <= 16 * len(port._links)
        assert most <= RETRY_FROM
        for stranger in crowd:  # nobody gets more than he sent
            heard = 0
            while True:
                try:
                    heard += len(stranger.recv(2_000))
                except (BlockingIOError, ConnectionRefusedError):
                    break
            assert heard <= INITIALS // STRANGERS * FIRST_DATAGRAM_BYTES
    assert most == RETRY_FROM  # they were enough to fill it


async def test_whatever_else_strangers_send_is_read_and_forgotten(world: World) -> None:
    chance = random.Random(12)
    listener, port = await by_quic(world)
    consumer = await bounded(Connector(await world.endpoint(), world.registry).connect(NAME))
    provider = await bounded(listener.accept())
    before = len(port._links)
    with strangers(listener) as crowd:
        for stranger in crowd:
            send(stranger, initial(chance, token=chance.randbytes(60)))  # a token that was never given
            send(stranger, chance.randbytes(LARGEST_DATAGRAM))
            send(stranger, initial(chance)[: FIRST_DATAGRAM_BYTES - 1])  # too short to be answered
            send(stranger, b"\xe3" + initial(chance)[1:])  # a handshake packet of no connection
            send(stranger, b"\x40" + chance.randbytes(30))
        await consumer.write(b"unharmed")
        assert await bounded(provider.read()) == b"unharmed"
    assert len(port._links) == before
    assert not port._half_open
