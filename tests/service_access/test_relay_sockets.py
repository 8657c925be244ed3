"""A relay over real sockets on loopback: meeting, refusing, impostors, floods, slow readers, garbage, its own death."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from blockcloud.primitives.codec import decode, encode
from blockcloud.primitives.errors import Unreachable, WrongKey
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access import tls
from blockcloud.service_access.handshake import RANDOMNESS_BYTES, Finish, Initiator
from blockcloud.service_access.relay import pipe
from blockcloud.service_access.relay.buckets import Rate
from blockcloud.service_access.relay.control_stream import ControlStream
from blockcloud.service_access.relay.dialling import open_connection, receive_exactly
from blockcloud.service_access.relay.errors import NotRelayed, Status
from blockcloud.service_access.relay.messages import (
    PREAMBLE_BYTES,
    RELAY_PURPOSE,
    HandshakePart,
    Invite,
    MessageKind,
    Preamble,
    Refused,
    Registered,
    RelayPing,
    Wish,
    encode_message,
    encode_preamble,
)
from blockcloud.service_access.relay.registration import RefusedByRelay
from blockcloud.service_access.relay.rendezvous import RelayLimits
from blockcloud.service_access.relay.server import RelayServer
from blockcloud.service_access.resolution import NoInstances, UnknownName
from tests.service_access.access_world import World, bounded, random_bytes, until
from tests.service_access.relay_world import RELAY, TIMEOUT_MS, announce, dial_through, instance, opened, relay

DATA = random_bytes(3_000_000)


async def send(connection: socket.socket, data: bytes) -> None:
    await bounded(asyncio.get_running_loop().sock_sendall(connection, data))


async def receive(connection: socket.socket, count: int) -> bytes:
    return await bounded(receive_exactly(connection, count))


async def ended(connection: socket.socket) -> bool:
    """Whether the other end closes; what it still sends is dropped."""
    try:
        while await bounded(asyncio.get_running_loop().sock_recv(connection, 65_536)):
            pass
    except OSError:
        return True
    return True


async def control(server: RelayServer) -> ControlStream:
    """A control connection on which nothing was said yet."""
    assert server.address is not None
    connection = await open_connection(server.address, Preamble(Wish.CONTROL), source=None, timeout_ms=TIMEOUT_MS)
    return await ControlStream.upgrade(connection, tls.client_context(), timeout_s=10)


async def say(server: RelayServer, preamble: Preamble) -> Status:
    """The relay's answer to a preamble."""
    assert server.address is not None
    try:
        connection = await open_connection(server.address, preamble, source=None, timeout_ms=TIMEOUT_MS)
    except NotRelayed as error:
        return next(status for status in Status if status.name.lower() == error.reason)
    connection.close()
    return Status.OK


async def test_bytes_go_both_ways_and_so_do_ends(world: World) -> None:
    server = await relay(world)
    provider = await instance(world)
    assert provider.registration.place == server.address
    dialler = await dial_through(world, server, provider.key.public)
    met = await provider.next()
    sending = [asyncio.create_task(send(each, DATA)) for each in (dialler, met)]
    for each in (met, dialler):
        assert await receive(each, len(DATA)) == DATA
    await asyncio.gather(*sending)
    dialler.shutdown(socket.SHUT_WR)
    assert await ended(met)
    await send(met, b"still")
    assert await receive(dialler, 5) == b"still"
    met.close()
    assert await ended(dialler)
    await until(lambda: server.status()["splices"] == 0)
    assert server.status()["bytes_passed"] == 2 * len(DATA) + 5
    assert server.faults.total() == 0


async def test_each_dialler_meets_the_instance_that_it_asked_for(world: World) -> None:
    server = await relay(world)
    providers = [await instance(world) for _ in range(3)]
    wanted = [providers[step % 3] for step in range(12)]
    diallers = await bounded(asyncio.gather(*(dial_through(world, server, each.key.public) for each in wanted)))
    for dialler, provider in zip(diallers, wanted, strict=True):
        await send(dialler, provider.key.public)
    for provider in providers:
        for _ in range(4):
            assert await receive(await provider.next(), 32) == provider.key.public


async def test_who_is_not_registered_is_not_found(world: World) -> None:
    server = await relay(world)
    with pytest.raises(NotRelayed) as caught:
        await dial_through(world, server, SigningKey.generate().public)
    assert caught.value.reason == "unknown_instance"
    provider = await instance(world)
    await provider.registration.close()
    await until(lambda: server.status()["registered"] == 0)
    with pytest.raises(NotRelayed):
        await dial_through(world, server, provider.key.public)


