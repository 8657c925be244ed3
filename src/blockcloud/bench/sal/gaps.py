"""The gap of a move: while 16 KiB come every 2 ms, the longest pause between two arrivals around it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from blockcloud.bench.sal.plain import PACED, REQUEST_BYTES
from blockcloud.bench.sal.servers import NAME, Server, server
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.stream import Session


async def _gaps(session: Session, moves: int, move: Callable[[int], Any]) -> list[float]:
    """For each of `moves` moves the longest pause between arrivals around it, in ms."""
    arrivals: list[float] = []

    async def receive() -> None:
        while await session.read_pieces():
            arrivals.append(time.perf_counter())

    receiving = asyncio.create_task(receive())
    gaps: list[float] = []
    for number in range(moves):
        await asyncio.sleep(0.1)
        first, link = len(arrivals), session.core.link
        await move(number)
        await session.attached_beyond(link)
        await asyncio.sleep(0.1)
        around = arrivals[max(0, first - 1) :]
        gaps.append(1_000 * max(after - before for before, after in pairwise(around)))
    session.abort("closed", "measured")
    await asyncio.gather(receiving, return_exceptions=True)
    return gaps


async def measure_gaps(moves: int) -> dict[str, Any]:
    """Median and worst pause around a move, in ms, of the provider, of one that dials, and of the consumer."""
    async with server("provide") as provider:
        return {"figures": await _figures(provider, moves), "peer": {}, "ratio": {}}


async def _figures(provider: Server, moves: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    for who, listens in (("provider", False), ("provider_dials", True), ("consumer", False)):
        async with ServiceEndpoint(SigningKey.generate()) as endpoint:
            if listens:
                await endpoint.start("127.0.0.1", 0)
            await provider.move("127.0.0.1")
            session = await Connector(endpoint, provider.resolver()).connect(NAME)
            await session.write(PACED.to_bytes(REQUEST_BYTES))

            async def move(number: int, endpoint: ServiceEndpoint = endpoint, who: str = who) -> None:
                if who == "consumer":
                    await endpoint.move(f"127.0.0.{2 + number % 200}")
                else:
                    await provider.move(f"127.0.0.{2 + number % 200}")

            gaps = await _gaps(session, moves, move)
            figures[f"gap_{who}_moves_ms"] = round(statistics.median(gaps), 2)
            figures[f"gap_{who}_moves_worst_ms"] = round(max(gaps), 2)
    return figures
