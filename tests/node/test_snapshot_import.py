"""A snapshot from files into a store: what comes out goes on like the original, also after a crash at any write."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.node.snapshots import Snapshots, finish_import, import_snapshot
from blockcloud.node.storage import META
from blockcloud.primitives import codec
from blockcloud.primitives.errors import StorageFault
from blockcloud.primitives.storage import Batch, MemoryStore
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.operations import Transfer
from blockcloud.service_chain.snapshot import BadSnapshot, Manifest, importing, open_manifest
from blockcloud.service_chain.state import snapshot
from tests.node.snapshot_world import SnapshotWorld
from tests.service_chain.ledger_in_memory import USERS

CHUNK_BYTES = 2_048
MINE = b"signer of mine"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "CHUNK_BYTES", CHUNK_BYTES)


class FailingStore(MemoryStore):
    """The write number `at` and all later ones fail."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.writes, self.at = 0, at

    def write(self, batch: Batch, *, sync: bool) -> None:
        if self.writes == self.at:
            raise StorageFault("the power is gone")
        self.writes += 1
        super().write(batch, sync=sync)


def goes_on_like(world: SnapshotWorld, store: MemoryStore) -> None:
    """The state in `store` executes what follows as the original does, over the end of an era."""
    copy, ledger = ServiceChain(world.ledger.genesis, store), world.ledger
    assert (copy.height, copy.checkpoint) == (ledger.chain.height, ledger.chain.checkpoint)
    assert copy.plan == ledger.plan
    next_era = None
    while next_era is None:
        expected = ledger.execute((ledger.sign(USERS[0], Transfer(USERS[1].public, 5)),))
        batch = Batch()
        assert copy.execute(ledger.last_commit, batch) == expected
        store.write(batch, sync=False)
        next_era = expected.next_era
    assert copy.plan == ledger.plan == next_era


def test_a_node_goes_on_from_a_snapshot_like_the_others(tmp_path: Path) -> None:
    world = SnapshotWorld(tmp_path, 2)
    stored = world.make()
    store = MemoryStore()
    ServiceChain(world.ledger.genesis, store)  # its own state was older
    old = Batch()
    old.put(META, MINE, b"stays")
    store.write(old, sync=False)
    tables = LedgerTables(store, world.ledger.genesis)
    import_snapshot(store, tables, world.chain.chain_id, stored, world.handovers)
    goes_on_like(world, store)
    assert store.get(META, MINE) == b"stays"
    assert [tables.handover(era) for era in (1, 2)] == [one.certificate for one in world.handovers]
    assert tables.record(stored_height(world)) == world.tables.record(stored_height(world))


def stored_height(world: SnapshotWorld) -> int:
    return world.handovers[-1].certificate.statement.height


def test_a_crash_at_any_write_of_an_import_is_mended_at_the_next_start(tmp_path: Path) -> None:
    world = SnapshotWorld(tmp_path, 1)
    stored = world.make()
    genesis, chain_id = world.ledger.genesis, world.chain.chain_id
    assert stored.chunks >= 3
    crashes = 0
    for at in range(1, 1_000):
        store = FailingStore(-1)
        ServiceChain(genesis, store)
        store.at = store.writes + at  # the mark of the import is there
        tables = LedgerTables(store, genesis)
        try:
            import_snapshot(store, tables, chain_id, stored, world.handovers)
        except StorageFault:
            crashes += 1
        else:
            break
        assert importing(store) == stored.digest
        store.at = -1
        finish_import(store, tables, chain_id, tmp_path)
        assert importing(store) is None
        chain = ServiceChain(genesis, store)
        # Before the hand-overs are stored nobody knows what the snapshot must be: the state begins anew.
        expected = world.ledger.chain if tables.handover(1) is not None else ServiceChain(genesis, MemoryStore())
        assert (chain.height, chain.checkpoint) == (expected.height, expected.checkpoint)
    assert crashes == stored.chunks + 2
    assert importing(store) is None


def test_an_import_whose_snapshot_is_gone_or_spoilt_begins_anew(tmp_path: Path) -> None:
    for spoil in (shutil.rmtree, lambda folder: (folder / "chunks").write_bytes(b"")):
        world = SnapshotWorld(tmp_path, 1)
        stored = world.make()
        genesis, chain_id = world.ledger.genesis, world.chain.chain_id
        store = FailingStore(4)
        ServiceChain(genesis, store)
        tables = LedgerTables(store, genesis)
        with pytest.raises(StorageFault):
            import_snapshot(store, tables, chain_id, stored, world.handovers)
        store.at = -1
        spoil(stored.folder)
        finish_import(store, tables, chain_id, tmp_path)
        assert ServiceChain(genesis, store).height == 0
        shutil.rmtree(tmp_path)


def test_every_wrong_byte_in_a_manifest_is_refused(tmp_path: Path) -> None:
    world = SnapshotWorld(tmp_path, 1)
    data, statement = world.make().manifest, world.handovers[0].certificate.statement
    assert len(open_manifest(data, statement).parts) >= 3
    for at in range(len(data)):
        for flip in (1, 0x80):
            wrong = data[:at] + bytes((data[at] ^ flip,)) + data[at + 1 :]
            with pytest.raises(BadSnapshot):
                open_manifest(wrong, statement)
    with pytest.raises(BadSnapshot):
        open_manifest(data[:-1], statement)


def test_a_manifest_of_another_era_is_refused(tmp_path: Path) -> None:
    world = SnapshotWorld(tmp_path, 2)
    data = world.make().manifest
    with pytest.raises(BadSnapshot):
        open_manifest(data, world.handovers[0].certificate.statement)
    statement = world.handovers[1].certificate.statement
    wrong = replace(open_manifest(data, statement), era=3)
    with pytest.raises(BadSnapshot):
        open_manifest(codec.encode(wrong), statement)


def test_the_newest_two_are_kept_and_found_again(tmp_path: Path) -> None:
    for era in (1, 2, 3):
        world = SnapshotWorld(tmp_path, era)
        world.make()
    assert [offer.era for offer in world.snapshots.offers()] == [3, 2]
    again = Snapshots(tmp_path, world.ledger.store, world.chain, world.tables)
    assert again.offers() == world.snapshots.offers()
    manifest = codec.decode(again.piece(again.offers()[0].manifest, 0), Manifest, limit=2**22)
    assert again.piece(again.offers()[0].manifest, len(manifest.parts))
    assert again.piece(again.offers()[0].manifest, len(manifest.parts) + 1) == b""
    assert again.piece(bytes(32), 0) == b""
