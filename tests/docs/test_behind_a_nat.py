"""The how-to on relays, typed in the order in which it stands there, on a small devnet of its own."""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import Process
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from blockcloud.node.devnet import free_port
from tests.docs.documents import ROOT, command_lines
from tests.docs.programs import STEP_SECONDS, running, typed, typed_by

HOW_TO = ROOT / "docs" / "how-to" / "behind-a-nat.md"
CONTENT = b"the service answers\n"
PORTS = ("8080", "8790", "9000", "9001")


def steps(ports: dict[str, int]) -> list[str]:
    """The commands as written, but for the ports, which may be in use here, and a smaller network."""
    text = "\n".join(command_lines(HOW_TO, "blockcloud"))
    for written, free in ports.items():
        text = text.replace(f"127.0.0.1:{written}", f"127.0.0.1:{free}")
    return text.replace("--validators 4", "--validators 2").splitlines()


async def started(stack: AsyncExitStack, folder: Path, line: str) -> Process:
    """A command that serves until it is stopped, once it says something."""
    process = await stack.enter_async_context(typed_by(folder, line))
    assert process.stdout is not None
    async with asyncio.timeout(STEP_SECONDS):
        assert await process.stdout.readline()
    return process


async def fetch(port: int) -> bytes:
    async with asyncio.timeout(STEP_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /x.txt HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
    return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.long
@pytest.mark.timeout(300)  # on a busy machine
async def test_the_how_to_on_relays_works_as_written(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(CONTENT)
    ports = {written: free_port() for written in PORTS}
    up, meeting, files, serve, status, publish, resolve, forward, forward_relayed, down = steps(ports)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(typed, tmp_path, down)
        for line in (up, meeting, files):
            await typed(tmp_path, line)
        arguments = ("-m", "http.server", str(ports["8080"]), "--bind", "127.0.0.1")
        await stack.enter_async_context(running(tmp_path, *arguments, environment=os.environ))
        await started(stack, tmp_path, serve)
        assert (await typed(tmp_path, status))["registered"] == 0
        await started(stack, tmp_path, publish)
        (instance,) = (await typed(tmp_path, resolve))["instances"]
        assert instance["addresses"][1:] == [f"relay:127.0.0.1:{ports['8790']}"]
        # One after the other, since both have the control socket of their home's forward.
        for line, port, registered in ((forward, "9000", 1), (forward_relayed, "9001", 2)):
            async with AsyncExitStack() as consumer:
                await started(consumer, tmp_path, line)
                assert await fetch(ports[port]) == CONTENT
                assert (await typed(tmp_path, status))["registered"] == registered
