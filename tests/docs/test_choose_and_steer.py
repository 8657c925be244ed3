"""The how-to on instances and rules, typed in the order in which it stands there, on a small devnet of its own."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from asyncio.subprocess import Process
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from blockcloud.node.devnet import free_port
from tests.docs.documents import ROOT, blocks, command_lines
from tests.docs.programs import STEP_SECONDS, running, typed, typed_by
from tests.docs.test_who_may_connect import fetch, until_fetched

HOW_TO = ROOT / "docs" / "how-to" / "choose-and-steer.md"


def steps(ports: dict[str, int]) -> list[str]:
    """The commands as written, but for the ports, which may be in use here, and a smaller network."""
    text = "\n".join(command_lines(HOW_TO, "blockcloud")).replace("--validators 4", "--validators 2")
    return re.sub(r"127\.0\.0\.1:(\d{4})\b", lambda found: f"127.0.0.1:{ports[found[1]]}", text).splitlines()


def program() -> str:
    (block,) = [block for block in blocks(HOW_TO) if block.language == "python"]
    return block.text


async def ready(stack: AsyncExitStack, folder: Path, line: str) -> Process:
    """A command that goes on, once it has said that it is ready."""
    process = await stack.enter_async_context(typed_by(folder, line))
    await said(process)
    return process


async def said(process: Process) -> bytes:
    assert process.stdout is not None
    async with asyncio.timeout(STEP_SECONDS):
        return await process.stdout.readline()


async def served(stack: AsyncExitStack, folder: Path, content: bytes, port: int) -> None:
    """A web server with one page."""
    folder.mkdir()
    (folder / "x.txt").write_bytes(content)
    server = ["-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    await stack.enter_async_context(running(folder, *server, environment=os.environ))


def all_well(shown: dict[str, Any]) -> bool:
    """Both instances are healthy and measured."""
    known = shown["instances"]
    return len(known) == 2 and all(each["healthy"] and (each["round_trip_ms"] or 0) > 0 for each in known)


@pytest.mark.long
async def test_the_how_to_on_instances_and_rules_works_as_written(tmp_path: Path) -> None:
    ports = {name: free_port() for name in ("8080", "8081", "9000", "9001")}
    up, register, first, second, forward, table, priced, limited, drain, *rules = steps(ports)
    drop, elsewhere, remove, delay, watch, down = rules
    (tmp_path / "steer.py").write_text(program())
    port = ports["9000"]
    async with AsyncExitStack() as stack:
        stack.push_async_callback(typed, tmp_path, down)
        for line in (up, register):
            await typed(tmp_path, line)
        await served(stack, tmp_path / "one", b"one\n", ports["8080"])
        await served(stack, tmp_path / "two", b"two\n", ports["8081"])
        await ready(stack, tmp_path, first)
        (tmp_path / "second").mkdir()
        shutil.copy(tmp_path / "net/genesis.json", tmp_path / "second")
        draining = await ready(stack, tmp_path, second)
        await ready(stack, tmp_path, forward)
        async with asyncio.timeout(STEP_SECONDS):
            seen = {b""}
            while seen < {b"", b"one\n", b"two\n"}:  # two equals: chance, or exploration, takes each in turn
                seen.add(await fetch(port))
        async with asyncio.timeout(STEP_SECONDS):
            while not all_well(shown := await typed(tmp_path, table)):
                continue  # on a busy machine one may have been late, and is probed again
        assert sum(rule["matches"] for rule in shown["rules"] if rule["origin"] == "record") >= 2
        assert (await typed(tmp_path, priced))["service_file"]["bc:price"] == {"amount": "0.001", "unit": "request"}
        await ready(stack, tmp_path, limited)
        assert await fetch(ports["9001"]) in (b"one\n", b"two\n")

        assert (await typed(tmp_path, drain))["draining"]
        async with asyncio.timeout(STEP_SECONDS):
            assert await draining.wait() == 0
        await until_fetched(port, b"one\n")

        await typed(tmp_path, drop)
        rule = (await typed(tmp_path, elsewhere))["rule"]
        assert await fetch(port) == b""
        await typed(tmp_path, remove.replace(" 5 ", f" {rule} "))
        await until_fetched(port, b"one\n")
        await decided(stack, tmp_path, delay, watch, port)


async def decided(stack: AsyncExitStack, folder: Path, delay: str, watch: str, port: int) -> None:
    """The part with the program: it lets `lamp` through, and nothing when its list is empty."""
    await typed(folder, delay)
    watching = await stack.enter_async_context(typed_by(folder, f"{watch} --since 0"))
    await said(watching)
    for names, wanted in ((["lamp"], b"one\n"), ([], b"")):
        steering = running(folder, "steer.py", "net/run/forward.sock", *names, environment=os.environ)
        async with steering as process:
            assert b'"ok"' in (await said(process)).replace(b"'", b'"')
            assert await fetch(port) == wanted
            assert b"'id'" in await said(process)


def test_the_program_of_the_how_to_is_what_the_text_says() -> None:
    """It compiles, and speaks of operations and events that there are."""
    from blockcloud.service_access.control_table import Fate
    from blockcloud.service_access.table_events import EVENT_KINDS

    text = program()
    compile(text, "steer.py", "exec")
    namespace: dict[str, Any] = {}
    (listed,) = re.findall(r"events=(\[.*?\])", text)
    exec(f"kinds = {listed}", namespace)
    assert set(namespace["kinds"]) <= set(EVENT_KINDS)
    assert {"resolve", "drop"} <= {fate.value for fate in Fate}
