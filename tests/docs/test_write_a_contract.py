"""The tutorial for contracts, typed in the order in which it stands there, on a small devnet of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.docs import programs
from tests.docs.documents import ROOT, command_lines
from tests.docs.programs import STEP_SECONDS

pytestmark = pytest.mark.long

TUTORIAL = ROOT / "docs" / "how-to" / "write-a-contract.md"


async def run(folder: Path, line: str) -> tuple[int, str, str]:
    """What a command of the tutorial does: exit code, output, messages."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BLOCKCLOUD_")}
    arguments = ("-m", *shlex.split(f"{line} --json"))
    async with programs.running(folder, *arguments, environment=environment) as process:
        async with asyncio.timeout(STEP_SECONDS):
            output, messages = await process.communicate()
        return process.returncode or 0, output.decode(), messages.decode()


async def report(folder: Path, line: str) -> Any:
    """The JSON of a command that ends well."""
    code, output, messages = await run(folder, line)
    assert code == 0, f"{line}: {messages}"
    return json.loads(output)


async def test_the_tutorial_for_contracts_works_as_written(tmp_path: Path) -> None:
    lines = "\n".join(command_lines(TUTORIAL, "blockcloud")).replace("--validators 4", "--validators 2").splitlines()
    up, new, test, deploy, call, query, show, refused, down = lines
    async with AsyncExitStack() as stack:
        stack.push_async_callback(run, tmp_path, down)
        await report(tmp_path, up)
        await report(tmp_path, new)
        tested = await report(tmp_path, test)
        assert [item["passed"] for item in tested["tests"]] == [True] * 3
        deployed = await report(tmp_path, deploy)
        assert deployed["code_hash"] == tested["code_hash"]

        def filled(line: str) -> str:
            return line.replace("CONTRACT", deployed["contract"])

        called = await report(tmp_path, filled(call))
        assert (called["code"], called["output"]["number"]) == ("ok", 42)
        assert [event["topic"] for event in called["events"]] == ["added"]
        assert (await report(tmp_path, filled(query)))["output"]["number"] == 42
        assert (await report(tmp_path, filled(show)))["code_hash"] == deployed["code_hash"]
        code, _, messages = await run(tmp_path, filled(refused))
        assert code == 4
        assert "add how much?" in messages
