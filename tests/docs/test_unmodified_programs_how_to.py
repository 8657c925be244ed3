"""The how-to on unmodified programs, typed in the order in which it stands there, on a small devnet of its own."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from blockcloud.node.devnet import free_port
from tests.docs.documents import ROOT, command_lines
from tests.docs.programs import STEP_SECONDS, running, typed, typed_by

HOW_TO = ROOT / "docs" / "how-to" / "unmodified-programs.md"
CONTENT = b"the service answers\n"


def with_free_ports(lines: list[str]) -> list[str]:
    """The lines, with ports that are free here in place of those that the document says."""
    text = "\n".join(lines).replace("--validators 4", "--validators 2")
    for port in ("8080", "8704", "8705", "8714", "15432"):
        text = text.replace(f":{port}", f":{free_port()}")
    return text.splitlines()


async def fetched(line: str) -> bytes:
    """What the program of a line of the document prints."""
    command = [*shlex.split(line), "--silent", "--show-error", "--fail"]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(STEP_SECONDS):
        output, messages = await process.communicate()
    assert process.returncode == 0, f"{line}: {messages.decode()}"
    return output


@pytest.mark.long
async def test_the_how_to_on_unmodified_programs_works_as_written(tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("not installed: curl")
    ours, curls = list(command_lines(HOW_TO, "blockcloud")), list(command_lines(HOW_TO, "curl"))
    lines = with_free_ports([*ours, *curls])
    up, register, publish, proxy, forward, move, status, guarded, down = lines[: len(ours)]
    server_port = shlex.split(publish)[4].rpartition(":")[2]
    (tmp_path / "index.html").write_bytes(CONTENT)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(typed, tmp_path, down)
        for line in (up, register):
            await typed(tmp_path, line)
        server = running(tmp_path, "-m", "http.server", server_port, "--bind", "127.0.0.1", environment=os.environ)
        await stack.enter_async_context(server)
        for line in (publish, proxy, forward):
            process = await stack.enter_async_context(typed_by(tmp_path, line))
            assert process.stdout is not None
            async with asyncio.timeout(STEP_SECONDS):
                assert await process.stdout.readline(), line
        for line in lines[len(ours) :]:
            assert await fetched(line) == CONTENT
        assert (await typed(tmp_path, move))["to"].startswith("127.0.0.9:")
        assert await fetched(lines[-1]) == CONTENT
        shown = await typed(tmp_path, status)
        assert shown["addresses"][0].startswith("127.0.0.9:")
        assert not shown["faces"]["http"]["errors"]
        # A second proxy in this home would answer at the same control socket.
        assert "another process" in await typed(tmp_path, guarded, code=1)
        assert (tmp_path / "proxy.token").stat().st_mode & 0o777 == 0o600
