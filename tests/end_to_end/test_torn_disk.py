"""A validator whose disk lost or spoiled the end of its write-ahead log: it goes on or refuses, and never signs twice.

A block of one's own is on disk before anybody sees it, so a crash alone cannot make a validator forget one. A disk that
lies about what it wrote can. Then the others still have the blocks, and the validator must notice before it signs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.ledger_world import World, devnet_world, until
from tests.end_to_end.payments import flowing

pytestmark = pytest.mark.long

VICTIM = 1
STOP_SECONDS = 5


def cut_bytes(log: Path) -> None:
    """The last write is torn."""
    log.write_bytes(log.read_bytes()[:-7])


def cut_half(log: Path) -> None:
    """The disk forgot what it said was written."""
    data = log.read_bytes()
    log.write_bytes(data[: len(data) // 2])


def spoil_tail(log: Path) -> None:
    """The last kilobyte is noise."""
    data = log.read_bytes()
    log.write_bytes(data[:-1024] + bytes((byte * 31 + 7) & 0xFF for byte in range(1024)))


def spoil_middle(log: Path) -> None:
    """One byte in the middle has flipped."""
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 0xFF
    log.write_bytes(data)


def newest_log(world: World, number: int) -> Path:
    """The write-ahead log that RocksDB wrote last."""
    logs = sorted(Path(world.devnet.validators[number].data_dir).glob("*.log"))
    return max(logs, key=lambda path: int(path.stem))


async def settled(world: World) -> str:
    """What the victim came to: `fast`, `observing`, or `ended`."""

    async def known() -> str:
        if world.processes[VICTIM].poll() is not None:
            return "ended"
        found = await world.statuses()
        if found is None or max(each["height"] for each in found) - found[VICTIM]["height"] > 8:
            return ""
        return str(found[VICTIM]["mode"]) if found[VICTIM]["mode"] in ("fast", "observing") else ""

    return str(await until(known, "the victim to come to something"))


@pytest.mark.parametrize("damage", [cut_bytes, cut_half, spoil_tail, spoil_middle])
async def test_a_damaged_log_never_leads_to_a_second_block(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    async with devnet_world(tmp_path / "net") as world:
        urls = [validator.api for validator in world.devnet.validators if validator.id != VICTIM]
        async with flowing(world.genesis, [(world.key("alice"), urls), (world.key("bob"), urls)]) as payments:
            await until(lambda: payments.more(200), "payments")
            world.kill(VICTIM)
            damage(newest_log(world, VICTIM))
            world.start(VICTIM)
            outcome = await settled(world)
            count = len(payments.acknowledged)
            await until(lambda: payments.more(count + 100), "payments after the restart")
        print(damage.__name__, outcome, world.log(VICTIM)[-1500:])
        if outcome == "ended":
            assert await world.exit_code(VICTIM) == 1
        await world.stop_all()
        disks = world.read_disks()
        print(disks.heights, disks.equivocations())
        assert not disks.equivocations()


async def test_sigterm_ends_a_validator_in_order(tmp_path: Path) -> None:
    async with devnet_world(tmp_path / "net") as world:
        urls = [validator.api for validator in world.devnet.validators]
        async with flowing(world.genesis, [(world.key("alice"), urls)]) as payments:
            await until(lambda: payments.more(50), "payments")
            for which in (signal.SIGTERM, signal.SIGINT):
                world.signal(VICTIM, which)
                assert await world.exit_code(VICTIM, STOP_SECONDS) == 0
                world.start(VICTIM)
                await world.wait_in_step()
        assert "Traceback" not in world.log(VICTIM)
        assert await world.stop_all() == [0, 0, 0, 0]
        world.read_disks(payments.acknowledged).check()
