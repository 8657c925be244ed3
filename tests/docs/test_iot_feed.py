"""The how-to on feeds, typed in the order in which it stands there, on a small devnet and a broker of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio.subprocess import Process
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from blockcloud.node.devnet import free_port
from tests.docs.documents import ROOT, blocks
from tests.docs.programs import STEP_SECONDS, running, typed, typed_by
from tests.service_access.edge.feed_world import mosquitto, needs_mosquitto_pub, run

HOW_TO = ROOT / "docs" / "how-to" / "iot-feed.md"
PORTS = ("1883", "8081", "5683")


def steps(ports: dict[str, int]) -> list[str]:
    """The command lines as written, but for the ports, which may be in use here, and a smaller network."""
    lines = [line for block in blocks(HOW_TO) if block.language == "sh" for line in block.text.splitlines() if line]
    text = "\n".join(lines)
    for written, used in ports.items():
        text = text.replace(f"127.0.0.1:{written}", f"127.0.0.1:{used}").replace(f"-p {written} ", f"-p {used} ")
    return text.replace("--validators 4", "--validators 2").splitlines()


async def send(folder: Path, line: str) -> None:
    """A line that sends readings, in a shell, as it stands."""
    code, output = await run("sh", "-c", f"cd {folder} && {line}")
    assert code == 0, output


async def ready(process: Process) -> None:
    """Wait for the ready line of a serving command."""
    assert process.stdout is not None
    async with asyncio.timeout(STEP_SECONDS):
        assert await process.stdout.readline()


@pytest.mark.long
@needs_mosquitto_pub
@pytest.mark.skipif(
    not (shutil.which("coap-client-notls") and shutil.which("curl")), reason="needs curl and Debian's libcoap3-bin"
)
async def test_the_how_to_on_feeds_works_as_written(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(mosquitto(tmp_path))
        lines = steps(dict(zip(PORTS, (broker.port, free_port(), free_port()), strict=True)))
        up, porch, feed, *sending = lines[:8]
        read, windows, follow, town, copy, status, collect, down = lines[8:]
        stack.push_async_callback(typed, tmp_path, down)
        for line in (up, porch):
            await typed(tmp_path, line)
        edge = await stack.enter_async_context(typed_by(tmp_path, f"{feed} --window 1"))
        await ready(edge)
        await until_connected(tmp_path, status)
        for line in sending:
            await send(tmp_path, line)
        newest = {each["series"]: each["value"] for each in (await typed(tmp_path, read))["newest"]}
        assert newest == {
            "home/door": True,
            "kitchen/humidity": 48.0,
            "kitchen/temperature": 19.5,
            "meter/power": 230.0,
            "porch/humidity": 55.0,
            "porch/temperature": 21.5,
        }
        async with asyncio.timeout(STEP_SECONDS):
            while not (await typed(tmp_path, windows))["windows"]:
                pass
        async with typed_by(tmp_path, follow) as reader:
            output, messages = await reader.communicate()
        assert [b"kitchen/" in line for line in output.splitlines()] == [True, True]
        assert b"--after" in messages
        (program,) = [block.text for block in blocks(HOW_TO) if block.language == "python"]
        async with running(tmp_path, "-c", program, environment=os.environ) as reader:
            output, messages = await reader.communicate()
        assert output.split() == b"kitchen/temperature 19.5 Cel kitchen/humidity 48.0 %RH".split(), messages
        await typed(tmp_path, town)
        await send(tmp_path, copy)
        above = await stack.enter_async_context(typed_by(tmp_path, collect))
        await ready(above)
        for line in ("blockcloud --home town edge read town", "blockcloud --home net edge read porch"):
            async with asyncio.timeout(STEP_SECONDS):
                while {each["series"] for each in (await typed(tmp_path, line))["newest"]} != set(newest):
                    pass
        for process in (above, edge):
            process.terminate()
            assert await process.wait() == 0


async def until_connected(folder: Path, status: str) -> None:
    """Until the feed has subscribed at the broker."""
    async with asyncio.timeout(STEP_SECONDS):
        while not (await typed(folder, status))["mqtt"]["connected"]:
            pass
