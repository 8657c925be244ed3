"""The service table over the control socket: rules, events as they come, verdicts. The asyncio side of it.

    {"op": "rules"}                                                ->  {"ok": true, "rules": [...], "more": false}
    {"op": "add-rule", "pattern": "*.lab", "action": "delay"}      ->  {"ok": true, "rule": 7}
    {"op": "remove-rule", "rule": 7}                               ->  {"ok": true}
    {"op": "instances"}                                            ->  {"ok": true, "instances": [...]}
    {"op": "waiting"}                                              ->  {"ok": true, "waiting": [...]}
    {"op": "verdict", "id": 3, "action": "drop", "reason": "..."}  ->  {"ok": true, "name": "a.lab"}
    {"op": "subscribe", "events": ["miss"], "since": 12, "decide": true}
        ->  {"ok": true, "journal": "5f0c...", "next": 13}
        ->  {"event": "miss", "number": 13, "name": "a.lab", "time_ms": ..., "id": 4, ...}, ...

A subscription goes on beside other operations of the same connection, until the connection ends. With `decide`, misses
wait for a verdict as connects under DELAY rules do. Who reads too slowly is not waited for: a line `{"event": "lost",
"count": n}` says how many events the journal has forgotten meanwhile. `journal` names the journal; a program that comes
back says from which number on it wants the events of which journal.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from typing import Any, Final

from blockcloud.primitives.errors import BlockCloudError, Malformed
from blockcloud.service_access.addresses import Address, parse_address
from blockcloud.service_access.control import Handler, Lines, Stream
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.service_table import RULE_ADDRESSES, Action, Rule, ServiceTable
from blockcloud.service_access.table_events import EVENT_KINDS, TableEvent
from blockcloud.service_access.verdicts import REASON_CHARACTERS, Fate, Verdict

PAGE_BYTES: Final = 32 * 1024  # of rules in one answer, which is one line; one rule has less
WAITING_SHOWN: Final = 100
INSTANCES_SHOWN: Final = 100
EVENTS_AT_ONCE: Final = 64
JOURNAL_BYTES: Final = 8
USERS_ACTIONS: Final = (Action.FORWARD, Action.DELAY, Action.DROP)


class UnknownPosition(BlockCloudError):
    """The journal that the subscription wants to go on with is another one, or has no such number yet."""

    code = "unknown_position"
    hint = "The process has restarted: subscribe without `since`, and ask for the rules anew."


class TableControl:
    """The operations on the table of `endpoint`."""

    def __init__(self, endpoint: ServiceEndpoint) -> None:
        self._endpoint = endpoint
        self._table: ServiceTable = endpoint.table
        self._journal = os.urandom(JOURNAL_BYTES).hex()

    # --- rules ------------------------------------------------------------------------------------------------------

    async def rules(self, request: dict[str, Any]) -> dict[str, Any]:
        """A page of the table: the rules with numbers above `after`."""
        after = _integer(request, "after", 0)
        now_ms = self._endpoint.now_ms()
        self._table.expire(now_ms)
        found = [rule for rule in self._table.rules() if rule.number > after]
        shown: list[dict[str, Any]] = []
        size = 0
        for rule in found:
            view = rule_view(rule, now_ms)
            size += len(json.dumps(view))
            if size > PAGE_BYTES:
                break
            shown.append(view)
        return {"rules": shown, "more": len(shown) < len(found), "last_event": self._table.events.last}

    async def add_rule(self, request: dict[str, Any]) -> dict[str, Any]:
        """Put a rule of the user in. Raises Malformed, InvalidName, BadRule, TableFull."""
        number = self._table.add(rule_of(request), self._endpoint.now_ms())
        return {"rule": number}

    async def remove_rule(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take a rule of the user out. Raises Malformed, UnknownRule."""
        self._table.remove_users(_integer(request, "rule", None), self._endpoint.now_ms())
        return {}

    async def instances(self, _: dict[str, Any]) -> dict[str, Any]:
        """What is known of the instances behind learned rules: what they say of themselves, and what was measured."""
        now_ms = self._endpoint.now_ms()
        self._table.expire(now_ms)
        shown = []
        for name, instance in self._table.learned_instances()[:INSTANCES_SHOWN]:
            standing = self._endpoint.choice.standing(instance.key)
            measured = standing.round_trip_ms
            shown.append(
                {
                    "name": name,
                    "key": instance.key.hex(),
                    "load": instance.load,
                    "draining": instance.draining,
                    "round_trip_ms": None if measured is None else round(measured, 2),
                    "sessions": standing.in_flight,
                    "failures": standing.failures,
                    "healthy": standing.is_healthy(now_ms),
                }
            )
        return {"instances": shown}

    # --- verdicts ---------------------------------------------------------------------------------------------------

    async def waiting(self, _: dict[str, Any]) -> dict[str, Any]:
        """The connects that wait for a verdict, oldest first."""
        now_ms = self._endpoint.now_ms()
        return {
            "waiting": [
                {
                    "id": held.number,
                    "name": held.name,
                    "rule": held.rule,
                    "incoming": held.arrival,
                    "waited_ms": round(now_ms - held.since_ms),
                    "left_ms": round(held.deadline_ms - now_ms),
                }
                for held in self._table.waiting.waiting()[:WAITING_SHOWN]
            ]
        }

    async def verdict(self, request: dict[str, Any]) -> dict[str, Any]:
        """Say what becomes of a waiting connect. Raises Malformed, UnknownWait, CannotForward."""
        fate = _choice(request, "action", {each.value: each for each in Fate})
        addresses = _addresses(request) if fate is Fate.FORWARD else ()
        if fate is Fate.FORWARD and not addresses:
            raise Malformed("a verdict to forward says where: to")
        reason = request.get("reason", "")
        if not isinstance(reason, str) or len(reason) > REASON_CHARACTERS:
            raise Malformed("a reason is a short text", limit=REASON_CHARACTERS)
        held = self._table.waiting.answer(_integer(request, "id", None), Verdict(fate, addresses, reason))
        return {"name": held.name}

    # --- events -----------------------------------------------------------------------------------------------------

    async def subscribe(self, request: dict[str, Any]) -> Lines:
        """The answer, then events for as long as somebody takes them. Raises Malformed, UnknownPosition."""
        kinds = request.get("events", list(EVENT_KINDS))
        decide = request.get("decide", False)
        if not isinstance(kinds, list) or not kinds or not all(kind in EVENT_KINDS for kind in kinds):
            raise Malformed("events is a list of kinds", known=list(EVENT_KINDS))
        if not isinstance(decide, bool):
            raise Malformed("decide is true or false")
        journal = self._table.events
        since = _integer(request, "since", journal.last)
        if request.get("journal", self._journal) != self._journal or since > journal.last:
            raise UnknownPosition(since=since, last=journal.last)
        changed = asyncio.Event()
        journal.changed.append(changed.set)
        self._table.waiting.deciding += decide
        try:
            yield {"journal": self._journal, "next": since + 1}
            while True:
                changed.clear()
                events, lost = journal.since(since, EVENTS_AT_ONCE)
                if lost:
                    since += lost
                    yield {"event": "lost", "count": lost, "next": since + 1}
                for event in events:
                    since = event.number
                    if event.kind in kinds:
                        yield self._event_view(event)
                if since == journal.last:
                    await self._changed(changed)
        finally:
            self._table.waiting.deciding -= decide
            journal.changed.remove(changed.set)

    async def _changed(self, changed: asyncio.Event) -> None:
        """Wait for an event; rules whose time ends meanwhile make one."""
        while not changed.is_set():
            due_ms = self._table.next_timer()
            wait_s = None if due_ms is None else max(0.0, due_ms - self._endpoint.now_ms()) / 1_000 + 0.001
            try:
                async with asyncio.timeout(wait_s):
                    await changed.wait()
            except TimeoutError:
                self._table.expire(self._endpoint.now_ms())

    def _event_view(self, event: TableEvent) -> dict[str, Any]:
        ago_ms = self._endpoint.now_ms() - event.at_ms
        return {
            "event": event.kind,
            "number": event.number,
            "name": event.name,
            "time_ms": round(time.time() * 1_000 - ago_ms),
            **event.details,
        }


