"""The how-to on paying while using, typed in the order in which it stands there, on a small devnet of its own: what the
consumer spends, the provider has, and the rest comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import Process
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from blockcloud.node.devnet import free_port
from blockcloud.primitives.amounts import MICRO_PER_BLOC, parse_amount
from tests.docs.documents import ROOT, blocks, command_lines
from tests.docs.programs import STEP_SECONDS, running, typed, typed_by

HOW_TO = ROOT / "docs" / "how-to" / "pay-as-you-go.md"
FILM = bytes(range(256)) * 1_000
PRICE = 100  # micro-BLOC a KiB
LEVY_PARTS = 50


def steps(*ports: int) -> list[str]:
    """The commands as written, but for the ports, which may be in use here, and a smaller network."""
    text = "\n".join(command_lines(HOW_TO, "blockcloud"))
    for written, port in zip((8080, 9000), ports, strict=True):
        text = text.replace(f"127.0.0.1:{written}", f"127.0.0.1:{port}")
    return text.replace("--validators 4", "--validators 2").splitlines()


async def begun(stack: AsyncExitStack, folder: Path, line: str) -> Process:
    """A command that serves, after its ready line."""
    process = await stack.enter_async_context(typed_by(folder, f"{line} --json"))
    assert process.stdout is not None
    async with asyncio.timeout(STEP_SECONDS):
        assert await process.stdout.readline()
    return process


async def ended(process: Process) -> str:
    """What a command that serves says when it is stopped."""
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(STEP_SECONDS):
        _, said = await process.communicate()
    return said.decode()


async def balance(folder: Path, who: str) -> int:
    shown = await typed(folder, f"blockcloud account show --home net --key net/accounts/{who}.pem")
    return parse_amount(shown["balance"])


async def download(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /film HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(STEP_SECONDS):
        answer = await reader.read(-1)
    writer.close()
    return answer.partition(b"\r\n\r\n")[2]


async def due(folder: Path, line: str) -> dict[str, Any]:
    """The agreement, once the provider's time for claims is over."""
    async with asyncio.timeout(STEP_SECONDS):
        while True:
            (only,) = (await typed(folder, line))["agreements"]
            if only["status"] == "due":
                return dict(only)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_the_how_to_on_paying_works_as_written(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(FILM)
    server_port, port = free_port(), free_port()
    up, register, post, publish, forward, status, listed, settle, claim, *rest = steps(server_port, port)
    other, by_request, sell, fetch, by_hand, pay, down = rest
    (program,) = [block.text for block in blocks(HOW_TO) if block.language == "python"]
    async with AsyncExitStack() as stack:
        stack.push_async_callback(typed, tmp_path, down)
        for line in (up, register):
            await typed(tmp_path, line)
        early = await typed(tmp_path, publish, 1)
        assert "offer post" in early, "it says what is missing"
        offer = await typed(tmp_path, post)
        assert (offer["price"], offer["bond"]) == ("0.0001/kib", "20")
        server = running(tmp_path, "-m", "http.server", str(server_port), "--bind", "127.0.0.1", environment=os.environ)
        await stack.enter_async_context(server)
        serving = await begun(stack, tmp_path, publish)
        before = await balance(tmp_path, "provider")
        paying = await begun(stack, tmp_path, forward)
        assert [await download(port), await download(port)] == [FILM, FILM]
        spent = parse_amount((await typed(tmp_path, status))["spent"])
        assert spent >= 2 * len(FILM) * PRICE // 1024
        assert "paid 0." in await ended(paying)
        agreement = await due(tmp_path, listed)
        assert len(agreement["agreement"]) == 64
        assert 2 * len(FILM) * PRICE // 1024 <= agreement["paid_micro_bloc"] <= spent
        assert (await typed(tmp_path, settle))["settled"] == 1
        assert (await typed(tmp_path, listed))["agreements"] == []
        await ended(serving)
        earned = agreement["paid_micro_bloc"]
        gained = await balance(tmp_path, "provider") - before
        assert earned - earned // LEVY_PARTS - 1_000 <= gained <= earned, "all but the levy, and fees"

        serving = await begun(stack, tmp_path, publish)
        script = tmp_path / "program.py"
        script.write_text(program)
        async with running(tmp_path, str(script), environment=os.environ) as process, asyncio.timeout(STEP_SECONDS):
            output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        assert b"film" in output, "the list of the folder"
        assert b"paid 0." in output
        serving.kill()
        await serving.wait()
        assert (await typed(tmp_path, claim))["claimed_micro_bloc"] > 0

        await typed(tmp_path, other)
        await typed(tmp_path, by_request)
        await begun(stack, tmp_path, sell)
        refused = await typed(tmp_path, fetch.replace("--budget 0.5 ", ""), 1)
        assert refused == "", "the answer says it, which is on standard output"
        fetched = await typed(tmp_path, fetch)
        assert (fetched["status"], fetched["paid"], fetched["bytes"]) == (200, "0.01", len(FILM))

        opened = await typed(tmp_path, by_hand)
        paid = await typed(tmp_path, pay)
        assert paid["agreement"] == opened["agreement"]
        shown = await typed(
            tmp_path, f"blockcloud agreement show {opened['agreement'][:8]} --home net --key net/accounts/consumer.pem"
        )
        assert shown["paid_micro_bloc"] == MICRO_PER_BLOC // 4
