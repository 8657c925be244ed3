"""Idle sessions: what one costs the process that holds it, in memory and in heartbeats, with plain TLS beside it.

One provider process accepts all of them; the dialling side is another process. Resident memory before and after, with
the garbage collected, over the number of sessions. Then the processor time of some seconds in which nothing happens.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from blockcloud.bench.sal.servers import Server, server

KILOBYTE: Final = 1_000
WARM_UP: Final = 50  # connections that come and go before, so that what the first ones load is not counted


async def _cost(holder: Server, dialler: str, count: int, watch_s: float) -> tuple[float, float]:
    """(KB a connection, per cent of a core while nothing happens) of the process `holder`."""
    arguments = (str(holder.port), *([holder.key] if holder.key else []))
    async with server(dialler, arguments[0], str(WARM_UP), *arguments[1:]):
        pass
    before = await holder.usage()
    async with server(dialler, arguments[0], str(count), *arguments[1:]):
        await asyncio.sleep(2 * watch_s)
        after = await holder.usage()
        await asyncio.sleep(watch_s)
        later = await holder.usage()
    kilobytes = (after["resident_bytes"] - before["resident_bytes"]) / count / KILOBYTE
    return round(kilobytes, 1), round(100 * (later["cpu_s"] - after["cpu_s"]) / watch_s, 1)


async def measure_idle(sessions: int, watch_s: float) -> dict[str, Any]:
    """KB for each of `sessions` idle sessions, and for as many idle TLS connections; processor time over `watch_s`,
    after twice as long."""
    async with server("tls") as plain:
        plain_kb, plain_cpu = await _cost(plain, "idle-tls", sessions, watch_s)
    async with server("hold") as holder:
        session_kb, session_cpu = await _cost(holder, "idle-session", sessions, watch_s)
    return {
        "figures": {"idle_session_kb": session_kb, "idle_core_percent": session_cpu},
        "peer": {"idle_connection_kb": plain_kb, "idle_core_percent": plain_cpu},
        "ratio": {"idle_memory": round(session_kb / plain_kb, 2)},
    }
