"""Store and forward between feeds: a feed takes over what another one has, each entry once, whatever is cut.

How far it has come is committed together with the entries, so after a crash of either side, or a cut of any length, it
asks for what follows on what it has. It acknowledges what is durable here, which lets the other side drop aggregates.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import structlog

from blockcloud.primitives.errors import BlockCloudError, Busy
from blockcloud.service_access.edge.feed.core import FeedCore, Numbered
from blockcloud.service_access.edge.feed.errors import OutboxFull
from blockcloud.service_access.edge.feed.following import Connect, FeedSession, sessions, surviving
from blockcloud.service_access.edge.feed.intake import Intake
from blockcloud.service_access.edge.feed.lines import Dropped, Request

CHUNK_ENTRIES: Final = 500
RETRY_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Collector:
    """Takes over what the feed behind `connect` has."""

    def __init__(self, name: str, connect: Connect, core: FeedCore, intake: Intake) -> None:
        self.name = name
        self.connected = False
        self.dropped = 0  # samples that the other side no longer had
        self.last_error = ""
        self._connect = connect
        self._core = core
        self._intake = intake

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            try:
                async with contextlib.aclosing(sessions(self._connect)) as found:
                    async for feed in found:
                        self.connected = True
                        with surviving():
                            await self._collect(feed)
            except BlockCloudError as error:  # such as a name that is not registered yet
                self.last_error = str(error)
                log.warning("collecting_interrupted", upstream=self.name, code=error.code, reason=str(error))
            finally:
                self.connected = False
            await asyncio.sleep(RETRY_SECONDS)

    async def _collect(self, feed: FeedSession) -> None:
        log_id = feed.hello.log
        await feed.ask(Request("follow", log=log_id, after=self._core.upstreams.get(log_id, 0)))
        while entries := await feed.some(CHUNK_ENTRIES):
            kept = [entry for entry in entries if not isinstance(entry, Dropped)]
            self.dropped += sum(entry.dropped for entry in entries if isinstance(entry, Dropped))
            if kept:
                await self._relay(log_id, kept)
                await feed.acknowledge(kept[-1][0])

    async def _relay(self, log_id: str, kept: Sequence[Numbered]) -> None:
        while True:
            try:
                await self._intake.relay(log_id, kept)
                return
            except (Busy, OutboxFull) as error:
                self.last_error = str(error)
                await asyncio.sleep(RETRY_SECONDS)
