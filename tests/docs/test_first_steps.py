"""The README's first steps, typed in the order they stand there, on a small devnet of their own."""

from __future__ import annotations

import asyncio
import os
import shlex
import textwrap
from asyncio.subprocess import Process
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest

from blockcloud.node.devnet import free_port
from tests.docs import programs
from tests.docs.documents import ROOT, blocks, command_lines
from tests.docs.programs import STEP_SECONDS

pytestmark = pytest.mark.long

README = ROOT / "README.md"
SERVING = ("publish", "forward")
CONTENT = b"21.5 degrees\n"


def steps(server_port: int, forward_port: int) -> list[list[str]]:
    """The commands as written, but for two ports that may be in use here and a smaller network."""
    lines = list(command_lines(README, "blockcloud"))
    assert "devnet up" in lines[0]
    assert "devnet down" in lines[-1]
    text = "\n".join(lines).replace("127.0.0.1:8080", f"127.0.0.1:{server_port}")
    text = text.replace("127.0.0.1:9000", f"127.0.0.1:{forward_port}").replace("--validators 4", "--validators 2")
    return [shlex.split(line)[1:] for line in text.splitlines()]


def running(folder: Path, *arguments: str) -> AbstractAsyncContextManager[Process]:
    """A process in `folder` with the README's environment."""
    return programs.running(folder, *arguments, environment={**os.environ, "BLOCKCLOUD_HOME": "net"})


async def run(folder: Path, *arguments: str) -> str:
    """Run a program to its end, which must be a good one; its output."""
    async with running(folder, *arguments) as process, asyncio.timeout(STEP_SECONDS):
        output, messages = await process.communicate()
    assert process.returncode == 0, f"{arguments}: {messages.decode()}"
    return output.decode()


async def fetch(port: int) -> bytes:
    """What an HTTP client gets at a local port."""
    async with asyncio.timeout(STEP_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /thermo.txt HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
    return answer.partition(b"\r\n\r\n")[2]


def snippet() -> str:
    """The README's Python, its two halves as the two programs they are, side by side."""
    (block,) = [block for block in blocks(README) if block.language == "python"]
    head, provider, user = block.text.split("\n\n")
    indent = " " * 4
    return "\n".join(
        (
            head,
            "import asyncio, contextlib",
            "async def provider():",
            textwrap.indent(provider, indent),
            "        await session.close()",
            "async def user():",
            "    while True:",
            "        with contextlib.suppress(blockcloud.primitives.errors.BlockCloudError):",
            textwrap.indent(user, indent * 3),
            "            await session.close()",
            "            return",
            "        await asyncio.sleep(0.1)",
            "async def main():",
            "    await asyncio.gather(provider(), user())",
            "import blockcloud.primitives.errors",
            "asyncio.run(main())",
        )
    )


async def test_the_first_steps_work_as_written(tmp_path: Path) -> None:
    (tmp_path / "thermo.txt").write_bytes(CONTENT)
    server_port, forward_port = free_port(), free_port()
    up, *middle, down = steps(server_port, forward_port)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(run, tmp_path, "-m", "blockcloud", *down)
        await run(tmp_path, "-m", "blockcloud", *up)
        await stack.enter_async_context(running(tmp_path, "-m", "http.server", str(server_port), "--bind", "127.0.0.1"))
        async with AsyncExitStack() as serving:
            for arguments in middle:
                if arguments[0] in SERVING:
                    process = await serving.enter_async_context(running(tmp_path, "-m", "blockcloud", *arguments))
                    assert process.stdout is not None
                    async with asyncio.timeout(STEP_SECONDS):
                        assert await process.stdout.readline(), arguments
                else:
                    assert await run(tmp_path, "-m", "blockcloud", *arguments)
                if arguments[0] in ("forward", "move"):
                    assert await fetch(forward_port) == CONTENT
        assert (await run(tmp_path, "-c", snippet())).strip() == r"b'21.5\n'"
