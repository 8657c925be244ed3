"""Sessions that come in, under the rules of the provider's table: dropped, held, let in by its program."""

from __future__ import annotations

import asyncio

import pytest

from blockcloud.service_access import verdicts
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.control_table import TableControl
from blockcloud.service_access.errors import AccessDenied, NotLetIn, SessionReset, TooMany
from blockcloud.service_access.handshake import UnknownTarget
from blockcloud.service_access.listener import Listener
from blockcloud.service_access.service_table import Action, Rule, ServiceTable
from blockcloud.service_access.stream import Session
from blockcloud.service_access.verdicts import CannotForward, Fate, Held, Verdict
from tests.service_access.access_world import NAME, World, bounded, until


def rule(listener: Listener, action: Action, pattern: str = NAME, **values: int) -> int:
    """A rule of the provider."""
    table = listener.endpoint.table
    return table.add(Rule(pattern, action, **values), listener.endpoint.now_ms())


async def connecting(world: World) -> asyncio.Task[Session]:
    """A consumer on its way."""
    endpoint = await world.endpoint()
    return asyncio.create_task(Connector(endpoint, world.registry).connect(NAME))


async def held(listener: Listener) -> Held:
    """The first that waits at the provider's."""
    waiting = listener.endpoint.table.waiting
    await until(waiting.waiting)
    return waiting.waiting()[0]


async def refused(task: asyncio.Task[Session]) -> str:
    """The code that the consumer is refused with."""
    with pytest.raises(SessionReset) as caught:
        await bounded(task)
    return caught.value.reset_code


async def test_a_drop_of_the_provider_wins_over_its_listener(world: World) -> None:
    listener = await world.listener()
    number = rule(listener, Action.DROP)
    assert await refused(await connecting(world)) == UnknownTarget.code
    listener.endpoint.table.remove(number, 0)
    await bounded(await connecting(world))
    assert (await bounded(listener.accept())).name == NAME


async def test_a_held_session_begins_when_it_is_let_in_and_nothing_of_it_is_lost(world: World) -> None:
    listener = await world.listener()
    rule(listener, Action.DELAY)
    task = await connecting(world)
    waiting = await held(listener)
    assert (waiting.name, waiting.arrival) == (NAME, True)
    event = listener.endpoint.table.events.since(0, 100)[0][-1]
    assert (event.kind, event.details["incoming"]) == ("connect", True)
    assert len(str(event.details["key"])) == 64
    assert (await TableControl(listener.endpoint).waiting({}))["waiting"][0]["incoming"]
    assert not task.done()
    assert not listener.endpoint.sessions
    listener.endpoint.table.waiting.answer(waiting.number, Verdict(Fate.RESOLVE))
    consumer = await bounded(task)
    provider = await bounded(listener.accept())
    await consumer.write(b"hello")
    assert await bounded(provider.read()) == b"hello"


async def test_a_session_that_nobody_lets_in_is_refused(world: World) -> None:
    listener = await world.listener()
    rule(listener, Action.DELAY, wait_ms=50)
    assert await refused(await connecting(world)) == NotLetIn.code
    assert not listener.endpoint.table.waiting.waiting()
    event = listener.endpoint.table.events.since(0, 100)[0][-1]
    assert (event.kind, event.details["incoming"]) == ("drop", True)


async def test_a_verdict_to_drop_tells_why_and_one_to_forward_is_none(world: World) -> None:
    listener = await world.listener()
    rule(listener, Action.DELAY)
    task = await connecting(world)
    waiting = await held(listener)
    room = listener.endpoint.table.waiting
    with pytest.raises(CannotForward):
        room.answer(waiting.number, Verdict(Fate.FORWARD))
    room.answer(waiting.number, Verdict(Fate.DROP, reason="not at night"))
    with pytest.raises(SessionReset, match="not at night"):
        await bounded(task)


async def test_those_who_come_in_have_a_limit_of_their_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "WAITING_ARRIVALS", 1)
    monkeypatch.setattr(verdicts, "WAITING_CONNECTS", 1)
    listener = await world.listener()
    rule(listener, Action.DELAY)
    first = await connecting(world)
    waiting = await held(listener)
    assert await refused(await connecting(world)) == TooMany.code
    # The provider's own connects may still wait.
    own = listener.endpoint.table.waiting.hold("other.acme", 1, 0, 100, lambda _: None)
    assert not own.arrival
    listener.endpoint.table.waiting.answer(waiting.number, Verdict(Fate.RESOLVE))
    await bounded(first)


