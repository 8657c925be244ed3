"""CloudPoS with real processes: who has what it stakes is confirmed and weighs more, who does not have it is refused.

A devnet with short eras on a busy machine. A single round may go wrong for an honest node, whose processors others use
too; so what honest nodes get is waited for over some eras, and what cheats must not get is looked at all the time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from blockcloud.node import devnet as network
from blockcloud.node.config import CONFIG_FILE, read_config
from blockcloud.node.examining import staking_of
from blockcloud.node.resource_config import RESOURCES_TABLE, ResourceConfig
from blockcloud.node.resources.claim import DETERMINED_FILE, Determined
from blockcloud.node.resources.compute import measure_core_steps_per_second
from blockcloud.primitives import codec
from blockcloud.primitives.addresses import format_address
from blockcloud.transaction_chain.cloudpos.stake import Resources
from tests.end_to_end.ledger_world import World, free_base, open_world, until

pytestmark = [pytest.mark.long, pytest.mark.alone, pytest.mark.timeout(900)]

ERA_LENGTH = 200
ERAS_SECONDS = 300  # what a few eras of an idle network may take on a busy machine
CHUNK_BYTES = 64 * 1024
STAKE = ResourceConfig(storage_bytes=8 * CHUNK_BYTES, compute_permille=20, data_rate=500_000)
WHOLE_PPM = 1_000_000
DIMENSIONS = ("compute_steps_per_second", "storage_bytes", "data_rate_bytes_per_second")


@asynccontextmanager
async def staking_world(folder: Path, stake: ResourceConfig | None = STAKE) -> AsyncIterator[World]:
    """A devnet of four that stake; nothing is started yet."""
    with free_base(4) as base:
        devnet = network.create_devnet(folder, 4, base_port=base, era_length=ERA_LENGTH, resources=stake)
        async with open_world(folder, devnet) as world:
            yield world


def address_of(world: World, number: int) -> str:
    return format_address(world.genesis.validators[number].key)


async def candidate(world: World, number: int) -> dict[str, Any]:
    """A node as the ledger knows it: its bond and its stake."""
    answer = await world.http.get(f"{world.url(0)}/v1/candidates/{address_of(world, number)}")
    return dict(answer.json()) if answer.status_code == 200 else {}


async def amounts(world: World, number: int, which: str) -> tuple[int, ...]:
    """What a node claims, or what of it is confirmed."""
    stake = (await candidate(world, number)).get("stake")
    return tuple(stake[which][dimension] for dimension in DIMENSIONS) if stake else (0, 0, 0)


async def weights(world: World, era: int) -> list[int]:
    """Of the committee of an era, in the order of the genesis' validators; nothing while the era is not known."""
    answer = await world.http.get(f"{world.url(0)}/v1/committee/{era}")
    if answer.status_code != 200:
        return []
    of = {member["address"]: member["resource_weight_ppm"] for member in answer.json()["members"]}
    return [of.get(address_of(world, number), 0) for number in range(4)]


def agent_of(world: World, number: int) -> int | None:
    """The process id of a validator's agent."""
    pid = world.processes[number].pid
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for word in child.read_text(encoding="ascii").split():
            if b"blockcloud.node.resources.agent" in Path(f"/proc/{word}/cmdline").read_bytes():
                return int(word)
    return None


def claim_more(world: World, number: int, resources: Resources) -> None:
    """Make a node claim this, whatever it has: its operator edits what was measured."""
    staking = staking_of(read_config(Path(world.devnet.validators[number].home)))
    assert staking is not None
    folder = Path(staking.folder)
    folder.mkdir(mode=0o700)
    (folder / DETERMINED_FILE).write_bytes(codec.encode(Determined(staking, resources)))


def stop_staking(world: World, number: int) -> None:
    """The operator removes the table from the configuration."""
    path = Path(world.devnet.validators[number].home) / CONFIG_FILE
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: text.index(f"[{RESOURCES_TABLE}]")], encoding="utf-8")