async def test_a_forged_token_and_a_used_one_meet_nobody(world: World) -> None:
    server = await relay(world)
    assert await say(server, Preamble(Wish.MEET, os.urandom(32))) is Status.BAD_TOKEN
    stream, key = await registered_by_hand(server)
    dialling = asyncio.create_task(dial_through(world, server, key.public))
    invite = await bounded(stream.receive())
    assert isinstance(invite, Invite)
    forged = invite.token[:-1] + bytes([invite.token[-1] ^ 1])
    assert await say(server, Preamble(Wish.MEET, forged)) is Status.BAD_TOKEN
    assert server.address is not None
    met = await opened(world, server, Preamble(Wish.MEET, invite.token))
    assert await say(server, Preamble(Wish.MEET, invite.token)) is Status.BAD_TOKEN
    dialler = await bounded(dialling)
    await send(dialler, b"hello")
    assert await receive(met, 5) == b"hello"
    assert server.faults["bad_token"] == 3
    stream.abort()


async def registered_by_hand(server: RelayServer) -> tuple[ControlStream, SigningKey]:
    stream, key = await control(server), SigningKey.generate()
    initiator, _ = await greeted(server, stream, key)
    stream.send(HandshakePart(MessageKind.FINISH, initiator))
    assert isinstance(await bounded(stream.receive()), Registered)
    return stream, key


async def greeted(server: RelayServer, stream: ControlStream, key: SigningKey) -> tuple[bytes, bytes]:
    """(FINISH that would register `key`, HELLO that was sent)."""
    initiator = Initiator(
        key=key, purpose=RELAY_PURPOSE, target=RELAY, expected=None, randomness=os.urandom(RANDOMNESS_BYTES)
    )
    stream.send(HandshakePart(MessageKind.HELLO, initiator.hello()))
    reply = await bounded(stream.receive_part(MessageKind.REPLY))
    return initiator.receive(reply, stream.peer_certificate_hash()), initiator.hello()


async def test_nobody_registers_a_key_that_it_does_not_hold(world: World) -> None:
    server = await relay(world)
    victim = SigningKey.generate().public
    stream = await control(server)
    finish = decode((await greeted(server, stream, SigningKey.generate()))[0], Finish, limit=4_096)
    forged = Finish(victim, finish.payload, finish.confirmation, finish.signature)
    stream.send(HandshakePart(MessageKind.FINISH, encode(forged)))
    answer = await bounded(stream.receive())
    assert isinstance(answer, Refused)
    assert answer.code == "bad_signature"
    assert server.status()["registered"] == 0
    stream.abort()


async def test_a_registration_cannot_be_replayed(world: World) -> None:
    server = await relay(world)
    first, key = await control(server), SigningKey.generate()
    finish, hello = await greeted(server, first, key)
    first.send(HandshakePart(MessageKind.FINISH, finish))
    assert isinstance(await bounded(first.receive()), Registered)
    second = await control(server)
    second.send(HandshakePart(MessageKind.HELLO, hello))
    await bounded(second.receive_part(MessageKind.REPLY))
    second.send(HandshakePart(MessageKind.FINISH, finish))
    answer = await bounded(second.receive())
    assert isinstance(answer, Refused)
    assert answer.code == "bad_signature"
    first.send(RelayPing(1))  # the true one is untouched
    await bounded(first.receive())
    for each in (first, second):
        each.abort()


async def test_an_impostor_of_the_relay_gets_no_registration(world: World) -> None:
    key = world.key(RELAY)
    impostor = RelayServer(RELAY, SigningKey.generate())
    await world.stack.enter_async_context(impostor)
    await announce(world, RELAY, key, await impostor.start("127.0.0.1", 0))
    provider = await instance(world)
    assert isinstance(provider.registration.error, WrongKey)
    assert provider.registration.place is None
    assert provider.changes == []


async def test_a_relay_that_there_is_not(world: World) -> None:
    nobody = await instance(world, "nobody.acme")
    assert isinstance(nobody.registration.error, UnknownName)
    world.key(RELAY)
    silent = await instance(world)
    assert isinstance(silent.registration.error, NoInstances)


