"""Proxies in front of the world on loopback, and programs made of a few lines to talk to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.front import Front
from blockcloud.service_access.listener import Listener
from blockcloud.service_access.proxy.http_proxy import HttpProxy
from blockcloud.service_access.proxy.names import ServiceNames
from blockcloud.service_access.proxy.socks_proxy import SocksProxy
from blockcloud.service_access.publish import publish
from blockcloud.service_access.session import SessionParameters
from tests.service_access.access_world import NAME, World, bounded

QUICK = SessionParameters(give_up_ms=500, dead_after_ms=400, heartbeat_ms=100, linger_ms=300)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Program:
    """A program's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await bounded(self.writer.drain())

    async def hear(self, count: int) -> bytes:
        return await bounded(self.reader.readexactly(count))

    async def hear_line(self) -> bytes:
        return await bounded(self.reader.readline())

    async def hear_all(self) -> bytes:
        """Until the other side closes; what a reset leaves of it is not heard."""
        return await bounded(self.reader.read())


async def program(world: World, place: HostPort) -> Program:
    """A new connection to `place`, closed at the end of the test."""
    reader, writer = await asyncio.open_connection(*place)
    world.stack.callback(writer.close)
    return Program(reader, writer)


async def tcp_server(world: World, handler: Handler) -> int:
    """A TCP server, closed at the end of the test; its port."""
    running: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
            running.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)

    async def stop() -> None:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    world.stack.push_async_callback(stop)
    return int(server.sockets[0].getsockname()[1])


async def published(world: World, port: int, name: str = NAME) -> Listener:
    """The TCP server at `port` as a service."""
    listener = await world.listener(name=name, parameters=QUICK)
    task = asyncio.create_task(publish(listener, ("127.0.0.1", port)))

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    world.stack.push_async_callback(stop)
    return listener


async def connector(world: World) -> Connector:
    return Connector(await world.endpoint(parameters=QUICK), world.registry)


async def started(world: World, front: Front) -> HostPort:
    world.stack.push_async_callback(front.close)
    return await front.start("127.0.0.1", 0)


async def socks_proxy(
    world: World, *, suffixes: tuple[str, ...] = (), token: bytes = b""
) -> tuple[SocksProxy, HostPort]:
    proxy = SocksProxy(await connector(world), ServiceNames(suffixes), token=token)
    return proxy, await started(world, proxy)


async def http_proxy(world: World, *, suffixes: tuple[str, ...] = (), token: bytes = b"") -> tuple[HttpProxy, HostPort]:
    proxy = HttpProxy(await connector(world), ServiceNames(suffixes), token=token)
    return proxy, await started(world, proxy)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says everything back."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
