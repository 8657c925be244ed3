"""Sessions through a relay on loopback: both ends behind NAT, moves of either, the relay's death, and what it sees."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from contextlib import suppress
from functools import partial

import pytest

from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.addresses import RELAY, TLS, Address
from blockcloud.service_access.admission import AccessRequest
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.errors import SessionLost
from blockcloud.service_access.listener import Listener, listen
from blockcloud.service_access.relay import pipe
from blockcloud.service_access.relay import server as server_module
from blockcloud.service_access.relay.places import RELAYS, TooManyRelays
from blockcloud.service_access.resolution import NoInstances, UnknownName
from blockcloud.service_access.session import SessionParameters
from blockcloud.service_access.stream import Session
from tests.service_access.access_world import NAME, Moves, World, bounded, digest_of, random_bytes, send_all, until
from tests.service_access.relay_world import RELAY as FIRST
from tests.service_access.relay_world import relay

SECOND = "second.acme"
QUICK = SessionParameters(give_up_ms=1_500, dead_after_ms=400, heartbeat_ms=100, linger_ms=300)
DATA = random_bytes(4_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


async def hidden(world: World, *names: str, key: SigningKey | None = None, quick: bool = False) -> ServiceEndpoint:
    """An endpoint that listens nowhere and is registered at the relays `names`: what is behind NAT, to its peers."""
    parameters = QUICK if quick else None
    endpoint = ServiceEndpoint(key or SigningKey.generate(), parameters=parameters)
    await world.stack.enter_async_context(endpoint)
    await bounded(endpoint.relays.join(names, world.registry))
    return endpoint


async def provider_behind(world: World, *names: str, quick: bool = False) -> tuple[Listener, ServiceEndpoint]:
    key = world.key()
    endpoint = await hidden(world, *names, key=key, quick=quick)
    served = listen(NAME, key, announcer=world.registry, endpoint=endpoint)
    return await world.stack.enter_async_context(served), endpoint


async def pair(world: World, provider: Listener, consumer: ServiceEndpoint) -> tuple[Session, Session]:
    """(provider's session, consumer's session)."""
    opened = await bounded(Connector(consumer, world.registry).connect(NAME))
    return await bounded(provider.accept()), opened


async def test_a_session_between_two_that_cannot_reach_each_other(world: World) -> None:
    server = await relay(world)
    provider, behind = await provider_behind(world, FIRST)
    assert server.address is not None
    assert behind.addresses == (Address(RELAY, *server.address),)
    (found,) = (await world.registry.resolve(NAME)).instances
    assert [(each.protocol, each.priority) for each in found.endpoints] == [(RELAY, 100)]
    there, here = await pair(world, provider, await hidden(world, FIRST))
    sending = [asyncio.create_task(send_all(each, DATA)) for each in (there, here)]
    assert await bounded(asyncio.gather(digest_of(here), digest_of(there))) == [(len(DATA), DIGEST)] * 2
    await asyncio.gather(*sending)
    assert server.status()["splices"] == 1


async def test_a_consumer_needs_no_relay_of_its_own(world: World) -> None:
    await relay(world)
    provider, _ = await provider_behind(world, FIRST)
    there, here = await pair(world, provider, await world.endpoint())
    await here.write(b"question")
    assert await bounded(there.read()) == b"question"


async def test_a_direct_way_is_preferred(world: World) -> None:
    server = await relay(world)
    provider, behind = await provider_behind(world, FIRST)
    await behind.start("127.0.0.1")
    for announce in behind.moved:
        announce()
    await until(lambda: len(world.registry.instances[NAME][behind.key.public].endpoints) == 2)
    await pair(world, provider, await world.endpoint())
    assert server.status()["counts"].get("dialled", 0) == 0


class Silent:
    """A place that takes connections and says nothing, as a NAT that drops everything would look to TLS."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(64)

    def address(self) -> Address:
        return Address(TLS, "127.0.0.1", self.socket.getsockname()[1])