def table_operations(endpoint: ServiceEndpoint) -> dict[str, Handler | Stream]:
    """The operations of the module's text, for a control socket."""
    table = TableControl(endpoint)
    return {
        "rules": table.rules,
        "add-rule": table.add_rule,
        "remove-rule": table.remove_rule,
        "instances": table.instances,
        "waiting": table.waiting,
        "verdict": table.verdict,
        "subscribe": Stream(table.subscribe),
    }


def rule_view(rule: Rule, now_ms: float) -> dict[str, Any]:
    """A rule as it is shown; times in milliseconds."""
    ends_ms = rule.ends_ms()
    return {
        "rule": rule.number,
        "pattern": rule.pattern,
        "action": rule.action.value,
        "to": [str(address) for address in rule.addresses],
        "origin": rule.origin.value,
        "priority": rule.priority,
        "weight": rule.weight,
        "matches": rule.matches,
        "age_ms": round(now_ms - rule.added_ms),
        "unused_ms": round(now_ms - rule.last_used_ms),
        "ends_in_ms": None if ends_ms is None else round(max(0.0, ends_ms - now_ms)),
        "key": rule.key.hex() or None,
    }


def rule_of(request: Mapping[str, Any]) -> Rule:
    """The rule that a request describes. Raises Malformed; the table checks the rest."""
    pattern = request.get("pattern")
    if not isinstance(pattern, str):
        raise Malformed("pattern is a name, *.NAME, or *")
    return Rule(
        pattern,
        _choice(request, "action", {each.value: each for each in USERS_ACTIONS}),
        _addresses(request),
        _integer(request, "priority", 0),
        _integer(request, "weight", 1),
        _milliseconds(request, "idle_ms"),
        _milliseconds(request, "hard_ms"),
        _milliseconds(request, "wait_ms"),
    )


def _choice(request: Mapping[str, Any], field: str, known: Mapping[str, Any]) -> Any:
    value = request.get(field)
    if not isinstance(value, str) or value not in known:
        raise Malformed(f"{field} is one of a few words", value=str(value)[:40], known=sorted(known))
    return known[value]


def _integer(request: Mapping[str, Any], field: str, default: int | None) -> int:
    value = request.get(field, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Malformed(f"{field} is a number", value=str(value)[:40])
    return value


def _milliseconds(request: Mapping[str, Any], field: str) -> float | None:
    return float(_integer(request, field, None)) if request.get(field) is not None else None


def _addresses(request: Mapping[str, Any]) -> tuple[Address, ...]:
    texts = request.get("to", [])
    if not isinstance(texts, list) or len(texts) > RULE_ADDRESSES:
        raise Malformed("to is a list of addresses", limit=RULE_ADDRESSES)
    return tuple(parse_address(text) for text in texts)
