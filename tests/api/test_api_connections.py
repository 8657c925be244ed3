"""The API's port: limits on connections, and garbage."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from blockcloud.api.connections import LimitedConnection
from blockcloud.api.server import ApiServer
from blockcloud.primitives.errors import Unreachable
from tests.api.api_world import Api, running_api

pytestmark = pytest.mark.asyncio(loop_scope="session")

GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
SECONDS = 20


class Strict(LimitedConnection):
    """The limits so low that a test meets them."""

    connections_max = 3
    request_seconds = 0.2
    stalled_seconds = 0.2


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the node closes the connection."""
    async with asyncio.timeout(SECONDS):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def answers(api: Api) -> bool:
    """Whether a new connection gets an answer."""
    reader, writer = await asyncio.open_connection(api.host, api.port)
    try:
        writer.write(GET)
        async with asyncio.timeout(SECONDS):
            return b"200 OK" in await reader.readline()
    except ConnectionError:
        return False
    finally:
        writer.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # a TLS client
        b"\x00" * 5_000,
        b"GET " + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/transactions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_garbage_harms_nobody_else(api: Api, garbage: bytes) -> None:
    reader, writer = await asyncio.open_connection(api.host, api.port)
    writer.write(garbage)
    writer.write_eof()
    answer = await ended(reader)
    writer.close()
    assert not answer or answer.startswith(b"HTTP/1.1 4")
    assert await answers(api)


async def test_a_port_in_use_is_said(api: Api) -> None:
    with pytest.raises(Unreachable, match="in use"):
        await ApiServer(lambda *_: None, api.host, api.port).start()  # type: ignore[arg-type, return-value]


async def test_limits_of_connections(tmp_path: Path) -> None:
    async with running_api(tmp_path, connection=Strict) as api:
        # A request that does not come, or comes too slowly, ends the connection.
        silent_reader, silent = await asyncio.open_connection(api.host, api.port)
        slow_reader, slow = await asyncio.open_connection(api.host, api.port)
        slow.write(GET[:30])
        assert await ended(silent_reader) == b""
        assert await ended(slow_reader) == b""
        silent.close()
        slow.close()
        # One whose request came stays, and may ask again.
        reader, writer = await asyncio.open_connection(api.host, api.port)
        for _ in range(2):
            writer.write(GET)
            async with asyncio.timeout(SECONDS):
                assert b"200 OK" in await reader.readline()
                await reader.readuntil(b"ok\n")
        writer.close()
        # So many at once and no more; places come back.
        held = [await asyncio.open_connection(api.host, api.port) for _ in range(Strict.connections_max)]
        assert not await answers(api)
        for _, each in held:
            each.close()
        async with asyncio.timeout(SECONDS):
            while not await answers(api):
                await asyncio.sleep(0.02)


async def test_an_answer_that_nobody_reads_ends_the_connection(tmp_path: Path) -> None:
    async with running_api(tmp_path, connection=Strict) as api:
        reader, writer = await asyncio.open_connection(api.host, api.port, limit=1)
        # Answers fill the socket's buffers; the client reads none of them.
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        async with asyncio.timeout(20):
            while not reader.at_eof() and reader.exception() is None and not writer.transport.is_closing():
                writer.write(request * 20)
                await asyncio.sleep(0.02)
        writer.close()
        assert (await api.http.get("/livez")).status_code == 200
