"""Garbage on every listening port: noise, half handshakes, oversized frames, hundreds of connections that say nothing.

The ledger and the sessions go on, memory stays bounded, and the nodes count what they refused (DESIGN section 11).
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.end_to_end.ledger_world import World, devnet_world, resident_bytes, until
from tests.end_to_end.payments import flowing
from tests.end_to_end.service_world import ServiceWorld, service_world

pytestmark = pytest.mark.long

HALF_OPEN = 300
ROUNDS = 40
GROWTH_BYTES = 100 * 1024 * 1024
CALL_SECONDS = 5
FRAME_LIMIT_EXCEEDED = 0xFFFF_FFFF

Attack = Callable[[str, int, random.Random], Awaitable[None]]


@asynccontextmanager
async def plain(host: str, port: int) -> AsyncIterator[asyncio.StreamWriter]:
    """A TCP connection; the other side may end it at any time."""
    _, writer = await asyncio.open_connection(host, port)
    try:
        yield writer
        await writer.drain()
    finally:
        writer.transport.abort()


async def noise(host: str, port: int, choice: random.Random) -> None:
    async with plain(host, port) as writer:
        writer.write(choice.randbytes(choice.choice((1, 5, 300, 70_000))))


async def half_handshake(host: str, port: int, choice: random.Random) -> None:
    """A true ClientHello, then noise where the client's next flight should be."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting().wrap_bio(incoming, outgoing)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    async with plain(host, port) as writer:
        writer.write(outgoing.read())
        await writer.drain()
        writer.write(choice.randbytes(2_000))


async def oversized_frame(host: str, port: int, choice: random.Random) -> None:
    """A whole TLS handshake, then a frame that announces four gigabytes, or noise."""
    reader, writer = await asyncio.open_connection(host, port, ssl=trusting())
    try:
        writer.write(FRAME_LIMIT_EXCEEDED.to_bytes(4) + choice.randbytes(choice.choice((0, 200, 20_000))))
        await writer.drain()
        async with asyncio.timeout(CALL_SECONDS):
            await reader.read()
    finally:
        writer.transport.abort()


async def bad_request(host: str, port: int, choice: random.Random) -> None:
    """HTTP that is wrong in one of several ways."""
    heads = (
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/transactions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /v1/transactions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400\r\n\r\n" + choice.randbytes(400),
        b"GET /v1/status HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /v1/names/" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PUT /v1/address-records HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
    )
    async with plain(host, port) as writer:
        writer.write(choice.choice(heads))


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def attack(places: list[tuple[str, int]], kinds: list[Attack], choice: random.Random) -> int:
    """ROUNDS of each kind on each place, several at a time; how many connections the other side cut short."""
    cut, turn = 0, asyncio.Semaphore(16)

    async def one(kind: Attack, place: tuple[str, int], seed: int) -> None:
        nonlocal cut
        async with turn:
            try:
                await kind(*place, random.Random(seed))
            except (OSError, TimeoutError):
                cut += 1

    calls = [one(kind, place, choice.getrandbits(32)) for kind in kinds for place in places for _ in range(ROUNDS)]
    await asyncio.gather(*calls)
    return cut


async def half_open(places: list[tuple[str, int]]) -> list[asyncio.StreamWriter]:
    """HALF_OPEN connections, spread over the places, that say nothing."""
    opened = await asyncio.gather(
        *(asyncio.open_connection(*places[number % len(places)]) for number in range(HALF_OPEN))
    )
    return [writer for _, writer in opened]


def place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def ports(world: World, service: ServiceWorld) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Where HTTP is spoken, and where TLS is."""
    apis = [place(validator.api.removeprefix("http://")) for validator in world.devnet.validators]
    links = [place(validator.link) for validator in world.devnet.validators]
    return apis, [*links, place(service.published["listening"])]


def memory(world: World, service: ServiceWorld) -> dict[str, int]:
    found = {f"validator {number}": world.resident_bytes(number) for number in world.processes}
    return {**found, "publish": resident_bytes(service.publish.pid)}


async def test_garbage_harms_nobody(tmp_path: Path, run_seed: int) -> None:
    choice = random.Random(run_seed)
    async with (
        devnet_world(tmp_path / "net") as world,
        service_world(world, tmp_path, large_bytes=0) as service,
        flowing(world.genesis, [(world.key("alice"), [world.url(0)]), (world.key("bob"), [world.url(3)])]) as payments,
    ):
        reader, writer = await asyncio.open_connection(*place(service.forwarded["listening"]))
        writer.write(b"GET /small.txt HTTP/1.1\r\nHost: x\r\n\r\n")  # a session that will be open all the time
        await until(lambda: payments.more(50), "the first payments")
        apis, links = ports(world, service)
        before = memory(world, service)
        links_before = [status["peers"][0]["links"] for status in await world.statuses() or []]
        silent = await half_open([*apis, *links])
        await attack(apis, [noise, half_handshake, bad_request], choice)
        await attack(links, [noise, half_handshake, oversized_frame], choice)
        count = len(payments.acknowledged)
        await until(lambda: payments.more(count + 100), "payments after the garbage")
        answer = await asyncio.wait_for(reader.readuntil(b"answers\n"), CALL_SECONDS)
        assert answer.startswith(b"HTTP/1.0 200")
        writer.close()
        assert (await service.fetch("/small.txt")) == b"the service answers\n"
        assert [status["peers"][0]["links"] for status in await world.statuses() or []] == links_before, "links broke"
        for number in world.processes:
            assert await world.metric(number, "blockcloud_links_refused_total") >= ROUNDS
        faults = (await service.status("publish"))["faults"]
        assert sum(faults.values()) >= ROUNDS, faults
        for who, resident in memory(world, service).items():
            assert resident - before[who] < GROWTH_BYTES, f"{who} grew by {(resident - before[who]) >> 20} MiB"
        for each in silent:
            each.transport.abort()
        for validator in world.devnet.validators:
            assert "Traceback" not in world.log(validator.id)
        await world.wait_equal_roots()
