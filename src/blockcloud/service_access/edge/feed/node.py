"""A feed in one process: core, outbox, inputs, readers and what is forwarded, begun and ended in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.edge.feed.announcing import HomeAssistantPublisher
from blockcloud.service_access.edge.feed.coap import CoapInput
from blockcloud.service_access.edge.feed.collecting import Collector
from blockcloud.service_access.edge.feed.core import FeedCore, Settings
from blockcloud.service_access.edge.feed.following import Connect
from blockcloud.service_access.edge.feed.http import HttpInput
from blockcloud.service_access.edge.feed.intake import Intake
from blockcloud.service_access.edge.feed.mqtt import MqttInput
from blockcloud.service_access.edge.feed.outbox import AGGREGATE_BYTES, SAMPLE_BYTES, Outbox
from blockcloud.service_access.edge.feed.secret_files import Login
from blockcloud.service_access.edge.feed.serving import Readers
from blockcloud.service_access.listener import Listener
from blockcloud.service_access.session import SessionParameters

# A reader's session holds at most this much for it, and a heartbeat every few seconds is enough for a feed.
READER_PARAMETERS: Final = SessionParameters(
    heartbeat_ms=2_000, dead_after_ms=8_000, give_up_ms=10_000, buffer_bytes=64 * 1024
)

CANCEL_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Feed:
    """See the module's text. Use `open_feed`."""

    def __init__(self, name: str, path: Path, settings: Settings, sample_bytes: int, aggregate_bytes: int) -> None:
        self.name = name
        self.core = FeedCore(settings)
        self.outbox = Outbox(path, sample_bytes=sample_bytes, aggregate_bytes=aggregate_bytes)
        self.outbox.restore(self.core)
        self.intake = Intake(self.core, self.outbox, lambda entries: self.readers.publish(entries))
        self.readers = Readers(name, self.core, self.outbox, self.intake)
        self.collectors: list[Collector] = []
        self.mqtt: MqttInput | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._inputs: list[HttpInput | CoapInput] = []
        self._intake_task = self._start(self.intake.run())
        self._start(self.readers.rounds())

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A part that should go on for ever has ended: the feed has."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.failed.done():
            self.failed.set_exception(error)

    # --- inputs and outputs -----------------------------------------------------------------------------------------

    async def take_http(self, address: HostPort, token: bytes = b"") -> HostPort:
        """Take readings by HTTP; where. Raises Unreachable."""
        return await self._listen(HttpInput(self.intake, token), address)

    async def take_coap(self, address: HostPort, token: bytes = b"") -> HostPort:
        """Take readings by CoAP; where. Raises Unreachable."""
        return await self._listen(CoapInput(self.intake, token), address)

    async def _listen(self, part: HttpInput | CoapInput, address: HostPort) -> HostPort:
        place = await part.start(*address)
        self._inputs.append(part)
        return place

    def take_mqtt(
        self, broker: HostPort, topics: Sequence[str], identifier: str, login: Login | None = None
    ) -> MqttInput:
        """Take readings from a broker. Raises BadConfiguration."""
        self.mqtt = MqttInput(self.intake, broker, topics, identifier, login)
        self._start(self.mqtt.run())
        return self.mqtt

    def show_home_assistant(self, broker: HostPort, login: Login | None = None) -> HomeAssistantPublisher:
        """Publish the series at a broker for Home Assistant."""
        publisher = HomeAssistantPublisher(self.name, broker, self.readers.board, login)
        self._start(publisher.run())
        return publisher

    def collect(self, name: str, connect: Connect) -> Collector:
        """Take over what another feed has."""
        collector = Collector(name, connect, self.core, self.intake)
        self.collectors.append(collector)
        self._start(collector.run())
        return collector

    async def serve(self, listener: Listener) -> None:
        """Serve readers until cancelled. Raises what ends the feed, such as StorageFault."""
        accepting = asyncio.create_task(self._accept(listener))
        try:
            await asyncio.wait((accepting, self.failed), return_when=asyncio.FIRST_COMPLETED)
            if self.failed.done():
                self.failed.result()
            accepting.result()
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)

    async def _accept(self, listener: Listener) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            async for session in listener:
                task = asyncio.create_task(self.readers.serve(session))
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def close(self) -> None:
        """Stop the inputs, commit what waits, stop the rest."""
        for part in self._inputs:
            await part.close()
        for task in self._tasks[::-1]:
            while not task.done():  # `asyncio.wait_for` of 3.11, which aiomqtt uses, may swallow a cancellation
                task.cancel()
                await asyncio.wait((task,), timeout=CANCEL_SECONDS)
        self.readers.close()
        self.outbox.close()
        if self.failed.done() and not self.failed.cancelled():
            self.failed.exception()  # whoever served has seen it

    async def forget(self, request: dict[str, Any]) -> dict[str, Any]:
        """The control operation that lets the outbox wait for a consumer no longer."""
        consumer = str(request.get("consumer"))
        if consumer not in self.outbox.consumers:
            known = sorted(self.outbox.consumers)
            raise BadConfiguration("the feed waits for no such consumer", consumer=consumer[:80], known=known)
        await self.intake.on_disk(lambda: self.outbox.forget(consumer))
        return {"forgotten": consumer}

    def status(self) -> dict[str, Any]:
        """What a person wants to know of a running feed."""
        core, outbox = self.core, self.outbox
        return {
            "name": self.name,
            "log": outbox.log,
            "reached": self.readers.tail.reached,
            "series": len(core.series),
            "sources": len(core.sources),
            "counts": dict(core.counts),
            "missing": sum(each.state.missing for each in core.sources.values()),
            "gaps": sum(each.gaps for each in core.sources.values()),
            "refused": dict(self.intake.refused),
            "commits": self.intake.commits,
            "outbox": {
                "sample_bytes": outbox.sample_bytes,
                "aggregate_bytes": outbox.aggregate_bytes,
                "dropped_samples": outbox.dropped_samples,
                "dropped_aggregates": outbox.dropped_aggregates,
            },
            "consumers": [{"key": key, "acknowledged": offset} for key, offset in sorted(outbox.consumers.items())],
            "readers": {"open": self.readers.open, "live": self.readers.live_count, "lines": self.readers.messages},
            "mqtt": None
            if self.mqtt is None
            else {"connected": self.mqtt.connected.is_set(), "last_error": self.mqtt.last_error},
            "upstreams": [
                {"name": each.name, "connected": each.connected, "dropped": each.dropped, "last_error": each.last_error}
                for each in self.collectors
            ],
        }


@contextlib.asynccontextmanager
async def open_feed(
    name: str,
    path: Path,
    settings: Settings | None = None,
    *,
    sample_bytes: int = SAMPLE_BYTES,
    aggregate_bytes: int = AGGREGATE_BYTES,
) -> AsyncIterator[Feed]:
    """A feed whose outbox is the file `path`. Raises StorageFault, BadConfiguration."""
    feed = Feed(name, path, settings or Settings(), sample_bytes, aggregate_bytes)
    try:
        yield feed
    finally:
        await feed.close()
