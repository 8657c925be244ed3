"""The outbox: bounded, says what it dropped, and survives a process that is killed at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from blockcloud.primitives.errors import StorageFault
from blockcloud.service_access.edge.feed.core import Changes, Entry, FeedCore, Sample, Settings, Window
from blockcloud.service_access.edge.feed.errors import BadRequest, OutboxFull
from blockcloud.service_access.edge.feed.outbox import CONSUMERS, Outbox, OutboxReader
from blockcloud.service_access.edge.feed.readings import Batch
from blockcloud.service_access.edge.feed.series import WindowResult
from tests.service_access.edge.feed_samples import NOW_US, reading

SETTINGS = Settings(window_seconds=10)
WINDOW = WindowResult("porch/t", NOW_US, 10_000_000, 3, 4.5, -1.0, 3.0, 2.0, NOW_US + 1)


def fill(outbox: Outbox, core: FeedCore, count: int, *, every_s: float = 0.1) -> None:
    """`count` readings, `every_s` apart."""
    for number in range(count):
        core.take(Batch("a", (reading(float(number), after_s=number * every_s),), number), NOW_US + 10**12)
    changes = core.take_changes()
    assert changes is not None
    outbox.commit(changes)


def all_of(reader: OutboxReader) -> tuple[list[tuple[int, Entry]], int]:
    """Every entry that is there, and how many are said to be gone."""
    entries: list[tuple[int, Entry]] = []
    dropped = after = 0
    while page := reader.after(after):
        if page.reached == after:
            return entries, dropped
        entries += page.entries
        dropped += page.dropped
        after = page.reached
    raise AssertionError


def test_a_restored_core_is_the_one_that_made_the_commits(tmp_path: Path) -> None:
    core, outbox = FeedCore(SETTINGS), Outbox(tmp_path / "o.sqlite")
    fill(outbox, core, 250)
    log = outbox.log
    outbox.close()
    again, restored = Outbox(tmp_path / "o.sqlite"), FeedCore(SETTINGS)
    again.restore(restored)
    assert again.log == log
    assert restored.next_offset == core.next_offset
    assert {name: each.state for name, each in restored.series.items()} == {
        name: each.state for name, each in core.series.items()
    }
    assert restored.sources["a"].saved() == core.sources["a"].saved()
    assert restored.series["porch/t"].last == core.series["porch/t"].last
    assert restored.next_timer_us() == core.next_timer_us()
    again.close()


def test_the_oldest_samples_go_and_aggregates_stay(tmp_path: Path) -> None:
    core, outbox = FeedCore(SETTINGS), Outbox(tmp_path / "o.sqlite", sample_bytes=20_000)
    fill(outbox, core, 2_000)
    reader = OutboxReader(outbox.path)
    entries, dropped = all_of(reader)
    samples = [entry for _, entry in entries if isinstance(entry, Sample)]
    windows = [entry for _, entry in entries if isinstance(entry, Window)]
    assert 0 < outbox.sample_bytes <= 20_000
    assert len(windows) == core.counts["windows_closed"] == 18
    assert [each.result.count for each in windows] == [100] * 18  # the samples of most of them are gone
    assert [each.sequence for each in samples] == list(range(2_000 - len(samples), 2_000))
    assert dropped == outbox.dropped_samples == 2_000 - len(samples)
    reader.close()
    outbox.close()
    again = Outbox(tmp_path / "o.sqlite", sample_bytes=20_000)
    assert (again.dropped_samples, again.sample_bytes) == (dropped, outbox.sample_bytes)
    again.close()


def aggregates(first: int, count: int) -> Changes:
    return Changes([(number, Window(WINDOW)) for number in range(first, first + count)], {}, {}, {})


def test_an_aggregate_that_is_awaited_is_not_dropped(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite", aggregate_bytes=5_000)
    outbox.acknowledge("above", 0)
    outbox.commit(aggregates(1, 100))
    assert outbox.dropped_aggregates == 0
    with pytest.raises(OutboxFull, match="above"):
        outbox.check_room()
    outbox.acknowledge("above", 90)
    outbox.commit(aggregates(101, 1))
    assert outbox.aggregate_bytes <= 5_000
    assert 0 < outbox.dropped_aggregates <= 90
    outbox.check_room()
    outbox.close()


def test_where_nobody_waits_the_oldest_aggregates_go(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite", aggregate_bytes=5_000)
    outbox.commit(aggregates(1, 200))
    outbox.check_room()
    assert 0 < outbox.aggregate_bytes <= 5_000
    assert outbox.dropped_aggregates > 0
    outbox.close()


def test_a_forgotten_consumer_is_not_waited_for(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite", aggregate_bytes=1_000)
    outbox.acknowledge("above", 0)
    outbox.commit(aggregates(1, 100))
    assert outbox.forget("above")
    assert not outbox.forget("above")
    outbox.check_room()
    outbox.close()


def test_acknowledgements_last_and_never_go_back(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite")
    outbox.acknowledge("above", 7)
    outbox.acknowledge("above", 3)
    outbox.close()
    outbox = Outbox(tmp_path / "o.sqlite")
    assert outbox.consumers == {"above": 7}
    for number in range(CONSUMERS - 1):
        outbox.acknowledge(str(number), 1)
    with pytest.raises(BadRequest):
        outbox.acknowledge("one more", 1)
    outbox.close()


def test_a_file_that_is_no_outbox_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    path.write_bytes(b"this is no database, and long enough to show it" * 50)
    with pytest.raises(StorageFault):
        Outbox(path)


def test_the_outbox_is_private_and_synchronous(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite")
    assert outbox.path.stat().st_mode & 0o777 == 0o600
    assert outbox._database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert outbox._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    outbox.close()


# A feed that takes readings, five a batch, and says after each batch which numbers it has acknowledged.
VICTIM = """
import asyncio, sys
from pathlib import Path
from blockcloud.service_access.edge.feed.core import Settings
from blockcloud.service_access.edge.feed.node import open_feed
from blockcloud.service_access.edge.feed.readings import Batch, Reading