async def test_how_long_a_session_is_held_is_bounded_whatever_the_rule_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockcloud.service_access.steering.ARRIVAL_WAIT_MS_MAX", 50.0)
    listener = await world.listener()
    rule(listener, Action.DELAY, wait_ms=60_000)
    assert await refused(await connecting(world)) == NotLetIn.code


@pytest.mark.parametrize("ends_ms", [None, 100])
async def test_a_held_session_goes_on_when_the_rule_is_gone(world: World, ends_ms: int | None) -> None:
    listener = await world.listener()
    values = {} if ends_ms is None else {"hard_timeout_ms": ends_ms}
    number = rule(listener, Action.DELAY, **values)
    task = await connecting(world)
    await held(listener)
    assert not listener.endpoint.sessions
    if ends_ms is None:
        listener.endpoint.table.remove_users(number, listener.endpoint.now_ms())
    consumer = await bounded(task)
    provider = await bounded(listener.accept())
    await consumer.write(b"hello")
    assert await bounded(provider.read()) == b"hello"
    assert listener.endpoint.table.waiting.waiting() == []


async def test_what_the_table_says_afterwards_holds_for_who_was_held(world: World) -> None:
    listener = await world.listener()
    table = listener.endpoint.table
    first = rule(listener, Action.DELAY)
    second = rule(listener, Action.DELAY, priority=0)
    task = await connecting(world)
    before = await held(listener)
    assert before.rule == first
    table.remove_users(first, 0)
    await until(lambda: [each.rule for each in table.waiting.waiting()] == [second])
    assert table.waiting.waiting()[0].deadline_ms <= before.deadline_ms + 1  # not a second time as long
    rule(listener, Action.DROP)
    table.remove_users(second, 0)
    assert await refused(task) == NotLetIn.code
    assert not listener.endpoint.sessions


async def test_a_connect_of_our_own_goes_on_when_the_rule_is_gone(world: World) -> None:
    listener = await world.listener()
    endpoint = await world.endpoint()
    number = endpoint.table.add(Rule(NAME, Action.DELAY), endpoint.now_ms())
    task = asyncio.create_task(Connector(endpoint, world.registry).connect(NAME))
    await until(endpoint.table.waiting.waiting)
    endpoint.table.remove_users(number, endpoint.now_ms())
    await bounded(task)
    assert (await bounded(listener.accept())).name == NAME
    number = endpoint.table.add(Rule(NAME, Action.DELAY), endpoint.now_ms())
    task = asyncio.create_task(Connector(endpoint, world.registry).connect(NAME))
    await until(endpoint.table.waiting.waiting)
    endpoint.table.add(Rule(NAME, Action.DROP), endpoint.now_ms())
    endpoint.table.remove_users(number, endpoint.now_ms())
    with pytest.raises(AccessDenied):
        await bounded(task)


async def test_a_rule_for_connects_says_nothing_of_sessions_that_come_in(world: World) -> None:
    listener = await world.listener()
    listener.endpoint.table.add(Rule(NAME, Action.FORWARD, listener.addresses), 0)
    rule(listener, Action.DELAY, pattern="*")  # the listener's own name is the longer match
    await bounded(await connecting(world))
    await bounded(listener.accept())


@pytest.mark.parametrize(("priority", "wins"), [(0, True), (1, False)])
def test_the_users_rule_comes_before_the_listeners_unless_it_says_otherwise(priority: int, wins: bool) -> None:
    table = ServiceTable()
    bind = table.add(Rule(NAME, Action.DEMUX), 0)
    users = table.add(Rule(NAME, Action.DROP, priority=priority), 0)
    for incoming in (True, False):
        for draw in range(4):
            found = table.lookup(NAME, 0, draw, incoming=incoming)
            assert found is not None
            assert found.number == (users if wins else bind)


async def test_a_learned_rule_says_nothing_of_sessions_that_come_in(world: World) -> None:
    endpoint = await world.endpoint()
    await world.listener()
    await bounded(Connector(endpoint, world.registry).connect(NAME))
    assert endpoint.table.lookup(NAME, endpoint.now_ms(), 0) is not None
    assert endpoint.table.lookup(NAME, endpoint.now_ms(), 0, incoming=True) is None
