"""The how-to on UDP services, typed in the order in which it stands there, with a CoAP server and client beside it."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
from asyncio.subprocess import Process
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, command_lines
from tests.docs.programs import STEP_SECONDS, typed, typed_by
from tests.service_access.coap_world import ask, coap_client, coap_server

HOW_TO = ROOT / "docs" / "how-to" / "publish-a-udp-service.md"


async def told(process: Process) -> dict[str, object]:
    """The line with which a command says that it is ready."""
    assert process.stdout is not None
    async with asyncio.timeout(STEP_SECONDS):
        line = await process.stdout.readline()
    found: dict[str, object] = json.loads(line)
    return found


@pytest.mark.long
async def test_the_how_to_on_udp_services_works_as_written() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        local = free.getsockname()[1]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))  # a socket's path must be short
        server, port = await coap_server()
        stack.push_async_callback(server.shutdown)
        text = "\n".join(command_lines(HOW_TO, "blockcloud")).replace("--validators 4", "--validators 2")
        text = text.replace(":5683", f":{port}").replace(":5690", f":{local}").replace("$PWD", str(folder))
        up, register, publish, forward, move, down = text.splitlines()
        stack.push_async_callback(typed, folder, down)
        await typed(folder, up)
        await typed(folder, register)
        publishing = await stack.enter_async_context(typed_by(folder, f"{publish} --json"))
        assert str((await told(publishing))["listening"]).startswith("unix:")
        forwarding = await stack.enter_async_context(typed_by(folder, f"{forward} --json"))
        await told(forwarding)
        client = await coap_client()
        stack.push_async_callback(client.shutdown)
        assert await ask(client, local, "count") == b"1"
        moved = await typed(folder, move)
        assert [each.partition(":")[0] for each in moved["addresses"]] == ["quic", "unix"]
        assert await ask(client, local, "count") == b"2"
