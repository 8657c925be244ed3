"""Requests a second: 100 bytes there and back, one after the other on each stream; one stream, and 32 at once.

Sessions and plain TLS have the same number of connections. A session's program awaits `write` and `read`; the plain
one is a pair of protocols, the cheapest that there is, with the same awaiting pair (asyncio streams) beside it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from blockcloud.bench.sal.plain import ECHO, MESSAGE, REQUEST_BYTES, EchoClient, verifying_context
from blockcloud.bench.sal.servers import NAME, server
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint

MANY: Final = 32
Asker = Callable[[int], Awaitable[None]]


async def _session_asker(connector: Connector) -> Asker:
    session = await connector.connect(NAME)
    await session.write(ECHO.to_bytes(REQUEST_BYTES))

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
                "awaiting": [await stream_asker() for _ in range(streams)],
                "session": [await _session_asker(connector) for _ in range(streams)],
            }
            rates: dict[str, list[float]] = {who: [] for who in askers}
            for number in range(rounds + 1):  # the first warms up
                for who, those in askers.items():
                    rate = await _rate(those, requests)
                    if number:
                        rates[who].append(rate)
            figure = {who: round(statistics.median(taken)) for who, taken in rates.items()}
            report["figures"][f"requests_{streams}_per_s"] = figure["session"]
            report["peer"][f"requests_{streams}_per_s"] = figure["plain"]
            report["peer"][f"requests_{streams}_awaiting_per_s"] = figure["awaiting"]
            report["ratio"][f"requests_{streams}"] = round(figure["session"] / figure["plain"], 2)
            report["ratio"][f"requests_{streams}_awaiting"] = round(figure["session"] / figure["awaiting"], 2)
    return report
