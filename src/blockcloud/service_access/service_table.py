"""The service table: what happens to a connection to a name. Sans-IO.

Serval's table (NSDI 2012) in user space: the longest match on labels wins, where `*.kitchen.acme` matches every name
below `kitchen.acme` and `*` matches all; among the rules of that pattern the lowest priority value, and among equals
one drawn in proportion to the weights. Rules end by idle or hard timeout.

There are two layers. What the user has said and what listeners here have bound comes first. Below it lie the entries
that are learned from verified resolutions: one FORWARD for each instance, with the end of its lease as hard timeout;
they follow new records and go when the ledger revokes the name or the key. They are one layer below because a learned
`a.kitchen` must not win over a `*.kitchen` that the user drops. Events tell a control program what happens, and
connects that wait for its verdicts are in `waiting`.

Sessions that come in to a listener are looked up too: whatever the user has said of the listener's own name, or of a
longer match, comes before the listener, unless its priority value is higher. FORWARD says nothing of them.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.limits import CLOCK_SKEW_SECONDS
from blockcloud.primitives.names import parse_name
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.resolution import Instance, Resolution
from blockcloud.service_access.table_events import EventJournal
from blockcloud.service_access.verdicts import VERDICT_WAIT_MS_MAX, WaitingRoom

TABLE_RULES: Final = 16_384
LEARNED_NAMES: Final = 1_024  # as many as a resolver keeps; INSTANCE_KEYS rules each at most
RULE_ADDRESSES: Final = 8
RULE_NUMBER_MAX: Final = 0xFFFF  # priority and weight, as in address records
RULE_TIMEOUT_MS_MAX: Final = 366 * 86_400_000.0
ANY: Final = "*"


class TableFull(BlockCloudError):
    """The service table has reached its limit of rules."""

    code = "table_full"


class BadRule(BlockCloudError):
    """A value of the rule is out of its range, or does not go with its action."""

    code = "bad_rule"


class UnknownRule(BlockCloudError):
    """The table has no rule with this number that the user may remove."""

    code = "unknown_rule"
    hint = "blockcloud table shows the rules; those of listeners and records are not the user's to remove."


class Action(Enum):
    """What a rule does with a connection."""

    FORWARD = "forward"  # dial one of the addresses, whatever the address records say
    DEMUX = "demux"  # hand it to a local listener
    DELAY = "delay"  # hold it until a program gives a verdict
    DROP = "drop"  # refuse


class Origin(Enum):
    """Who made a rule, and so who may remove it."""

    USER = "user"
    BIND = "bind"  # a listener of this process
    RECORD = "record"  # learned: the ledger lists the instance's key, and the key signed where it is


@dataclass(eq=False)
class Rule:
    """One line of the table; `matches` and `last_used_ms` are its counters. `key` and `sequence`: of the instance and
    of its address record, where the rule was learned. `wait_ms`: how long DELAY holds a connect, None for as long as
    usual."""

    pattern: str
    action: Action
    addresses: tuple[Address, ...] = ()
    priority: int = 0
    weight: int = 1
    idle_timeout_ms: float | None = None
    hard_timeout_ms: float | None = None
    wait_ms: float | None = None
    origin: Origin = Origin.USER
    key: bytes = b""
    sequence: int = 0
    number: int = field(default=0, init=False)
    added_ms: float = field(default=0.0, init=False)
    renewed_ms: float = field(default=0.0, init=False)  # from which the hard timeout counts
    last_used_ms: float = field(default=0.0, init=False)
    matches: int = field(default=0, init=False)

    def ends_ms(self) -> float | None:
        """When the rule times out if it is not used before, in ms."""
        ends = []
        if self.idle_timeout_ms is not None:
            ends.append(self.last_used_ms + self.idle_timeout_ms)
        if self.hard_timeout_ms is not None:
            ends.append(self.renewed_ms + self.hard_timeout_ms)
        return min(ends, default=None)


def _check(rule: Rule) -> None:
    """Raises InvalidName or BadRule."""
    if rule.pattern != ANY:
        parse_name(rule.pattern.removeprefix("*."))
    if rule.action is Action.FORWARD and not 1 <= len(rule.addresses) <= RULE_ADDRESSES:
        raise BadRule("FORWARD needs addresses", addresses=len(rule.addresses), limit=RULE_ADDRESSES)
    if rule.action is not Action.FORWARD and rule.addresses:
        raise BadRule("only FORWARD has addresses", action=rule.action.value)
    if rule.wait_ms is not None and (rule.action is not Action.DELAY or not 0 < rule.wait_ms <= VERDICT_WAIT_MS_MAX):
        raise BadRule("only DELAY waits, and not for ever", wait_ms=rule.wait_ms, limit=VERDICT_WAIT_MS_MAX)
    for value in (rule.priority, rule.weight):
        if not 0 <= value <= RULE_NUMBER_MAX:
            raise BadRule("priority and weight have a range", value=value, limit=RULE_NUMBER_MAX)
    for timeout_ms in (rule.idle_timeout_ms, rule.hard_timeout_ms):
        if timeout_ms is not None and not 0 < timeout_ms <= RULE_TIMEOUT_MS_MAX:
            raise BadRule("a timeout is a positive time", timeout_ms=timeout_ms, limit=RULE_TIMEOUT_MS_MAX)


def _patterns(name: str) -> list[str]:
    """The patterns that match `name`, longest first."""
    labels = name.split(".")
    return [name, *("*." + ".".join(labels[i:]) for i in range(1, len(labels))), ANY]


class ServiceTable:
    """See the module's text. `events` is the journal; `waiting` has the connects that a program decides about."""

    def __init__(self) -> None:
        self.events = EventJournal()
        self.waiting = WaitingRoom()
        self._rules: dict[str, list[Rule]] = {}
        self._count = 0
        self._delays = 0  # of those, with DELAY
        self._numbers = 0
        self._learned: OrderedDict[str, dict[bytes, Rule]] = OrderedDict()
        self._answers: dict[str, Resolution] = {}  # what the learned rules were made of
        self._ends: list[tuple[float, int, Rule]] = []  # a heap; a rule's end is looked up again when its turn comes

    def __len__(self) -> int:
        return self._count + sum(map(len, self._learned.values()))

    # --- rules of the user and of listeners -------------------------------------------------------------------------

    def add(self, rule: Rule, now_ms: float) -> int:
        """Put a rule in; its number. Raises InvalidName, BadRule or TableFull."""
        _check(rule)
        if self._count >= TABLE_RULES:
            raise TableFull(limit=TABLE_RULES)
        self._number(rule, now_ms)
        rules = self._rules.setdefault(rule.pattern, [])
        rules.append(rule)
        rules.sort(key=lambda each: (_rank(each), each.number))
        self._count += 1
        self._delays += rule.action is Action.DELAY
        if rule.action is Action.DEMUX:
            rule.origin = Origin.BIND
            self.note("bind", rule.pattern, now_ms, rule=rule.number, origin=rule.origin.value)
        return rule.number

    def remove(self, number: int, now_ms: float) -> bool:
        """Take a rule out that is not learned; whether it was there."""
        rule = next((each for rules in self._rules.values() for each in rules if each.number == number), None)
        if rule is None:
            return False
        self._drop(rule)
        if rule.action is Action.DEMUX:
            self.note("unbind", rule.pattern, now_ms, rule=number, origin=rule.origin.value)
        return True

    def remove_users(self, number: int, now_ms: float) -> None:
        """Take a rule of the user out. Raises UnknownRule."""
        if not any(rule.number == number and rule.origin is Origin.USER for rule in self.rules()):
            raise UnknownRule(rule=number)
        self.remove(number, now_ms)

    # --- learned rules ----------------------------------------------------------------------------------------------

    def learn(self, resolution: Resolution, now_ms: float, now_s: int) -> None:
        """Make the learned rules of a name those of a verified answer. `now_s`: Unix time, for leases."""
        name = resolution.name
        if self._answers.get(name) is resolution:
            return
        known = self._learned.setdefault(name, {})
        usable = {each.key: each for each in resolution.instances if each.key in resolution.instance_keys}
        for key in [each for each in known if each not in usable]:
            self._unlearn(known.pop(key), now_ms)
        for instance in usable.values():
            addresses = tuple(instance.addresses()[:RULE_ADDRESSES])
            rule = known.get(instance.key)
            if not addresses:
                if rule is not None:
                    self._unlearn(known.pop(instance.key), now_ms)
            elif rule is None:
                known[instance.key] = self._learn(name, instance, addresses, now_ms, now_s)
            elif instance.sequence > rule.sequence:
                self._renew(rule, instance, addresses, now_ms, now_s)
        if not known:
            self.forget(name, now_ms)
            return
        self._answers[name] = resolution
        self._learned.move_to_end(name)
        while len(self._learned) > LEARNED_NAMES:
            self.forget(next(iter(self._learned)), now_ms)

    def forget(self, name: str, now_ms: float) -> None:
        """The ledger does not say any more that the name means anything, or it has no instances."""
        self._answers.pop(name, None)
        for rule in self._learned.pop(name, {}).values():
            self._unlearn(rule, now_ms)

    def learned_names(self) -> list[str]:
        """Names with learned rules, longest unchanged first."""
        return list(self._learned)

    def learned_instances(self) -> list[tuple[str, Instance]]:
        """(name, instance) behind each learned rule."""
        return [
            (name, instance)
            for name, answer in self._answers.items()
            for instance in answer.instances
            if instance.key in self._learned[name]
        ]

    def names_used_since(self, since_ms: float) -> list[str]:
        """Those of them that somebody has connected to since then."""
        return [
            name
            for name, rules in self._learned.items()
            if any(each.last_used_ms >= since_ms for each in rules.values())
        ]

    def used(self, name: str, key: bytes, now_ms: float) -> None:
        """A connect to `name` has led to the instance with `key`: count it, if that is a learned rule."""
        rule = self._learned.get(name, {}).get(key)
        if rule is not None:
            rule.matches += 1
            rule.last_used_ms = now_ms

    def _learn(self, name: str, instance: Instance, addresses: tuple[Address, ...], now_ms: float, now_s: int) -> Rule:
        rule = Rule(
            name,
            Action.FORWARD,
            addresses,
            instance.priority(),
            instance.weight(),
            hard_timeout_ms=_lease_ms(instance, now_s),
            origin=Origin.RECORD,
            key=instance.key,
            sequence=instance.sequence,
        )
        self._number(rule, now_ms)
        self.note("bind", name, now_ms, rule=rule.number, origin=rule.origin.value, key=instance.key.hex())
        return rule

    def _renew(self, rule: Rule, instance: Instance, addresses: tuple[Address, ...], now_ms: float, now_s: int) -> None:
        moved = addresses != rule.addresses
        rule.addresses, rule.sequence = addresses, instance.sequence
        rule.hard_timeout_ms, rule.renewed_ms = _lease_ms(instance, now_s), now_ms
        self._watch(rule)
        if moved:
            self.note("move", rule.pattern, now_ms, rule=rule.number, origin=rule.origin.value, key=rule.key.hex())

    def _unlearn(self, rule: Rule, now_ms: float) -> None:
        self.note("unbind", rule.pattern, now_ms, rule=rule.number, origin=rule.origin.value, key=rule.key.hex())

    # --- what connections ask ---------------------------------------------------------------------------------------

    def lookup(self, name: str, now_ms: float, draw: int, *, incoming: bool = False) -> Rule | None:
        """The rule for a connection to `name`; `draw` is a random non-negative number for the choice by weight. Of
        learned rules, any one stands for all: which instance is taken is decided where they are compared.

        `incoming`: somebody else connects to a listener here. The events `connect` and `drop` are noted here; a `miss`,
        and a `connect` that waits, by `steering`, which knows whether somebody decides about it.
        """
        self.expire(now_ms)
        for pattern in _patterns(name):
            rules = [each for each in self._rules.get(pattern, ()) if not incoming or each.action is not Action.FORWARD]
            if not rules:
                continue
            rule = _weighted([each for each in rules if _rank(each) == _rank(rules[0])], draw)
            rule.matches += 1
            rule.last_used_ms = now_ms
            if rule.action is not Action.DELAY:
                kind = "drop" if rule.action is Action.DROP else "connect"
                self.note(kind, name, now_ms, rule=rule.number, action=rule.action.value, incoming=incoming)
            return rule
        learned = self._learned.get(name)
        if incoming or not learned:
            return None
        rule = next(iter(learned.values()))
        self.note("connect", name, now_ms, rule=rule.number, action=rule.action.value, incoming=incoming)
        return rule

    def may_delay(self) -> bool:
        """There is a rule that may hold a session that comes in."""
        return self._delays > 0

    def rules(self) -> list[Rule]:
        """All rules, in the order of their numbers."""
        found = [rule for rules in self._rules.values() for rule in rules]
        found += [rule for rules in self._learned.values() for rule in rules.values()]
        return sorted(found, key=lambda rule: rule.number)

    def note(self, kind: str, name: str, now_ms: float, **details: object) -> None:
        """Record an event; the oldest is forgotten when there are too many."""
        self.events.add(kind, name, now_ms, details)

    # --- time -------------------------------------------------------------------------------------------------------

    def expire(self, now_ms: float) -> None:
        """Drop the rules whose time is over."""
        while self._ends and self._ends[0][0] <= now_ms:
            rule = heapq.heappop(self._ends)[2]
            ends = rule.ends_ms()
            if ends is None or not self._has(rule):
                continue
            if ends > now_ms:
                self._watch(rule)
                continue
            self._drop(rule)
            self.note("timeout", rule.pattern, now_ms, rule=rule.number, origin=rule.origin.value)

    def next_timer(self) -> float | None:
        """When `expire` is due, in ms; it may turn out to be too early."""
        return self._ends[0][0] if self._ends else None

    # --- inside -----------------------------------------------------------------------------------------------------

    def _number(self, rule: Rule, now_ms: float) -> None:
        self._numbers += 1
        rule.number = self._numbers
        rule.added_ms = rule.renewed_ms = rule.last_used_ms = now_ms
        self._watch(rule)

    def _watch(self, rule: Rule) -> None:
        ends = rule.ends_ms()
        if ends is None:
            return
        if len(self._ends) > 2 * len(self) + 64:  # most are of rules that are gone
            waiting = {each.number: each for _, _, each in self._ends if self._has(each)}
            self._ends = [(each.ends_ms() or 0.0, number, each) for number, each in waiting.items()]
            heapq.heapify(self._ends)
        heapq.heappush(self._ends, (ends, rule.number, rule))

    def _has(self, rule: Rule) -> bool:
        if rule.origin is Origin.RECORD:
            return self._learned.get(rule.pattern, {}).get(rule.key) is rule
        return rule in self._rules.get(rule.pattern, ())

    def _drop(self, rule: Rule) -> None:
        if rule.origin is Origin.RECORD:
            rules_of_name = self._learned[rule.pattern]
            del rules_of_name[rule.key]
            self._answers.pop(rule.pattern, None)
            if not rules_of_name:
                del self._learned[rule.pattern]
            return
        rules = self._rules[rule.pattern]
        rules.remove(rule)
        self._count -= 1
        self._delays -= rule.action is Action.DELAY
        if not rules:
            del self._rules[rule.pattern]
        if rule.action is Action.DELAY:
            self.waiting.rule_gone(rule.number)


def _lease_ms(instance: Instance, now_s: int) -> float:
    """What is left of a lease; a record counts as long as the clocks may differ."""
    return max(1.0, (instance.lease_until_s + CLOCK_SKEW_SECONDS - now_s) * 1_000.0)


def _rank(rule: Rule) -> tuple[int, bool]:
    """What comes first among the rules of a pattern: the lowest priority value, and what the user says."""
    return rule.priority, rule.action is Action.DEMUX


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
