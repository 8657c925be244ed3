"""What a node tells subscribers: a bounded memory of numbered events that any number of readers follow.

Readers pull from the memory by number, so a slow reader costs nothing and holds up nobody; one that falls too far
behind misses events and sees that in the numbers. Numbers grow across restarts, because they start from the clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from blockcloud.primitives.errors import Busy
from blockcloud.primitives.limits import EVENT_SUBSCRIBERS

EVENTS_KEPT: Final = 2_048
SUBSCRIBE_AGAIN_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Event:
    """`kind` is a stable name; `data` is plain JSON data."""

    number: int
    kind: str
    data: dict[str, Any]


class EventLog:
    """The last EVENTS_KEPT events. Belongs to the event loop's thread."""

    def __init__(self, now_ms: int) -> None:
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._next = now_ms * 1_000
        self._changed = asyncio.Event()
        self._closed = False
        self.subscribers = 0

    def add(self, kind: str, data: dict[str, Any]) -> None:
        """Tell everybody."""
        self._events.append(Event(self._next, kind, data))
        self._next += 1
        self._changed.set()

    def close(self) -> None:
        """End all subscriptions."""
        self._closed = True
        self._changed.set()

    def subscribe(self, after: int | None = None) -> Subscription:
        """Events with numbers above `after`, as far as they are remembered; None: from now on. Raises Busy."""
        if self.subscribers >= EVENT_SUBSCRIBERS:
            raise Busy("too many subscribers", retry_after_ms=SUBSCRIBE_AGAIN_MS, limit=EVENT_SUBSCRIBERS)
        return Subscription(self, self._next - 1 if after is None else min(after, self._next - 1))

    async def next_after(self, number: int) -> Event | None:
        """The first event above `number`, when there is one; None when the log is closed."""
        while not self._closed:
            if self._events and self._events[-1].number > number:
                oldest = self._events[0].number
                return self._events[max(0, number + 1 - oldest)]
            self._changed.clear()
            await self._changed.wait()
        return None


class Subscription:
    """One reader: `async with log.subscribe() as events: async for event in events`."""

    def __init__(self, log: EventLog, after: int) -> None:
        self._log, self._after = log, after

    async def __aenter__(self) -> Subscription:
        self._log.subscribers += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.subscribers -= 1

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        event = await self._log.next_after(self._after)
        if event is None:
            raise StopAsyncIteration
        self._after = event.number
        return event
