"""A snapshot in one file, out of a node's folder and into another: whole or not at all, every wrong byte named."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from blockcloud.node.config import NodeConfig
from blockcloud.node.homes import make_home
from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.node.snapshot_archive import SnapshotNotNewer, check_file, export_from_data, import_from_file
from blockcloud.node.snapshot_files import StoredSnapshot
from blockcloud.node.snapshots import Snapshots
from blockcloud.node.storage import ALL_TABLES, RocksStore
from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadConfiguration, StorageFault, WrongChain
from blockcloud.primitives.storage import Batch
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.operations import Transfer
from blockcloud.service_chain.snapshot_file import NoSnapshot, SnapshotReader, SnapshotWriter, UntrustedSnapshot
from blockcloud.service_chain.state import snapshot as state_snapshot
from blockcloud.service_chain.state.snapshot import BadSnapshot
from tests.node.snapshot_world import SnapshotWorld
from tests.service_chain.ledger_in_memory import USERS

ERAS = 3


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_snapshot, "CHUNK_BYTES", 2_048)


@pytest.fixture
def world(tmp_path: Path) -> SnapshotWorld:
    return SnapshotWorld(tmp_path / "snapshots", ERAS)


def in_a_file(world: SnapshotWorld, stored: StoredSnapshot | None = None) -> bytes:
    """The newest snapshot of `world` as `SnapshotWriter` puts it."""
    stored = stored or world.make()
    out = io.BytesIO()
    writer = SnapshotWriter(out.write, world.chain.chain_id, stored.era)
    for handover in world.handovers[: stored.era]:
        writer.add(codec.encode(handover))
    writer.add(stored.manifest)
    for number in range(stored.chunks):
        writer.add(stored.chunk(number) or b"")
    return out.getvalue()


def home(world: SnapshotWorld, folder: Path) -> NodeConfig:
    config, _ = make_home(folder, world.ledger.genesis)
    return config


def contents(config: NodeConfig) -> dict[str, list[tuple[bytes, bytes]]]:
    """All that a node's data holds, and what lies beside it."""
    store = RocksStore(config.data_path)
    try:
        found = {table: list(store.scan(table, b"")) for table in ALL_TABLES}
    finally:
        store.close()
    beside = [
        (str(path).encode(), b"") for path in sorted(config.home.rglob("*")) if config.data_path not in path.parents
    ]
    return {**found, "files": beside}


def test_a_node_goes_on_from_a_file_like_the_others(world: SnapshotWorld, tmp_path: Path) -> None:
    file = tmp_path / "state.snapshot"
    file.write_bytes(in_a_file(world))
    ledger, config = world.ledger, home(world, tmp_path / "node")
    manifest = import_from_file(config, ledger.genesis, file)
    assert (manifest.era, manifest.record.height) == (ERAS, ledger.height)
    assert len(manifest.parts) >= 3
    store = RocksStore(config.data_path)
    try:
        copy, tables = ServiceChain(ledger.genesis, store), LedgerTables(store, ledger.genesis)
        assert (copy.height, copy.checkpoint, copy.plan) == (ledger.height, ledger.chain.checkpoint, ledger.plan)
        assert [tables.handover(era + 1) for era in range(ERAS)] == [one.certificate for one in world.handovers]
        for _ in range(30):
            expected = ledger.execute((ledger.sign(USERS[0], Transfer(USERS[1].public, 5)),))
            batch = Batch()
            assert copy.execute(ledger.last_commit, batch) == expected
            store.write(batch, sync=False)
    finally:
        store.close()
    with pytest.raises(SnapshotNotNewer):
        import_from_file(config, ledger.genesis, file)


