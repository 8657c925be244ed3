"""The service table: what happens to a connection to a name. Sans-IO.

Serval's table (NSDI 2012) in user space: the longest match on labels wins, where `*.kitchen.acme` matches every name
below `kitchen.acme` and `*` matches all; among the rules of that pattern the lowest priority value, and among equals
one drawn in proportion to the weights. Rules end by idle or hard timeout. Rules come from the ledger, from address
records and from local listeners; events tell a control program what happens.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.names import parse_name
from blockcloud.service_access.addresses import Address

TABLE_RULES: Final = 16_384
TABLE_EVENTS: Final = 1_024
ANY: Final = "*"


class TableFull(BlockCloudError):
    """The service table has reached its limit of rules."""

    code = "table_full"


class Action(Enum):
    """What a rule does with a connection."""

    FORWARD = "forward"  # dial one of the addresses, whatever the address records say
    DEMUX = "demux"  # hand it to a local listener
    DELAY = "delay"  # wait until the name is resolved
    DROP = "drop"  # refuse


@dataclass
class Rule:
    """One line of the table; `matches` and `last_used_ms` are its counters."""

    pattern: str
    action: Action
    addresses: tuple[Address, ...] = ()
    priority: int = 0
    weight: int = 1
    idle_timeout_ms: float | None = None
    hard_timeout_ms: float | None = None
    number: int = field(default=0, init=False)
    added_ms: float = field(default=0.0, init=False)
    last_used_ms: float = field(default=0.0, init=False)
    matches: int = field(default=0, init=False)

    def ends_ms(self) -> float | None:
        """When the rule times out if it is not used before, in ms."""
        ends = []
        if self.idle_timeout_ms is not None:
            ends.append(self.last_used_ms + self.idle_timeout_ms)
        if self.hard_timeout_ms is not None:
            ends.append(self.added_ms + self.hard_timeout_ms)
        return min(ends, default=None)


@dataclass(frozen=True)
class TableEvent:
    """What a control program may want to know: `bind`, `unbind`, `connect`, `miss`, `drop`, `timeout` or `move`."""

    kind: str
    name: str
    at_ms: float


def _check_pattern(pattern: str) -> None:
    if pattern != ANY:
        parse_name(pattern.removeprefix("*."))


def _patterns(name: str) -> list[str]:
    """The patterns that match `name`, longest first."""
    labels = name.split(".")
    return [name, *("*." + ".".join(labels[i:]) for i in range(1, len(labels))), ANY]


class ServiceTable:
    """See the module's text."""

    def __init__(self) -> None:
        self._rules: dict[str, list[Rule]] = {}
        self._count = 0
        self._numbers = 0
        self._events: deque[TableEvent] = deque(maxlen=TABLE_EVENTS)

    def __len__(self) -> int:
        return self._count

    def add(self, rule: Rule, now_ms: float) -> int:
        """Put a rule in; its number. Raises InvalidName or TableFull."""
        _check_pattern(rule.pattern)
        if self._count >= TABLE_RULES:
            raise TableFull(limit=TABLE_RULES)
        self._numbers += 1
        rule.number, rule.added_ms, rule.last_used_ms = self._numbers, now_ms, now_ms
        rules = self._rules.setdefault(rule.pattern, [])
        rules.append(rule)
        rules.sort(key=lambda each: (each.priority, each.number))
        self._count += 1
        if rule.action is Action.DEMUX:
            self.note("bind", rule.pattern, now_ms)
        return rule.number

    def remove(self, number: int, now_ms: float) -> bool:
        """Take a rule out; whether it was there."""
        for pattern, rules in self._rules.items():
            for rule in rules:
                if rule.number == number:
                    self._drop(pattern, rule)
                    if rule.action is Action.DEMUX:
                        self.note("unbind", pattern, now_ms)
                    return True
        return False

    def lookup(self, name: str, now_ms: float, draw: int) -> Rule | None:
        """The rule for a connection to `name`; `draw` is a random non-negative number for the choice by weight."""
        for pattern in _patterns(name):
            rules = self._live(pattern, now_ms)
            if not rules:
                continue
            best = [rule for rule in rules if rule.priority == rules[0].priority]
            rule = _weighted(best, draw)
            rule.matches += 1
            rule.last_used_ms = now_ms
            self.note("drop" if rule.action is Action.DROP else "connect", name, now_ms)
            return rule
        self.note("miss", name, now_ms)
        return None

    def expire(self, now_ms: float) -> None:
        """Drop the rules whose time is over."""
        for pattern in list(self._rules):
            self._live(pattern, now_ms)

    def rules(self) -> list[Rule]:
        """All rules, in the order of their numbers."""
        return sorted((rule for rules in self._rules.values() for rule in rules), key=lambda rule: rule.number)

    def note(self, kind: str, name: str, now_ms: float) -> None:
        """Record an event; the oldest is forgotten when nobody takes them."""
        self._events.append(TableEvent(kind, name, now_ms))

    def take_events(self) -> list[TableEvent]:
        """The events since the last call, oldest first."""
        taken = list(self._events)
        self._events.clear()
        return taken

    def _live(self, pattern: str, now_ms: float) -> list[Rule]:
        for rule in list(self._rules.get(pattern, ())):
            ends = rule.ends_ms()
            if ends is not None and now_ms >= ends:
                self._drop(pattern, rule)
                self.note("timeout", pattern, now_ms)
        return self._rules.get(pattern, [])

    def _drop(self, pattern: str, rule: Rule) -> None:
        rules = self._rules[pattern]
        rules.remove(rule)
        self._count -= 1
        if not rules:
            del self._rules[pattern]


def _weighted(rules: list[Rule], draw: int) -> Rule:
    total = sum(rule.weight for rule in rules)
    if total <= 0:
        return rules[0]
    point = draw % total
    for rule in rules:
        point -= rule.weight
        if point < 0:
            return rule
    return rules[-1]
