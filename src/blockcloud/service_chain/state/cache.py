"""A bounded dictionary of what was used lately, at the price of a plain one.

Two generations: what is used goes into the young one; when that is full it becomes the old one, and the old one is
forgotten. So an entry lives for at least one turn after its last use, and a lookup costs no bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """`load` makes a missing entry. Turns happen only in `turn`, which the owner calls between batches: what was put in
    since the last turn but one is never forgotten. Between turns at most twice `entries` are kept for lookups."""

    __slots__ = ("_entries", "_load", "_old", "young")

    def __init__(self, load: Callable[[K], V], entries: int) -> None:
        self._load, self._entries = load, entries
        self._old: dict[K, V] = {}
        # For hot loops, which try it before they call `get`.
        self.young: dict[K, V] = {}

    def get(self, key: K) -> V:
        """The entry of `key`, made if missing."""
        young = self.young
        if key in young:
            return young[key]
        value = self._old[key] if key in self._old else self._load(key)
        if len(young) < 2 * self._entries:
            young[key] = value
        return value

    def update(self, entries: Mapping[K, V]) -> None:
        """Put these in, however many."""
        self.young.update(entries)

    def turn(self) -> None:
        """Let the old generation go if the young one is full."""
        if len(self.young) >= self._entries:
            self._old, self.young = self.young, {}
