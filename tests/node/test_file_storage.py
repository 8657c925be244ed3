"""Service files in another store: acknowledged ones survive whatever the store does, and what it returns is checked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

import pytest

from blockcloud.node.file_storage import BATCH, REST_SECONDS, FileStorage
from blockcloud.node.object_store import StoreFailed, StoreTimedOut, open_store
from blockcloud.node.routing_config import RoutingConfig
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.limits import SERVICE_FILE_BYTES
from blockcloud.primitives.storage import MemoryStore
from blockcloud.routing.errors import RoutingFull
from blockcloud.routing.replication import RoutingCore
from blockcloud.routing.service_file import build_service_file
from blockcloud.routing.store import Entry, RoutingTable
from tests.node.s3_server import REGION, s3_server

FILES = [build_service_file("thermo", f"Version {number}", description="x" * 5_000) for number in range(40)]
CACHE = 4 * SERVICE_FILE_BYTES  # about a dozen of them


class Keeper:
    """A routing table with its other store, as `RoutingRole` puts them together."""

    def __init__(self, home: Path, config: RoutingConfig, own: MemoryStore | None = None) -> None:
        self.own = own or MemoryStore()
        self.table = RoutingTable(self.own)
        self.table.use_other_store(config.cache_bytes)
        self.core = RoutingCore(self.table, lambda _: True, lambda _: ())
        self.tasks: set[asyncio.Task[None]] = set()
        store = open_store(config, home, "own", os.environ)
        assert store is not None
        self.storage = FileStorage(self.table, store, lost=self._lost, spawn=self._spawn)
        self.lost: list[bytes] = []

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _lost(self, file_hash: bytes) -> None:
        self.lost.append(file_hash)
        self.core.seek(file_hash, 1)

    async def settle(self) -> None:
        """The store is told all that it can be told."""
        self.storage.look()
        while self.tasks:
            await asyncio.gather(*self.tasks)

    async def close(self) -> None:
        await self.settle()
        await self.storage.close()


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    made = Keeper(tmp_path, RoutingConfig(store="objects", cache_bytes=CACHE))
    yield made
    await made.close()


def objects(home: Path) -> dict[str, Path]:
    return {path.name: path for path in (home / "objects" / "own").iterdir()}


def put_until_full(keeper: Keeper) -> list[bytes]:
    """What was taken before the keeper had no room any more."""
    for number, data in enumerate(FILES):
        try:
            keeper.core.put_file(data)
        except RoutingFull:
            return FILES[:number]
    raise AssertionError("there is room without end")


async def put_all(keeper: Keeper) -> None:
    for start in range(0, len(FILES), 8):
        for data in FILES[start : start + 8]:
            keeper.core.put_file(data)
        await keeper.settle()


async def test_files_beyond_the_cache_come_back_from_the_store(keeper: Keeper, tmp_path: Path) -> None:
    await put_all(keeper)
    assert keeper.table.files == len(objects(tmp_path)) == len(FILES)
    assert keeper.table.local_bytes <= CACHE < keeper.table.held_bytes
    assert [await keeper.storage.read(sha256(data)) for data in FILES] == FILES
    assert keeper.table.local_bytes <= CACHE
    assert keeper.storage.counts["read"] >= len(FILES) - 13
    assert await keeper.storage.read(bytes(32)) is None
    same = await asyncio.gather(*(keeper.storage.read(sha256(FILES[0])) for _ in range(50)))
    assert same == [FILES[0]] * 50


async def test_what_is_dropped_goes_from_the_store_too(keeper: Keeper, tmp_path: Path) -> None:
    await put_all(keeper)
    for data in FILES[:30]:
        assert keeper.table.drop(Entry(sha256(data)))
    await keeper.settle()
    assert set(objects(tmp_path)) == {sha256(data).hex() for data in FILES[30:]}
    assert keeper.table.files == 10


async def test_after_a_restart_all_is_held_and_without_the_store_only_what_is_here(
    keeper: Keeper, tmp_path: Path
) -> None:
    await put_all(keeper)
    again = Keeper(tmp_path, RoutingConfig(store="objects", cache_bytes=CACHE), keeper.own)
    assert again.table.files == len(FILES)
    assert again.table.waiting_files == 0
    assert [await again.storage.read(sha256(data)) for data in FILES] == FILES
    alone = RoutingTable(keeper.own)
    alone.use_other_store(None)
    assert 0 < alone.files < 14
    assert all(alone.file(entry.id) for entry in alone.page(b"", 100))


@pytest.mark.parametrize("harm", ["altered", "removed", "oversized"])
async def test_a_store_that_alters_or_loses_a_file_is_counted_and_the_file_fetched_from_peers(
    keeper: Keeper, tmp_path: Path, harm: str
) -> None:
    await put_all(keeper)
    victim = next(data for data in FILES if keeper.table.file(sha256(data)) is None)
    path = objects(tmp_path)[sha256(victim).hex()]
    if harm == "removed":
        path.unlink()
    else:
        altered = victim.replace(b"Version", b"Perverse")
        path.write_bytes(altered if harm == "altered" else bytes(SERVICE_FILE_BYTES + 1))
    peer = RoutingCore(RoutingTable(MemoryStore()), lambda _: True, lambda _: ())
    peer.put_file(victim)
    for core, other in ((keeper.core, 1), (peer, 0)):
        core.peer_connected(other)
        core.outgoing()
    assert await keeper.storage.read(sha256(victim)) is None
    assert keeper.storage.counts["missing" if harm == "removed" else "tampered"] == 1
    assert keeper.lost == [sha256(victim)]
    for _, data in keeper.core.outgoing():
        peer.receive(0, data, 1)
    for _, data in peer.outgoing():
        keeper.core.receive(1, data, 1)
    await keeper.settle()
    assert await keeper.storage.read(sha256(victim)) == victim
    assert path.read_bytes() == victim


async def test_a_store_that_is_down_costs_no_acknowledged_file(tmp_path: Path) -> None:
    """Files wait here as far as there is room, then new ones are refused; when the store is back it gets them."""
    with s3_server("files") as server:
        os.environ.update({"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret})
        try:
            config = RoutingConfig(
                store="s3://files",
                store_endpoint=server.url,
                store_region=REGION,
                store_timeout_ms=500,
                cache_bytes=CACHE,
            )
            keeper = Keeper(tmp_path, config)
        finally:
            del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        server.pause()
        taken = put_until_full(keeper)
        assert len(taken) > 5
        await keeper.settle()
        assert isinstance(keeper.storage.failure, StoreTimedOut)
        assert keeper.storage.report()["error"] == "store_timed_out"
        assert keeper.table.waiting_files == len(taken)
        assert [await keeper.storage.read(sha256(data)) for data in taken] == taken
        server.go_on()
        keeper.storage._rests_until = 0.0
        await keeper.settle()
        assert keeper.table.waiting_files == 0
        assert keeper.storage.failure is None
        for data in FILES[len(taken) :][:8]:
            keeper.core.put_file(data)
        await keeper.settle()
        evicted = next(data for data in taken if keeper.table.file(sha256(data)) is None)
        server.pause()
        with pytest.raises(StoreTimedOut):
            await keeper.storage.read(sha256(evicted))
        server.go_on()
        assert await keeper.storage.read(sha256(evicted)) == evicted
        await keeper.close()


async def test_a_store_that_fails_is_left_in_peace_for_a_while(keeper: Keeper, tmp_path: Path) -> None:
    (tmp_path / "objects" / "own").rmdir()
    (tmp_path / "objects" / "own").write_text("in the way")
    keeper.core.put_file(FILES[0])
    await keeper.settle()
    assert isinstance(keeper.storage.failure, StoreFailed)
    failed = keeper.storage.counts["failed"]
    for _ in range(10):
        await keeper.settle()
    assert keeper.storage.counts["failed"] == failed == 1
    assert keeper.storage._rests_until > asyncio.get_running_loop().time() + REST_SECONDS - 2


async def test_a_peer_gets_a_file_from_the_store(keeper: Keeper) -> None:
    await put_all(keeper)
    victim = next(data for data in FILES if keeper.table.file(sha256(data)) is None)
    peer = RoutingCore(RoutingTable(MemoryStore()), lambda file_hash: file_hash == sha256(victim), lambda _: ())
    peer.peer_connected(0)
    keeper.core.peer_connected(1)
    loads: list[tuple[int, bytes]] = []
    for _ in range(4):
        for _, data in keeper.core.outgoing():
            peer.receive(0, data, 1)
        for _, data in peer.outgoing():
            keeper.core.receive(1, data, 1)
        for number, file_hash in keeper.core.loads():
            loads.append((number, file_hash))
            keeper.core.loaded(number, await keeper.storage.read(file_hash) or b"")
    assert loads == [(1, sha256(victim))]
    assert peer.table.file(sha256(victim)) == victim


def test_a_batch_is_what_is_written_at_once() -> None:
    table = RoutingTable(MemoryStore())
    table.use_other_store(1_000_000)
    for data in FILES:
        table.put_file(data, lambda _: True)
    assert len(table.changed(BATCH)) == BATCH
    assert table.waiting_files == len(FILES) - BATCH
