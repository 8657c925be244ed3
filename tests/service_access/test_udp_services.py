"""UDP services: a CoAP client and server that know nothing of it, through moves; flows end, and are bounded."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

import aiocoap
import pytest

from blockcloud.primitives.errors import Unreachable
from blockcloud.service_access import udp_forward, udp_publish
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.errors import SessionReset
from blockcloud.service_access.forward import Forwarder
from blockcloud.service_access.listener import Listener
from blockcloud.service_access.publish import publish
from blockcloud.service_access.udp_forward import EARLY_DATAGRAMS, UdpForwarder
from blockcloud.service_access.udp_publish import publish_udp
from tests.service_access.access_world import NAME, World, bounded, until
from tests.service_access.coap_world import LARGE, ask, coap_client, coap_server


class Echo(asyncio.DatagramProtocol):
    """A UDP server that says everything twice, and who asked."""

    def __init__(self) -> None:
        self.peers: set[object] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.peers.add(addr)
        for _ in range(2):
            self.transport.sendto(data, addr)  # type: ignore[attr-defined]


async def echo(world: World) -> tuple[Echo, int]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    world.stack.callback(transport.close)
    return protocol, transport.get_extra_info("sockname")[1]


async def published(world: World, port: int, idle_seconds: float = 300.0, lost: Counter[str] | None = None) -> Listener:
    listener = await world.listener()
    await listener.endpoint.start("127.0.0.1", kind="quic")
    counted: Counter[str] = Counter() if lost is None else lost
    task = asyncio.create_task(publish_udp(listener, ("127.0.0.1", port), counted, idle_seconds=idle_seconds))

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    world.stack.push_async_callback(stop)
    return listener


async def forwarded(world: World, idle_seconds: float = 300.0) -> tuple[UdpForwarder, int]:
    endpoint = await world.endpoint()
    forwarder = UdpForwarder(NAME, Connector(endpoint, world.registry), idle_seconds=idle_seconds)
    _, port = await forwarder.start("127.0.0.1", 0)
    world.stack.push_async_callback(forwarder.close)
    return forwarder, port


class Program:
    """A UDP client on loopback."""

    def __init__(self, world: World, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(("127.0.0.1", port))
        self.address = self._socket.getsockname()
        world.stack.callback(self._socket.close)

    def send(self, data: bytes) -> None:
        self._socket.send(data)

    async def receive(self) -> bytes:
        return await bounded(asyncio.get_running_loop().sock_recv(self._socket, 65_536))


async def test_coap_by_name_through_moves_of_both_sides(world: World) -> None:
    server, port = await coap_server()
    world.stack.push_async_callback(server.shutdown)
    listener = await published(world, port)
    forwarder, local = await forwarded(world)
    client = await coap_client()
    world.stack.push_async_callback(client.shutdown)
    assert await ask(client, local, "count") == b"1"
    await bounded(listener.endpoint.move("127.0.0.5", kind="quic"))
    assert await ask(client, local, "count") == b"2"
    assert await ask(client, local, "large") == LARGE
    await bounded(forwarder._connector._endpoint.move("127.0.0.31"))
    assert await ask(client, local, "count") == b"3"
    await bounded(listener.endpoint.move("127.0.0.6"))
    assert await ask(client, local, "count", aiocoap.PUT, b"70") == b""
    assert await ask(client, local, "count") == b"71"
    assert not forwarder.errors
    (session,) = listener.endpoint.sessions.values()
    assert session.statistics.resumes >= 3
    assert session.statistics.datagrams_received >= 10
    assert session.statistics.bytes_read == 0


async def test_each_client_is_a_peer_of_its_own_and_silence_ends_it(world: World) -> None:
    server, port = await echo(world)
    listener = await published(world, port)
    forwarder, local = await forwarded(world, idle_seconds=0.5)
    programs = [Program(world, local) for _ in range(5)]
    for number, program in enumerate(programs):
        program.send(b"hello %d" % number)
    for number, program in enumerate(programs):
        assert [await program.receive() for _ in range(2)] == [b"hello %d" % number] * 2
    assert len(server.peers) == len(listener.endpoint.sessions) == 5
    await until(lambda: not forwarder.flow_count and not forwarder._running)
    await until(lambda: not listener.endpoint.sessions)
    assert not forwarder.errors
    programs[0].send(b"again")
    assert await programs[0].receive() == b"again"


async def test_the_publisher_ends_what_is_silent_too(world: World) -> None:
    _, port = await echo(world)
    listener = await published(world, port, idle_seconds=0.5)
    forwarder, local = await forwarded(world)
    program = Program(world, local)
    program.send(b"once")
    assert await program.receive() == b"once"
    await until(lambda: not forwarder.flow_count)
    assert not forwarder.errors
    await until(lambda: not listener.endpoint.sessions)


async def test_flows_and_what_waits_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_forward, "FLOWS", 3)
    server, port = await echo(world)
    await published(world, port)
    forwarder, local = await forwarded(world)
    programs = [Program(world, local) for _ in range(3)]
    for number in range(EARLY_DATAGRAMS + 20):
        forwarder.datagram_received(b"%d" % number, programs[0].address)  # all in one turn of the loop
    for program in programs[1:]:
        program.send(b"x")
    await until(lambda: forwarder.flow_count == 3)
    Program(world, local).send(b"no room")
    await until(lambda: forwarder.errors["flows_full"] == 1)
    for program in programs[1:]:
        assert await program.receive() == b"x"
    assert await programs[0].receive() == b"0"
    assert forwarder.lost == {"early": 20}
    assert len(server.peers) == 3


async def test_more_sessions_than_the_publisher_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_publish, "FLOWS", 1)
    _, port = await echo(world)
    await published(world, port)
    forwarder, local = await forwarded(world)
    first, second = Program(world, local), Program(world, local)
    first.send(b"one")
    assert await first.receive() == b"one"
    second.send(b"two")
    await until(lambda: forwarder.errors["session_reset"] == 1)
    first.send(b"three")
    assert await first.receive() == b"one"
    assert await first.receive() == b"three"


async def test_what_does_not_fit_is_lost_alone(world: World) -> None:
    server, port = await echo(world)
    lost: Counter[str] = Counter()
    await published(world, port, lost=lost)
    forwarder, local = await forwarded(world)
    program = Program(world, local)
    program.send(bytes(1_200))
    assert len(await program.receive()) == 1_200
    program.send(bytes(1_201))
    program.send(b"after")
    assert len(await program.receive()) == 1_200
    assert [await program.receive() for _ in range(2)] == [b"after"] * 2
    assert forwarder.lost == {"oversized": 1}
    server.transport.sendto(bytes(1_201), server.peers.pop())  # type: ignore[attr-defined]
    await until(lambda: lost == {"oversized": 1})
    assert not forwarder.errors


async def test_udp_and_tcp_ends_that_meet_say_so(world: World) -> None:
    _, port = await echo(world)
    await published(world, port)
    forwarder = Forwarder(NAME, Connector(await world.endpoint(), world.registry))
    _, local = await forwarder.start("127.0.0.1", 0)
    world.stack.push_async_callback(forwarder.close)
    reader, writer = await asyncio.open_connection("127.0.0.1", local)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(ConnectionError):
        await bounded(reader.read())
    writer.close()
    assert isinstance(forwarder.last_error, SessionReset)
    assert forwarder.last_error.reset_code == "wrong_transport"


async def test_a_udp_client_of_a_tcp_service_is_told(world: World) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 welcome\r\n")

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    world.stack.callback(server.close)
    listener = await world.listener()
    task = asyncio.create_task(publish(listener, ("127.0.0.1", server.sockets[0].getsockname()[1])))
    world.stack.callback(task.cancel)
    forwarder, local = await forwarded(world)
    Program(world, local).send(b"x")
    await until(lambda: forwarder.errors)
    assert isinstance(forwarder.last_error, SessionReset)
    assert forwarder.last_error.reset_code == "wrong_transport"


async def test_nobody_there_is_tried_now_and_then(world: World) -> None:
    world.key()
    forwarder, local = await forwarded(world)
    program = Program(world, local)
    for _ in range(20):
        program.send(b"anybody?")
    await until(lambda: forwarder.errors["no_instances"] == 1)
    await until(lambda: not forwarder.flow_count)
    assert forwarder.errors == {"no_instances": 1}
    with pytest.raises(Unreachable, match="cannot listen"):
        await UdpForwarder(NAME, Connector(await world.endpoint(), world.registry)).start("127.0.0.1", local)
