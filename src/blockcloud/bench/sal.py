"""Figures of the service access layer, beside plain TLS 1.3 on the same loop, machine and run.

Every server is a process of its own: a plain TLS server, a plain TCP server, a provider of a named service, a `publish`
before the TCP server and a `forward` to it. The client (this process) runs on uvloop, too. Measured, alternating with
the plain peer so that noise hits both alike:

- connect and first byte: by name with a cached resolution, against plain TLS with certificate verification (medians);
- bulk: bytes a second of one stream, through a session and through `forward` and `publish` (medians);
- gap: while 16 KiB come every 2 ms, the longest pause between two arrivals around a move (median and worst).
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any, Final, cast

import uvloop

from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.address_record import Endpoint
from blockcloud.service_access import tls
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.forward import Forwarder
from blockcloud.service_access.listener import Listener, listen
from blockcloud.service_access.publish import publish
from blockcloud.service_access.resolution import Instance, Resolution
from blockcloud.service_access.stream import Session

NAME: Final = "bench.acme"
REQUEST_BYTES: Final = 8
PIECE: Final = bytes(64 * 1024)
PACED: Final = 2**63  # as a request: 16 KiB every 2 ms until the client leaves
PACED_PIECE: Final = bytes(16 * 1024)
PACED_SECONDS: Final = 0.002
MEGABYTE: Final = 1_000_000


class PlainServer(asyncio.Protocol):
    """Answers a request of 8 bytes, a number, with as many bytes; the peer that the sessions are compared with."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._left = 0
        self._paused = False

    def data_received(self, data: bytes) -> None:
        self._left += int.from_bytes(data[:REQUEST_BYTES])
        self._send()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send()

    def _send(self) -> None:
        while self._left > 0 and not self._paused:
            piece = PIECE if self._left >= len(PIECE) else PIECE[: self._left]
            self._left -= len(piece)
            self._transport.write(piece)


class PlainClient(asyncio.Protocol):
    """Asks for bytes and counts them."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._request = count.to_bytes(REQUEST_BYTES)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left == 0:
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the server has closed the connection"))


class FixedResolver:
    """A cached resolution: what a consumer has after it verified a name once."""

    def __init__(self, key: bytes, address: HostPort) -> None:
        instance = Instance(key, (Endpoint("tls", *address),), 1, 2**40)
        self._answer = Resolution(NAME, bytes(32), bytes(32), (key,), (instance,), 1, 0)

    async def resolve(self, name: str, *, max_age_s: int = 60) -> Resolution:
        return self._answer


# --- servers, each in a process of its own ----------------------------------------------------------------------------


async def _serve_session(session: Session) -> None:
    request = int.from_bytes(await session.read_exactly(REQUEST_BYTES))
    if request == PACED:
        while session.error is None and not session.core.peer_ended:
            await session.write(PACED_PIECE)
            await asyncio.sleep(PACED_SECONDS)
    else:
        while request > 0:
            piece = PIECE if request >= len(PIECE) else PIECE[:request]
            await session.write(piece)
            request -= len(piece)
    await session.close()


async def _provide(listener: Listener) -> None:
    async with asyncio.TaskGroup() as group:
        async for session in listener:
            group.create_task(_serve_session(session))


async def _start(role: str, arguments: list[str], stack: AsyncExitStack) -> tuple[dict[str, Any], Listener | None]:
    """Start the server `role`; what its clients have to know."""
    loop = asyncio.get_running_loop()
    if role in ("tls", "tcp"):
        context = tls.server_context()[0] if role == "tls" else None
        server = await loop.create_server(PlainServer, "127.0.0.1", 0, ssl=context)
        return {"port": server.sockets[0].getsockname()[1]}, None
    if role == "forward":
        port, key = arguments
        endpoint = await stack.enter_async_context(ServiceEndpoint(SigningKey.generate()))
        resolver = FixedResolver(bytes.fromhex(key), ("127.0.0.1", int(port)))
        forwarder = Forwarder(NAME, Connector(endpoint, resolver))
        return {"port": (await forwarder.start("127.0.0.1", 0))[1]}, None
    own = SigningKey.generate()
    listener = await stack.enter_async_context(listen(NAME, own))
    serving = _provide(listener) if role == "provide" else publish(listener, ("127.0.0.1", int(arguments[0])))
    task = loop.create_task(serving)
    stack.callback(task.cancel)
    return {"port": listener.addresses[0].port, "key": own.public.hex()}, listener


async def _server_main(role: str, arguments: list[str]) -> None:
    """Serve until standard input ends; a line there is a host to move to."""
    async with AsyncExitStack() as stack:
        told, listener = await _start(role, arguments, stack)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        _tell(told)
        while line := await reader.readline():
            if listener is not None:
                moved = await listener.move(line.decode().strip())
                _tell({"host": moved.host, "port": moved.port})


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Server:
    """A server process as its clients see it."""

    def __init__(self, process: asyncio.subprocess.Process, told: dict[str, Any]) -> None:
        self._process = process
        self.port = int(told["port"])
        self.key = str(told.get("key", ""))

    async def move(self, host: str) -> None:
        """Move its endpoint."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(host.encode() + b"\n")
        self.port = int(json.loads(await self._process.stdout.readline())["port"])


@asynccontextmanager
async def _server(role: str, *arguments: str) -> AsyncIterator[Server]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "blockcloud.bench.sal",
        role,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Server(process, json.loads(await process.stdout.readline()))
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


# --- measuring --------------------------------------------------------------------------------------------------------


