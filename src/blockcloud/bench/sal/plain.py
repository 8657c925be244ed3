"""The yardstick of the sessions: plain TLS 1.3 (or TCP) between two asyncio protocols on uvloop.

Protocols, not streams: nothing in Python gets less between a program and the wire.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Final, cast

REQUEST_BYTES: Final = 8
MESSAGE: Final = bytes(100)
PIECE: Final = bytes(64 * 1024)
# Requests, as numbers. Anything below asks for as many bytes.
PACED: Final = 2**63  # 16 KiB every 2 ms until the client leaves (sessions only)
ECHO: Final = 2**62  # from now on, everything comes back
AWAITED_ECHO: Final = 2**61  # the same, by a program that awaits `read` and `write` (sessions only)


class PlainServer(asyncio.Protocol):
    """Answers a request of 8 bytes, a number, with as many bytes; after ECHO with what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._left = 0
        self._paused = False
        self._echoes = False

    def data_received(self, data: bytes) -> None:
        if self._echoes:
            self._transport.write(data)
            return
        request = int.from_bytes(data[:REQUEST_BYTES])
        if request == ECHO:
            self._echoes = True
            return
        self._left += request
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


class EchoClient(asyncio.Protocol):
    """Sends a message of 100 bytes, waits until it is back, sends the next."""

    def __init__(self) -> None:
        self._requests = self._missing = 0
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(ECHO.to_bytes(REQUEST_BYTES))

    async def ask(self, requests: int) -> None:
        """So many requests, one after the other."""
        self._requests = requests
        self._done = asyncio.get_running_loop().create_future()
        self._send()
        await self._done

    def data_received(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing == 0:
            self._requests -= 1
            if self._requests:
                self._send()
            elif self._done is not None:
                self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the server has closed the connection"))

    def _send(self) -> None:
        self._missing = len(MESSAGE)
        self.transport.write(MESSAGE)


async def plain_seconds(port: int, count: int, context: ssl.SSLContext | None) -> float:
    """Seconds to connect and receive `count` bytes."""
    started = time.perf_counter()
    transport, client = await asyncio.get_running_loop().create_connection(
        lambda: PlainClient(count), "127.0.0.1", port, ssl=context
    )
    await client.done
    took = time.perf_counter() - started
    transport.close()
    return took


def verifying_context(port: int) -> ssl.SSLContext:
    """A client context that trusts the certificate of the plain server, and nothing else."""
    certificate = ssl.get_server_certificate(("127.0.0.1", port))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    return context
