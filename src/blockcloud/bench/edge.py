"""Figures of the edge cache: what a verified hit takes, and requests a second beside the way without an edge.

Every server is a process of its own on uvloop: an HTTP server that thinks for 10 ms about each answer (uvicorn), the
provider that signs what it says (`publish --http`), a `forward` to it, and an edge node before it, which decides by a
policy of one rule. The client, this process, is on uvloop, too. Measured:

- a hit: request to the edge over one connection, the answer parsed, signature and digest verified (median), by plain
  HTTP and in a session; the signature check alone, in the same process, beside it;
- requests a second: 32 clients with a connection each, by turns through the `forward` and through the edge (medians of
  the rounds); the client does the same for both, and verifies nothing, as an unmodified program does not.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, cast

import httptools
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request as ServerRequest
from starlette.responses import Response as ServerResponse
from starlette.routing import Route

from blockcloud.bench.sal.servers import FixedResolver
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.admission import AccessRequest
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.edge.cache import Cache
from blockcloud.service_access.edge.caching_node import CachingNode, Service
from blockcloud.service_access.edge.exchange import ClientSide
from blockcloud.service_access.edge.http_message import Request, Response
from blockcloud.service_access.edge.http_signature import verify
from blockcloud.service_access.edge.signing_proxy import Signer, SigningProxy
from blockcloud.service_access.edge.streams import ByteStream, SessionStream, TcpStream
from blockcloud.service_access.edge.trust import Trust
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.forward import Forwarder
from blockcloud.service_access.listener import listen
from blockcloud.service_access.policy import CompiledRules, Decision, offline_rules

NAME: Final = "bench.acme"
EDGE_NAME: Final = "edge.acme"
THINK_SECONDS: Final = 0.010
BODY: Final = bytes(1_000)
MAX_AGE: Final = 3_600
CLIENTS: Final = 32
PATHS: Final = 16
ROUND_SECONDS_MAX: Final = 120.0
HIT_TARGET_MS: Final = 1.0
RATE_TARGET: Final = 2.0
ROLE: Final = "staff.acme"
POLICY: Final = f'@id("staff") permit(principal in Role::"{ROLE}", action == Action::"connect", resource);'


# --- servers, each in a process of its own ----------------------------------------------------------------------------


async def _think(_: ServerRequest) -> ServerResponse:
    await asyncio.sleep(THINK_SECONDS)
    headers = {"cache-control": f"max-age={MAX_AGE}"}
    return ServerResponse(BODY, media_type="application/octet-stream", headers=headers)


class _RuleGate:
    """The rules of a name as a provider's gate holds them, without a ledger that could change them."""

    active = True

    def __init__(self, member: bytes) -> None:
        self._rules = CompiledRules(offline_rules(NAME, POLICY, {ROLE: (member,)}))

    def decide(self, request: AccessRequest) -> Decision:
        return self._rules.decide(request, int(time.time()))

    def admit(self, request: AccessRequest) -> None:
        assert self.decide(request).allowed, "the benchmark's clients are permitted"


async def _origin(stack: AsyncExitStack) -> dict[str, Any]:
    app = Starlette(routes=[Route("/{path:path}", _think)])
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", http="httptools", lifespan="off"))
    stack.push_async_callback(_ended, asyncio.get_running_loop().create_task(server.serve(sockets=[listener])))
    listener.listen()
    return {"port": listener.getsockname()[1]}


async def _provider(stack: AsyncExitStack, origin: HostPort) -> dict[str, Any]:
    key = SigningKey.generate()
    listener = await stack.enter_async_context(listen(NAME, key))
    proxy = SigningProxy(Signer(key, NAME), origin)
    stack.push_async_callback(_ended, asyncio.get_running_loop().create_task(proxy.run(listener)))
    return {"port": listener.addresses[0].port, "key": key.public.hex()}


async def _forward(stack: AsyncExitStack, provider: HostPort, key: bytes) -> dict[str, Any]:
    endpoint = await stack.enter_async_context(ServiceEndpoint(SigningKey.generate()))
    forwarder = Forwarder(NAME, Connector(endpoint, FixedResolver(key, provider)))
    stack.push_async_callback(forwarder.close)
    return {"port": (await forwarder.start("127.0.0.1", 0))[1]}


async def _edge(stack: AsyncExitStack, provider: HostPort, key: bytes) -> dict[str, Any]:
    own = SigningKey.generate()
    endpoint = await stack.enter_async_context(ServiceEndpoint(own))
    connector = Connector(endpoint, FixedResolver(key, provider))

    async def dial() -> ByteStream:
        return SessionStream(await connector.connect(NAME))

    async def trust() -> Trust:
        return Trust((key,), {})

    node = CachingNode({NAME: Service(NAME, dial, trust, _RuleGate(own.public))}, Cache())
    stack.push_async_callback(node.close)
    _, port = await node.listen("127.0.0.1", 0, own.public, (ROLE, b""))
    listener = await stack.enter_async_context(listen(EDGE_NAME, own))

    async def accept() -> None:
        async for session in listener:
            node.accept(session, AccessRequest("", own.public, "127.0.0.1", ROLE))

    stack.push_async_callback(_ended, asyncio.get_running_loop().create_task(accept()))
    return {"port": port, "key": own.public.hex(), "sessions": listener.addresses[0].port}


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _server_main(role: str, arguments: list[str]) -> None:
    """Serve until standard input ends."""
    async with AsyncExitStack() as stack:
        if role == "origin":
            told = await _origin(stack)
        elif role == "provider":
            told = await _provider(stack, ("127.0.0.1", int(arguments[0])))
        else:
            start = _forward if role == "forward" else _edge
            told = await start(stack, ("127.0.0.1", int(arguments[0])), bytes.fromhex(arguments[1]))
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await reader.read()


