"""A feed as a process of its own, and the handle that tests have.

    python -m tests.end_to_end.feed_process PLAN

PLAN is a `Plan` in JSON. The process says where it is, then answers lines on stdin: `status` (what `edge feed --status`
shows, and the process's memory), `take FIRST COUNT` (readings of the source "porch", acknowledged when durable).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from msgspec import Struct

from blockcloud.bench.sal.servers import FixedResolver
from blockcloud.node.logging import set_up_logging
from blockcloud.node.open_files import allow_open_files
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.edge.feed.core import Settings
from blockcloud.service_access.edge.feed.intake import now_us
from blockcloud.service_access.edge.feed.node import READER_PARAMETERS, Feed, open_feed
from blockcloud.service_access.edge.feed.readings import Batch, Reading
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.listener import listen
from blockcloud.service_access.stream import Session
from tests.docs.documents import ROOT

ANSWER_SECONDS: Final = 30
WINDOW_SECONDS: Final = 10
FIRST_US: Final = 1_700_000_000_000_000
SOURCE: Final = "porch"
SERIES: Final = "porch/t"


class Place(Struct):
    """A feed, where it is, and the key that it proves."""

    name: str
    key: bytes
    host: str
    port: int

    def resolver(self) -> FixedResolver:
        """What a ledger and the routing nodes would say."""
        return FixedResolver(self.key, (self.host, self.port), self.name)


class Plan(Struct):
    """What a process serves. `port` 0 takes a free one; `upstream` is a feed to take over."""

    name: str
    outbox: str
    seed: bytes
    host: str = "127.0.0.1"
    port: int = 0
    upstream: Place | None = None


class FeedProcess:
    """A running feed."""

    def __init__(self, process: Process, plan: Plan) -> None:
        self.process = process
        self.plan = plan
        self.http = ""

    @classmethod
    async def start(cls, plan: Plan, *, prefix: Sequence[str] = ()) -> FeedProcess:
        """A process that serves `plan`, begun by `prefix` if there is one; it is ready."""
        command = [*prefix, sys.executable, "-m", __name__, msgspec.json.encode(plan).decode()]
        found = cls(await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE), plan)
        told = await found._answer()
        plan.port, found.http = told["port"], told["http"]
        return found

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(self.plan.name, SigningKey(self.plan.seed).public, self.plan.host, self.plan.port)

    async def ask(self, line: str) -> dict[str, Any]:
        """The answer to a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(ANSWER_SECONDS):
            line = await self.process.stdout.readline()
        assert line, f"ended with {await self.process.wait()}"
        return dict(json.loads(line))

    async def kill(self) -> None:
        """End it as a power failure does."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.communicate()


# --- in the process ---------------------------------------------------------------------------------------------------


async def _serve(plan: Plan) -> None:
    key = SigningKey(plan.seed)
    async with AsyncExitStack() as stack:
        listening = listen(plan.name, key, address=(plan.host, plan.port), parameters=READER_PARAMETERS)
        listener = await stack.enter_async_context(listening)
        settings = Settings(window_seconds=WINDOW_SECONDS)
        feed = await stack.enter_async_context(open_feed(plan.name, Path(plan.outbox), settings))
        host, port = await feed.take_http(("127.0.0.1", 0))
        if plan.upstream is not None:
            endpoint = await stack.enter_async_context(ServiceEndpoint(key, parameters=READER_PARAMETERS))
            connector, name = Connector(endpoint, plan.upstream.resolver()), plan.upstream.name

            async def connect() -> Session:
                return await connector.connect(name)

            feed.collect(name, connect)
        serving = asyncio.create_task(feed.serve(listener))
        _say({"port": listener.addresses[0].port, "http": f"http://{host}:{port}/readings"})
        await _obey(feed)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def _obey(feed: Feed) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        match line.decode().split():
            case ["status"]:
                _say(feed.status() | {"memory_bytes": _memory_bytes()})
            case ["take", first, count]:
                taken = await asyncio.gather(*(_take(feed, int(first) + place) for place in range(int(count))))
                _say({"taken": sum(taken)})
            case ["values", prefix, count, value]:
                readings = tuple(Reading(f"{prefix}{n}", now_us(), float(value)) for n in range(int(count)))
                _say({"taken": await feed.intake.take(Batch("values", readings))})


async def _take(feed: Feed, number: int) -> int:
    reading = Reading(SERIES, FIRST_US + number * 1_000_000, float(number))
    return await feed.intake.take(Batch(SOURCE, (reading,), number))


def _memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    set_up_logging("warning")
    allow_open_files()
    uvloop.run(_serve(msgspec.json.decode(sys.argv[1], type=Plan)))
