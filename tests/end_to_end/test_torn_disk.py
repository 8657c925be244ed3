"""A validator whose disk lost or spoiled the end of its write-ahead log: it goes on or refuses, and never signs twice.

A block of one's own is on disk before anybody sees it, so a crash alone cannot make a validator forget one. A disk that
lies about what it wrote can. Then the others still have the blocks, and the validator must notice before it signs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.ledger_world import CLOSE_HEIGHTS, World, devnet_world, until
from tests.end_to_end.payments import flowing

pytestmark = pytest.mark.long

VICTIM = 3  # the last one: it dials nobody and hears late from the others
STOP_SECONDS = 5
AWAY = 200  # payments meanwhile, so that the others dial it less and less often


def torn_write(data: bytes) -> bytes:
    """The machine stopped in the middle of a write that nobody was told about: a record's head, and half its body."""
    checksum, length, whole_record = b"torn", (2_000).to_bytes(2, "little"), b"\x01"
    return data + checksum + length + whole_record + data[1_000:2_000]


def forgotten_tail(data: bytes) -> bytes:
    """The disk lost what it said was written, some levels' worth."""
    return data[: len(data) - min(30_000, len(data) // 2)]


def newest_log(world: World, number: int) -> Path:
    """The write-ahead log that RocksDB wrote last."""
    logs = sorted(Path(world.devnet.validators[number].data_dir).glob("*.log"))
    return max(logs, key=lambda path: int(path.stem))


async def settled(world: World) -> str:
    """What the victim came to: `fast` or `observing`, in step with the others."""

    async def known() -> str:
        world.check_alive()
        found = await world.statuses()
        if found is None or max(each["height"] for each in found) - found[VICTIM]["height"] > CLOSE_HEIGHTS:
            return ""
        return str(found[VICTIM]["mode"]) if found[VICTIM]["mode"] in ("fast", "observing") else ""

    return str(await until(known, "the victim to come to something"))


@pytest.mark.parametrize(("damage", "mode"), [(torn_write, "fast"), (forgotten_tail, "observing")])
async def test_a_damaged_log_never_leads_to_a_second_block(
    tmp_path: Path, damage: Callable[[bytes], bytes], mode: str
) -> None:
    async with devnet_world(tmp_path / "net") as world:
        urls = [validator.api for validator in world.devnet.validators if validator.id != VICTIM]
        async with flowing(world.genesis, [(world.key("alice"), urls), (world.key("bob"), urls)]) as payments:
            await until(lambda: payments.more(150), "payments")
            world.kill(VICTIM)
            log = newest_log(world, VICTIM)
            log.write_bytes(damage(log.read_bytes()))
            await until(lambda: payments.more(150 + AWAY), "payments while it is away")
            world.start(VICTIM)
            assert await settled(world) == mode
            count = len(payments.acknowledged)
            await until(lambda: payments.more(count + 50), "payments after the restart")
        await world.wait_equal_roots()
        assert await world.stop_all() == [0, 0, 0, 0]
        world.read_disks(payments.acknowledged).check()


async def test_signals_end_a_validator_in_order_under_load(tmp_path: Path) -> None:
    async with devnet_world(tmp_path / "net") as world:
        urls = [validator.api for validator in world.devnet.validators]
        async with flowing(world.genesis, [(world.key("alice"), urls), (world.key("bob"), urls)]) as payments:
            await until(lambda: payments.more(50), "payments")
            world.signal(VICTIM, signal.SIGTERM)
            assert await world.exit_code(VICTIM, STOP_SECONDS) == 0
            count = len(payments.acknowledged)
            await until(lambda: payments.more(count + 50), "payments without it")
            world.signal(0, signal.SIGINT)
            assert await world.exit_code(0, STOP_SECONDS) == 0
        assert await world.stop_all() == [0, 0]
        for validator in world.devnet.validators:
            assert "Traceback" not in world.log(validator.id)
        world.read_disks().check()