async def test_the_relay_serves_only_whom_it_is_told_to(world: World) -> None:
    friend = SigningKey.generate()

    async def permits(key: bytes) -> bool:
        return key == friend.public

    server = await relay(world, permits=permits)
    stranger = await instance(world)
    assert isinstance(stranger.registration.error, RefusedByRelay)
    assert stranger.registration.error.reason == "not_allowed"
    provider = await instance(world, key=friend)
    (await dial_through(world, server, provider.key.public)).close()


async def test_a_registration_is_renewed_after_the_relay_was_gone(world: World) -> None:
    key = world.key(RELAY)
    server = await relay(world, key=key)
    provider = await instance(world)
    assert server.address is not None
    place = server.address
    await server.close()
    await until(lambda: provider.registration.place is None)
    assert provider.changes == [place, None]
    again = await relay(world, key=key, port=place[1])
    await until(lambda: provider.registration.place == place)
    dialler = await dial_through(world, again, provider.key.public)
    await send(dialler, b"x")
    assert await receive(await provider.next(), 1) == b"x"


async def test_a_renewed_registration_replaces_the_old_one(world: World) -> None:
    server = await relay(world)
    provider = await instance(world)
    await bounded(provider.registration.renew())
    assert server.status()["counts"]["registered"] == 2
    elsewhere = await instance(world, key=provider.key)
    await until(lambda: provider.registration.counts["refused_by_relay"] >= 1)  # told that it was replaced
    assert elsewhere.registration.place == server.address


async def test_an_instance_that_never_comes_is_not_waited_for(world: World) -> None:
    server = await relay(world, limits=RelayLimits(pair_ms=200))
    stream, key = await registered_by_hand(server)
    with pytest.raises(NotRelayed) as caught:
        await bounded(dial_through(world, server, key.public))
    assert caught.value.reason == "pair_timeout"
    assert server.status()["waiting_dials"] == 0
    stream.abort()


async def test_a_silent_instance_is_taken_off(world: World) -> None:
    server = await relay(world, limits=RelayLimits(dead_after_ms=200))
    stream, _ = await registered_by_hand(server)
    answer = await bounded(stream.receive())
    assert isinstance(answer, Refused)
    assert answer.code == "not_heard"
    await until(lambda: server.status()["registered"] == 0)
    stream.abort()


async def test_a_splice_without_bytes_is_cut(world: World) -> None:
    server = await relay(world, limits=RelayLimits(idle_ms=200))
    provider = await instance(world)
    dialler = await dial_through(world, server, provider.key.public)
    met = await provider.next()
    assert await ended(dialler)
    assert await ended(met)
    assert server.status()["splices"] == 0


@pytest.mark.parametrize("early", [b"x", b""])
async def test_a_dialler_that_speaks_too_soon_or_leaves_is_not_waited_with(world: World, early: bytes) -> None:
    server = await relay(world)
    stream, key = await registered_by_hand(server)
    assert server.address is not None
    _, writer = await asyncio.open_connection(*server.address)
    writer.write(encode_preamble(Preamble(Wish.DIAL, key.public)))
    invite = await bounded(stream.receive())
    assert isinstance(invite, Invite)
    assert server.status()["waiting_dials"] == 1
    if early:
        writer.write(early)
    else:
        writer.close()
    await until(lambda: server.status()["waiting_dials"] == 0)
    assert server.faults["spoke_too_soon"] == 1
    assert await say(server, Preamble(Wish.MEET, invite.token)) is Status.BAD_TOKEN
    writer.close()
    stream.abort()


async def test_a_flood_of_dials_is_refused_and_others_are_served(world: World) -> None:
    server = await relay(world, limits=RelayLimits(dial_rate_of_instance=Rate(0.001, 5)))
    victim, other = await instance(world), await instance(world)
    answers = await bounded(asyncio.gather(*(say(server, Preamble(Wish.DIAL, victim.key.public)) for _ in range(60))))
    assert sorted(answers) == [Status.OK] * 5 + [Status.RATE_LIMITED] * 55
    dialler = await dial_through(world, server, other.key.public)
    await send(dialler, b"x")
    assert await receive(await other.next(), 1) == b"x"
    assert server.faults["rate_limited"] == 55


