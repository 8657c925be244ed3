"""Real processes that are killed, and networks that are cut: each reading is there once at the end, counted.

A device sends to an edge, another feed collects from it, and readers follow both. Whatever dies, or however long the
way between them is gone: nothing that was acknowledged to the device is missing anywhere, and nothing is there twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import httpx2
import pytest

from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.edge.feed.core import Entry, Sample, Window
from blockcloud.service_access.edge.feed.following import Connect, Cursor, follow
from blockcloud.service_access.edge.feed.lines import Dropped
from blockcloud.service_access.edge.feed.node import READER_PARAMETERS
from blockcloud.service_access.edge.feed.outbox import OutboxReader
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.stream import Session
from tests.end_to_end.feed_process import FIRST_US, SERIES, SOURCE, WINDOW_SECONDS, FeedProcess, Plan
from tests.end_to_end.private_network import private_network
from tests.service_access.edge.feed_world import until_true

pytestmark = pytest.mark.long

BATCH: Final = 5
DEVICES: Final = 4
TURNS: Final = 4
TURN_READINGS: Final = 200
TOTAL: Final = TURNS * TURN_READINGS
CUT_READINGS: Final = 60
WAIT_SECONDS: Final = 60
EDGE, ABOVE = range(2)


class Counting:
    """A reader that follows a feed, and what it has been given."""

    def __init__(self, connect: Connect) -> None:
        self.numbers: list[int | None] = []
        self.windows = 0
        self._connect = connect

    async def run(self) -> None:
        """Follow until cancelled."""
        async with contextlib.aclosing(follow(self._connect, Cursor())) as entries:
            async for found in entries:
                assert not isinstance(found, Dropped)
                if isinstance(found[1], Sample):
                    self.numbers.append(found[1].sequence)
                else:
                    self.windows += found[1].result.count


@contextlib.asynccontextmanager
async def counting(feed: FeedProcess) -> AsyncIterator[Counting]:
    """A reader that follows `feed`, wherever in its life that is."""
    async with ServiceEndpoint(SigningKey.generate(), parameters=READER_PARAMETERS) as endpoint:
        connector = Connector(endpoint, feed.place.resolver())

        async def connect() -> Session:
            return await connector.connect(feed.place.name)

        reader = Counting(connect)
        task = asyncio.create_task(reader.run())
        try:
            yield reader
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def stored(plan: Plan) -> list[Entry]:
    """Everything in the outbox of a feed that has ended."""
    reader, entries, after = OutboxReader(Path(plan.outbox)), list[Entry](), 0
    while page := reader.after(after):
        if page.reached == after:
            break
        assert page.dropped == 0
        entries += [entry for _, entry in page.entries]
        after = page.reached
    reader.close()
    return entries


class Device:
    """Sends numbered readings by HTTP, again and again until they are acknowledged."""

    def __init__(self, feed: FeedProcess) -> None:
        self.feed = feed
        self.acknowledged = 0
        self.repeated = 0

    async def send(self, first: int, count: int) -> None:
        """Send `count` readings from number `first` on, in batches, several at once."""
        gate = asyncio.Semaphore(DEVICES)

        async def one(number: int) -> None:
            async with gate:
                await self._send(client, number)

        async with httpx2.AsyncClient() as client, asyncio.timeout(WAIT_SECONDS):
            await asyncio.gather(*(one(number) for number in range(first, first + count, BATCH)))

    async def _send(self, client: httpx2.AsyncClient, first: int) -> None:
        readings = [
            {"series": SERIES, "time": FIRST_US / 1_000_000 + number, "value": number}
            for number in range(first, first + BATCH)
        ]
        body = {"source": SOURCE, "sequence": first, "readings": readings}
        while True:
            try:
                answer = await client.post(self.feed.http, json=body)
            except httpx2.TransportError:  # it is dead: the next one has the same outbox
                self.repeated += 1
                await asyncio.sleep(0.01)
                continue
            assert answer.status_code == 200, answer.text
            self.acknowledged += BATCH
            return


async def test_whatever_is_killed_each_reading_arrives_once(tmp_path: Path) -> None:
    edge_plan = Plan("edge.home", str(tmp_path / "edge.sqlite"), SigningKey.generate().seed())
    async with AsyncExitStack() as stack:
        edge = await FeedProcess.start(edge_plan)
        stack.push_async_callback(lambda: device.feed.kill())
        device = Device(edge)
        above_plan = Plan(
            "above.home", str(tmp_path / "above.sqlite"), SigningKey.generate().seed(), upstream=edge.place
        )
        above = await FeedProcess.start(above_plan)
        stack.push_async_callback(lambda: above.kill())
        readers = [await stack.enter_async_context(counting(each)) for each in (edge, edge, above)]
        for turn in range(TURNS):
            sending = asyncio.create_task(device.send(turn * TURN_READINGS, TURN_READINGS))
            await until_true(lambda: device.acknowledged >= turn * TURN_READINGS + TURN_READINGS // 3)  # noqa: B023
            if turn < TURNS - 1:
                await device.feed.kill()
                if turn == 1:
                    await above.kill()
                    above = await FeedProcess.start(above_plan)
                device.feed = await FeedProcess.start(edge_plan)
            await sending
        assert device.acknowledged == TOTAL
        assert device.repeated > 0  # it was killed while readings were on their way
        async with asyncio.timeout(WAIT_SECONDS):
            await until_true(lambda: all(len(each.numbers) >= TOTAL for each in readers))
        await above.kill()
        await device.feed.kill()
    for each in readers:
        assert sorted(each.numbers) == list(range(TOTAL))  # type: ignore[type-var]  # every reading has a number
    for plan in (edge_plan, above_plan):
        entries = stored(plan)
        assert sorted(each.sequence or 0 for each in entries if isinstance(each, Sample)) == list(range(TOTAL))
        windows = [each.result for each in entries if isinstance(each, Window)]
        assert len({each.start_us for each in windows}) == len(windows)
    assert above.plan is above_plan


async def test_a_way_that_is_cut_delays_readings_and_loses_none(tmp_path: Path) -> None:
    """The edge and who collects from it in two namespaces; cables are pulled and routes end while readings come."""
    with private_network(2, seed=7) as network:
        async with AsyncExitStack() as stack:

            async def start(host: int, plan: Plan) -> FeedProcess:
                plan.host = network.addresses[host]
                found = await FeedProcess.start(plan, prefix=network.through(host))
                stack.push_async_callback(found.kill)
                return found

            edge = await start(EDGE, Plan("edge.home", str(tmp_path / "edge.sqlite"), SigningKey.generate().seed()))
            above_plan = Plan(
                "above.home", str(tmp_path / "above.sqlite"), SigningKey.generate().seed(), upstream=edge.place
            )
            above = await start(ABOVE, above_plan)
            sent = 0

            async def take() -> None:
                nonlocal sent
                assert await edge.ask(f"take {sent} {CUT_READINGS}") == {"taken": CUT_READINGS}
                sent += CUT_READINGS

            async def until_all_are_above() -> None:
                async with asyncio.timeout(WAIT_SECONDS):
                    while True:
                        status = await above.ask("status")
                        if status["reached"] == (await edge.ask("status"))["reached"]:
                            return

            for cut in (
                lambda: network.unplug(ABOVE),
                lambda: network.take_down(EDGE),
                lambda: network.drop([(EDGE, ABOVE)]),
                lambda: network.drop([(ABOVE, EDGE)], "unreachable"),
            ):
                await take()
                cut()
                await take()
                reached = (await above.ask("status"))["reached"]
                assert reached < (await edge.ask("status"))["reached"]  # it is cut indeed
                network.heal()
                await take()
                await until_all_are_above()
            (consumer,) = (await edge.ask("status"))["consumers"]
            assert consumer["key"] == above.place.key.hex()
            await above.kill()
        entries = stored(above_plan)
        assert [each.sequence for each in entries if isinstance(each, Sample)] == list(range(sent))
        windows = [each.result for each in entries if isinstance(each, Window)]
        assert [each.count for each in windows] == [WINDOW_SECONDS] * len(windows)
        assert len(windows) == len({each.start_us for each in windows}) > 0
