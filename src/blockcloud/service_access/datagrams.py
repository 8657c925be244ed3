"""Datagrams of a session that have arrived and wait for the program. Sans-IO.

Unreliable by contract: when the program does not take them, the oldest go, and how many went is counted.
"""

from __future__ import annotations

from typing import Final

DATAGRAMS_WAITING: Final = 128


class DatagramQueue:
    """A bounded queue. `dropped`: how many were never taken."""

    __slots__ = ("_waiting", "dropped")

    def __init__(self) -> None:
        self._waiting: list[bytes] = []  # few; an empty deque has half a kilobyte
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, payload: memoryview) -> None:
        """One has arrived."""
        if len(self._waiting) >= DATAGRAMS_WAITING:
            self._waiting.pop(0)
            self.dropped += 1
        self._waiting.append(bytes(payload))  # a view would keep all that it is a part of

    def take(self) -> bytes | None:
        """The oldest that waits."""
        return self._waiting.pop(0) if self._waiting else None
