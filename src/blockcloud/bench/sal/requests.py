"""Requests a second: 100 bytes there and back, one after the other on each stream; one stream, and 32 at once.

Sessions and plain TLS have the same number of connections. Like is set beside like: sessions whose programs are called
with what arrives (`set_receiver`, as `forward` and `publish` do) beside a pair of asyncio protocols, and sessions whose
programs await `write` and `read` beside a client of asyncio streams, whose server is still a protocol.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from blockcloud.bench.sal.plain import AWAITED_ECHO, ECHO, MESSAGE, REQUEST_BYTES, EchoClient, verifying_context
from blockcloud.bench.sal.servers import NAME, server
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.stream import Session

MANY: Final = 32
Asker = Callable[[int], Awaitable[None]]


class _EchoSession:
    """As `EchoClient`, over a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._requests = self._missing = 0
        self._done: asyncio.Future[None] | None = None

    async def ask(self, requests: int) -> None:
        """So many requests, one after the other."""
        self._requests = requests
        self._done = asyncio.get_running_loop().create_future()
        self._send()
        await self._done

    def receive(self, piece: bytes | memoryview) -> None:
        self._missing -= len(piece)
        if self._missing == 0:
            self._requests -= 1
            if self._requests:
                self._send()
            elif self._done is not None:
                self._done.set_result(None)

    def _send(self) -> None:
        self._missing = len(MESSAGE)
        self._session.write_now(MESSAGE)


async def _session_asker(connector: Connector) -> Asker:
    session = await connector.connect(NAME)
    await session.write(ECHO.to_bytes(REQUEST_BYTES))
    client = _EchoSession(session)
    session.set_receiver(client.receive)
    return client.ask


async def _awaiting_asker(connector: Connector) -> Asker:
    session = await connector.connect(NAME)
    await session.write(AWAITED_ECHO.to_bytes(REQUEST_BYTES))

    async def ask(requests: int) -> None:
        for _ in range(requests):
            await session.write(MESSAGE)
            await session.read_exactly(len(MESSAGE))

    return ask


async def _rate(askers: Sequence[Asker], requests: int) -> float:
    """Requests a second, `requests` of them shared among the streams."""
    each = max(1, requests // len(askers))
    started = time.perf_counter()
    await asyncio.gather(*(ask(each) for ask in askers))
    return each * len(askers) / (time.perf_counter() - started)


async def measure_requests(rounds: int, requests: int) -> dict[str, Any]:
    """Medians of `rounds` rounds of `requests` requests each."""
    loop = asyncio.get_running_loop()
    report: dict[str, dict[str, Any]] = {"figures": {}, "peer": {}, "ratio": {}}
    async with AsyncExitStack() as stack:
        start = stack.enter_async_context
        plain, provider = await start(server("tls")), await start(server("provide"))
        context = verifying_context(plain.port)
        endpoint = await start(ServiceEndpoint(SigningKey.generate()))
        connector = Connector(endpoint, provider.resolver())

        async def plain_asker() -> Asker:
            transport, client = await loop.create_connection(EchoClient, "127.0.0.1", plain.port, ssl=context)
            stack.callback(transport.close)
            return client.ask

        async def stream_asker() -> Asker:
            reader, writer = await asyncio.open_connection("127.0.0.1", plain.port, ssl=context)
            stack.callback(writer.close)
            writer.write(ECHO.to_bytes(REQUEST_BYTES))

            async def ask(requests: int) -> None:
                for _ in range(requests):
                    writer.write(MESSAGE)
                    await reader.readexactly(len(MESSAGE))

            return ask

        for streams in (1, MANY):
            askers = {
                "plain": [await plain_asker() for _ in range(streams)],
                "session": [await _session_asker(connector) for _ in range(streams)],
                "plain_awaiting": [await stream_asker() for _ in range(streams)],
                "session_awaiting": [await _awaiting_asker(connector) for _ in range(streams)],
            }
            rates: dict[str, list[float]] = {who: [] for who in askers}
            for number in range(rounds + 1):  # the first warms up
                for who, those in askers.items():
                    rate = await _rate(those, requests)
                    if number:
                        rates[who].append(rate)
            for form in ("", "_awaiting"):
                plain_rate, session_rate = (round(statistics.median(rates[who + form])) for who in ("plain", "session"))
                report["figures"][f"requests_{streams}{form}_per_s"] = session_rate
                report["peer"][f"requests_{streams}{form}_per_s"] = plain_rate
                report["ratio"][f"requests_{streams}{form}"] = round(session_rate / plain_rate, 2)
    return report
