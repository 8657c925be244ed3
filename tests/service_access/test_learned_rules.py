"""What the service table learns from resolutions, and that it never stands in the way of what the user said."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.limits import CLOCK_SKEW_SECONDS
from blockcloud.routing.address_record import Endpoint
from blockcloud.service_access import service_table
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.resolution import Instance, Resolution
from blockcloud.service_access.service_table import Action, BadRule, Origin, Rule, ServiceTable, UnknownRule
from blockcloud.service_access.table_events import EventJournal

NOW_S = 1_000_000
LEASE_S = 120
NAME = "lamp.kitchen"
PLACE = (Address("tls", "127.0.0.1", 9),)
KEYS = [bytes([number]) * 32 for number in range(4)]


def instance(key: bytes, *, port: int = 1_000, sequence: int = 1, lease_s: int = LEASE_S) -> Instance:
    return Instance(key, (Endpoint("tls", "127.0.0.1", port, 3, 7),), sequence, NOW_S + lease_s)


def answer(*instances: Instance, keys: list[bytes] = KEYS, name: str = NAME) -> Resolution:
    return Resolution(name, bytes(32), bytes(32), tuple(keys), instances, 1, 0)


def kinds(table: ServiceTable) -> list[str]:
    return [event.kind for event in table.events.since(0)[0]]


def learned(table: ServiceTable) -> dict[bytes, Rule]:
    return {rule.key: rule for rule in table.rules() if rule.origin is Origin.RECORD}


def test_a_rule_for_each_instance_that_the_ledger_lists() -> None:
    table = ServiceTable()
    foreign = instance(b"\xff" * 32)
    table.learn(answer(instance(KEYS[0]), instance(KEYS[1]), foreign), 0, NOW_S)
    rules = learned(table)
    assert list(rules) == KEYS[:2]
    rule = rules[KEYS[0]]
    assert (rule.pattern, rule.action, rule.priority, rule.weight) == (NAME, Action.FORWARD, 3, 7)
    assert rule.ends_ms() == (LEASE_S + CLOCK_SKEW_SECONDS) * 1_000
    assert kinds(table) == ["bind", "bind"]


def test_rules_follow_new_records_and_keep_their_counters() -> None:
    table = ServiceTable()
    table.learn(answer(instance(KEYS[0])), 0, NOW_S)
    before = learned(table)[KEYS[0]]
    table.used(NAME, KEYS[0], 5)
    table.used(NAME, KEYS[1], 5)
    table.learn(answer(instance(KEYS[0], port=2_000, sequence=2)), 60_000, NOW_S + 60)
    after = learned(table)[KEYS[0]]
    assert after is before
    assert [each.port for each in after.addresses] == [2_000]
    assert (after.matches, after.last_used_ms, after.sequence) == (1, 5, 2)
    assert kinds(table) == ["bind", "move"]
    table.learn(answer(instance(KEYS[0], port=9, sequence=1)), 60_000, NOW_S + 60)  # an old record changes nothing
    assert [each.port for each in after.addresses] == [2_000]
    table.learn(answer(instance(KEYS[0], port=2_000, sequence=3, lease_s=200)), 60_000, NOW_S + 60)
    assert after.ends_ms() == 60_000 + (140 + CLOCK_SKEW_SECONDS) * 1_000
    assert kinds(table) == ["bind", "move"]  # a refreshed lease is no move


def test_rules_go_when_the_ledger_revokes_the_key_or_the_name() -> None:
    table = ServiceTable()
    both = answer(instance(KEYS[0]), instance(KEYS[1]))
    table.learn(both, 0, NOW_S)
    table.learn(dataclasses.replace(both, instance_keys=(KEYS[1],)), 1, NOW_S)
    assert list(learned(table)) == [KEYS[1]]
    table.forget(NAME, 2)
    assert len(table) == 0
    table.learn(both, 3, NOW_S)  # and come back when it is listed again
    assert list(learned(table)) == KEYS[:2]
    assert kinds(table) == ["bind", "bind", "unbind", "unbind", "bind", "bind"]


def test_a_lease_is_a_hard_timeout() -> None:
    table = ServiceTable()
    table.learn(answer(instance(KEYS[0]), instance(KEYS[1], lease_s=600)), 0, NOW_S)
    due = table.next_timer()
    assert due == (LEASE_S + CLOCK_SKEW_SECONDS) * 1_000
    assert table.lookup(NAME, due - 1, 0)
    assert list(learned(table)) == KEYS[:2]
    table.expire(due)
    assert list(learned(table)) == [KEYS[1]]
    assert kinds(table)[-1] == "timeout"


@given(
    pattern=st.sampled_from((NAME, "*.kitchen", "*")),
    action=st.sampled_from((Action.DROP, Action.DELAY, Action.FORWARD)),
    first=st.booleans(),
)
def test_a_learned_rule_never_wins_over_the_users(pattern: str, action: Action, first: bool) -> None:
    table = ServiceTable()
    addresses = PLACE if action is Action.FORWARD else ()
    if first:
        table.learn(answer(instance(KEYS[0])), 0, NOW_S)
    number = table.add(Rule(pattern, action, addresses), 0)
    if not first:
        table.learn(answer(instance(KEYS[0])), 0, NOW_S)
    found = table.lookup(NAME, 1, 0)
    assert found is not None
    assert found.number == number
    table.remove_users(number, 2)
    found = table.lookup(NAME, 3, 0)
    assert found is not None
    assert found.origin is Origin.RECORD


def test_only_rules_of_the_user_are_the_users_to_remove() -> None:
    table = ServiceTable()
    bound = table.add(Rule("a.b", Action.DEMUX), 0)
    table.learn(answer(instance(KEYS[0])), 0, NOW_S)
    for number in (bound, learned(table)[KEYS[0]].number, 99):
        with pytest.raises(UnknownRule):
            table.remove_users(number, 1)
    assert len(table) == 2


@pytest.mark.parametrize(
    "rule",
    [
        Rule("a.b", Action.FORWARD),
        Rule("a.b", Action.FORWARD, PLACE * 9),
        Rule("a.b", Action.DROP, PLACE),
        Rule("a.b", Action.DROP, wait_ms=5),
        Rule("a.b", Action.DELAY, wait_ms=10**9),
        Rule("a.b", Action.DROP, priority=-1),
        Rule("a.b", Action.DROP, weight=70_000),
        Rule("a.b", Action.DROP, idle_timeout_ms=0),
        Rule("a.b", Action.DROP, hard_timeout_ms=1e18),
    ],
)
def test_bad_rules(rule: Rule) -> None:
    table = ServiceTable()
    with pytest.raises(BadRule):
        table.add(rule, 0)
    assert len(table) == 0


def test_names_and_timers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_table, "LEARNED_NAMES", 3)
    table = ServiceTable()
    for number in range(200):
        table.learn(answer(instance(KEYS[0]), name=f"n{number}.x"), number, NOW_S)
        table.remove(table.add(Rule("a.b", Action.DROP, idle_timeout_ms=1e9), number), number)
    assert table.learned_names() == ["n197.x", "n198.x", "n199.x"]
    assert len(table._ends) <= 2 * len(table) + 66


@given(
    added=st.integers(0, 30),
    since=st.integers(0, 40),
    count=st.integers(1, 12),
    limit=st.integers(1, 10),
)
def test_a_follower_is_told_how_much_it_lost(added: int, since: int, count: int, limit: int) -> None:
    journal = EventJournal(limit)
    calls: list[int] = []
    journal.changed.append(lambda: calls.append(journal.last))
    for number in range(added):
        journal.add("miss", f"n{number}", number, {})
    assert calls == list(range(1, added + 1))
    since = min(since, added)
    kept = range(max(1, added - limit + 1), added + 1)
    events, lost = journal.since(since, count)
    wanted = [number for number in range(since + 1, added + 1) if number in kept][:count]
    assert [event.number for event in events] == wanted
    assert lost == sum(number not in kept for number in range(since + 1, added + 1))
