"""Nodes that are eras behind get there by snapshot: nobody has the blocks any more that they would have to replay."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from blockcloud.node.ledger_tables import BLOCKS_KEPT_ERAS, LedgerTables
from blockcloud.node.snapshot_files import stored_snapshots
from blockcloud.node.storage import RocksStore
from blockcloud.node.validator import Validator
from blockcloud.primitives import codec
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.storage import Batch
from blockcloud.service_chain.handover import Handover
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.snapshot import MANIFEST_BYTES, Manifest, begin_import, import_entries
from blockcloud.service_chain.state import Pruned, snapshot
from blockcloud.service_chain.state.snapshot import open_chunk
from blockcloud.transaction_chain.messages import FetchLevels
from tests.node.cluster import USERS, Cluster, cluster, until

ERA_LENGTH = 40
ERAS = BLOCKS_KEPT_ERAS + 2
NEWCOMER = SigningKey(b"n" * 32)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small state has many."""
    monkeypatch.setattr(snapshot, "CHUNK_BYTES", 2_048)


async def run_until_era_is_offered(net: Cluster, era: int) -> None:
    nodes = net.running.values()
    await until(lambda: all(one.era >= era for one in nodes), 60)
    await until(lambda: all(any(offer.era >= era for offer in one.snapshots.offers()) for one in nodes))


async def assert_in_step(net: Cluster, one: Validator) -> None:
    """It follows, and its state is that of the others."""
    height = max(other.chain.applied_height for other in net.running.values())
    await until(lambda: one.chain.applied_height >= height and one.certificate is not None)
    (result,) = await net.running[0].submit(net.transfers(3, 1, amount=7), wait=True, timeout_s=20)
    assert result.status == "committed"
    sent = net.running[0].chain.applied_height
    everybody = [one, *net.running.values()]
    await until(lambda: all(other.chain.applied_height >= sent for other in everybody))
    certificate = one.certificate
    assert certificate is not None
    height = certificate.statement.height
    await until(lambda: all(other.chain.applied_height >= height for other in everybody))
    assert {other.chain.root_at(height) for other in everybody} == {certificate.statement.digests[1]}
    assert len({other.chain.account(USERS[3].public) for other in everybody}) == 1


async def test_a_newcomer_gets_there_by_snapshot(tmp_path: Path) -> None:
    async with cluster(tmp_path, era_length=ERA_LENGTH) as net:
        await net.running[0].submit(net.transfers(0, 20), wait=True, timeout_s=20)
        await run_until_era_is_offered(net, ERAS)
        assert not any(one.tables.blocks_for(FetchLevels(1, 40)) for one in net.running.values()), "pruned"
        newcomer = await net.start_newcomer(NEWCOMER)
        await until(lambda: newcomer.era >= ERAS - 1)
        await assert_in_step(net, newcomer)
        with pytest.raises(Pruned):
            newcomer.chain.account(USERS[0].public, 1)
        with pytest.raises(Pruned):
            newcomer.chain.root_at(0)
        assert newcomer.snapshots.offers(), "it serves what it fetched"
        assert not newcomer.exchange.sync.faults
        era, height = newcomer.era, newcomer.chain.applied_height
        await newcomer.stop()
        again = Validator(newcomer.config, net.genesis, NEWCOMER)
        net.newcomers.remove(newcomer)
        try:
            await again.start()
            assert (again.era, again.chain.applied_height) >= (era, height)
            await assert_in_step(net, again)
        finally:
            await again.stop()


async def test_who_sends_a_wrong_byte_is_faulted_and_another_is_asked(tmp_path: Path) -> None:
    async with cluster(tmp_path, era_length=ERA_LENGTH) as net:
        await run_until_era_is_offered(net, ERAS)
        liars = (0, 1, 2)
        for index in liars:
            for stored in stored_snapshots(net.config(index).snapshots_path):
                data = bytearray((stored.folder / "chunks").read_bytes())
                for at in range(20, len(data), 100):
                    data[at] ^= 1
                (stored.folder / "chunks").write_bytes(data)
        newcomer = await net.start_newcomer(NEWCOMER)
        await until(lambda: newcomer.era >= ERAS - 1, 60)
        assert newcomer.exchange.sync.faults["bad_snapshot"] >= 1
        await assert_in_step(net, newcomer)


async def test_a_member_that_was_down_for_eras_comes_back_by_snapshot(tmp_path: Path) -> None:
    """What it may sign survives: it has its keys and its data."""
    async with cluster(tmp_path, era_length=ERA_LENGTH) as net:
        await net.stop(3)
        await run_until_era_is_offered(net, ERAS)
        late = await net.start(3)
        await until(lambda: late.era >= ERAS - 1)
        await assert_in_step(net, late)
        assert late.tables.may_sign(late.node_key)
        assert not any(one.core.evidence for one in net.running.values())


async def test_an_archive_keeps_the_blocks_of_all_eras(tmp_path: Path) -> None:
    async with cluster(tmp_path, count=1, era_length=16) as net:
        (one,) = net.running.values()
        one.config = replace(one.config, archive=True)
        await until(lambda: one.era > BLOCKS_KEPT_ERAS + 1, 60)
        assert all(one.tables.blocks_for(FetchLevels(1, 10, era)) for era in range(one.era))


async def test_a_node_killed_in_the_middle_of_an_import_gets_there_after_its_next_start(tmp_path: Path) -> None:
    async with cluster(tmp_path, era_length=ERA_LENGTH) as net:
        await run_until_era_is_offered(net, ERAS)
        source = net.running[0]
        for key, keeps_files in ((NEWCOMER, True), (SigningKey(b"m" * 32), False)):
            home = tmp_path / f"newcomer{len(net.newcomers)}"
            stored = stored_snapshots(source.config.snapshots_path)[0]
            manifest = codec.decode(stored.manifest, Manifest, limit=MANIFEST_BYTES)
            store = RocksStore(home / "data")
            ServiceChain(net.genesis, store)
            batch = Batch()
            LedgerTables(store, net.genesis).put_handovers(handovers(source, stored.era), batch)
            store.write(batch, sync=False)
            begin_import(store, stored.digest)
            import_entries(store, manifest, open_chunk(manifest.parts[0], stored.chunk(0) or b""))
            store.close()
            if keeps_files:
                shutil.copytree(stored.folder, home / "snapshots" / stored.folder.name)
            newcomer = await net.start_newcomer(key)
            if keeps_files:
                assert newcomer.chain.applied_height >= manifest.record.height, "it had all that it needed"
            await until(lambda one=newcomer: one.era >= ERAS - 1)
            await assert_in_step(net, newcomer)


def handovers(one: Validator, last: int) -> list[Handover]:
    found: list[Handover] = []
    for era in range(1, last + 1):
        certificate, plan = one.tables.handover(era), one.chain.plan_of(era)
        assert certificate is not None
        assert plan is not None
        found.append(Handover(certificate, plan))
    return found
