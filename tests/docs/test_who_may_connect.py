"""The how-to on policies, typed in the order in which it stands there, on a small devnet of its own."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from blockcloud.node.devnet import free_port
from blockcloud.service_chain.policy_text import check_policy
from tests.docs.documents import ROOT, blocks, command_lines
from tests.docs.programs import STEP_SECONDS, running, typed, typed_by

HOW_TO = ROOT / "docs" / "how-to" / "who-may-connect.md"
CONTENT = b"the service answers\n"
REFUSED = 1


def policy() -> str:
    (block,) = [block for block in blocks(HOW_TO) if block.language == "cedar"]
    return block.text


def steps(server_port: int, forward_port: int) -> list[str]:
    """The commands as written, but for the ports, which may be in use here, and a smaller network."""
    text = "\n".join(command_lines(HOW_TO, "blockcloud"))
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{server_port}")
    text = text.replace("127.0.0.1:9000", f"127.0.0.1:{forward_port}")
    return text.replace("--validators 4", "--validators 2").splitlines()


async def fetch(port: int) -> bytes:
    """What an HTTP client gets at a local port; nothing where the connection is reset, be it at once."""
    async with asyncio.timeout(STEP_SECONDS):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionResetError:
            return b""
        try:
            writer.write(b"GET /x.txt HTTP/1.0\r\n\r\n")
            return (await reader.read()).partition(b"\r\n\r\n")[2]
        except OSError:
            return b""
        finally:
            writer.close()


async def until_fetched(port: int, wanted: bytes) -> None:
    async with asyncio.timeout(STEP_SECONDS):
        while await fetch(port) != wanted:
            await asyncio.sleep(0.1)


def test_the_policy_of_the_how_to_can_be_bound() -> None:
    facts = check_policy(policy())
    assert [(name, effect) for _, name, effect in facts.rules] == [("staff", "permit"), ("at-home", "forbid")]


@pytest.mark.long
async def test_the_how_to_on_policies_works_as_written(tmp_path: Path) -> None:
    (tmp_path / "office.cedar").write_text(policy())
    (tmp_path / "x.txt").write_bytes(CONTENT)
    server_port, forward_port = free_port(), free_port()
    up, files, staff, test_file, explain_file, bind, add, show_role, show, test, publish, forward, *rest = steps(
        server_port, forward_port
    )
    issue, show_grant, revoke, remove_member, remove, down = rest
    async with AsyncExitStack() as stack:
        stack.push_async_callback(typed, tmp_path, down)
        for line in (up, files, staff):
            await typed(tmp_path, line)
        assert (await typed(tmp_path, test_file))["rules"] == ["staff"]
        explained = await typed(tmp_path, explain_file)
        assert (explained["allowed"], explained["rules"]) == (False, ["at-home"])
        assert [entry["applies"] for entry in explained["explained"]] == [False, True]
        assert (await typed(tmp_path, bind))["receipt"]["code"] == "ok"
        alice = (await typed(tmp_path, add))["member"]
        await typed(tmp_path, show_role)
        async with asyncio.timeout(STEP_SECONDS):
            while [role["members"] for role in (await typed(tmp_path, show))["roles"]] != [[alice]]:
                pass  # each turn asks the ledger
        assert (await typed(tmp_path, test))["allowed"]
        server = running(tmp_path, "-m", "http.server", str(server_port), "--bind", "127.0.0.1", environment=os.environ)
        await stack.enter_async_context(server)
        async with typed_by(tmp_path, publish) as provider, typed_by(tmp_path, forward) as consumer:
            for process in (provider, consumer):
                assert process.stdout is not None
                async with asyncio.timeout(STEP_SECONDS):
                    assert await process.stdout.readline()
            await until_fetched(forward_port, CONTENT)
            grant = await typed(tmp_path, issue)
            assert (await typed(tmp_path, show_grant))["revocation_ids"] == [grant["revocation_id"]]
            assert (await typed(tmp_path, revoke))["receipt"]["code"] == "ok"
            await typed(tmp_path, remove_member)
            await until_fetched(forward_port, b"")
            await typed(tmp_path, remove)
            await until_fetched(forward_port, CONTENT)
        log = [json.loads(line) for line in (tmp_path / "net/decisions/files.jsonl").read_text().splitlines()]
        assert {(entry["allowed"], entry["reason"]) for entry in log} >= {(True, "permitted"), (False, "no_rule")}
