"""etcd under load: three nodes, each a process on loopback, one put of 128 bytes a request.

JSON over HTTP/1.1 keep-alive to the gateway of each node in turn (`/v3/kv/put`). It trusts its nodes: no signatures, no
Byzantine faults.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from blockcloud.bench.yardstick_programs import VALUE_BYTES, Window, YardstickFailed, first_line, running, until_ready
from blockcloud.node.devnet import HOST, free_port

NODES: Final = 3
IN_FLIGHT: Final = 256  # puts, each on a connection of its own
ANSWER_BYTES: Final = 8 * 1024 * 1024


def etcd(seconds: float) -> dict[str, Any]:
    """Puts a second into a cluster of three. Raises YardstickFailed."""
    program = shutil.which("etcd")
    if program is None:
        raise YardstickFailed("there is no etcd on the PATH (Debian: etcd-server)")
    with tempfile.TemporaryDirectory(prefix="blockcloud-etcd-") as name:
        folder = Path(name)
        clients = [free_port() for _ in range(NODES)]
        peers = [free_port() for _ in range(NODES)]
        commands = [etcd_command(program, folder, number, clients, peers) for number in range(NODES)]
        with running(commands, folder):
            window = uvloop.run(_etcd_load(clients, seconds))
    return {
        **window.report(),
        "nodes": NODES,
        "in_flight": IN_FLIGHT,
        "client": "one put a request, JSON over HTTP keep-alive, from this process",
        "version": first_line(program, "--version"),
    }


def etcd_command(program: str, folder: Path, number: int, clients: Sequence[int], peers: Sequence[int]) -> list[str]:
    """The command of one node; ports by node."""
    cluster = ",".join(f"n{i}=http://{HOST}:{port}" for i, port in enumerate(peers))
    own = {"client": f"http://{HOST}:{clients[number]}", "peer": f"http://{HOST}:{peers[number]}"}
    return [
        program,
        f"--name=n{number}",
        f"--data-dir={folder / f'n{number}'}",
        f"--listen-client-urls={own['client']}",
        f"--advertise-client-urls={own['client']}",
        f"--listen-peer-urls={own['peer']}",
        f"--initial-advertise-peer-urls={own['peer']}",
        f"--initial-cluster={cluster}",
        "--initial-cluster-state=new",
        "--log-level=error",
    ]


async def _etcd_load(ports: Sequence[int], seconds: float) -> Window:
    window = Window(seconds)

    def put(number: int) -> bytes:
        # Keys come again after 100,000 puts, as the accounts of `bench ledger` do.
        key = base64.b64encode(f"k{number % 100_000:015}".encode()).decode()
        value = base64.b64encode(number.to_bytes(8) * (VALUE_BYTES // 8)).decode()
        return json.dumps({"key": key, "value": value}).encode()

    async def ready() -> bool:
        async with Connection(ports[0]) as connection:
            status, _ = await connection.post("/v3/kv/put", put(0))
        return status == 200

    await until_ready(ready, "etcd")
    window.begin()

    async def worker(number: int) -> None:
        async with Connection(ports[number % len(ports)]) as connection:
            while not window.is_over:
                began_s = time.perf_counter()
                status, body = await connection.post("/v3/kv/put", put(number))
                if status != 200:
                    raise YardstickFailed(f"etcd answered {status}: {body[:100]!r}")
                window.done(began_s)
                number += IN_FLIGHT

    await asyncio.gather(*(worker(number) for number in range(IN_FLIGHT)))
    return window


class Connection:
    """One HTTP/1.1 keep-alive connection that posts JSON: a general client would cost more than what is measured."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection(HOST, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer. Raises YardstickFailed for what is not HTTP as expected."""
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self._writer.write(head.encode() + b"\r\n\r\n" + body)
        try:
            answer = await self._reader.readuntil(b"\r\n\r\n")
            status, length = parse_head(answer)
            return status, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise YardstickFailed(f"an answer was cut off: {error}") from None


def parse_head(head: bytes) -> tuple[int, int]:
    """Status and body length in bytes of an answer. Raises YardstickFailed."""
    status = re.match(rb"HTTP/1\.1 (\d{3})", head)
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)\r\n", head)
    if status is None or length is None or int(length.group(1)) > ANSWER_BYTES:
        raise YardstickFailed(f"not an answer of a known length: {head[:100]!r}")
    return int(status.group(1)), int(length.group(1))
