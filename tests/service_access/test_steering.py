"""Connects under the rules of a table, a program that decides about them, and the control socket between the two."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from blockcloud.service_access import verdicts
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.control import ControlServer, request, subscription
from blockcloud.service_access.control_table import table_operations
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.errors import AccessDenied
from blockcloud.service_access.resolution import UnknownName
from blockcloud.service_access.service_table import Action, Origin, Rule
from blockcloud.service_access.verdicts import Fate, NoVerdict, TooManyWaiting, UnknownWait, Verdict
from tests.service_access.access_world import NAME, World, bounded, until

PROGRAM = Path(__file__).with_name("verdict_program.py")


@pytest.fixture
async def endpoint(world: World) -> ServiceEndpoint:
    """A consumer's."""
    return await world.endpoint()


@pytest.fixture
async def path(world: World, endpoint: ServiceEndpoint, tmp_path: Path) -> Path:
    """Its control socket."""
    server = ControlServer(tmp_path / "c.sock", table_operations(endpoint))
    await server.start()
    world.stack.push_async_callback(server.close)
    return tmp_path / "c.sock"


async def program(world: World, path: Path, replica: str) -> Process:
    """The user's program, subscribed."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(PROGRAM), str(path), replica, stdout=PIPE)

    async def end() -> None:
        if process.returncode is None:
            process.kill()
        await process.wait()

    world.stack.push_async_callback(end)
    assert (await seen(process))["ok"]
    return process


async def seen(process: Process) -> dict[str, Any]:
    """The next line that the program prints."""
    assert process.stdout is not None
    return dict(json.loads(await bounded(process.stdout.readline())))


async def test_a_program_decides_about_misses_and_delays(world: World, endpoint: ServiceEndpoint, path: Path) -> None:
    listener = await world.listener()
    far = await world.listener(name="far.acme", announce=False)
    process = await program(world, path, str(far.addresses[0]))
    connector = Connector(endpoint, world.registry)
    await bounded(connector.connect(NAME))
    miss = await seen(process)
    assert (miss["event"], miss["name"]) == ("miss", NAME)
    assert [(await seen(process))[field] for field in ("ok",)] == [True]
    assert (await bounded(listener.accept())).name == NAME
    assert (await seen(process))["event"] == "bind"  # the table has learned where the service is
    await bounded(connector.connect(NAME))  # no miss any more: nobody is asked
    assert (await seen(process))["event"] == "connect"

    await bounded(connector.connect("far.acme"))  # has no address record: only the verdict knows where it is
    assert (await bounded(far.accept())).name == "far.acme"

    endpoint.table.add(Rule("*.acme", Action.DELAY), endpoint.now_ms())
    with pytest.raises(AccessDenied, match="not at night"):
        await bounded(connector.connect(NAME))
    await bounded(connector.connect("far.acme"))
    endpoint.table.add(Rule("slow.acme", Action.DELAY, wait_ms=50), endpoint.now_ms())
    with pytest.raises(NoVerdict):
        await bounded(connector.connect("slow.acme"))
    assert endpoint.table.waiting.waiting() == []

    process.kill()
    await process.wait()
    await until(lambda: endpoint.table.waiting.deciding == 0)
    with pytest.raises(UnknownName):  # a miss is only resolved now
        await bounded(connector.connect("other.lab"))


async def test_a_delayed_connect_waits_until_it_is_answered(
    world: World, endpoint: ServiceEndpoint, path: Path
) -> None:
    listener = await world.listener()
    added = await request(path, {"op": "add-rule", "pattern": "*.acme", "action": "delay"})
    connecting = asyncio.create_task(Connector(endpoint, world.registry).connect(NAME))
    while not (waiting := (await request(path, {"op": "waiting"}))["waiting"]):
        assert not connecting.done()
    (held,) = waiting
    assert (held["name"], held["rule"]) == (NAME, added["rule"])
    assert world.registry.resolved == 0
    assert (await request(path, {"op": "verdict", "id": held["id"], "action": "resolve"}))["name"] == NAME
    await bounded(connecting)
    await bounded(listener.accept())
    again = await request(path, {"op": "verdict", "id": held["id"], "action": "drop"})
    assert again["code"] == "unknown_wait"


async def test_a_cancelled_connect_waits_no_more(world: World, endpoint: ServiceEndpoint) -> None:
    endpoint.table.add(Rule("*", Action.DELAY), 0)
    connecting = asyncio.create_task(Connector(endpoint, world.registry).connect(NAME))
    await until(endpoint.table.waiting.waiting)
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    assert endpoint.table.waiting.waiting() == []


async def test_how_many_wait_is_bounded(
    world: World, endpoint: ServiceEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "WAITING_CONNECTS", 2)
    endpoint.table.add(Rule("*", Action.DELAY), 0)
    connector = Connector(endpoint, world.registry)
    waiting = [asyncio.create_task(connector.connect(NAME)) for _ in range(2)]
    await until(lambda: len(endpoint.table.waiting.waiting()) == 2)
    with pytest.raises(TooManyWaiting):
        await connector.connect(NAME)
    for held in endpoint.table.waiting.waiting():
        endpoint.table.waiting.answer(held.number, Verdict(Fate.DROP))
        with pytest.raises(UnknownWait):
            endpoint.table.waiting.answer(held.number, Verdict(Fate.DROP))
    for task in waiting:
        with pytest.raises(AccessDenied):
            await bounded(task)


async def test_rules_over_the_socket(world: World, endpoint: ServiceEndpoint, path: Path) -> None:
    await world.listener()
    await bounded(Connector(endpoint, world.registry).connect(NAME))
    for number in range(120):
        await request(path, {"op": "add-rule", "pattern": f"n{number}.acme", "action": "drop"})
    rule = {"pattern": "*.acme", "action": "forward", "to": ["127.0.0.1:7"], "priority": 2, "weight": 3}
    answer = await request(path, {"op": "add-rule", **rule, "hard_ms": 60_000})
    rules: list[dict[str, Any]] = []
    page: dict[str, Any] = {"more": True}
    while page["more"]:
        page = await request(path, {"op": "rules", "after": rules[-1]["rule"] if rules else 0})
        rules += page["rules"]
    assert [each["rule"] for each in rules] == sorted(each["rule"] for each in rules)
    assert len(rules) == 122
    shown = rules[-1]
    assert rule.items() <= shown.items()
    assert shown["rule"] == answer["rule"]
    assert 0 < shown["ends_in_ms"] <= 60_000
    (entry,) = [each for each in rules if each["origin"] == Origin.RECORD.value]
    assert (entry["pattern"], entry["matches"]) == (NAME, 1)
    assert (await request(path, {"op": "remove-rule", "rule": entry["rule"]}))["code"] == "unknown_rule"
    assert (await request(path, {"op": "remove-rule", "rule": answer["rule"]}))["ok"]
    assert len(endpoint.table) == 121


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ({"op": "add-rule"}, "malformed"),
        ({"op": "add-rule", "pattern": "a.b", "action": "demux"}, "malformed"),
        ({"op": "add-rule", "pattern": "A", "action": "drop"}, "invalid_name"),
        ({"op": "add-rule", "pattern": "a.b", "action": "forward"}, "bad_rule"),
        ({"op": "add-rule", "pattern": "a.b", "action": "forward", "to": "x"}, "malformed"),
        ({"op": "add-rule", "pattern": "a.b", "action": "forward", "to": ["x"]}, "malformed"),
        ({"op": "add-rule", "pattern": "a.b", "action": "drop", "weight": True}, "malformed"),
        ({"op": "add-rule", "pattern": "a.b", "action": "drop", "hard_ms": 0}, "bad_rule"),
        ({"op": "add-rule", "pattern": "a.b", "action": "drop", "idle_ms": "1"}, "malformed"),
        ({"op": "remove-rule"}, "malformed"),
        ({"op": "verdict", "id": 1}, "malformed"),
        ({"op": "verdict", "id": 1, "action": "forward"}, "malformed"),
        ({"op": "verdict", "id": 1, "action": "drop", "reason": "x" * 1_000}, "malformed"),
        ({"op": "verdict", "id": 1, "action": "drop"}, "unknown_wait"),
        ({"op": "subscribe", "events": []}, "malformed"),
        ({"op": "subscribe", "events": ["birthday"]}, "malformed"),
        ({"op": "subscribe", "since": -1}, "malformed"),
        ({"op": "subscribe", "since": 10**9}, "unknown_position"),
        ({"op": "subscribe", "since": 0, "journal": "another"}, "unknown_position"),
        ({"op": "subscribe", "decide": "yes"}, "malformed"),
    ],
)
async def test_bad_operations(path: Path, endpoint: ServiceEndpoint, operation: dict[str, Any], code: str) -> None:
    answer = await request(path, operation)
    assert (answer["ok"], answer["code"]) == (False, code)
    assert len(endpoint.table) == 0
    assert endpoint.table.waiting.deciding == 0


async def lines_of(stream: AsyncIterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return [await bounded(anext(stream)) for _ in range(count)]


async def test_a_subscription_goes_on_where_it_was(path: Path, endpoint: ServiceEndpoint) -> None:
    table = endpoint.table
    async with aclosing(subscription(path, {"op": "subscribe"})) as stream:
        (hello,) = await lines_of(stream, 1)
        table.note("miss", "a.b", endpoint.now_ms())
        table.note("move", "a.b", endpoint.now_ms())
        assert [line["number"] for line in await lines_of(stream, 2)] == [1, 2]
    table.note("miss", "c.d", endpoint.now_ms())
    again = {"op": "subscribe", "since": 1, "journal": hello["journal"], "events": ["miss"]}
    async with aclosing(subscription(path, again)) as stream:
        assert (await lines_of(stream, 1))[0]["next"] == 2
        assert [(line["number"], line["name"]) for line in await lines_of(stream, 1)] == [(3, "c.d")]
    await until(lambda: not table.events.changed)


async def test_a_slow_subscriber_is_told_what_it_lost(
    path: Path, endpoint: ServiceEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = endpoint.table
    limit = 1_024
    async with aclosing(subscription(path, {"op": "subscribe"})) as stream:
        await lines_of(stream, 1)
        for _ in range(10 * limit):  # in one go, so nobody can have read any of it
            table.note("miss", "a.b", endpoint.now_ms())
        lost, first = await lines_of(stream, 2)
        assert lost == {"event": "lost", "count": 9 * limit, "next": 9 * limit + 1}
        assert first["number"] == 9 * limit + 1
        rest = await lines_of(stream, limit - 1)
        assert [line["number"] for line in rest] == list(range(9 * limit + 2, 10 * limit + 1))


async def test_a_rule_times_out_under_the_eyes_of_a_subscriber(path: Path, endpoint: ServiceEndpoint) -> None:
    async with aclosing(subscription(path, {"op": "subscribe", "events": ["timeout"]})) as stream:
        await lines_of(stream, 1)
        endpoint.table.add(Rule("a.b", Action.DROP, hard_timeout_ms=20), endpoint.now_ms())
        endpoint.table.note("miss", "x.y", endpoint.now_ms())  # wakes the subscription, which sees the timer then
        assert [line["name"] for line in await lines_of(stream, 1)] == ["a.b"]


async def test_one_subscription_a_connection(path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    for wanted in (True, False):
        writer.write(b'{"op": "subscribe"}\n')
        assert json.loads(await bounded(reader.readline()))["ok"] is wanted
    writer.close()


async def test_the_process_ends_its_subscriptions(world: World, endpoint: ServiceEndpoint, tmp_path: Path) -> None:
    server = ControlServer(tmp_path / "d.sock", table_operations(endpoint))
    await server.start()
    async with aclosing(subscription(tmp_path / "d.sock", {"op": "subscribe", "decide": True})) as stream:
        await lines_of(stream, 1)
        await server.close()
        assert [line async for line in stream] == []
    await until(lambda: endpoint.table.waiting.deciding == 0)


async def test_the_longest_rules_go_over_the_socket(path: Path, endpoint: ServiceEndpoint) -> None:
    name = ".".join(["n" * 60] * 4)
    hosts = [f"{'h' * 60}.{'i' * 60}.{'j' * 60}.{'k' * 60}.{number}:65535" for number in range(8)]
    for _ in range(40):
        await request(path, {"op": "add-rule", "pattern": name, "action": "forward", "to": hosts})
    shown, page = 0, {"more": True, "rules": [{"rule": 0}]}
    while page["more"]:
        page = await request(path, {"op": "rules", "after": page["rules"][-1]["rule"]})
        shown += len(page["rules"])
    assert shown == 40