async def _plain(port: int, count: int, context: ssl.SSLContext | None) -> float:
    """Seconds to connect and receive `count` bytes."""
    started = time.perf_counter()
    transport, client = await asyncio.get_running_loop().create_connection(
        lambda: PlainClient(count), "127.0.0.1", port, ssl=context
    )
    await client.done
    took = time.perf_counter() - started
    transport.close()
    return took


async def _named(connector: Connector, count: int) -> float:
    """As `_plain`, by name."""
    started = time.perf_counter()
    session = await connector.connect(NAME)
    await session.write(count.to_bytes(REQUEST_BYTES))
    while count > 0:
        count -= sum(map(len, await session.read_pieces()))
    took = time.perf_counter() - started
    await session.close()
    return took


def _verifying_context(port: int) -> ssl.SSLContext:
    """A client context that trusts the certificate of the plain server, and nothing else."""
    certificate = ssl.get_server_certificate(("127.0.0.1", port))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    return context


async def _gaps(session: Session, moves: int, move: Callable[[int], Any]) -> list[float]:
    """For each of `moves` moves the longest pause between arrivals around it, in ms."""
    arrivals: list[float] = []

    async def receive() -> None:
        while await session.read_pieces():
            arrivals.append(time.perf_counter())

    receiving = asyncio.create_task(receive())
    gaps: list[float] = []
    for number in range(moves):
        await asyncio.sleep(0.1)
        first, link = len(arrivals), session.core.link
        await move(number)
        await session.attached_beyond(link)
        await asyncio.sleep(0.1)
        around = arrivals[max(0, first - 1) :]
        gaps.append(1_000 * max(after - before for before, after in pairwise(around)))
    session.abort("closed", "measured")
    await asyncio.gather(receiving, return_exceptions=True)
    return gaps


async def _measure_gaps(provider: Server, moves: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    for who, listens in (("provider", False), ("provider_dials", True), ("consumer", False)):
        async with ServiceEndpoint(SigningKey.generate()) as endpoint:
            if listens:
                await endpoint.start("127.0.0.1", 0)
            await provider.move("127.0.0.1")
            connector = Connector(endpoint, FixedResolver(bytes.fromhex(provider.key), ("127.0.0.1", provider.port)))
            session = await connector.connect(NAME)
            await session.write(PACED.to_bytes(REQUEST_BYTES))

            async def move(number: int, endpoint: ServiceEndpoint = endpoint, who: str = who) -> None:
                if who == "consumer":
                    await endpoint.move(f"127.0.0.{2 + number % 200}")
                else:
                    await provider.move(f"127.0.0.{2 + number % 200}")

            gaps = await _gaps(session, moves, move)
            figures[f"gap_{who}_moves_ms"] = round(statistics.median(gaps), 2)
            figures[f"gap_{who}_moves_worst_ms"] = round(max(gaps), 2)
    return figures


async def _run(connects: int, rounds: int, bulk_bytes: int, moves: int) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        start = stack.enter_async_context
        plain, tcp = await start(_server("tls")), await start(_server("tcp"))
        provider, published = await start(_server("provide")), await start(_server("publish", str(tcp.port)))
        forward = await start(_server("forward", str(published.port), published.key))
        context = await asyncio.to_thread(_verifying_context, plain.port)
        endpoint = await start(ServiceEndpoint(SigningKey.generate()))
        connector = Connector(endpoint, FixedResolver(bytes.fromhex(provider.key), ("127.0.0.1", provider.port)))
        times: dict[str, list[float]] = {"plain": [], "session": [], "forward": []}
        for _ in range(connects):
            times["plain"].append(await _plain(plain.port, 1, context))
            times["session"].append(await _named(connector, 1))
            times["forward"].append(await _plain(forward.port, 1, None))
        bulk: dict[str, list[float]] = {"plain": [], "session": [], "forward": []}
        for _ in range(rounds):
            bulk["plain"].append(await _plain(plain.port, bulk_bytes, context))
            bulk["session"].append(await _named(connector, bulk_bytes))
            bulk["forward"].append(await _plain(forward.port, bulk_bytes, None))
        gaps = await _measure_gaps(provider, moves)
    first_ms = {who: round(1_000 * statistics.median(taken), 3) for who, taken in times.items()}
    rate = {who: round(bulk_bytes / MEGABYTE / statistics.median(taken), 1) for who, taken in bulk.items()}
    return {
        "figures": {
            "connect_first_byte_ms": first_ms["session"],
            "forward_connect_first_byte_ms": first_ms["forward"],
            "bulk_session_mb_s": rate["session"],
            "bulk_forward_mb_s": rate["forward"],
            **gaps,
        },
        "peer": {
            "what": "plain TLS 1.3 on uvloop, certificate verified",
            "connect_first_byte_ms": first_ms["plain"],
            "bulk_mb_s": rate["plain"],
        },
        "ratio": {
            "connect_first_byte": round(first_ms["session"] / first_ms["plain"], 2),
            "bulk_session": round(rate["session"] / rate["plain"], 2),
            "bulk_forward": round(rate["forward"] / rate["plain"], 2),
        },
        "settings": {
            "connects": connects,
            "rounds": rounds,
            "bulk_bytes": bulk_bytes,
            "moves": moves,
            "cores": os.cpu_count(),
        },
    }


def run(
    *, connects: int = 200, rounds: int = 5, bulk_bytes: int = 256 * 1024 * 1024, moves: int = 15
) -> dict[str, Any]:
    """Measure; takes about 20 seconds with the defaults. Times in ms, rates in MB/s (1,000,000 bytes)."""
    return uvloop.run(_run(connects, rounds, bulk_bytes, moves))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        uvloop.run(_server_main(sys.argv[1], sys.argv[2:]))
    else:
        sys.stdout.write(json.dumps(run(), indent=2) + "\n")
