"""Duties wait for the sync that covers them, in order, and for no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.node.outbox import Outbox
from blockcloud.primitives.errors import StorageFault


class Disk:
    """A disk whose syncs end when the test says so."""

    def __init__(self) -> None:
        self.go: SimpleQueue[Exception | None] = SimpleQueue()
        self.started: SimpleQueue[None] = SimpleQueue()
        self.synced = 0

    def sync(self) -> None:
        self.started.put(None)
        error = self.go.get(timeout=20)
        if error is not None:
            raise error
        self.synced += 1


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_duty_waits_for_its_sync_and_holds_up_what_comes_after() -> None:
    disk, done, failures = Disk(), list[str](), list[BaseException]()
    outbox = Outbox(disk.sync, failed=failures.append)
    outbox.put(partial(done.append, "free"), durable=False)
    assert done == ["free"]
    outbox.put(partial(done.append, "own 1"), durable=True)
    outbox.put(partial(done.append, "after 1"), durable=False)
    await until(lambda: not disk.started.empty())
    outbox.put(partial(done.append, "own 2"), durable=True)  # written after the sync began
    assert done == ["free"]
    disk.go.put(None)
    await until(lambda: len(done) == 3)
    assert done == ["free", "own 1", "after 1"]
    disk.go.put(None)
    await until(lambda: len(done) == 4)
    assert (done[-1], disk.synced, failures) == ("own 2", 2, [])
    outbox.close()


async def test_a_failed_sync_lets_nothing_out() -> None:
    disk, done, failures = Disk(), list[str](), list[BaseException]()
    outbox = Outbox(disk.sync, failed=failures.append)
    outbox.put(partial(done.append, "own"), durable=True)
    disk.go.put(StorageFault("no"))
    await until(lambda: failures)
    assert isinstance(failures[0], StorageFault)
    assert done == []
    outbox.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=20))
async def test_order_is_kept_and_nothing_durable_goes_unsynced(steps: list[tuple[bool, bool]]) -> None:
    written, synced, done = [0], [0], list[int]()

    def sync() -> None:
        synced[0] = written[0]

    def duty(number: int, durable: bool, nested: bool) -> None:
        assert not durable or synced[0] > number
        done.append(number)
        if nested:
            written[0] = number + 1_001
            outbox.put(partial(duty, number + 1_000, not durable, False), durable=not durable)

    outbox = Outbox(sync, failed=lambda error: None)
    for number, (durable, nested) in enumerate(steps):
        written[0] = max(written[0], number + 1)
        outbox.put(partial(duty, number, durable, nested), durable=durable)
        await asyncio.sleep(0)
    expected = len(steps) + sum(nested for _, nested in steps)
    await until(lambda: len(done) == expected)
    assert [number for number in done if number < 1_000] == list(range(len(steps)))
    outbox.close()