async def test_an_address_behind_somebody_elses_nat_costs_a_head_start_and_no_more(world: World) -> None:
    server = await relay(world)
    provider, behind = await provider_behind(world, FIRST)
    silent = Silent()
    world.stack.callback(silent.socket.close)
    behind.addresses = (silent.address(), *behind.addresses)  # what it listens at is of no use to others
    for announce in behind.moved:
        announce()
    await until(lambda: len(world.registry.instances[NAME][behind.key.public].endpoints) == 2)
    there, here = await pair(world, provider, await world.endpoint())
    assert server.status()["counts"]["joined"] == 1
    assert there.core.peer_addresses == ()
    here.drop_link()  # the same holds for a resume
    await until(lambda: here.statistics.resumes == 1)
    await here.write(b"x")
    assert await bounded(there.read()) == b"x"
    assert server.status()["counts"]["joined"] == 2


@pytest.mark.parametrize("who", ["provider", "consumer", "both"])
async def test_moves_through_a_relay_lose_nothing(world: World, who: str) -> None:
    await relay(world)
    provider, behind = await provider_behind(world, FIRST)
    consumer = await hidden(world, FIRST)
    there, here = await pair(world, provider, consumer)
    endpoints = {"provider": (behind,), "consumer": (consumer,), "both": (behind, consumer)}[who]
    steps = [partial(each.move, f"127.0.0.{20 + step}") for step in range(2) for each in endpoints]
    moves = Moves([*steps], 500_000)
    sending = [asyncio.create_task(send_all(each, DATA, moves)) for each in (there, here)]
    results = await bounded(asyncio.gather(digest_of(here, moves.at), digest_of(there)))
    assert results == [(len(DATA), DIGEST)] * 2
    await asyncio.gather(*sending)
    assert here.statistics.resumes >= 2


async def test_a_provider_that_moves_from_a_direct_address_behind_a_relay(world: World) -> None:
    server = await relay(world)
    listener = await world.listener()
    there, here = await pair(world, listener, await world.endpoint())
    await bounded(listener.endpoint.relays.join([FIRST], world.registry))
    listener.endpoint.stop_listening()
    listener.endpoint._settle_addresses()
    assert [each.kind for each in listener.addresses] == [RELAY]
    there.announce_move(listener.addresses)
    await until(lambda: here.statistics.resumes == 1)
    assert server.status()["splices"] == 1
    await there.write(b"still")
    assert await bounded(here.read()) == b"still"


async def test_a_relay_that_dies_is_replaced_by_another(world: World) -> None:
    first, second = await relay(world), await relay(world, SECOND)
    provider, _ = await provider_behind(world, FIRST, SECOND)
    consumer = await hidden(world, FIRST, SECOND)
    there, here = await pair(world, provider, consumer)
    carrying, spare = (first, second) if first.status()["splices"] else (second, first)
    cut = Moves([carrying.close], 500_000)
    sending = asyncio.create_task(send_all(there, DATA, cut))
    assert await bounded(digest_of(here, cut.at)) == (len(DATA), DIGEST)
    await sending
    assert spare.status()["splices"] >= 1
    assert len(provider.addresses) == 1


async def test_without_another_way_the_end_has_a_name(world: World) -> None:
    server = await relay(world)
    provider, behind = await provider_behind(world, FIRST, quick=True)
    there, here = await pair(world, provider, await hidden(world, FIRST, quick=True))
    await server.close()
    for each in (there, here):
        with pytest.raises(SessionLost):
            await bounded(each.read())
    await until(lambda: behind.addresses == ())
    await until(lambda: not world.registry.instances[NAME][behind.key.public].endpoints)  # and nobody is sent there
    with pytest.raises(NoInstances):
        await Connector(await world.endpoint(), world.registry).connect(NAME)


async def test_a_relay_that_comes_back_serves_again(world: World) -> None:
    key = world.key(FIRST)
    server = await relay(world, key=key)
    provider, behind = await provider_behind(world, FIRST)
    assert server.address is not None
    await server.close()
    await until(lambda: behind.addresses == ())
    await relay(world, key=key, port=server.address[1])
    await until(lambda: len(behind.addresses) == 1)
    await until(lambda: world.registry.instances[NAME][behind.key.public].endpoints)
    await pair(world, provider, await world.endpoint())