async def test_honest_stakes_are_confirmed_and_a_silent_challenger_forfeits(tmp_path: Path) -> None:
    async with staking_world(tmp_path) as world:
        world.start()
        await world.wait_in_step()

        async def confirmed() -> bool:
            world.check_alive()
            for number in range(4):
                claimed = await amounts(world, number, "claim")
                if not all(claimed) or claimed != await amounts(world, number, "confirmed"):
                    return False
            return True

        await until(confirmed, "all stakes to be confirmed in all dimensions", ERAS_SECONDS)
        era = (await until(lambda: world.status(0), "the status"))["era"]

        async def weighed() -> list[int]:
            return await weights(world, era + 1)

        found = await until(weighed, "the next committee", ERAS_SECONDS)
        assert sum(found) == WHOLE_PPM
        # Storage and data rate are alike, and each a third of the weight; how fast cores were measured to be is not.
        assert min(found) > WHOLE_PPM // 6

        # A challenger whose agent dies in the middle has nothing to report, and goes on as a validator.
        seen = world.log(3).count('"examining"')

        async def examines() -> bool:
            return world.log(3).count('"examining"') > seen

        await until(examines, "the next round", ERAS_SECONDS)
        agent = agent_of(world, 3)
        assert agent is not None
        os.kill(agent, signal.SIGKILL)
        before = (await candidate(world, 3))["bond_micro_bloc"]

        async def forfeited() -> bool:
            return bool((await candidate(world, 3))["bond_micro_bloc"] < before)

        await until(forfeited, "the silent challenger to forfeit", ERAS_SECONDS)
        others = [(await candidate(world, number))["bond_micro_bloc"] for number in range(3)]
        assert min(others) == network.BOND_MICRO_BLOC, "who reported forfeits nothing"
        await world.wait_in_step()

        # A validator that is killed takes its agent with it.
        agent = agent_of(world, 2)
        assert agent is not None
        world.kill(2)

        async def agent_is_gone() -> bool:
            return not Path(f"/proc/{agent}").exists()

        await until(agent_is_gone, "the agent to end with its validator")

        # Whose configuration names no resources any more takes its stake back.
        stop_staking(world, 2)
        world.start(2)

        async def taken_back() -> bool:
            return await amounts(world, 2, "claim") == (0, 0, 0)

        await until(taken_back, "the stake to be taken back")
        assert all([await amounts(world, number, "claim") != (0, 0, 0) for number in (0, 1, 3)])
        assert await world.stop_all() == [0, 0, 0, 0]


async def test_claims_of_what_is_not_there_are_refused(tmp_path: Path) -> None:
    """Of four nodes one has half of its plot, one a part of the core it claims, and one less than half of the rate.

    What a core of a shared machine does is known only from below: its neighbours may have had it while it was measured.
    So the claim is four times that here; that half is not enough is shown under a quota (test_resources_timing.py).
    """
    core = max(measure_core_steps_per_second() for _ in range(10))
    async with staking_world(tmp_path) as world:
        claim_more(world, 2, Resources(4 * core, STAKE.storage_bytes, STAKE.data_rate))
        claim_more(world, 3, Resources(core // 50, STAKE.storage_bytes, 600_000_000))
        world.start()
        await world.wait_in_step()
        plot = Path(world.devnet.validators[1].home) / "resources" / "plot"

        async def made() -> bool:
            return plot.exists()

        await until(made, "the plot", ERAS_SECONDS)
        with plot.open("r+b") as file:
            size = plot.stat().st_size
            file.truncate(size // 2)
            file.truncate(size)  # what was there reads as zeros
        lies = {1: 1, 2: 0, 3: 2}  # node -> dimension
        # Of the other two a busy machine may hear nothing in time, and who is silent once is asked no more.
        heard = (0, 1)

        async def judged() -> bool:
            """Who was heard has all but what it lied about; and no liar ever has that."""
            world.check_alive()
            whole = True
            for number in range(4):
                claimed, got = await amounts(world, number, "claim"), await amounts(world, number, "confirmed")
                for dimension in range(3):
                    if lies.get(number) == dimension:
                        assert got[dimension] == 0, f"node {number} was confirmed what it does not have"
                    elif number in heard:
                        whole = whole and claimed[dimension] == got[dimension] > 0
            return whole

        await until(judged, "everybody to be confirmed what it has", ERAS_SECONDS)
        era = (await until(lambda: world.status(0), "the status"))["era"]

        async def weighed() -> list[int]:
            return await weights(world, era + 1)

        found = await until(weighed, "the next committee", ERAS_SECONDS)
        assert await judged()
        assert sum(found) == WHOLE_PPM
        assert max(found) == found[0], f"who has what it claims weighs most: {found}"
        assert await world.stop_all() == [0, 0, 0, 0]