async def test_a_slow_reader_holds_the_sender_back_and_nobody_else(world: World) -> None:
    server = await relay(world)
    provider = await instance(world)
    dialler = await dial_through(world, server, provider.key.public)
    met = await provider.next()
    sending = asyncio.create_task(send(dialler, bytes(64_000_000)))
    passed: list[int] = []

    def stuck() -> bool:
        """No byte has come through for a hundred looks."""
        passed.append(server.status()["bytes_passed"])
        return len(passed) > 100 and passed[-100] == passed[-1] > 0

    await until(stuck)
    assert not sending.done()  # what was taken sits in the kernel's buffers and in one piece of ours
    other = await dial_through(world, server, provider.key.public)
    await send(other, b"x")
    assert await receive(await provider.next(), 1) == b"x"
    met.close()
    with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe
        await sending


async def test_bytes_are_slowed_to_the_rate(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    passing = pipe.splice_sockets

    async def watched(one: socket.socket, other: socket.socket, passed: pipe.Passed) -> None:
        def noted(count: int) -> float:
            pauses.append(passed(count))
            return pauses[-1]

        await passing(one, other, noted)

    monkeypatch.setattr("blockcloud.service_access.relay.server.splice_sockets", watched)
    server = await relay(world, limits=RelayLimits(byte_rate_of_instance=Rate(4_000_000, 1_000_000)))
    provider = await instance(world)
    dialler = await dial_through(world, server, provider.key.public)
    met = await provider.next()
    sending = asyncio.create_task(send(dialler, DATA))
    assert await receive(met, len(DATA)) == DATA
    await sending
    # 3 MB with 1 MB at hand: it owes for the rest, but for what the clock gives meanwhile.
    assert sum(pauses) >= 100


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n" + bytes(40),
        bytes(PREAMBLE_BYTES),
        b"\x16\x03\x01" + bytes(100),
        random_bytes(10_000),
        encode_preamble(Preamble(Wish.CONTROL)) + random_bytes(300),
    ],
)
async def test_garbage_ends_its_own_connection_only(world: World, garbage: bytes) -> None:
    server = await relay(world)
    provider = await instance(world)
    assert server.address is not None
    for _ in range(20):
        connection = socket.create_connection(server.address)
        connection.setblocking(False)
        if garbage:
            await send(connection, garbage)
            assert await ended(connection)
        connection.close()
    await until(lambda: server.faults.total() == 20 and server.status()["half_open"] == 0)
    dialler = await dial_through(world, server, provider.key.public)
    await send(dialler, b"x")
    assert await receive(await provider.next(), 1) == b"x"


async def test_garbage_on_a_control_connection_is_refused_with_a_reason(world: World) -> None:
    server = await relay(world)
    for message, code in (
        (encode_message(RelayPing(1)), "unexpected_message"),
        (b"\xff\0\0", "malformed"),
        (bytes([MessageKind.HELLO]) + b"\xff\xff", "oversized"),
    ):
        stream = await control(server)
        stream._writer.write(message)
        answer = await bounded(stream.receive())
        assert isinstance(answer, Refused)
        assert answer.code == code
        stream.abort()
    stream, _ = await registered_by_hand(server)
    stream.send(Invite(bytes(32)))
    answer = await bounded(stream.receive())
    assert isinstance(answer, Refused)
    assert answer.code == "unexpected_message"
    stream.abort()


async def test_half_open_connections_are_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockcloud.service_access.relay.server.HALF_OPEN_HANDSHAKES", 8)
    server = await relay(world)
    provider = await instance(world)
    assert server.address is not None
    silent = [socket.create_connection(server.address) for _ in range(20)]
    await until(lambda: server.faults["too_many"] == 12)
    assert server.status()["half_open"] == 8
    for each in silent:
        each.close()
    await until(lambda: server.status()["half_open"] == 0)
    (await dial_through(world, server, provider.key.public)).close()


async def test_whoever_answers_in_a_relays_place_is_found_out(world: World) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(PREAMBLE_BYTES)
        writer.write(b"HTTP/1.1 400 Bad Request")
        writer.close()

    stranger = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = stranger.sockets[0].getsockname()[:2]
    with pytest.raises(Unreachable, match="no relay"):
        await open_connection((host, port), Preamble(Wish.DIAL, bytes(32)), source=None, timeout_ms=TIMEOUT_MS)
    stranger.close()
    await stranger.wait_closed()
    with pytest.raises(Unreachable):
        await open_connection((host, port), Preamble(Wish.DIAL, bytes(32)), source=None, timeout_ms=TIMEOUT_MS)
