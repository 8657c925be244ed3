"""What happens at a service table, as numbered events in a journal of bounded size. Sans-IO.

Whoever follows the journal says from which number on; what the journal has forgotten by then is counted, so a follower
that is too slow, or was away, knows how much it missed, and nobody waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

TABLE_EVENTS: Final = 1_024
EVENT_KINDS: Final = ("bind", "unbind", "connect", "miss", "move", "timeout", "drop")


@dataclass(frozen=True)
class TableEvent:
    """One of `EVENT_KINDS`, about a name or a pattern; `details` depend on the kind and are plain JSON values."""

    number: int
    kind: str
    name: str
    at_ms: float
    details: Mapping[str, object] = field(default_factory=dict)


class EventJournal:
    """The newest events, numbered from 1. `changed` are called after each one."""

    def __init__(self, limit: int = TABLE_EVENTS) -> None:
        self.last = 0
        self.changed: list[Callable[[], None]] = []
        self._events: deque[TableEvent] = deque(maxlen=limit)

    def add(self, kind: str, name: str, now_ms: float, details: Mapping[str, object]) -> TableEvent:
        """Record an event; the oldest is forgotten if there are too many."""
        assert kind in EVENT_KINDS, kind
        self.last += 1
        event = TableEvent(self.last, kind, name, now_ms, details)
        self._events.append(event)
        for callback in list(self.changed):
            callback()
        return event

    def since(self, number: int, count: int = TABLE_EVENTS) -> tuple[list[TableEvent], int]:
        """(at most `count` events after `number`, oldest first; how many between are forgotten)."""
        first = self._events[0].number if self._events else self.last + 1
        lost = max(0, first - number - 1)
        start = max(0, number + 1 - first)
        return list(islice(self._events, start, start + count)), lost
