"""The how-to about the state at a height, typed in the order in which it stands there, on a small devnet of its own."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from blockcloud.node.devnet import free_port
from tests.docs.documents import ROOT, command_lines
from tests.docs.programs import STEP_SECONDS, typed_by

pytestmark = pytest.mark.long

HOW_TO = ROOT / "docs" / "how-to" / "state-at-a-height.md"
BOUNDARY, BETWEEN = 120, 117


def steps(api_port: int) -> list[str]:
    """The commands as written, but for the port, which may be in use here, and a smaller network."""
    text = "\n".join(command_lines(HOW_TO, "blockcloud"))
    return text.replace("8900", str(api_port)).replace("--validators 4", "--validators 2").splitlines()


async def run(folder: Path, line: str) -> tuple[int, str, str]:
    async with typed_by(folder, f"{line} --json") as process, asyncio.timeout(STEP_SECONDS):
        output, messages = await process.communicate()
    return process.returncode or 0, output.decode(), messages.decode()


async def report(folder: Path, line: str) -> Any:
    """The JSON of a command that ends well."""
    code, output, messages = await run(folder, line)
    assert code == 0, f"{line}: {messages}"
    return json.loads(output)


async def reached(folder: Path, line: str, height: int) -> None:
    """Until a node says that it is beyond this height; one that starts does not answer at once."""
    async with asyncio.timeout(2 * STEP_SECONDS):
        while True:
            code, output, _ = await run(folder, line)
            if code == 0 and json.loads(output)["height"] > height:
                return


async def test_the_how_to_about_the_state_works_as_written(tmp_path: Path) -> None:
    up, register, renew, status, *lines, down = steps(free_port())
    history, show, proven, refused, absent, first, page, export, init, node, own, newer, replace = lines
    async with AsyncExitStack() as stack:
        stack.push_async_callback(run, tmp_path, down)
        await report(tmp_path, up)
        registered = await report(tmp_path, register)
        renewed = await report(tmp_path, renew)
        await reached(tmp_path, status, BOUNDARY + 10)

        entries = (await report(tmp_path, history))["history"]
        assert [entry["height"] for entry in entries] == [registered["changed_height"], renewed["changed_height"]]
        assert [entry["previous_height"] for entry in entries] == [0, registered["changed_height"]]
        assert entries[-1]["proven_height"] is not None
        shown = await report(tmp_path, show)
        # On a busy machine the renewal may have come after the height that the how-to asks about.
        changed = max(entry["height"] for entry in entries if entry["height"] <= BETWEEN)
        assert (shown["changed_height"], shown["proof"]["verified"]) == (changed, True)

        value = await report(tmp_path, proven)
        assert (value["height"], value["kind"], value["of"]) == (BOUNDARY, "name", "lamp.test")
        assert value["proof"] == {"verified": True, "height": BOUNDARY, "fresh": False, "why_not": None}
        assert value["record"]["owner"] == registered["owner"]
        code, _, messages = await run(tmp_path, refused)
        assert (code, "not_a_checkpoint" in messages, "below=110, above=120" in messages) == (1, True, True)
        nobody = await report(tmp_path, absent)
        assert (nobody["value"], nobody["proof"]["verified"]) == (None, True)

        assert {change["kind"] for change in (await report(tmp_path, first))["changes"]} >= {"fees"}
        changes = await report(tmp_path, page)
        assert (len(changes["changes"]), changes["next"]) == (2, changes["changes"][-1]["key"])
        rest = await report(tmp_path, f"{page.replace('--limit 2', '')} --after {changes['next']}")
        assert len(rest["changes"]) == changes["total"] - 2

        await exported_and_imported(tmp_path, export, init, node, own, newer, replace)


async def exported_and_imported(
    folder: Path, export: str, init: str, node: str, own: str, newer: str, replace: str
) -> None:
    """A file of the state, a wrong one that makes nothing, and a node that begins with it and goes on."""
    exported = await report(folder, export)
    again, _, messages = await run(folder, export)
    assert (again, "exists already" in messages) == (1, True)
    whole = (folder / "state.snapshot").read_bytes()
    (folder / "wrong.snapshot").write_bytes(whole[:-9] + bytes((whole[-9] ^ 1,)) + whole[-8:])
    code, _, messages = await run(folder, init.replace("state.snapshot", "wrong.snapshot"))
    assert (code, "[bad_snapshot]" in messages, "chunk 1 of 1" in messages) == (1, True, True)
    assert not (folder / "mine").exists()

    await report(folder, "blockcloud trust export certificate --home net")
    trusting = f"{init.replace('--home mine', '--home other')} --trusted certificate"
    assert (await report(folder, trusting))["snapshot"]["height"] == exported["height"]

    made = await report(folder, init)
    assert made["snapshot"] == {key: exported[key] for key in ("era", "height", "state_root", "chunks")}
    async with typed_by(folder, node):
        await reached(folder, own, exported["height"] + 10)
        history = own.replace("status", "name history lamp.test")
        assert (await report(folder, history))["pruned_below"] >= exported["height"]
        code, _, messages = await run(folder, own.replace("status", f"state changes {exported['height']}"))
        assert (code, "[pruned]" in messages) == (1, True)
        code, _, messages = await run(folder, replace.replace("newer", "state"))
        assert (code, "stop the node" in messages) == (1, True)
    code, _, messages = await run(folder, replace.replace("newer", "state"))
    assert (code, "[snapshot_not_newer]" in messages) == (1, True)

    # As soon as the network has an era that the stopped node lacks.
    async with asyncio.timeout(2 * STEP_SECONDS):
        while True:
            (folder / "newer.snapshot").unlink(missing_ok=True)
            later = await report(folder, newer)
            code, output, messages = await run(folder, replace)
            if code == 0:
                break
            assert "[snapshot_not_newer]" in messages, messages
    assert json.loads(output)["height"] == later["height"] > exported["height"]
    async with typed_by(folder, node):
        await reached(folder, own, later["height"])
