"""A thousand readers at once, through sessions, on one feed that is a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from blockcloud.node.open_files import allow_open_files
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.edge.feed.core import Sample
from blockcloud.service_access.edge.feed.following import FeedSession
from blockcloud.service_access.edge.feed.lines import Dropped, Request
from blockcloud.service_access.edge.feed.node import READER_PARAMETERS
from blockcloud.service_access.endpoint import ServiceEndpoint
from tests.end_to_end.feed_process import FeedProcess, Plan

READERS: Final = 1_000
STALLED: Final = 10  # of them do not read until the end
DIALLED_AT_ONCE: Final = 16  # so that each has its answer in time, whatever else the machine does
SERIES: Final = 20
PADDING: Final = "x" * 180  # in names, so that a few rounds fill what a session of a stalled reader holds
ROUNDS: Final = 30
ROUNDS_AWAITED: Final = 3
KILOBYTES_A_READER: Final = 200  # what a reader may cost: a session, its buffers, and a number
WAIT_SECONDS: Final = 200

pytestmark = [pytest.mark.long, pytest.mark.alone]


class LiveReader:
    """A live reader: the newest value of each series that has come."""

    def __init__(self, feed: FeedSession) -> None:
        self.lines = 0
        self._feed = feed
        self._values: dict[str, object] = {}

    async def until_all_are(self, value: float) -> None:
        """Read until every series has `value`."""
        while len(self._values) < SERIES or any(each != value for each in self._values.values()):
            entry = await self._feed.next()
            assert entry is not None
            assert not isinstance(entry, Dropped)
            assert isinstance(entry[1], Sample)
            self._values[entry[1].reading.series] = entry[1].reading.value
            self.lines += 1


@contextlib.asynccontextmanager
async def live_readers(feed: FeedProcess) -> AsyncIterator[list[LiveReader]]:
    """READERS live readers, who come as fast as this process can shake hands."""
    gate = asyncio.Semaphore(DIALLED_AT_ONCE)
    async with ServiceEndpoint(SigningKey.generate(), parameters=READER_PARAMETERS) as endpoint:
        connector = Connector(endpoint, feed.place.resolver())

        async def begin() -> LiveReader:
            async with gate:
                session = await connector.connect(feed.place.name)
            found = await FeedSession.begin(session)
            await found.ask(Request("live"))
            return LiveReader(found)

        yield await asyncio.gather(*(begin() for _ in range(READERS)))


async def test_a_thousand_readers_get_every_newest_value_and_a_stalled_one_holds_nobody_up(tmp_path: Path) -> None:
    allow_open_files()
    plan = Plan("porch.home", str(tmp_path / "feed.sqlite"), SigningKey.generate().seed())
    # As many descriptors as systems allow at first: the process has to ask for more.
    feed = await FeedProcess.start(plan, prefix=("sh", "-c", 'ulimit -Sn 256; exec "$0" "$@"'))
    try:
        before = (await feed.ask("status"))["memory_bytes"]
        async with asyncio.timeout(WAIT_SECONDS), live_readers(feed) as readers:
            stalled, reading = readers[:STALLED], readers[STALLED:]
            for number in range(ROUNDS):
                assert await feed.ask(f"values {PADDING}/ {SERIES} {number}") == {"taken": SERIES}
                if number % (ROUNDS // ROUNDS_AWAITED) == 0 or number == ROUNDS - 1:
                    await asyncio.gather(*(each.until_all_are(float(number)) for each in reading))
            status = await feed.ask("status")
            assert status["readers"]["open"] == status["readers"]["live"] == READERS
            assert (status["memory_bytes"] - before) / READERS < KILOBYTES_A_READER * 1_000
            # Whoever comes back to reading has the newest values, without most of those in between.
            await asyncio.gather(*(each.until_all_are(float(ROUNDS - 1)) for each in stalled))
            assert all(each.lines < ROUNDS * SERIES for each in stalled)
    finally:
        await feed.kill()