async def test_what_a_relay_sees_is_ciphertext(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    async def watched(one: socket.socket, other: socket.socket, passed: pipe.Passed) -> None:
        """The relay's own splice, with somebody who reads along."""
        loop = asyncio.get_running_loop()

        async def one_way(source: socket.socket, sink: socket.socket) -> None:
            while piece := await loop.sock_recv(source, pipe.PIECE_BYTES):
                seen.append(piece)
                passed(len(piece))
                await loop.sock_sendall(sink, piece)

        with suppress(OSError):
            await asyncio.gather(one_way(one, other), one_way(other, one))

    monkeypatch.setattr(server_module, "splice_sockets", watched)
    await relay(world)
    provider, _ = await provider_behind(world, FIRST)
    there, here = await pair(world, provider, await hidden(world, FIRST))
    plain = b"the quick brown fox pays forty-two for the lazy dog " * 400
    await here.write(plain)
    assert await bounded(there.read_exactly(len(plain))) == plain
    here.drop_link()
    await until(lambda: here.statistics.resumes)
    await there.write(plain)
    assert await bounded(here.read_exactly(len(plain))) == plain
    everything = b"".join(seen)
    assert len(everything) > 2 * len(plain)  # all of it did pass there
    for start in range(0, 52, 4):
        assert plain[start : start + 12] not in everything
    for secret in (NAME.encode(), here.peer_key, there.peer_key, here.core.session_id):
        assert secret not in everything


async def test_a_relay_that_changes_bytes_breaks_the_link_and_not_the_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tampered = 0

    async def tampering(one: socket.socket, other: socket.socket, passed: pipe.Passed) -> None:
        loop = asyncio.get_running_loop()

        async def one_way(source: socket.socket, sink: socket.socket) -> None:
            nonlocal tampered
            while piece := await loop.sock_recv(source, pipe.PIECE_BYTES):
                if len(piece) > 10_000 and tampered < 2:
                    tampered += 1
                    piece = piece[:5_000] + bytes([piece[5_000] ^ 1]) + piece[5_001:]
                await loop.sock_sendall(sink, piece)
                passed(len(piece))

        with suppress(OSError):
            await asyncio.gather(one_way(one, other), one_way(other, one))

    monkeypatch.setattr(server_module, "splice_sockets", tampering)
    await relay(world)
    provider, _ = await provider_behind(world, FIRST)
    there, here = await pair(world, provider, await hidden(world, FIRST))
    sending = asyncio.create_task(send_all(there, DATA))
    assert await bounded(digest_of(here)) == (len(DATA), DIGEST)
    await sending
    assert tampered == 2
    assert here.statistics.resumes >= 1


async def test_a_policy_does_not_take_the_relays_address_for_the_consumers(world: World) -> None:
    asked: list[AccessRequest] = []

    class Watching:
        active = True
        digest = bytes(32)

        def admit(self, request: AccessRequest) -> None:
            asked.append(request)

        def opened(self, request: AccessRequest, session: Session) -> None:
            """Nothing to follow."""

    await relay(world)
    key = world.key()
    endpoint = await hidden(world, FIRST, key=key)
    served = listen(NAME, key, announcer=world.registry, endpoint=endpoint, gate=Watching())
    provider = await world.stack.enter_async_context(served)
    await pair(world, provider, await world.endpoint())
    assert [request.host for request in asked] == [""]


async def test_an_endpoint_names_so_many_relays_and_no_more(world: World) -> None:
    endpoint = await world.endpoint()
    with pytest.raises(TooManyRelays):
        await endpoint.relays.join([f"r{number}.acme" for number in range(RELAYS + 1)], world.registry)


async def test_one_relay_of_several_is_enough_and_none_is_an_error(world: World) -> None:
    await relay(world)
    endpoint = await hidden(world, "nobody.acme", FIRST)
    assert len(endpoint.addresses) == 1
    with pytest.raises(UnknownName):
        await hidden(world, "nobody.acme")
