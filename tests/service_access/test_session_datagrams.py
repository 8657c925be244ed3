"""Datagrams of a session: over every kind of link, from the link that has the session only, bounded, never resent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from blockcloud.primitives.limits import SESSION_DATAGRAM_BYTES
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.datagrams import DATAGRAMS_WAITING, DatagramQueue
from blockcloud.service_access.errors import DatagramTooLarge, SessionEnded, SessionReset
from blockcloud.service_access.frames import Datagram
from blockcloud.service_access.links.quic_link import DATAGRAMS_UNSENT, QuicLink
from blockcloud.service_access.session import Role, SessionCore
from tests.service_access.access_world import NAME, World, bounded, until

LARGEST = bytes(range(200)) * 6


@pytest.mark.parametrize("kind", ["tls", "quic", "unix"])
async def test_datagrams_cross_beside_the_stream(world: World, tmp_path: Path, kind: str) -> None:
    listener, _, provider, consumer = await world.pair()
    await listener.endpoint.move(str(tmp_path / "a.sock") if kind == "unix" else "127.0.0.5", kind=kind)
    assert len(LARGEST) == SESSION_DATAGRAM_BYTES
    for here, there in ((consumer, provider), (provider, consumer)):
        for message in (b"", b"x", LARGEST):
            here.send_datagram(message)
            assert await bounded(there.receive_datagram()) == message
        await here.write(b"stream")
        assert await bounded(there.read()) == b"stream"
        with pytest.raises(DatagramTooLarge):
            here.send_datagram(LARGEST + b"x")
    assert (consumer.statistics.datagrams_sent, consumer.statistics.datagrams_received) == (3, 3)
    assert consumer.statistics.bytes_written == 6


async def test_they_go_on_over_the_next_link_and_none_waits_for_it(world: World) -> None:
    listener, _, provider, consumer = await world.pair()
    await listener.endpoint.move("127.0.0.5", kind="quic")
    consumer.send_datagram(b"one")
    assert await bounded(provider.receive_datagram()) == b"one"
    provider.drop_link()
    await until(lambda: not provider.linked)
    provider.send_datagram(b"lost")
    assert provider.statistics.datagrams_dropped == 1
    await bounded(provider.attached_beyond(provider.core.link))
    provider.send_datagram(b"two")
    assert await bounded(consumer.receive_datagram()) == b"two"


async def test_a_reader_that_waits_learns_of_the_end(world: World) -> None:
    _, _, provider, consumer = await world.pair()
    waiting = [asyncio.create_task(each.receive_datagram()) for each in (provider, consumer)]
    await asyncio.sleep(0)
    provider.abort("closed", "enough")
    for task in waiting:
        with pytest.raises(SessionReset):
            await bounded(task)
    with pytest.raises(SessionReset):
        consumer.send_datagram(b"x")


async def test_a_clean_end_is_an_end_for_datagrams_too(world: World) -> None:
    _, _, provider, consumer = await world.pair()
    consumer.send_datagram(b"last")
    waiting = asyncio.create_task(consumer.receive_datagram())
    await bounded(asyncio.gather(provider.close(), consumer.close()))
    with pytest.raises(SessionEnded):
        await bounded(waiting)
    assert await bounded(provider.receive_datagram()) == b"last"  # it had arrived
    with pytest.raises(SessionEnded):
        await bounded(provider.receive_datagram())


async def test_a_flood_over_quic_is_bounded_at_both_ends(world: World) -> None:
    listener = await world.listener()
    await listener.endpoint.move("127.0.0.1", kind="quic")
    await until(lambda: world.registry.announced == 2)
    consumer = await bounded(Connector(await world.endpoint(), world.registry).connect(NAME))
    provider = await bounded(listener.accept())
    link = consumer._link
    assert isinstance(link, QuicLink)
    for number in range(5_000):
        consumer.send_datagram(number.to_bytes(4) + bytes(1_000))
    assert len(link._unsent) <= DATAGRAMS_UNSENT
    await until(lambda: provider.statistics.datagrams_received >= DATAGRAMS_UNSENT // 2)
    await consumer.write(b"the stream lives")
    assert await bounded(provider.read()) == b"the stream lives"
    assert len(provider.core.datagrams) <= DATAGRAMS_WAITING


def test_the_oldest_go_and_are_counted() -> None:
    queue = DatagramQueue()
    for number in range(DATAGRAMS_WAITING + 3):
        queue.put(memoryview(number.to_bytes(2)))
    assert (len(queue), queue.dropped) == (DATAGRAMS_WAITING, 3)
    assert queue.take() == (3).to_bytes(2)


def test_another_link_than_that_of_the_session_has_no_say() -> None:
    core = SessionCore(session_id=bytes(16), secret=bytes(32), role=Role.INITIATOR, now_ms=0)
    core.receive(0, Datagram(memoryview(b"mine")), 1)
    core.receive(2, Datagram(memoryview(b"from a link that never proved itself")), 1)
    assert core.datagrams.take() == b"mine"
    assert core.datagrams.take() is None
    core.link_lost(0, 2)
    core.receive(0, Datagram(memoryview(b"late")), 3)
    assert core.datagrams.take() is None
    assert core.statistics.datagrams_received == 1
