"""The service table: longest match on labels, priority, weight, timeouts, counters, events."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.errors import InvalidName
from blockcloud.service_access import service_table
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.service_table import Action, Rule, ServiceTable, TableFull
from blockcloud.service_access.table_events import TableEvent

LABELS = st.sampled_from(("a", "b", "c"))
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.one_of(NAMES, NAMES.map("*.".__add__), st.just("*"))


def matches(pattern: str, name: str) -> bool:
    """The slow, obvious meaning of a pattern."""
    return pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))


def specificity(pattern: str) -> tuple[int, bool]:
    labels = [label for label in pattern.split(".") if label != "*"]
    return len(labels), "*" not in pattern


def events(table: ServiceTable) -> list[TableEvent]:
    return table.events.since(0)[0]


@given(patterns=st.lists(PATTERNS, max_size=12), name=NAMES)
def test_longest_match(patterns: list[str], name: str) -> None:
    table = ServiceTable()
    for pattern in patterns:
        table.add(Rule(pattern, Action.DELAY), 0)
    fitting = [pattern for pattern in patterns if matches(pattern, name)]
    found = table.lookup(name, 0, 0)
    if fitting:
        assert found is not None
        assert found.pattern == max(fitting, key=specificity)
    else:
        assert found is None


def test_priority_then_weight() -> None:
    table = ServiceTable()
    for host, priority, weight in (("a", 1, 9), ("b", 0, 1), ("c", 0, 3)):
        table.add(Rule("x.y", Action.FORWARD, (Address("tls", host, 1),), priority, weight), 0)
    drawn = Counter(rule.addresses[0].host for draw in range(400) if (rule := table.lookup("x.y", 0, draw)))
    assert drawn == {"b": 100, "c": 300}
    assert [rule.matches for rule in table.rules()] == [0, 100, 300]


def test_timeouts() -> None:
    table = ServiceTable()
    table.add(Rule("x.y", Action.DROP, idle_timeout_ms=100), 0)
    table.add(Rule("x.z", Action.DROP, hard_timeout_ms=100), 0)
    for now_ms in (60, 99):
        assert table.lookup("x.y", now_ms, 0)
        assert table.lookup("x.z", now_ms, 0)
    assert table.lookup("x.y", 150, 0)
    assert table.lookup("x.z", 150, 0) is None
    table.expire(250)
    assert len(table) == 0
    assert [event.name for event in events(table) if event.kind == "timeout"] == ["x.z", "x.y"]


def test_events_of_binds_and_drops() -> None:
    table = ServiceTable()
    number = table.add(Rule("x.y", Action.DEMUX), 1)
    table.add(Rule("*.y", Action.DROP), 2)
    table.lookup("z.y", 3, 0)
    assert table.remove(number, 4)
    assert not table.remove(number, 5)
    assert [(event.kind, event.name) for event in events(table)] == [
        ("bind", "x.y"),
        ("drop", "z.y"),
        ("unbind", "x.y"),
    ]


def test_bad_patterns_and_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    table = ServiceTable()
    for pattern in ("", "*x", "a.*", "A.b", "*."):
        with pytest.raises(InvalidName):
            table.add(Rule(pattern, Action.DROP), 0)
    monkeypatch.setattr(service_table, "TABLE_RULES", 1)
    table.add(Rule("a", Action.DROP), 0)
    with pytest.raises(TableFull):
        table.add(Rule("b", Action.DROP), 0)
