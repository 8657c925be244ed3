"""The how-to on edge caches, typed in the order in which it stands there, on a small devnet of its own."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from blockcloud.node.devnet import free_port
from blockcloud.service_access.edge.http_message import Request, combined
from tests.docs.documents import ROOT, command_lines
from tests.docs.programs import STEP_SECONDS, running, typed, typed_by
from tests.service_access.edge.edge_world import ask

HOW_TO = ROOT / "docs" / "how-to" / "edge-cache.md"
PAGE, LOGO = b"<h1>hello</h1>\n", b"<svg/>\n"


def steps(server_port: int, edge_port: int) -> list[str]:
    """The commands as written, but for the ports, which may be in use here, and a smaller network."""
    text = "\n".join(command_lines(HOW_TO, "blockcloud"))
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{server_port}")
    text = text.replace("127.0.0.1:8081", f"127.0.0.1:{edge_port}")
    return text.replace("--validators 4", "--validators 2").splitlines()


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_the_how_to_on_edge_caches_works_as_written(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_bytes(PAGE)
    for folder in (tmp_path, tmp_path / "assets"):
        (folder / "logo.svg").write_bytes(LOGO)
    for path in tmp_path.glob("*.*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    server_port, edge_port = free_port(), free_port()
    up, files, corner, publish, edge, status, *rest = steps(server_port, edge_port)
    direct, by_address, by_name, pin, logo, down = rest
    async with AsyncExitStack() as stack:
        stack.push_async_callback(typed, tmp_path, down)
        for line in (up, files, corner):
            await typed(tmp_path, line)
        server = running(tmp_path, "-m", "http.server", str(server_port), "--bind", "127.0.0.1", environment=os.environ)
        await stack.enter_async_context(server)
        for line in (publish, edge):
            process = await stack.enter_async_context(typed_by(tmp_path, line))
            assert process.stdout is not None
            async with asyncio.timeout(STEP_SECONDS):
                assert await process.stdout.readline()
        found = await typed(tmp_path, direct)
        assert (found["served_by"], found["verified_by"], found["bytes"]) == ("provider", "session", len(PAGE))
        for line in (by_address, by_name):
            found = await typed(tmp_path, line)
            assert (found["served_by"], found["verified_by"], found["edge_error"]) == ("edge", "signature", "")
        answer = await ask(edge_port, Request("GET", "/index.html", (("host", "files"),)))
        assert answer.body == PAGE
        assert "blockcloud-edge" in (combined(answer.fields, "cache-status") or "")
        assert (await typed(tmp_path, status))["objects"] == 1
        pinned = await typed(tmp_path, pin)
        assert list(pinned["content"]) == ["/logo.svg"]
        assert (await typed(tmp_path, logo))["bytes"] == len(LOGO)
        (tmp_path / "logo.svg").write_bytes(b"<svg>other</svg>\n")
        assert "digest_mismatch" in await typed(tmp_path, logo.replace("corner", f"127.0.0.1:{server_port}"), 1)
