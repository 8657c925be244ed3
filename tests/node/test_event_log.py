"""The event log: numbered, bounded, resumable, and never held up by a reader."""

from __future__ import annotations

import asyncio

import pytest

from blockcloud.node import events
from blockcloud.node.events import Event, EventLog
from blockcloud.primitives.errors import Busy


async def collect(log: EventLog, after: int | None, count: int) -> list[Event]:
    found: list[Event] = []
    async with log.subscribe(after) as subscription:
        async for event in subscription:
            found.append(event)
            if len(found) == count:
                break
    return found


async def test_readers_get_every_event_in_order_and_can_resume() -> None:
    log = EventLog(5)
    readers = [asyncio.create_task(collect(log, None, 3)) for _ in range(3)]
    await asyncio.sleep(0)
    for number in range(3):
        log.add("commit", {"height": number})
    found = await asyncio.gather(*readers)
    assert found[0] == found[1] == found[2]
    assert [(event.number, event.data["height"]) for event in found[0]] == [(5_000, 0), (5_001, 1), (5_002, 2)]
    assert await collect(log, 5_000, 2) == found[0][1:]
    assert log.subscribers == 0


async def test_a_reader_that_fell_behind_sees_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "EVENTS_KEPT", 4)
    log = EventLog(1)
    for number in range(10):
        log.add("commit", {"height": number})
    assert [event.data["height"] for event in await collect(log, 1_000, 4)] == [6, 7, 8, 9]
    assert [event.data["height"] for event in await collect(log, 0, 4)] == [6, 7, 8, 9]
    # A number from the future (another node's, say) means: from now on.
    waiting = asyncio.create_task(collect(log, 10**15, 1))
    await asyncio.sleep(0)
    log.add("commit", {"height": 10})
    assert (await waiting)[0].data["height"] == 10


async def test_the_number_of_readers_is_limited_and_closing_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "EVENT_SUBSCRIBERS", 1)
    log = EventLog(1)
    reader = asyncio.create_task(collect(log, None, 1))
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        log.subscribe()
    log.close()
    assert await asyncio.wait_for(reader, 10) == []