async def main():
    async with open_feed("victim", Path(sys.argv[1]), Settings(window_seconds=10)) as feed:
        async def send(first):
            numbers = range(first, first + 5)
            found = tuple(Reading("t", 1_700_000_000_000_000 + number * 1_000_000, 1.0) for number in numbers)
            await feed.intake.take(Batch("a", found, first))
            print(first, flush=True)
        first = int(sys.argv[2])
        while True:
            await asyncio.gather(*(send(number) for number in range(first, first + 50, 5)))
            first += 50

asyncio.run(main())
"""


@pytest.mark.long
def test_a_feed_that_is_killed_keeps_what_it_acknowledged_and_counts_nothing_twice(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "o.sqlite", -5
    for lines in (3, 17, 40):
        # What was not acknowledged is sent again, as devices do, and some that was.
        first = max(0, acknowledged - 45) // 50 * 50
        process = subprocess.Popen([sys.executable, "-c", VICTIM, str(path), str(first)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(lines):
            acknowledged = max(acknowledged, int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
        process.stdout.close()
        process.wait()
        outbox, core = Outbox(path), FeedCore(SETTINGS)
        outbox.restore(core)
        reader = OutboxReader(path)
        entries, dropped = all_of(reader)
        numbers = [entry.sequence for _, entry in entries if isinstance(entry, Sample)]
        assert dropped == 0
        assert set(numbers) >= set(range(acknowledged + 5))
        assert numbers == list(range(len(numbers)))
        windows = [entry.result for _, entry in entries if isinstance(entry, Window)]
        open_now = core.series["t"].state.windows
        assert sum(each.count for each in windows) + sum(each.count for each in open_now) == len(numbers)
        assert [each.count for each in windows] == [10] * len(windows)
        reader.close()
        outbox.close()
