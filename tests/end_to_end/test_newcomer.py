"""Permissionless entry with real processes and the documented commands: from a genesis file to blocks of one's own.

Then the newcomer leaves again: what it unbonds comes back to its account, and the others go on without it.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.end_to_end.ledger_world import EXIT_SECONDS, World, bound, devnet_world, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

ERA_LENGTH = 80
ERAS_SECONDS = 90  # what a few eras of an idle network may take on a busy machine
BOND = "20000"


async def command(home: Path, *words: str) -> dict[str, Any]:
    """What `blockcloud --json ...` prints in the newcomer's home folder; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "blockcloud", "--home", str(home), "--json", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, error.decode()
    return dict(json.loads(out))


@asynccontextmanager
async def running_node(home: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    with (home / "node.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "blockcloud", "node", "run", "--home", str(home)], stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(EXIT_SECONDS)


def free_port() -> int:
    """A port with its neighbour free."""
    for base in range(33_000 + os.getpid() % 500 * 4, 40_000, 4):
        try:
            with bound(base), bound(base + 1):
                return base
        except OSError:
            continue
    raise AssertionError("no free ports")


async def committee(world: World) -> list[str]:
    status = await world.status(0)
    return [member["address"] for member in status["committee"]] if status else []


async def blocks_of(api: str, world: World) -> int:
    """How many levels the node at `api` has signed in the present era."""
    status = (await world.http.get(api + "/v1/status")).json()
    return int(status["level"]) if status["member"] is not None else 0


async def test_a_newcomer_joins_with_the_documented_commands_and_leaves(tmp_path: Path) -> None:
    home = tmp_path / "newcomer"
    async with devnet_world(tmp_path / "net", era_length=ERA_LENGTH) as world:
        made = await command(home, "node", "init", "--genesis", world.devnet.genesis, "--base-port", str(free_port()))
        address, api, link = made["address"], made["api"], made["link"]
        async with running_node(home) as process:

            async def follows() -> bool:
                assert process.poll() is None, (home / "node.log").read_text(encoding="utf-8")[-2_000:]
                try:
                    own = (await world.http.get(api + "/v1/status")).json()
                except httpx2.HTTPError:
                    return False
                other = await world.status(0)
                return other is not None and own["mode"] == "observing" and own["height"] >= other["height"] - 8

            await until(follows, "the newcomer to follow")
            payer = str(world.key_file("faucet"))
            paid = await command(
                tmp_path / "net", "--key", payer, "account", "transfer", "--to", address, "--amount", "25000"
            )
            assert paid
            await command(home, "validator", "bond", BOND, "--link", link, "--api-url", api)

            async def seated() -> bool:
                return address in await committee(world)

            await until(seated, "a seat in the committee", ERAS_SECONDS)
            await until(lambda: blocks_of(api, world), "blocks of its own", ERAS_SECONDS)
            assert len(await committee(world)) == 5
            await command(home, "validator", "unbond", BOND)

            async def gone() -> bool:
                return address not in await committee(world)

            await until(gone, "the committee to go on without it", ERAS_SECONDS)
        height, _ = await world.wait_equal_roots()
        assert height > ERA_LENGTH
        assert await world.stop_all() == [0, 0, 0, 0]
        world.read_disks().check()
