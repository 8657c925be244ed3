"""`blockcloud table` over the control sockets of what runs with a home folder."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.home import Home
from blockcloud.service_access.control import ControlServer
from blockcloud.service_access.control_table import table_operations
from blockcloud.service_access.endpoint import ServiceEndpoint
from tests.cli.cli_world import Result, command
from tests.service_access.access_world import bounded


class Running:
    """What runs in a home folder, each with a table of its own."""

    def __init__(self, home: Path, stack: AsyncExitStack) -> None:
        self.home = home
        self._stack = stack

    async def start(self, name: str) -> ServiceEndpoint:
        endpoint = await self._stack.enter_async_context(ServiceEndpoint(SigningKey.generate()))
        server = ControlServer(Home.find(self.home).control_path(name), table_operations(endpoint))
        await server.start()
        self._stack.push_async_callback(server.close)
        return endpoint

    async def command(self, *arguments: str) -> Result:
        return await asyncio.to_thread(command, "table", *arguments, "--home", str(self.home))


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        yield Running(tmp_path, stack)


async def test_rules_are_added_shown_and_removed(running: Running) -> None:
    await running.start("forward")
    forward = ["*.lab", "forward", "--to", "127.0.0.1:7", "--to", "quic:127.0.0.1:8", "--hard-ms", "60000"]
    assert (await running.command("add", *forward, "--json")).report == {"rule": 1}
    assert (await running.command("add", "night.lab", "delay", "--wait-ms", "100", "--json")).report == {"rule": 2}
    shown = (await running.command("--json")).report
    assert (shown["of"], shown["waiting"]) == ("forward", [])
    assert [(rule["pattern"], rule["action"], rule["to"]) for rule in shown["rules"]] == [
        ("*.lab", "forward", ["127.0.0.1:7", "quic:127.0.0.1:8"]),
        ("night.lab", "delay", []),
    ]
    text = (await running.command("--of", "forward")).out
    assert "night.lab" in text
    assert (await running.command("remove", "2", "--json")).report == {"removed": 2}
    assert "night.lab" not in (await running.command()).out


async def test_what_runs_is_inferred_or_asked_for(running: Running) -> None:
    assert (await running.command()).code == 3
    await running.start("forward")
    Home.find(running.home).control_path("publish-crashed").touch()
    assert (await running.command()).code == 0
    publish = await running.start("publish-lamp.lab")
    several = await running.command()
    assert several.code == 1
    assert "--of" in several.err
    for of in ("lamp.lab", "publish-lamp.lab"):
        assert (await running.command("add", "a.b", "drop", "--of", of)).code == 0
    assert len(publish.table) == 2
    assert (await running.command("--of", "forward", "--json")).report["rules"] == []
    assert (await running.command("--of", "nothing")).code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["add", "*x", "drop"], 2, "[invalid_name]"),
        (["add", "a.b", "explode"], 1, "[malformed]"),
        (["add", "a.b", "forward"], 1, "[bad_rule]"),
        (["remove", "9"], 1, "[unknown_rule]"),
        (["watch", "--event", "birthday"], 1, "[malformed]"),
        (["watch", "--since", "99"], 1, "[unknown_position]"),
        (["--of", "forward", "add", "a.b", "drop"], 2, "behind the command"),
    ],
)
async def test_refusals_say_why(running: Running, arguments: list[str], code: int, message: str) -> None:
    await running.start("forward")
    result = await running.command(*arguments)
    assert (result.code, message in result.err) == (code, True), result.err


async def test_watching_prints_events_as_they_come(running: Running) -> None:
    endpoint = await running.start("forward")
    watching = [*"-m blockcloud table watch --event miss --json --home".split(), str(running.home)]
    process = await asyncio.create_subprocess_exec(sys.executable, *watching, "--since", "0", stdout=PIPE)
    try:
        assert process.stdout is not None
        for number in (1, 2):
            endpoint.table.note("move", "x.y", endpoint.now_ms())
            endpoint.table.note("miss", f"n{number}.lab", endpoint.now_ms())
            event = json.loads(await bounded(process.stdout.readline()))
            assert (event["event"], event["name"], event["number"]) == ("miss", f"n{number}.lab", 2 * number)
    finally:
        process.send_signal(signal.SIGINT)
        assert await bounded(process.wait()) == 130
