"""Unmodified programs: http.server behind `publish`, urllib in a process of its own before `forward`, through moves."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import subprocess
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.forward import Forwarder
from blockcloud.service_access.listener import Listener
from blockcloud.service_access.publish import publish
from blockcloud.service_access.resolution import Resolution
from blockcloud.service_access.session import SessionParameters
from tests import slow_client
from tests.service_access.access_world import NAME, World, bounded, random_bytes, until

FILE = random_bytes(8_000_000)
DIGEST = hashlib.sha256(FILE).hexdigest()
QUICK = SessionParameters(give_up_ms=500, dead_after_ms=400, heartbeat_ms=100, linger_ms=300)
# Slow enough that the moves fall into the download.
BYTES_PER_SECOND = 20_000_000


class Quiet(http.server.SimpleHTTPRequestHandler):
    """The standard library's file server, without its log."""

    def log_message(self, format: str, *args: object) -> None:
        return


class QuietServer(http.server.ThreadingHTTPServer):
    """Does not print what went wrong with clients that left, which is what some tests do."""

    def handle_error(self, request: object, client_address: object) -> None:
        return


@pytest.fixture
async def http_port(tmp_path: Path) -> AsyncIterator[int]:
    (tmp_path / "file.bin").write_bytes(FILE)
    (tmp_path / "small.txt").write_text("small")
    server = QuietServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port
    await asyncio.to_thread(server.shutdown)
    server.server_close()
    thread.join()


async def published(world: World, port: int, parameters: SessionParameters | None = None) -> Listener:
    listener = await world.listener(parameters=parameters)
    task = asyncio.create_task(publish(listener, ("127.0.0.1", port)))

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    world.stack.push_async_callback(stop)
    return listener


async def forwarded(
    world: World, parameters: SessionParameters | None = None
) -> tuple[Forwarder, ServiceEndpoint, str]:
    endpoint = await world.endpoint(parameters=parameters)
    forwarder = Forwarder(NAME, Connector(endpoint, world.registry))
    host, port = await forwarder.start("127.0.0.1", 0)
    world.stack.push_async_callback(forwarder.close)
    return forwarder, endpoint, f"http://{host}:{port}"


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        content: bytes = answer.read()
        return content


def slow_download(url: str) -> list[str]:
    return [sys.executable, "-c", slow_client.SCRIPT, url + "/file.bin", str(BYTES_PER_SECOND)]


async def test_download_by_an_unmodified_program_through_moves_of_both(world: World, http_port: int) -> None:
    listener = await published(world, http_port)
    forwarder, endpoint, url = await forwarded(world)
    process = await asyncio.create_subprocess_exec(*slow_download(url), stdout=subprocess.PIPE)
    assert process.stdout is not None
    received, moves, last = 0, 0, ""
    while line := await bounded(process.stdout.readline()):
        last = line.decode().strip()
        if len(last) < 20:
            received = int(last)
            if received > 1_500_000 * (moves + 1):
                moves += 1
                await bounded((listener if moves % 2 else endpoint).move(f"127.0.0.{60 + moves}"))
    assert await bounded(process.wait()) == 0
    assert last == DIGEST
    assert moves == 5
    assert not forwarder.errors


async def test_many_requests_at_once_and_one_after_another(world: World, http_port: int) -> None:
    await published(world, http_port, QUICK)
    forwarder, endpoint, url = await forwarded(world, QUICK)
    bodies = await asyncio.gather(*(asyncio.to_thread(fetch, url + "/small.txt") for _ in range(12)))
    assert bodies == [b"small"] * 12
    assert hashlib.sha256(await asyncio.to_thread(fetch, url + "/file.bin")).hexdigest() == DIGEST
    assert not forwarder.errors
    await until(lambda: not forwarder._running)
    await until(lambda: not endpoint.sessions)


async def test_crash_of_the_publisher_is_an_error_for_the_program(world: World, http_port: int) -> None:
    listener = await published(world, http_port, QUICK)
    forwarder, _, url = await forwarded(world, QUICK)
    process = await asyncio.create_subprocess_exec(*slow_download(url), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    await bounded(process.stdout.readline())
    endpoint = listener.endpoint
    endpoint._closed = True  # it finds no links any more, as if its process were gone
    endpoint.stop_listening()
    for session in list(endpoint.sessions.values()):
        endpoint.sessions.clear()
        session.drop_link()
    _, errors = await bounded(process.communicate())
    assert process.returncode == 1
    assert b"ConnectionResetError" in errors
    assert forwarder.errors == {"session_lost": 1}
    assert forwarder.last_error is not None
    assert forwarder.last_error.hint


async def test_no_service_and_no_server_behind_it(world: World, http_port: int) -> None:
    forwarder, _, url = await forwarded(world)
    with pytest.raises(OSError, match=r"reset|Remote end closed|urlopen"):
        await asyncio.to_thread(fetch, url + "/small.txt")
    assert forwarder.errors == {"unknown_name": 1}
    await published(world, 1)  # nothing listens there
    with pytest.raises(OSError, match=r"reset|Remote end closed|urlopen"):
        await asyncio.to_thread(fetch, url + "/small.txt")
    assert forwarder.errors == {"unknown_name": 1, "session_reset": 1}


async def test_program_that_leaves_in_mid_download_ends_the_session(world: World, http_port: int) -> None:
    listener = await published(world, http_port, QUICK)
    _, endpoint, url = await forwarded(world)
    port = int(url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /file.bin HTTP/1.0\r\n\r\n")
    await bounded(reader.readexactly(100_000))
    writer.transport.abort()
    await until(lambda: not endpoint.sessions and not listener.endpoint.sessions)
    assert await asyncio.to_thread(fetch, url + "/small.txt") == b"small"


async def test_program_that_leaves_before_there_is_a_session(world: World, http_port: int) -> None:
    await published(world, http_port, QUICK)
    forwarder, endpoint, url = await forwarded(world, QUICK)
    gate = asyncio.Event()
    resolve = world.registry.resolve

    async def slowly(name: str, *, max_age_s: int = 60) -> Resolution:
        await gate.wait()
        return await resolve(name, max_age_s=max_age_s)

    world.registry.resolve = slowly  # type: ignore[method-assign]
    _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(b"GET /file.bin HTTP/1.0\r\n\r\n")
    await until(lambda: forwarder._running)
    writer.transport.abort()
    gate.set()
    await until(lambda: not forwarder._running and not endpoint.sessions)
