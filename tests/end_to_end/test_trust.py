"""Light clients as people meet them, with real validators and real commands: what is verified is kept, shared by
programs, expires by the genesis's unbonding time, and is made fresh again by a certificate from somebody else."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from blockcloud.node import devnet as network
from tests.end_to_end.ledger_world import free_base, open_world, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

UNBONDING_SECONDS = 120  # half of it must be more than a few commands take on a busy machine
PROGRAMS = 4


async def run(home: Path, *words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "blockcloud", "--home", str(home), "--json", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def ok(home: Path, *words: str) -> dict[str, Any]:
    code, out, error = await run(home, *words)
    assert code == 0, error
    return dict(json.loads(out))


def enter(home: Path, devnet: Path) -> None:
    """Make a home one of this network's."""
    (home / "keys").mkdir(parents=True, exist_ok=True)
    shutil.copy(devnet / "genesis.json", home / "genesis.json")
    shutil.copy(devnet / "accounts" / "alice.pem", home / "keys" / "account.pem")


async def test_two_networks_one_after_another_in_one_home(tmp_path: Path) -> None:
    home, friend = tmp_path / "home", tmp_path / "friend"
    chains = []
    for name in ("one", "two"):
        folder = tmp_path / name
        with free_base(2) as base:
            devnet = network.create_devnet(folder, 2, base_port=base, era_length=40, unbonding_s=UNBONDING_SECONDS)
            enter(home, folder)
            enter(friend, folder)
            async with open_world(folder, devnet) as world:
                world.start()
                await world.wait_in_step()
                assert (await ok(home, "trust", "show"))["standing"] == "genesis"
                await share(home)
                if name == "two":
                    await expire(home, friend, tmp_path / "certificate")
        chains.append((await ok(home, "trust", "show"))["chain"])
    assert len(set(chains)) == 2
    assert len(list((home / "trust").glob("*.trust"))) == 2


async def share(home: Path) -> None:
    """Several programs at once, again and again: what is kept only grows."""
    height = 0
    for _ in range(2):
        results = await asyncio.gather(*(run(home, "account", "show") for _ in range(PROGRAMS)))
        assert [(code, error) for code, _, error in results] == [(0, "")] * PROGRAMS
        shown = await ok(home, "trust", "show")
        assert shown["standing"] == "fresh"
        assert shown["height"] >= height
        height = shown["height"]
    assert shown["trusting_period_s"] == UNBONDING_SECONDS // 2


async def expire(home: Path, friend: Path, certificate: Path) -> None:
    height = (await ok(home, "trust", "show"))["height"]

    async def gone() -> bool:
        return (await ok(home, "trust", "show"))["standing"] == "expired"

    await until(gone, "the trusting period to end", 2 * UNBONDING_SECONDS)
    code, out, error = await run(home, "account", "show")
    assert (code, out) == (1, "")
    assert "[trust_expired]" in error
    assert "blockcloud trust set FILE" in error
    await ok(friend, "account", "show")
    given = await ok(friend, "trust", "export", str(certificate))
    taken = await ok(home, "trust", "set", str(certificate))
    assert (taken["commit_digest"], taken["standing"]) == (given["commit_digest"], "fresh")
    await ok(home, "account", "show")
    assert (await ok(home, "trust", "show"))["height"] >= taken["height"] > height
