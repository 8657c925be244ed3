"""The store on RocksDB does what the store in memory does, and keeps its promises through kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockcloud.node import storage
from blockcloud.node.storage import ALL_TABLES, RocksStore
from blockcloud.primitives.errors import BadConfiguration, StorageFault
from blockcloud.primitives.storage import Batch, MemoryStore, Store

TABLES = ("blocks", "meta")
keys = st.binary(max_size=3)
writes = st.tuples(st.sampled_from(TABLES), keys, st.none() | st.binary(max_size=4))
deletes = st.tuples(st.sampled_from(TABLES), keys, keys)
batches = st.lists(st.tuples(st.lists(deletes, max_size=2), st.lists(writes, max_size=12)), max_size=5)
scans = st.tuples(st.sampled_from(TABLES), keys, st.none() | keys, st.booleans(), st.none() | st.integers(0, 9))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksStore]:
    opened = RocksStore(tmp_path / "data")
    yield opened
    opened.close()


def empty(store: Store) -> None:
    batch = Batch()
    for table in TABLES:
        for key, _ in store.scan(table, b""):
            batch.delete(table, key)
    store.write(batch, sync=False)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches, scans=st.lists(scans, min_size=1, max_size=6), chunk=st.integers(1, 4))
def test_behaves_like_the_store_in_memory(
    store: RocksStore,
    batches: list[tuple[list[tuple[str, bytes, bytes]], list[tuple[str, bytes, bytes | None]]]],
    scans: list[tuple[str, bytes, bytes | None, bool, int | None]],
    chunk: int,
) -> None:
    model = MemoryStore()
    empty(store)
    for ranges, puts in batches:
        batch = Batch()
        batch.range_deletes.extend(ranges)
        batch.writes.extend(puts)
        model.write(batch, sync=False)
        store.write(batch, sync=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "SCAN_CHUNK", chunk)  # so that scans of a few entries cross chunks
        for table, start, stop, reverse, limit in scans:
            expected = list(model.scan(table, start, stop, reverse=reverse, limit=limit))
            assert list(store.scan(table, start, stop, reverse=reverse, limit=limit)) == expected
    for table, key, *_ in scans:
        assert store.get(table, key) == model.get(table, key)


def test_reopens_with_its_contents_although_a_scan_was_left_open(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "data")
    batch = Batch()
    for number in range(2_000):
        batch.put("blocks", number.to_bytes(2, "big"), b"block")
    batch.put("meta", b"height", b"7")
    store.write(batch, sync=True)
    unfinished = store.scan("blocks", b"")
    next(unfinished)
    store.close()
    store.close()
    again = RocksStore(tmp_path / "data")
    assert again.get("meta", b"height") == b"7"
    assert len(list(again.scan("blocks", b""))) == 2_000
    again.close()


def test_errors_are_typed(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "data")
    bad = Batch()
    bad.put("meta", b"a", b"1")
    bad.put("nonsense", b"a", b"1")
    with pytest.raises(BadConfiguration):
        store.write(bad, sync=False)
    assert store.get("meta", b"a") is None
    with pytest.raises(BadConfiguration):
        store.get("nonsense", b"a")
    with pytest.raises(BadConfiguration):
        list(store.scan("nonsense", b""))
    with pytest.raises(StorageFault):
        RocksStore(tmp_path / "data")  # one process, one store
    store.close()
    for use in (
        lambda: store.get("meta", b""),
        lambda: list(store.scan("meta", b"")),
        lambda: store.write(bad, sync=True),
    ):
        with pytest.raises(StorageFault):
            use()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFault):
        RocksStore(tmp_path / "file" / "data")


WRITER = """
import sys
from pathlib import Path
from blockcloud.node.storage import ALL_TABLES, RocksStore
from blockcloud.primitives.storage import Batch

store = RocksStore(Path(sys.argv[1]))
number = int.from_bytes(store.get("meta", b"last") or b"", "big")
while True:
    number += 1
    batch = Batch()
    for table in ALL_TABLES:
        for part in range(40):
            batch.put(table, number.to_bytes(4, "big") + bytes([part]), bytes([number % 251]) * 200)
    batch.put("meta", b"last", number.to_bytes(4, "big"))
    synced = number % 5 == 0
    store.write(batch, sync=synced)
    if synced:
        print(number, flush=True)
"""


def test_kill_in_the_middle_of_batches_loses_no_synced_one_and_splits_none(tmp_path: Path) -> None:
    acknowledged = 0
    for round_number in range(1, 4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(20 * round_number):
            line = writer.stdout.readline()
            assert line, "the writer died by itself"
            acknowledged = int(line)
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split("\n")
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1] if line)])
        writer.stdout.close()
        writer.wait(timeout=20)
        store = RocksStore(tmp_path / "data")
        last = int.from_bytes(store.get("meta", b"last") or b"", "big")
        assert last >= acknowledged
        for table in ALL_TABLES:
            found = [key for key, _ in store.scan(table, b"") if len(key) == 5]
            assert found == [n.to_bytes(4, "big") + bytes([part]) for n in range(1, last + 1) for part in range(40)]
        store.close()


def test_sync_reaches_everything_written_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RocksStore(tmp_path / "data")
    synced: list[bytes] = []

    def spy(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append(path.read_bytes() if path.is_file() else b"directory")

    monkeypatch.setattr(storage.os, "fdatasync", spy)
    for number in range(3):
        batch = Batch()
        batch.put("blocks", b"key", b"block number %d" % number)
        store.write(batch, sync=False)
        synced.clear()
        store.sync()
        assert any(b"block number %d" % number in content for content in synced)
        assert (b"directory" in synced) is (number == 0)

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage.os, "fdatasync", broken)
    with pytest.raises(StorageFault, match="Input/output"):
        store.sync()
    store.close()
