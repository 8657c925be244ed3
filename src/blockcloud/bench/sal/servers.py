"""The servers that the figures are measured against, each a process of its own, and the handle that clients have.

A server tells on standard output how it is reached, then obeys lines on standard input until that ends: `move HOST`
and `usage`, which answers with the memory and processor time of the process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import uvloop

from blockcloud.bench.sal.plain import AWAITED_ECHO, ECHO, PACED, PIECE, REQUEST_BYTES, PlainServer
from blockcloud.node.open_files import allow_open_files
from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.address_record import Endpoint
from blockcloud.service_access import tls
from blockcloud.service_access.addresses import QUIC, TLS, HostPort
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.errors import SessionEnded
from blockcloud.service_access.forward import Forwarder
from blockcloud.service_access.listener import Listener, listen
from blockcloud.service_access.publish import publish
from blockcloud.service_access.resolution import Instance, Resolution
from blockcloud.service_access.stream import Session

NAME: Final = "bench.acme"
PACED_PIECE: Final = bytes(16 * 1024)
PACED_SECONDS: Final = 0.002
DIALLED_AT_ONCE: Final = 32
STOP_SECONDS: Final = 10


class FixedResolver:
    """A cached resolution: what a consumer has after it verified a name once."""

    def __init__(self, key: bytes, address: HostPort, name: str = NAME, kind: str = TLS) -> None:
        instance = Instance(key, (Endpoint(kind, *address),), 1, 2**40)
        self._answer = Resolution(name, bytes(32), bytes(32), (key,), (instance,), 1, 0)

    async def resolve(self, name: str, *, max_age_s: int = 60) -> Resolution:
        return self._answer


# --- in the server's process ------------------------------------------------------------------------------------------


async def _serve_session(session: Session) -> None:
    request = int.from_bytes(await session.read_exactly(REQUEST_BYTES))
    if request == PACED:
        while session.error is None and not session.core.peer_ended:
            await session.write(PACED_PIECE)
            await asyncio.sleep(PACED_SECONDS)
    elif request == ECHO:
        session.set_receiver(session.write_now)
        await session.peer_finished()
    elif request == AWAITED_ECHO:
        while data := await session.read():
            await session.write(data)
    else:
        while request > 0:
            piece = PIECE if request >= len(PIECE) else PIECE[:request]
            await session.write(piece)
            request -= len(piece)
    await session.close()


async def _serve_until_left(session: Session) -> None:
    """A client may leave as it likes; the others are served on."""
    with suppress(SessionEnded):
        await _serve_session(session)


async def _provide(listener: Listener) -> None:
    async with asyncio.TaskGroup() as group:
        async for session in listener:
            group.create_task(_serve_until_left(session))


async def _hold(listener: Listener) -> None:
    """Accept sessions and keep them, idle."""
    held = []
    async for session in listener:
        held.append(session)


async def _dial_idle(role: str, arguments: list[str], stack: AsyncExitStack) -> None:
    """Hold so many idle connections or sessions to a server."""
    port, count = int(arguments[0]), int(arguments[1])
    limit = asyncio.Semaphore(DIALLED_AT_ONCE)
    if role == "idle-tls":
        context = tls.client_context()
        loop = asyncio.get_running_loop()

        async def dial() -> object:
            async with limit:
                return await loop.create_connection(asyncio.Protocol, "127.0.0.1", port, ssl=context)
    else:
        endpoint = await stack.enter_async_context(ServiceEndpoint(SigningKey.generate()))
        connector = Connector(endpoint, FixedResolver(bytes.fromhex(arguments[2]), ("127.0.0.1", port)))

        async def dial() -> object:
            async with limit:
                return await connector.connect(NAME)

    await asyncio.gather(*(dial() for _ in range(count)))


async def _start(role: str, arguments: list[str], stack: AsyncExitStack) -> tuple[dict[str, Any], Listener | None]:
    """Start the server `role`; what its clients have to know."""
    loop = asyncio.get_running_loop()
    if role.startswith("idle-"):
        await _dial_idle(role, arguments, stack)
        return {"port": 0}, None
    if role in ("tls", "tcp"):
        context = tls.server_context()[0] if role == "tls" else None
        server = await loop.create_server(PlainServer, "127.0.0.1", 0, ssl=context)
        return {"port": server.sockets[0].getsockname()[1]}, None
    if role == "quic":
        from blockcloud.bench.sal.quic import PlainQuicServer

        return {"port": await PlainQuicServer().start()}, None
    if role == "forward":
        port, key = arguments
        endpoint = await stack.enter_async_context(ServiceEndpoint(SigningKey.generate()))
        resolver = FixedResolver(bytes.fromhex(key), ("127.0.0.1", int(port)))
        forwarder = Forwarder(NAME, Connector(endpoint, resolver))
        return {"port": (await forwarder.start("127.0.0.1", 0))[1]}, None
    own = SigningKey.generate()
    listener = await stack.enter_async_context(listen(NAME, own))
    if role == "publish":
        serving = publish(listener, ("127.0.0.1", int(arguments[0])))
    else:
        serving = _hold(listener) if role == "hold" else _provide(listener)
    task = loop.create_task(serving)
    stack.callback(task.cancel)
    if role == "provide-quic":
        await listener.endpoint.move("127.0.0.1", kind=QUIC)
    return {"port": listener.addresses[0].port, "key": own.public.hex()}, listener


def _usage() -> dict[str, float]:
    """Resident bytes of this process, after the garbage is gone, and its processor seconds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {"resident_bytes": pages * os.sysconf("SC_PAGESIZE"), "cpu_s": time.process_time()}


async def _serve(role: str, arguments: list[str]) -> None:
    allow_open_files()
    async with AsyncExitStack() as stack:
        told, listener = await _start(role, arguments, stack)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        _tell(told)
        while line := await reader.readline():
            match line.decode().split():
                case ["usage"]:
                    _tell(_usage())
                case ["move", host] if listener is not None:
                    _tell({"port": (await listener.move(host)).port})


def serve(role: str, arguments: list[str]) -> None:
    """Serve until standard input ends."""
    uvloop.run(_serve(role, arguments))


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


# --- in the client's process ------------------------------------------------------------------------------------------


class Server:
    """A server process as its clients see it."""

    def __init__(self, process: asyncio.subprocess.Process, told: dict[str, Any]) -> None:
        self._process = process
        self.port = int(told["port"])
        self.key = str(told.get("key", ""))

    def resolver(self, kind: str = TLS) -> FixedResolver:
        """Answers with the place of this server."""
        return FixedResolver(bytes.fromhex(self.key), ("127.0.0.1", self.port), kind=kind)

    async def move(self, host: str) -> None:
        """Move its endpoint."""
        self.port = int((await self._ask(f"move {host}"))["port"])

    async def usage(self) -> dict[str, float]:
        """`resident_bytes` and `cpu_s` of the process."""
        return await self._ask("usage")

    async def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer


@asynccontextmanager
async def server(role: str, *arguments: str) -> AsyncIterator[Server]:
    """A server process of that role, until the block is left."""
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
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
