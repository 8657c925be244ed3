"""Sessions over real TLS sockets on loopback: moves, crashes, impostors, garbage, slow readers."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from functools import partial

import pytest

from blockcloud.primitives.errors import Unreachable, WrongKey
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import SESSION_BUFFER_BYTES
from blockcloud.service_access import reception
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.errors import AccessDenied, SessionEnded, SessionLost, SessionReset
from blockcloud.service_access.frames import Kind, Ping, Resume, Rst, encode_frame, encode_handshake
from blockcloud.service_access.handshake import HANDSHAKE_MESSAGE_BYTES, Initiator
from blockcloud.service_access.links.link import Link
from blockcloud.service_access.links.tcp_tls import TlsLinks
from blockcloud.service_access.listener import connect
from blockcloud.service_access.resolution import NoInstances, UnknownName
from blockcloud.service_access.service_table import Action, Rule
from blockcloud.service_access.session import SessionParameters, State
from tests.service_access.access_world import NAME, Moves, World, bounded, digest_of, random_bytes, send_all, until

QUICK = SessionParameters(give_up_ms=600, dead_after_ms=400, heartbeat_ms=100, linger_ms=300)
MEGABYTES = random_bytes(6_000_000)
DIGEST = hashlib.sha256(MEGABYTES).hexdigest()


async def dial(address: Address) -> Link:
    return await TlsLinks().dial(address, peer=b"", source=None, timeout_ms=5_000)


async def test_bytes_both_ways_and_a_clean_end(world: World) -> None:
    _, endpoint, provider, consumer = await world.pair()
    await consumer.write(b"question")
    assert await bounded(provider.read()) == b"question"
    assert provider.peer_key == endpoint.key.public
    assert consumer.peer_key in world.registry.keys[NAME]
    consumer.write_eof()
    assert await bounded(provider.read()) == b""
    await provider.write(b"answer")
    await bounded(provider.close())
    assert await bounded(consumer.read_exactly(6)) == b"answer"
    assert await bounded(consumer.read()) == b""
    await bounded(asyncio.gather(consumer.ended(), provider.ended()))
    assert (consumer.error, provider.error) == (None, None)
    with pytest.raises(SessionEnded):
        await consumer.write(b"more")


async def test_a_receiver_gets_small_and_large_pieces_across_a_move_and_holds_the_peer_back(world: World) -> None:
    listener, _, provider, consumer = await world.pair()
    provider.set_receiver(provider.write_now)  # sends everything back
    got = bytearray()
    consumer.set_receiver(got.extend)
    for number in range(300):
        if number == 150:
            await bounded(listener.move("127.0.0.9"))
        before = len(got)
        await consumer.write(bytes([number % 256]) * (1 + number % 7))
        await until(lambda before=before, number=number: len(got) == before + 1 + number % 7)
    assert got == b"".join(bytes([number % 256]) * (1 + number % 7) for number in range(300))
    got.clear()
    consumer.pause_reading()
    await consumer.write(MEGABYTES[:100_000])
    await until(lambda: consumer.core.waiting == 100_000)
    assert not got
    consumer.resume_reading()
    assert got == MEGABYTES[:100_000]
    consumer.write_eof()
    await bounded(provider.peer_finished())
    provider.write_eof()
    await bounded(consumer.peer_finished())


async def test_whoever_waits_for_the_end_of_a_receiver_learns_of_a_reset(world: World) -> None:
    _, _, provider, consumer = await world.pair()
    got = bytearray()
    consumer.set_receiver(got.extend)
    waiting = asyncio.create_task(consumer.peer_finished())
    await provider.write(b"half of it")
    await until(lambda: bool(got))
    provider.abort("out_of_order", "on purpose")
    with pytest.raises(SessionReset, match="on purpose"):
        await bounded(waiting)


@pytest.mark.parametrize("consumer_host", [None, "127.0.0.40"])
async def test_provider_moves_in_mid_transfer(world: World, consumer_host: str | None) -> None:
    listener, _, provider, consumer = await world.pair(consumer_host=consumer_host)
    before = listener.addresses
    world.registry.silent = True  # a move does not need it
    moves = Moves([lambda: listener.move("127.0.0.5")], 1_000_000)
    sending = asyncio.create_task(send_all(provider, MEGABYTES, moves))
    assert await bounded(digest_of(consumer, moves.at)) == (len(MEGABYTES), DIGEST)
    await bounded(sending)
    assert moves.results() == list(listener.addresses)
    assert consumer.core.link == provider.core.link > 0
    assert listener.addresses[0].host == "127.0.0.5"
    with pytest.raises(Unreachable):  # the old listener is gone
        await dial(before[0])
    await until(lambda: world.registry.announced == 2)
    world.registry.silent = False
    assert [each.host for each in (await world.registry.resolve(NAME)).instances[0].endpoints] == ["127.0.0.5"]


async def test_consumer_moves_in_mid_transfer_both_ways(world: World) -> None:
    _, endpoint, provider, consumer = await world.pair()
    moves = Moves([partial(endpoint.move, f"127.0.0.{20 + step}") for step in range(3)], 1_000_000)
    sending = [asyncio.create_task(send_all(each, MEGABYTES, moves)) for each in (provider, consumer)]
    results = await bounded(asyncio.gather(digest_of(consumer, moves.at), digest_of(provider)))
    assert results == [(len(MEGABYTES), DIGEST)] * 2
    await bounded(asyncio.gather(*sending))
    assert moves.results() == [Address("tls", f"127.0.0.{20 + step}", 0) for step in range(3)]
    assert provider.statistics.resumes >= 3
    assert provider.core.link % 2 == 0  # the consumer dialled


@pytest.mark.parametrize("consumer_host", [None, "127.0.0.41"])
async def test_both_move_at_once(world: World, consumer_host: str | None) -> None:
    listener, endpoint, provider, consumer = await world.pair(consumer_host=consumer_host)

    async def both(step: int) -> None:
        await asyncio.gather(listener.move(f"127.0.0.{50 + step}"), endpoint.move(f"127.0.0.{70 + step}"))

    moves = Moves([partial(both, step) for step in range(3)], 1_000_000)
    sending = [asyncio.create_task(send_all(each, MEGABYTES, moves)) for each in (provider, consumer)]
    results = await bounded(asyncio.gather(digest_of(consumer, moves.at), digest_of(provider)))
    assert results == [(len(MEGABYTES), DIGEST)] * 2
    await bounded(asyncio.gather(*sending))
    moves.results()
    assert consumer.statistics.resumes >= 3


async def test_thirty_moves_in_a_row(world: World) -> None:
    listener, _, provider, consumer = await world.pair()
    stop = asyncio.Event()
    digest = hashlib.sha256()

    async def send() -> None:
        piece = random_bytes(30_000)
        while not stop.is_set():
            await provider.write(piece)
            digest.update(piece)
        provider.write_eof()

    sending, receiving = asyncio.create_task(send()), asyncio.create_task(digest_of(consumer))
    for step in range(30):
        await bounded(listener.move(f"127.0.0.{100 + step}"))
    stop.set()
    await bounded(sending)
    assert (await bounded(receiving))[1] == digest.hexdigest()
    assert consumer.core.link == provider.core.link >= 60


@pytest.mark.long
async def test_a_thousand_moves_of_either_side_in_a_row(world: World) -> None:
    """The registry never answers; each move is followed by a piece in each direction, over the new link."""
    listener, endpoint, provider, consumer = await world.pair(consumer_host="127.0.0.44")
    world.registry.silent = True
    piece = random_bytes(3_000)
    for step in range(1_000):
        mover = (listener, endpoint)[step % 2]
        await bounded(mover.move(f"127.0.{1 + step // 100}.{100 + step % 100}"))
        for sender, receiver in ((provider, consumer), (consumer, provider)):
            await sender.write(piece)
            assert await bounded(receiver.read_exactly(len(piece))) == piece
    assert consumer.core.link == provider.core.link >= 1_000
    assert len(endpoint.sessions) == 1


@pytest.mark.parametrize("consumer_host", [None, "127.0.0.42"])
async def test_links_cut_without_warning(world: World, consumer_host: str | None) -> None:
    _, _, provider, consumer = await world.pair(consumer_host=consumer_host)
    sending = asyncio.create_task(send_all(provider, MEGABYTES))
    cuts = 0

    def at(count: int) -> None:
        nonlocal cuts
        if count > 1_000_000 * (cuts + 1) and cuts < 4:
            cuts += 1
            (consumer if cuts % 2 else provider).drop_link()

    assert await bounded(digest_of(consumer, at)) == (len(MEGABYTES), DIGEST)
    await bounded(sending)
    assert cuts == 4
    assert consumer.statistics.resumes >= 4


async def test_silent_link_is_found_dead_by_heartbeat(world: World) -> None:
    _, _, provider, consumer = await world.pair(parameters=QUICK)
    link = consumer._link
    assert link is not None
    assert link._transport is not None
    link._transport.pause_reading()  # nothing arrives any more, no error either
    await bounded(consumer.attached_beyond(0))
    await provider.write(b"still here")
    assert await bounded(consumer.read()) == b"still here"


async def test_move_without_a_word_is_found_through_the_registry(world: World) -> None:
    listener, _, provider, consumer = await world.pair()
    old = world.registry.instances[NAME]
    # The provider's address changes and every link breaks before a word can be said.
    await listener.endpoint._switch_listeners([Address("tls", "127.0.0.6", 0)])
    for callback in listener.endpoint.moved:
        callback()
    await until(lambda: old[listener_key(old)].endpoints[0].host == "127.0.0.6")
    provider.drop_link()
    await provider.write(b"found")
    assert await bounded(consumer.read()) == b"found"
    assert world.registry.resolved >= 2


def listener_key(instances: dict[bytes, object]) -> bytes:
    return next(iter(instances))


async def test_crash_of_the_provider_is_an_error_not_a_hang(world: World) -> None:
    listener, _, provider, consumer = await world.pair(parameters=QUICK)
    await provider.write(b"begun")
    assert await bounded(consumer.read()) == b"begun"
    listener.endpoint.stop_listening()
    listener.endpoint.sessions.clear()
    provider._keeper = world  # type: ignore[assignment]
    world.link_needed = lambda session: None  # type: ignore[attr-defined]
    world.session_over = lambda session: None  # type: ignore[attr-defined]
    provider.drop_link()
    with pytest.raises(SessionLost):
        await bounded(consumer.read())
    with pytest.raises(SessionLost):
        await consumer.write(b"x")


async def test_restarted_provider_does_not_know_the_session(world: World) -> None:
    listener, _, provider, consumer = await world.pair()
    listener.endpoint.sessions.clear()
    provider._keeper = world  # type: ignore[assignment]
    world.link_needed = lambda session: None  # type: ignore[attr-defined]
    world.session_over = lambda session: None  # type: ignore[attr-defined]
    provider.drop_link()
    with pytest.raises(SessionLost, match="restarted"):
        await bounded(consumer.read())
    assert listener.endpoint.faults["unknown_session"] >= 3


async def test_key_taken_off_the_ledger_resets_the_session(world: World) -> None:
    listener, _, provider, consumer = await world.pair()
    world.registry.keys[NAME].clear()
    await listener.endpoint.close()
    with pytest.raises(SessionReset) as caught:
        await bounded(consumer.read())
    assert caught.value.reset_code == "closed"
    assert provider.error is not None


async def test_revoked_key_is_noticed_when_the_name_is_resolved_again(world: World) -> None:
    listener, _, provider, consumer = await world.pair()
    world.registry.keys[NAME] = [bytes(32)]
    listener.endpoint.stop_listening()
    provider.drop_link()
    with pytest.raises(SessionReset) as caught:
        await bounded(consumer.read())
    assert caught.value.reset_code == "key_revoked"


async def test_impostor_is_refused(world: World) -> None:
    honest = world.key()
    impostor = SigningKey.generate()
    listener = await world.listener(key=impostor, announce=True)
    endpoint = await world.endpoint()
    with pytest.raises(NoInstances):  # its address record is not by a key of the name
        await Connector(endpoint, world.registry).connect(NAME)
    endpoint.table.add(Rule(NAME, Action.FORWARD, listener.addresses), 0)
    with pytest.raises(WrongKey):  # even when the address leads there
        await Connector(endpoint, world.registry).connect(NAME)
    assert honest.public != impostor.public
    assert endpoint.sessions == {}


async def test_unknown_dropped_and_unreachable_names(world: World) -> None:
    endpoint = await world.endpoint()
    connector = Connector(endpoint, world.registry)
    with pytest.raises(UnknownName):
        await connector.connect("no.such.name")
    world.key()
    with pytest.raises(NoInstances):
        await connector.connect(NAME)
    endpoint.table.add(Rule("*.acme", Action.DROP), 0)
    with pytest.raises(AccessDenied):
        await connector.connect(NAME)
    listener = await world.listener(name="gone.test")
    listener.endpoint.stop_listening()
    with pytest.raises(Unreachable):
        await connector.connect("gone.test")


async def test_late_binding_takes_a_live_replica(world: World) -> None:
    first, second = await world.listener(), await world.listener()
    endpoint = await world.endpoint()
    connector = Connector(endpoint, world.registry)
    first.endpoint.stop_listening()
    for _ in range(4):
        session = await bounded(connector.connect(NAME))
        await bounded(second.accept())
        assert session.peer_key == second.endpoint.key.public


async def test_connect_without_an_endpoint(world: World) -> None:
    listener = await world.listener()
    async with await connect(NAME, resolver=world.registry) as session:
        peer = await bounded(listener.accept())
        await session.write(b"hello")
        assert await bounded(peer.read()) == b"hello"
        peer.write_eof()
    await bounded(peer.ended())


async def test_slow_reader_bounds_memory(world: World) -> None:
    _, _, provider, consumer = await world.pair()
    written = 0

    async def send() -> None:
        nonlocal written
        while True:
            await provider.write(bytes(100_000))
            written += 100_000

    sending = asyncio.create_task(send())
    await until(lambda: consumer.core.waiting == SESSION_BUFFER_BYTES and not provider.core.room)
    held = 2 * SESSION_BUFFER_BYTES
    assert held - 100_000 <= written <= held
    await consumer.read(500_000)
    await until(lambda: written > held)
    sending.cancel()


async def test_garbage_on_the_port_changes_nothing(world: World) -> None:
    listener, _, provider, consumer = await world.pair()
    address = listener.addresses[0]
    silent_reader, silent = await asyncio.open_connection(
        address.host, address.port
    )  # a client that never says anything
    for junk in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(5_000), b"\x16\x03\x01\xff\xff" + bytes(100)):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(junk)
        await bounded(_until_closed(reader))
        writer.close()
    initiator = Initiator(
        key=SigningKey.generate(), purpose="session/v1", target="not.served", expected=None, randomness=os.urandom(64)
    )
    session_id = consumer.core.session_id
    inside = {
        b"\xff" * 100: "malformed",
        encode_frame(Ping(1)): "unexpected_frame",
        encode_handshake(Kind.HELLO, b"\x00" * 50): "malformed",
        encode_handshake(Kind.HELLO, initiator.hello()): "unknown_target",
        (Kind.HELLO << 24 | HANDSHAKE_MESSAGE_BYTES + 1).to_bytes(4, "big"): "oversized",
        encode_frame(Resume(bytes(16), 2, bytes(32))): "unknown_session",
        encode_frame(Resume(session_id, 0, bytes(32))): "fenced_link",
    }
    for junk, code in inside.items():
        link = await dial(address)
        link.send(junk)
        answer = await bounded(link.next_frame())
        assert isinstance(answer, Rst)
        assert answer.code == code
        link.abort()
        assert listener.endpoint.faults[code] >= 1
    await consumer.write(b"unharmed")
    assert await bounded(provider.read()) == b"unharmed"
    assert len(listener.endpoint.sessions) == 1
    assert not silent_reader.at_eof()
    silent.close()


async def _until_closed(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(1_000):
            pass
    except (ConnectionError, ssl.SSLError):
        return


async def test_half_open_handshakes_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "HALF_OPEN_HANDSHAKES", 3)
    listener = await world.listener()
    address = listener.addresses[0]
    silent = [await asyncio.open_connection(address.host, address.port) for _ in range(8)]
    await until(lambda: listener.endpoint.faults["too_many"] == 5)
    assert len(listener.endpoint._reception.half_open) == 3
    for _, writer in silent:
        writer.close()
    await until(lambda: not listener.endpoint._reception.half_open)
    endpoint = await world.endpoint()
    await bounded(Connector(endpoint, world.registry).connect(NAME))


async def test_resume_by_a_stranger_leaves_the_session_alone(world: World) -> None:
    listener, _, provider, consumer = await world.pair()
    link = await dial(listener.addresses[0])
    link.send(encode_frame(Resume(consumer.core.session_id, 1_000, bytes(32))))
    challenge = await bounded(link.next_frame())
    from blockcloud.service_access.frames import Challenge, Proof

    assert isinstance(challenge, Challenge)
    link.send(encode_frame(Proof(0, (), bytes(32))))
    answer = await bounded(link.next_frame())
    assert isinstance(answer, Rst)
    assert answer.code == "bad_resume_mac"
    link.abort()
    await consumer.write(b"unharmed")
    assert await bounded(provider.read()) == b"unharmed"
    assert provider.core.link == 0
    assert provider.core.state is State.ATTACHED
