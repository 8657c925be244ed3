"""The how-to for validators, typed in the order in which it stands there, on a small devnet of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from blockcloud.node.devnet import free_port
from tests.docs.documents import ROOT, command_lines
from tests.docs.programs import STEP_SECONDS, typed, typed_by

pytestmark = pytest.mark.long

HOW_TO = ROOT / "docs" / "how-to" / "become-a-validator.md"


def steps(api_port: int) -> list[str]:
    """The commands as written, but for the ports, which may be in use here, and a smaller network."""
    text = "\n".join(command_lines(HOW_TO, "blockcloud"))
    text = text.replace("8901", str(api_port + 1)).replace("8900", str(api_port))
    return text.replace("--validators 4", "--validators 1").splitlines()


async def until(folder: Path, line: str, condition: Callable[[Any], bool]) -> None:
    """Ask again until the answer is as it should become; a node that starts does not answer at once."""
    async with asyncio.timeout(STEP_SECONDS):
        while True:
            async with typed_by(folder, f"{line} --json") as process:
                output, _ = await process.communicate()
            if process.returncode == 0 and condition(json.loads(output)):
                return


async def test_the_how_to_for_validators_works_as_written(tmp_path: Path) -> None:
    api_port = free_port()
    up, init, node, status, pay, bond, stake, show, unbond, withdraw, down = steps(api_port)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(typed, tmp_path, down)
        await typed(tmp_path, up)
        home = await typed(tmp_path, init)
        await stack.enter_async_context(typed_by(tmp_path, node))
        await until(tmp_path, status, lambda report: report["height"] > 0 and report["mode"] == "observing")
        assert (await typed(tmp_path, pay.replace("ADDRESS", home["address"])))["code"] == "ok"
        assert (await typed(tmp_path, bond))["address"] == home["address"]
        await until(tmp_path, stake, lambda report: report.get("stake") is not None)
        assert (await typed(tmp_path, stake))["stake"]["claim"]["storage_bytes"] == 1024 * 1024
        await until(tmp_path, show, lambda report: [entry["era"] for entry in report["ready"]] == [report["era"] + 1])
        assert (await typed(tmp_path, show))["bond"] == "1050"
        assert (await typed(tmp_path, unbond))["code"] == "ok"
        async with typed_by(tmp_path, withdraw) as process, asyncio.timeout(STEP_SECONDS):
            _, messages = await process.communicate()
        assert "[nothing_to_withdraw]" in messages.decode(), "some eras later it can be withdrawn"
