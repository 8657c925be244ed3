"""A feed on loopback, readers of it, and a real Mosquitto."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from blockcloud.node.devnet import free_port
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.edge.feed.core import Settings
from blockcloud.service_access.edge.feed.following import Connect
from blockcloud.service_access.edge.feed.node import READER_PARAMETERS, Feed, open_feed
from blockcloud.service_access.listener import Listener
from blockcloud.service_access.stream import Session
from tests.service_access.access_world import World, bounded

FEED = "porch.home"
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
COAP_CLIENT = shutil.which("coap-client") or shutil.which("coap-client-notls")
SETTINGS = Settings(window_seconds=10)

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="needs Debian's mosquitto")
needs_mosquitto_pub = pytest.mark.skipif(
    MOSQUITTO is None or shutil.which("mosquitto_pub") is None, reason="needs Debian's mosquitto and mosquitto-clients"
)
needs_coap_client = pytest.mark.skipif(COAP_CLIENT is None, reason="needs Debian's libcoap3-bin")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


@dataclass
class Broker:
    """A Mosquitto with a folder of its own; it keeps its sessions on disk when it is stopped."""

    folder: Path
    port: int
    passwords: Path | None = None  # of the users that it lets in; None: everybody
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        assert MOSQUITTO is not None
        self.folder.mkdir(exist_ok=True)
        settings = self.folder / "mosquitto.conf"
        who = "allow_anonymous true" if self.passwords is None else f"password_file {self.passwords}"
        settings.write_text(
            f"listener {self.port} 127.0.0.1\n{who}\npersistence true\n"
            f"persistence_location {self.folder}/\nmax_inflight_messages 1000\nuser root\n"
        )
        self.process = await asyncio.create_subprocess_exec(
            MOSQUITTO, "-c", str(settings), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    assert self.process.returncode is None, "mosquitto has ended"
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await bounded(self.process.wait())


@asynccontextmanager
async def mosquitto(folder: Path, passwords: Path | None = None) -> AsyncIterator[Broker]:
    """A running broker."""
    broker = Broker(folder / "broker", free_port(), passwords)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


async def run(*command: str) -> tuple[int, str]:
    """A program to its end: exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await bounded(process.communicate())
    return process.returncode or 0, output.decode()


@asynccontextmanager
async def serving(feed: Feed, listener: Listener) -> AsyncIterator[None]:
    """Serve the readers of `feed`."""
    task = asyncio.create_task(feed.serve(listener))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def feed_at(world: World, path: Path, name: str = FEED) -> AsyncIterator[Feed]:
    """A feed that is served under `name`."""
    listener = await world.listener(name=name, parameters=READER_PARAMETERS)
    async with open_feed(name, path, SETTINGS) as feed, serving(feed, listener):
        yield feed


async def connecting(world: World, name: str = FEED) -> Connect:
    """What makes sessions with a feed, over one endpoint."""
    endpoint = await world.endpoint(parameters=READER_PARAMETERS)
    connector = Connector(endpoint, world.registry)

    async def connect() -> Session:
        return await connector.connect(name)

    return connect


async def until_true(condition: Callable[[], object]) -> None:
    """Wait for `condition` within a time that only a hang exceeds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)