@asynccontextmanager
async def _server(role: str, *arguments: str) -> AsyncIterator[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "blockcloud.bench.edge", role, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


# --- measuring --------------------------------------------------------------------------------------------------------


class _Client(asyncio.Protocol):
    """Sends one request after the other over one connection, as a plain program does, until `left` are answered."""

    def __init__(self, left: int, target: str) -> None:
        self._left = left
        self._request = f"GET {target} HTTP/1.1\r\nhost: {NAME}\r\n\r\n".encode()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            self.done.set_exception(RuntimeError(f"status {self._parser.get_status_code()}"))
            self._transport.abort()
            return
        self._left -= 1
        if self._left:
            self._transport.write(self._request)
        elif not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the server has closed the connection"))


def _itself(client: _Client) -> _Client:
    return client


async def _rate(port: int, each: int) -> float:
    """Requests a second of CLIENTS clients that make `each`."""
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    clients = [_Client(each, f"/{number % PATHS}") for number in range(CLIENTS)]
    for client in clients:
        await loop.create_connection(functools.partial(_itself, client), "127.0.0.1", port)
    async with asyncio.timeout(ROUND_SECONDS_MAX):
        await asyncio.gather(*(client.done for client in clients))
    return CLIENTS * each / (time.perf_counter() - started)


async def _hits(stream: ByteStream, key: bytes, count: int) -> list[float]:
    """Milliseconds of verified hits over one connection."""
    client = ClientSide(stream)
    request = Request("GET", "/0", (("host", NAME), ("accept-encoding", "identity")))
    times = []
    for _ in range(count):
        started = time.perf_counter()
        head = await client.ask(request)
        response = Response(head.response.status, head.response.fields, await client.whole(1_000_000))
        verify(request, response, name=NAME, keys=(key,), digests={}, now_s=time.time())
        times.append(1_000 * (time.perf_counter() - started))
        assert any("; hit" in value for field, value in response.fields if field == "cache-status") or not times[1:]
    client.abort()
    return times


async def _verification(port: int, key: bytes, count: int) -> float:
    """Milliseconds of one verification alone."""
    client = ClientSide(await TcpStream.connect(("127.0.0.1", port)))
    request = Request("GET", "/0", (("host", NAME), ("accept-encoding", "identity")))
    head = await client.ask(request)
    response = Response(head.response.status, head.response.fields, await client.whole(1_000_000))
    client.abort()
    started = time.perf_counter()
    for _ in range(count):
        verify(request, response, name=NAME, keys=(key,), digests={}, now_s=time.time())
    return 1_000 * (time.perf_counter() - started) / count


async def _run(hits: int, rounds: int, each: int) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        start = stack.enter_async_context
        origin = await start(_server("origin"))
        provider = await start(_server("provider", str(origin["port"])))
        behind = str(provider["port"]), provider["key"]
        forward, edge = await start(_server("forward", *behind)), await start(_server("edge", *behind))
        key = bytes.fromhex(provider["key"])
        endpoint = await start(ServiceEndpoint(SigningKey.generate()))
        resolver = FixedResolver(bytes.fromhex(edge["key"]), ("127.0.0.1", edge["sessions"]), EDGE_NAME)
        await _rate(edge["port"], 2)  # fills the cache
        plain = await _hits(await TcpStream.connect(("127.0.0.1", edge["port"])), key, hits)
        session = await Connector(endpoint, resolver).connect(EDGE_NAME)
        by_session = await _hits(SessionStream(session), key, hits)
        verification_ms = await _verification(edge["port"], key, hits)
        direct, cached = [], []
        for _ in range(rounds):
            direct.append(await _rate(forward["port"], each))
            cached.append(await _rate(edge["port"], 4 * each))
    ratio = statistics.median(cached) / statistics.median(direct)
    p50 = statistics.median(plain)
    return {
        "figures": {
            "hit_verified_p50_ms": round(p50, 3),
            "hit_verified_p99_ms": round(statistics.quantiles(plain, n=100)[98], 3),
            "hit_verified_in_session_p50_ms": round(statistics.median(by_session), 3),
            "requests_per_s": round(statistics.median(cached)),
        },
        "peer": {
            "verification_alone_ms": round(verification_ms, 3),
            "requests_per_s_without_edge": round(statistics.median(direct)),
        },
        "ratio": round(ratio, 2),
        "target": {
            "hit_verified_p50_ms": HIT_TARGET_MS,
            "ratio": RATE_TARGET,
            "met": p50 <= HIT_TARGET_MS and ratio >= RATE_TARGET,
        },
        "parameters": {
            "clients": CLIENTS,
            "think_time_ms": 1_000 * THINK_SECONDS,
            "body_bytes": len(BODY),
            "hits": hits,
            "rounds": rounds,
            "requests_each": each,
            "cores": os.cpu_count(),
        },
    }


def run(*, hits: int = 2_000, rounds: int = 5, each: int = 100) -> dict[str, Any]:
    """Measure; takes about 40 seconds with the defaults. Times in ms."""
    return uvloop.run(_run(hits, rounds, each))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        uvloop.run(_server_main(sys.argv[1], sys.argv[2:]))
    else:
        sys.stdout.write(json.dumps(run(), indent=2) + "\n")
