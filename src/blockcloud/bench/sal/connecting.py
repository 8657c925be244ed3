"""Connect and first byte, and bulk: by name with a cached resolution, through `forward`, and over plain TLS.

One after the other in each round, so that noise hits all alike; medians.
"""

from __future__ import annotations

import statistics
import time
from contextlib import AsyncExitStack
from typing import Any, Final

from blockcloud.bench.sal.plain import REQUEST_BYTES, plain_seconds, verifying_context
from blockcloud.bench.sal.servers import NAME, server
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint

MEGABYTE: Final = 1_000_000
WARM_UP: Final = 5


async def named_seconds(connector: Connector, count: int) -> float:
    """As `plain_seconds`, by name."""
    started = time.perf_counter()
    session = await connector.connect(NAME)
    await session.write(count.to_bytes(REQUEST_BYTES))
    while count > 0:
        count -= sum(map(len, await session.read_pieces()))
    took = time.perf_counter() - started
    await session.close()
    return took


async def _alternate(rounds: int, count: int) -> dict[str, float]:
    """Median seconds to connect and receive `count` bytes: `plain`, `session`, `forward`."""
    async with AsyncExitStack() as stack:
        start = stack.enter_async_context
        plain, tcp, provider = await start(server("tls")), await start(server("tcp")), await start(server("provide"))
        published = await start(server("publish", str(tcp.port)))
        forward = await start(server("forward", str(published.port), published.key))
        context = verifying_context(plain.port)
        endpoint = await start(ServiceEndpoint(SigningKey.generate()))
        connector = Connector(endpoint, provider.resolver())
        for _ in range(WARM_UP):
            await plain_seconds(plain.port, 1, context)
            await named_seconds(connector, 1)
            await plain_seconds(forward.port, 1, None)
        times: dict[str, list[float]] = {"plain": [], "session": [], "forward": []}
        for _ in range(rounds):
            times["plain"].append(await plain_seconds(plain.port, count, context))
            times["session"].append(await named_seconds(connector, count))
            times["forward"].append(await plain_seconds(forward.port, count, None))
    return {who: statistics.median(taken) for who, taken in times.items()}


async def measure_connect(connects: int) -> dict[str, Any]:
    """Milliseconds to connect and have the first byte of the answer."""
    took = {who: round(1_000 * seconds, 3) for who, seconds in (await _alternate(connects, 1)).items()}
    return {
        "figures": {
            "connect_first_byte_ms": took["session"],
            "forward_connect_first_byte_ms": took["forward"],
        },
        "peer": {"connect_first_byte_ms": took["plain"]},
        "ratio": {"connect_first_byte": round(took["session"] / took["plain"], 2)},
    }


async def measure_bulk(rounds: int, bulk_bytes: int) -> dict[str, Any]:
    """MB/s of one stream."""
    taken = await _alternate(rounds, bulk_bytes)
    rate = {who: round(bulk_bytes / MEGABYTE / seconds, 1) for who, seconds in taken.items()}
    return {
        "figures": {"bulk_session_mb_s": rate["session"], "bulk_forward_mb_s": rate["forward"]},
        "peer": {"bulk_mb_s": rate["plain"]},
        "ratio": {
            "bulk_session": round(rate["session"] / rate["plain"], 2),
            "bulk_forward": round(rate["forward"] / rate["plain"], 2),
        },
    }
