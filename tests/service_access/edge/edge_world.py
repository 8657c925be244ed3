"""An HTTP server, its provider that signs, an edge node before it, and a plain HTTP client: all on loopback."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.edge.cache import Cache
from blockcloud.service_access.edge.caching_node import AccessGate, CachingNode, Service
from blockcloud.service_access.edge.exchange import ClientSide
from blockcloud.service_access.edge.http_message import Request, Response, combined
from blockcloud.service_access.edge.http_signature import Verified, verify
from blockcloud.service_access.edge.signing_proxy import Signer, SigningProxy
from blockcloud.service_access.edge.streams import ByteStream, SessionStream, TcpStream
from blockcloud.service_access.edge.trust import Trust
from tests.service_access.access_world import NAME, World

WAIT_SECONDS = 20.0
NOW = 1_800_000_000


@dataclass
class Clock:
    """Everybody's time of day."""

    now_s: float = NOW


@dataclass
class Origin:
    """A real HTTP server of the standard library. `answers` by path; `asked` counts requests; `gate` holds answers back
    until it is set."""

    answers: dict[str, Response] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    heads: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def answer(self, method: str, target: str, fields: dict[str, str], body: bytes) -> Response:
        self.asked[target] += 1
        self.heads.append((method, target, fields, body))
        assert self.gate.wait(WAIT_SECONDS)
        found = self.answers.get(target.partition("?")[0], Response(404, (("content-type", "text/plain"),), b"no\n"))
        etag = combined(found.fields, "etag")
        if etag is not None and fields.get("if-none-match") == etag:
            return Response(304, tuple(each for each in found.fields if each[0] in ("etag", "cache-control")))
        return found

    def set(self, path: str, body: bytes, *fields: tuple[str, str], status: int = 200) -> None:
        """What a path answers from now on."""
        self.answers[path] = Response(status, (("content-type", "text/plain"), *fields), body)


def _handler(origin: Origin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("transfer-encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size + 2)[:-2]
                self.rfile.readline()
            fields = {name.lower(): value for name, value in self.headers.items()}
            found = origin.answer(self.command, self.path, fields, body)
            self.send_response(found.status)
            for name, value in found.fields:
                self.send_header(name, value)
            chunked = combined(found.fields, "transfer-encoding") == "chunked"
            if found.status != 304 and not chunked:
                self.send_header("content-length", str(len(found.body)))
            self.end_headers()
            if self.command == "HEAD" or found.status == 304:
                return
            if chunked:
                for start in range(0, len(found.body), 1_000):
                    piece = found.body[start : start + 1_000]
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")
            else:
                self.wfile.write(found.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler


@asynccontextmanager
async def origin_server() -> AsyncIterator[Origin]:
    origin = Origin()
    origin.gate.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(origin))
    server.daemon_threads = True
    origin.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield origin
    finally:
        origin.gate.set()
        await asyncio.to_thread(server.shutdown)
        await asyncio.to_thread(thread.join)
        server.server_close()


@dataclass
class EdgeWorld:
    """`node` serves NAME, whose provider signs with `key`; `cut` makes it unreachable."""

    world: World
    origin: Origin
    proxy: SigningProxy
    node: CachingNode
    clock: Clock
    key: SigningKey
    port: int
    trust: Trust
    cut: bool = False

    async def ask(self, target: str, *fields: tuple[str, str], method: str = "GET", host: str = NAME) -> Response:
        """What a plain HTTP client gets from the edge."""
        return await ask(self.port, Request(method, target, (("host", host), *fields)))

    def check(self, target: str, response: Response, *fields: tuple[str, str]) -> Verified:
        """As a consumer does."""
        return verify(
            Request("GET", target, fields),
            response,
            name=NAME,
            keys=self.trust.keys,
            digests=self.trust.digests,
            now_s=self.clock.now_s,
        )


async def ask(port: int, request: Request) -> Response:
    """One request over a connection of its own."""
    client = ClientSide(await TcpStream.connect(("127.0.0.1", port)))
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            head = await client.ask(request)
            return Response(head.response.status, head.response.fields, await client.whole(2**26))
    finally:
        client.abort()


def status(response: Response) -> str:
    """What the cache says that it did."""
    return (combined(response.fields, "cache-status") or "").partition("; ")[2]


@asynccontextmanager
async def edge_world(
    world: World,
    *,
    gate: Callable[[Clock], AccessGate] | None = None,
    cache: Cache | None = None,
    default_cache_control: str = "",
    signs: bool = True,
) -> AsyncIterator[EdgeWorld]:
    async with AsyncExitStack() as stack:
        clock = Clock()
        origin = await stack.enter_async_context(origin_server())
        key = world.key()
        listener = await world.listener(key=key)
        signer = Signer(
            key if signs else SigningKey.generate(),
            NAME,
            default_cache_control=default_cache_control,
            now_s=lambda: int(clock.now_s),
        )
        proxy = SigningProxy(signer, ("127.0.0.1", origin.port))
        serving = asyncio.create_task(proxy.run(listener))
        stack.push_async_callback(_ended, serving)
        connector = Connector(await world.endpoint(), world.registry)

        async def dial() -> ByteStream:
            if made.cut:
                return await TcpStream.connect(("127.0.0.1", 1))
            return SessionStream(await connector.connect(NAME))

        async def trust() -> Trust:
            return made.trust

        service = Service(NAME, dial, trust, gate(clock) if gate is not None else None)
        node = CachingNode({NAME: service}, cache or Cache(), now_s=lambda: clock.now_s)
        stack.push_async_callback(node.close)
        _, port = await node.listen("127.0.0.1", 0, key.public)
        made = EdgeWorld(world, origin, proxy, node, clock, key, port, Trust((key.public,), {}))
        yield made


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def fields_of(response: Response) -> dict[str, str]:
    return dict(response.fields)
