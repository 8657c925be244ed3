"""QUIC links over real UDP sockets: sessions move to them and away; senders of anything else get nothing."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
from functools import partial
from pathlib import Path

import pytest

from blockcloud.primitives.errors import TimedOut, Unreachable
from blockcloud.primitives.limits import SESSION_BUFFER_BYTES
from blockcloud.service_access import reception
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.frames import Ping, Rst, encode_frame
from blockcloud.service_access.links import quic_listener
from blockcloud.service_access.links.link import Link, LinkBroken
from blockcloud.service_access.links.quic import QuicLinks
from blockcloud.service_access.links.quic_link import QuicLink
from blockcloud.service_access.links.quic_listener import QuicListener, RetryTokens
from blockcloud.service_access.listener import Listener
from blockcloud.service_access.session import SessionParameters
from blockcloud.service_access.stream import Session
from tests.service_access.access_world import NAME, Moves, World, bounded, digest_of, random_bytes, send_all, until

QUICK = SessionParameters(give_up_ms=600, dead_after_ms=400, heartbeat_ms=100, linger_ms=300)
MEGABYTES = random_bytes(4_000_000)
DIGEST = hashlib.sha256(MEGABYTES).hexdigest()


async def quic_pair(
    world: World, parameters: SessionParameters | None = None
) -> tuple[Listener, ServiceEndpoint, Session, Session]:
    """As `World.pair`, at a provider that listens by QUIC only."""
    listener = await world.listener(parameters=parameters)
    await listener.endpoint.move("127.0.0.1", kind="quic")
    await until(lambda: kinds_of(world) == ["quic"])
    endpoint = await world.endpoint(parameters=parameters)
    consumer = await bounded(Connector(endpoint, world.registry).connect(NAME))
    return listener, endpoint, await bounded(listener.accept()), consumer


def kinds_of(world: World) -> list[str]:
    return [each.protocol for instance in world.registry.instances[NAME].values() for each in instance.endpoints]


async def dial(address: Address, timeout_ms: float = 5_000, parameters: SessionParameters = QUICK) -> Link:
    return await QuicLinks(parameters).dial(address, peer=b"", source=None, timeout_ms=timeout_ms)


def quic_link(session: Session) -> QuicLink:
    assert isinstance(session._link, QuicLink)
    return session._link


def listening(listener: Listener) -> QuicListener:
    (found,) = listener.endpoint._listeners
    assert isinstance(found, QuicListener)
    return found


async def test_bytes_both_ways_and_a_clean_end(world: World) -> None:
    listener, _, provider, consumer = await quic_pair(world)
    await consumer.write(b"question")
    assert await bounded(provider.read()) == b"question"
    assert quic_link(provider).binding == quic_link(consumer).binding != b""
    assert quic_link(provider).peer_host() == "127.0.0.1"
    consumer.write_eof()
    assert await bounded(provider.read()) == b""
    await provider.write(b"answer")
    await bounded(provider.close())
    assert await bounded(consumer.read_exactly(6)) == b"answer"
    assert await bounded(consumer.read()) == b""
    await bounded(asyncio.gather(consumer.ended(), provider.ended()))
    assert (consumer.error, provider.error) == (None, None)
    await until(lambda: not listening(listener)._links)
    assert not listening(listener)._routes


async def test_a_session_moves_through_all_kinds(world: World, tmp_path: Path) -> None:
    listener, _, provider, consumer = await world.pair()
    endpoint = listener.endpoint
    world.registry.silent = True  # no move needs it
    moves = Moves(
        [
            partial(endpoint.move, "127.0.0.5", kind="quic"),
            partial(endpoint.move, str(tmp_path / "a.sock"), kind="unix"),
            partial(endpoint.move, "127.0.0.6", kind="quic"),
            partial(endpoint.move, "127.0.0.7"),
        ],
        700_000,
    )
    sending = [asyncio.create_task(send_all(each, MEGABYTES, moves)) for each in (provider, consumer)]
    results = await bounded(asyncio.gather(digest_of(consumer, moves.at), digest_of(provider)))
    assert results == [(len(MEGABYTES), DIGEST)] * 2
    await bounded(asyncio.gather(*sending))
    kinds = [address.kind for address in moves.results() if isinstance(address, Address)]
    assert kinds == ["quic", "unix", "quic", "tls"]
    assert consumer.core.link == provider.core.link >= 4


async def test_the_consumer_chooses_the_kind_when_it_moves(world: World) -> None:
    listener, endpoint, provider, consumer = await world.pair()
    await listener.endpoint.start("127.0.0.1", kind="quic")
    provider.announce_move(listener.addresses)
    await bounded(consumer.attached_beyond(0))
    await bounded(endpoint.move("127.0.0.30", kind="quic"))
    assert isinstance(consumer._link, QuicLink)
    await until(lambda: provider.core.link == consumer.core.link)
    assert quic_link(provider).peer_host() == "127.0.0.30"
    await consumer.write(b"by QUIC")
    assert await bounded(provider.read()) == b"by QUIC"


async def test_what_is_written_is_bounded_when_nobody_reads(world: World) -> None:
    _, _, provider, consumer = await quic_pair(world)
    written = 0

    async def send() -> None:
        nonlocal written
        while True:
            await provider.write(bytes(100_000))
            written += 100_000

    sending = asyncio.create_task(send())
    await until(lambda: consumer.core.waiting == SESSION_BUFFER_BYTES and not provider.core.room)
    assert written <= 2 * SESSION_BUFFER_BYTES
    await consumer.read(500_000)
    await until(lambda: written > 2 * SESSION_BUFFER_BYTES)
    sending.cancel()


async def test_a_link_whose_packets_go_nowhere_takes_a_bounded_amount(world: World) -> None:
    _, _, provider, consumer = await quic_pair(world)
    link, far = quic_link(provider), quic_link(consumer)
    far._carrier._transport.pause_reading()  # type: ignore[attr-defined]
    most = 0

    async def send() -> None:
        while True:
            await provider.write(bytes(50_000))

    sending = asyncio.create_task(send())

    def full() -> bool:
        nonlocal most
        most = max(most, link.quic.get_send_buffer_size())
        return link.paused

    await until(full)
    assert most <= 2 * 256 * 1024 + 64 * 1024
    sending.cancel()
    await bounded(consumer.attached_beyond(0))  # the session finds it dead, and another
    assert quic_link(consumer) is not far


async def test_garbage_and_strangers_get_no_answer(world: World) -> None:
    listener, _, provider, consumer = await quic_pair(world)
    address = listener.addresses[0]
    chance = random.Random(7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setblocking(False)
        stranger.connect((address.host, address.port))
        own_ids = list(listening(listener)._routes)
        for size in (0, 1, 7, 8, 9, 20, 50, 1_199, 1_200, 1_472, 9_000):
            for first in (0x00, 0x40, 0x7F, 0x80, 0xC0, 0xD0, 0xE0, 0xF0, 0xFF):
                for identifier in (chance.randbytes(8), chance.choice(own_ids)):
                    head = bytes([first]) + (b"" if first < 0x80 else b"\x00\x00\x00\x01\x08") + identifier
                    stranger.send((head + chance.randbytes(size))[:size])
        await consumer.write(b"unharmed")
        assert await bounded(provider.read()) == b"unharmed"
        await until(lambda: not listener.endpoint._reception.half_open)
        assert len(listener.endpoint.sessions) == 1
        # A version that nobody speaks: the one thing that is answered, with less than was sent.
        stranger.send(b"\xc0\x1a\x1a\x1a\x1a\x08" + bytes(8) + b"\x08" + bytes(8) + bytes(1_200))
        answers: list[bytes] = []

        def answered() -> bool:
            try:
                answers.append(stranger.recv(2_000))
            except BlockingIOError:
                return False
            return answers[-1][1:5] == bytes(4)

        await until(answered)
        assert all(len(answer) <= 1_200 for answer in answers)


async def test_inside_a_link_the_rules_are_those_of_every_link(world: World) -> None:
    listener, _, provider, consumer = await quic_pair(world)
    for junk, code in ((b"\xff" * 100, "malformed"), (encode_frame(Ping(1)), "unexpected_frame")):
        link = await dial(listener.addresses[0])
        link.send(junk)
        answer = await bounded(link.next_frame())
        assert isinstance(answer, Rst)
        assert answer.code == code
        with pytest.raises(LinkBroken):
            await bounded(link.next_frame())
        assert listener.endpoint.faults[code] == 1
    link = await dial(listener.addresses[0])
    link.send(bytes([4, 0, 15, 0]) + bytes(10))  # a part of a frame
    link.send(bytes(300_000))  # far more than a handshake has
    await until(lambda: link.lost)
    second = await dial(listener.addresses[0])
    assert isinstance(second, QuicLink)
    second.quic.send_stream_data(4, b"a second stream")
    second._schedule_flush()
    with pytest.raises(LinkBroken):
        await bounded(second.next_frame())
    await consumer.write(b"unharmed")
    assert await bounded(provider.read()) == b"unharmed"


async def test_half_open_handshakes_are_bounded_and_retried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "HALF_OPEN_HANDSHAKES", 4)
    monkeypatch.setattr(quic_listener, "RETRY_FROM", 2)
    listener, _, provider, consumer = await quic_pair(world)
    address = listener.addresses[0]
    first_flights = [await _first_flight() for _ in range(6)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for flight in first_flights:  # nobody there ever answers
            for datagram in flight:
                stranger.sendto(datagram, (address.host, address.port))
        await until(lambda: len(listening(listener)._half_open) >= 2)
        link = await bounded(dial(address))  # with a token, though so many are half open
        assert len(listening(listener)._half_open) <= 2 + 1  # all of theirs came before ours
        assert link.binding == quic_link(provider).binding
        link.abort()
    await consumer.write(b"unharmed")
    assert await bounded(provider.read()) == b"unharmed"
    await until(lambda: not listening(listener)._half_open)
    assert len(listening(listener)._links) == 1


async def _first_flight() -> list[bytes]:
    """The first datagrams of a client that is never heard of again."""
    kept: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.setblocking(False)
        dialling = asyncio.create_task(dial(Address("quic", "127.0.0.1", silent.getsockname()[1]), 60_000))

        def came() -> bool:
            try:
                kept.append(silent.recv(2_000))
            except BlockingIOError:
                return bool(kept)
            return False

        await until(came)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
    return kept


def test_tokens_prove_an_address_for_a_while() -> None:
    tokens, here = RetryTokens(), ("127.0.0.1", 5)
    original, source = os.urandom(8), os.urandom(8)
    token = tokens.make(here, original, source, 100)
    assert tokens.read(here, token, 100) == (original, source)
    assert tokens.read(here, token, 110) == (original, source)
    assert tokens.read(here, token, 111) is None
    assert tokens.read(here, token, 99) is None
    assert tokens.read(("127.0.0.2", 5), token, 100) is None
    assert tokens.read(("127.0.0.1", 6), token, 100) is None
    assert RetryTokens().read(here, token, 100) is None
    for position in range(len(token)):
        changed = bytearray(token)
        changed[position] ^= 1
        assert tokens.read(here, bytes(changed), 100) is None
        assert tokens.read(here, token[:position], 100) is None


async def test_nobody_there(world: World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.raises(TimedOut):
            await dial(Address("quic", "127.0.0.1", port), 200)
    with pytest.raises(Unreachable):
        await dial(Address("quic", "127.0.0.1", port))
    listener = await world.listener()
    listener.endpoint.stop_listening()
    taken = await world.listener(name="other.acme")
    first = await taken.endpoint.start("127.0.0.1", kind="quic")
    with pytest.raises(Unreachable, match="cannot listen"):
        await taken.endpoint.start("127.0.0.1", first.port, kind="quic")


async def test_a_silent_connection_ends_by_itself(world: World) -> None:
    listener = await world.listener(parameters=QUICK)
    await listener.endpoint.move("127.0.0.1", kind="quic")
    link = await dial(listener.addresses[0])
    assert isinstance(link, QuicLink)
    await until(lambda: len(listening(listener)._links) == 1)
    link._carrier._transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: link.lost and not listening(listener)._links)
    listener.endpoint.stop_listening()


async def test_links_go_on_when_their_listener_is_closed(world: World) -> None:
    listener, _, provider, consumer = await quic_pair(world)
    closing = listening(listener)
    listener.endpoint.stop_listening()
    await consumer.write(b"still there")
    assert await bounded(provider.read()) == b"still there"
    with pytest.raises(TimedOut):
        await dial(closing.address, 200)
    consumer.abort("closed", "enough")
    await until(lambda: closing._transport is None)
