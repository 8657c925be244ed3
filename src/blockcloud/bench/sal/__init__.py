"""Figures of the service access layer, beside plain TLS 1.3 on the same loop, machine and run.

Servers are processes of their own (`servers`), all on uvloop as the client is. Each part alternates with its yardstick,
so that noise hits both alike, and gives medians:

- `connect`: connect and first byte by name with a cached resolution, against plain TLS with certificate verification;
- `requests`: 100 bytes there and back on one stream and on 32, against as many TLS connections;
- `bulk`: bytes a second of one stream, through a session and through `forward` and `publish`;
- `quic`: the same through a session over a QUIC link, against bare `qh3`;
- `idle`: memory and heartbeats of many idle sessions in one process, beside idle TLS connections;
- `resolution`: a cached resolution and one verified by proof, without the network;
- `gaps`: the longest pause around a move.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import uvloop

from blockcloud.bench.sal.connecting import measure_bulk, measure_connect
from blockcloud.bench.sal.gaps import measure_gaps
from blockcloud.bench.sal.idle import measure_idle
from blockcloud.bench.sal.quic import measure_quic
from blockcloud.bench.sal.requests import measure_requests
from blockcloud.bench.sal.resolution import measure_resolution

PARTS: Final = ("connect", "requests", "bulk", "quic", "idle", "resolution", "gaps")


def run(
    *,
    only: Collection[str] = PARTS,
    connects: int = 200,
    rounds: int = 5,
    bulk_bytes: int = 256 * 1024 * 1024,
    requests: int = 8_000,
    sessions: int = 5_000,
    watch_s: float = 10.0,
    resolutions: int = 200,
    moves: int = 15,
) -> dict[str, Any]:
    """Measure the parts in `only`: {"figures", "peer", "ratio", "settings"}.

    Times in ms or us as their names say, rates in MB/s (1,000,000 bytes) and requests a second, memory in KB (1,000).
    """
    parts: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
        "connect": lambda: measure_connect(connects),
        "requests": lambda: measure_requests(rounds, requests),
        "bulk": lambda: measure_bulk(rounds, bulk_bytes),
        "quic": lambda: measure_quic(rounds, bulk_bytes // 4),
        "idle": lambda: measure_idle(sessions, watch_s),
        "resolution": lambda: measure_resolution(resolutions),
        "gaps": lambda: measure_gaps(moves),
    }
    report: dict[str, dict[str, Any]] = {
        "figures": {},
        "peer": {"what": "plain TLS 1.3 on uvloop, certificate verified"},
        "ratio": {},
    }

    async def measure(part: str) -> None:
        for kind, values in (await parts[part]()).items():
            report[kind] |= values

    for part in PARTS:
        if part in only:
            uvloop.run(measure(part))
    settings = {
        "connects": connects,
        "rounds": rounds,
        "bulk_bytes": bulk_bytes,
        "requests": requests,
        "sessions": sessions,
        "resolutions": resolutions,
        "moves": moves,
        "cores": os.cpu_count(),
    }
    return report | {"settings": settings}
