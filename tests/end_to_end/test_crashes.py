"""Validators are killed, frozen and restarted while payments flow: no fork, no second block, nothing acknowledged lost.

DESIGN section 11: kill -9 of any process; up to f of 3f+1 down; beyond f the ledger stops rather than forks.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.sdk.client import AsyncClient
from tests.end_to_end.ledger_world import World, devnet_world, until
from tests.end_to_end.payments import PAYERS, Payments, flowing, streams

pytestmark = pytest.mark.long

CHAOS_FAULTS = 10
FAULTS_AT_MOST = 40
ERAS = 3  # the faults fall on so many
ERA_LENGTH = 60
PROGRESS = (20, 120)  # payments that are acknowledged while one validator is away


async def progress(payments: Payments, count: int) -> None:
    """Wait for `count` more acknowledged payments."""
    wanted = len(payments.acknowledged) + count
    await until(lambda: payments.more(wanted), f"{count} more payments")


async def lowest_era(world: World) -> int:
    """The era that the one furthest behind is in."""
    return min(int(status["era"]) for status in await until(world.statuses, "all to answer"))


async def one_fault(world: World, payments: Payments, choice: random.Random) -> str:
    """Take one validator away, let the ledger go on without it, bring it back, wait until it takes part."""
    victim, kind = choice.randrange(4), choice.choice(("kill", "freeze", "blink"))
    if kind == "kill":
        world.kill(victim)
    else:
        world.signal(victim, signal.SIGSTOP)
    if kind != "blink":
        await progress(payments, choice.randint(*PROGRESS))
    if kind == "kill":
        world.start(victim)
    else:
        world.signal(victim, signal.SIGCONT)
    await world.wait_in_step()
    return f"{kind} {victim}"


@pytest.mark.timeout(240)
async def test_payments_survive_chaos_across_eras(tmp_path: Path, run_seed: int) -> None:
    choice = random.Random(run_seed)
    async with devnet_world(tmp_path / "net", era_length=ERA_LENGTH) as world:
        async with flowing(world.genesis, streams(world)) as payments:
            await progress(payments, 50)
            faults: list[str] = []
            while len(faults) < CHAOS_FAULTS or (len(faults) < FAULTS_AT_MOST and await lowest_era(world) < ERAS):
                faults.append(await one_fault(world, payments, choice))
            await progress(payments, 50)
        assert all(payments.by_stream[number] for number in range(len(PAYERS))), (payments.by_stream, faults)
        await world.wait_in_step()
        await world.wait_equal_roots()
        assert await lowest_era(world) >= ERAS
        assert await world.stop_all() == [0, 0, 0, 0]
        world.read_disks(payments.acknowledged).check()


async def test_nothing_acknowledged_is_lost_when_all_are_killed_at_once(tmp_path: Path) -> None:
    async with devnet_world(tmp_path / "net") as world:
        async with flowing(world.genesis, streams(world)) as payments:
            for _ in range(2):
                await progress(payments, 100)
                world.kill(0, 1, 2, 3)
                world.start()
                await progress(payments, 100)
        await world.wait_in_step()
        await world.wait_equal_roots()
        assert await world.stop_all() == [0, 0, 0, 0]
        world.read_disks(payments.acknowledged).check()


async def stalled_height(world: World, *numbers: int) -> int:
    """Wait until these validators say that they stand still for want of a quorum; the height at which they do."""

    async def stalled() -> int:
        found = await world.statuses(*numbers)
        codes = [{item["code"] for item in status["health"]} for status in found or []]
        if not found or not all({"stalled", "no_quorum"} <= each for each in codes):
            return 0
        return int(max(status["height"] for status in found))

    return int(await until(stalled, "the rest to stand still"))


async def test_without_a_quorum_the_ledger_stops_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    async with devnet_world(tmp_path / "net") as world:
        async with flowing(world.genesis, streams(world)) as payments:
            await progress(payments, 50)
            world.kill(2, 3)
            height = await stalled_height(world, 0, 1)
            acknowledged = len(payments.acknowledged)
            async with AsyncClient(world.genesis, [world.url(0)]) as client:
                with pytest.raises(BlockCloudError) as refused:
                    await client.transfer(world.key("alice"), world.key("bob").public, 1, timeout_s=2)
                assert refused.value.code in ("timed_out", "busy"), refused.value
            assert await stalled_height(world, 0, 1) == height
            assert len(payments.acknowledged) == acknowledged
            world.start(2)
            await progress(payments, 50)
            assert (await world.statuses(0, 1, 2) or [])[0]["height"] > height
            world.start(3)
            await world.wait_in_step()
        await world.wait_equal_roots()
        assert await world.stop_all() == [0, 0, 0, 0]
        world.read_disks(payments.acknowledged).check()