def test_what_was_imported_is_exported_again_byte_for_byte(world: SnapshotWorld, tmp_path: Path) -> None:
    data = in_a_file(world)
    file = tmp_path / "state.snapshot"
    file.write_bytes(data)
    config = home(world, tmp_path / "node")
    with pytest.raises(NoSnapshot):
        export_from_data(config, world.ledger.genesis, io.BytesIO())
    import_from_file(config, world.ledger.genesis, file)
    out = io.BytesIO()
    export_from_data(config, world.ledger.genesis, out)
    assert out.getvalue() == data
    store = RocksStore(config.data_path)
    try:
        chain = world.chain.__class__(world.ledger.genesis, store)
        served = Snapshots(config.snapshots_path, store, chain, LedgerTables(store, world.ledger.genesis))
        assert [offer.era for offer in served.offers()] == [ERAS], "it serves to others what it began with"
        with pytest.raises(StorageFault, match="stop the node"):
            export_from_data(config, world.ledger.genesis, io.BytesIO())
    finally:
        store.close()
    (chunks,) = config.snapshots_path.glob("*/chunks")
    spoilt = bytearray(chunks.read_bytes())
    spoilt[-1] ^= 1
    chunks.write_bytes(spoilt)
    with pytest.raises(BadSnapshot, match="chunk"):
        export_from_data(config, world.ledger.genesis, io.BytesIO())


def test_every_wrong_byte_is_refused_and_its_piece_named(world: SnapshotWorld) -> None:
    data, genesis = in_a_file(world), world.ledger.genesis
    assert SnapshotReader(io.BytesIO(data), genesis).check().era == ERAS
    named = set()
    for at in [*range(60), *range(60, len(data), 7)]:
        wrong = data[:at] + bytes((data[at] ^ 1 << at % 8,)) + data[at + 1 :]
        with pytest.raises((BadSnapshot, WrongChain)) as refused:
            SnapshotReader(io.BytesIO(wrong), genesis).check()
        named.add(str(refused.value.values.get("piece", "chain")).split(" of ")[0])
    chunks = {f"chunk {number}" for number in range(1, 4)}
    handovers = {f"hand-over {era}" for era in range(1, ERAS + 1)}
    assert chunks | handovers | {"head", "chain", "manifest"} <= named


def test_a_file_that_ends_early_or_late_is_refused(world: SnapshotWorld) -> None:
    data, genesis = in_a_file(world), world.ledger.genesis
    for end in [*range(0, len(data), 97), len(data) - 1]:
        with pytest.raises(BadSnapshot):
            SnapshotReader(io.BytesIO(data[:end]), genesis).check()
    with pytest.raises(BadSnapshot, match="behind the last"):
        SnapshotReader(io.BytesIO(data + b"\0"), genesis).check()
    with pytest.raises(BadSnapshot, match="larger"):
        SnapshotReader(io.BytesIO(data[:22] + b"\xff\xff\xff\xff" + data[26:]), genesis).check()


def test_nothing_is_kept_of_a_file_with_a_wrong_byte(world: SnapshotWorld, tmp_path: Path) -> None:
    data, config = in_a_file(world), home(world, tmp_path / "node")
    before, file = contents(config), tmp_path / "state.snapshot"
    for at in (0, 30, len(data) // 3, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:at] + bytes((data[at] ^ 4,)) + data[at + 1 :])
        with pytest.raises((BadSnapshot, WrongChain)):
            import_from_file(config, world.ledger.genesis, file)
        assert contents(config) == before
    with pytest.raises(BadConfiguration):
        import_from_file(config, world.ledger.genesis, tmp_path / "nowhere")
    file.write_bytes(data)
    with pytest.raises(BadConfiguration, match="no data"):
        import_from_file(replace(config, data_dir="nowhere"), world.ledger.genesis, file)


def test_a_snapshot_of_another_chain_or_not_of_what_is_trusted_is_refused(world: SnapshotWorld, tmp_path: Path) -> None:
    file, genesis = tmp_path / "state.snapshot", world.ledger.genesis
    file.write_bytes(in_a_file(world))
    with pytest.raises(WrongChain):
        check_file(msgspec.structs.replace(genesis, name="another"), file)
    statements = {one.plan.era: one.certificate.statement for one in world.handovers}
    assert check_file(genesis, file, statements).era == ERAS
    assert check_file(genesis, file, {2: statements[2]}).era == ERAS
    other = msgspec.structs.replace(statements[2], height=statements[2].height - 1)
    with pytest.raises(UntrustedSnapshot):
        check_file(genesis, file, {**statements, 2: other})
    with pytest.raises(UntrustedSnapshot):
        check_file(genesis, file, {ERAS + 1: statements[ERAS]})
