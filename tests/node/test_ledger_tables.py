"""Blocks, commit records and certificates in the store: what a restart and a lagging peer find."""

from __future__ import annotations

import pytest

from blockcloud.node import ledger_tables
from blockcloud.node.ledger_tables import LedgerTables, initialise_data
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.primitives.certificates import CHECKPOINT, Certificate, Statement
from blockcloud.primitives.errors import BadConfiguration, StorageFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.merkle import merkle_root
from blockcloud.primitives.storage import Batch, MemoryStore
from blockcloud.service_chain.genesis import Genesis, GenesisValidator, NamingParameters
from blockcloud.transaction_chain.block import Block, BlockReference, Header, sign_block
from blockcloud.transaction_chain.commit import CommitRecord, genesis_record
from blockcloud.transaction_chain.messages import FetchBlocks, FetchLevels
from blockcloud.transaction_chain.parameters import Parameters

KEY = SigningKey(b"k" * 32)
GENESIS = Genesis(
    "test",
    5,
    Parameters(leader_slots=1, gc_depth_levels=10),
    NamingParameters(),
    (GenesisValidator(KEY.public, 1, "", "127.0.0.1:1"),),
    ((KEY.public, GENESIS_SUPPLY_MICRO_BLOC - 1),),
)


def block(level: int, payload: tuple[bytes, ...] = ()) -> Block:
    parent = BlockReference(level - 1, 0, bytes(32))
    header = Header(GENESIS.chain_id(), 0, 0, level, (parent,), level, merkle_root(payload))
    return sign_block(header, payload, KEY)


def make(*, initialise: bool = True) -> tuple[LedgerTables, MemoryStore]:
    store = MemoryStore()
    if initialise:
        initialise_data(store, GENESIS)
    return LedgerTables(store, GENESIS), store


def commit(tables: LedgerTables, store: MemoryStore, height: int, level: int, blocks: list[Block]) -> CommitRecord:
    references = tuple(one.reference for one in blocks)
    record = CommitRecord(0, height, level, bytes(32), references[-1:], references, level)
    batch = Batch()
    tables.put_commit(record, batch)
    store.write(batch, sync=False)
    return record


def test_an_initialised_store_begins_and_another_one_observes() -> None:
    tables, store = make()
    assert tables.recover(0) is None
    with pytest.raises(BadConfiguration):
        initialise_data(store, GENESIS)
    lost, _ = make(initialise=False)
    recovered = lost.recover(0)
    assert recovered is not None
    assert recovered.own_level is None
    assert recovered.last_commit == genesis_record(0, GENESIS.chain_id(), GENESIS.time_ms)


def test_a_restart_finds_blocks_above_the_collection_level_and_its_own_level() -> None:
    tables, store = make()
    blocks = [block(level) for level in range(1, 31)]
    tables.put_blocks(blocks[:25], blocks[20:23])
    tables.put_blocks(blocks[25:], [])
    for height, level in enumerate(range(2, 26, 3), 1):
        last = commit(tables, store, height, level, blocks[level - 3 if level > 2 else 0 : level])
    recovered = tables.recover(8)
    assert recovered is not None
    assert (recovered.last_commit, recovered.last_commit.level, recovered.own_level) == (last, 23, 23)
    assert [one.level for one in recovered.blocks] == list(range(14, 31))
    assert sorted(reference.level for reference in recovered.linearised) == list(range(14, 24))
    assert [one.reference for one in recovered.blocks] == [one.reference for one in blocks[13:]]
    with pytest.raises(StorageFault):
        tables.recover(9)


def test_peers_get_blocks_by_reference_and_by_level_as_far_as_an_answer_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, _ = make()
    blocks = [block(level, (b"x" * 1_000,)) for level in range(1, 9)]
    tables.put_blocks(blocks, [])
    raws = [one.raw for one in blocks]
    assert tables.blocks_for(FetchLevels(3, 5)) == raws[2:5]
    wanted = (blocks[6].reference, BlockReference(4, 0, b"z" * 32), blocks[0].reference)
    assert tables.blocks_for(FetchBlocks(wanted)) == [raws[0], raws[6]]
    assert tables.blocks_for(FetchLevels(50, 60)) == []
    monkeypatch.setattr(ledger_tables, "ANSWER_BYTES", 3 * len(raws[0]))
    assert tables.blocks_for(FetchLevels(1, 8)) == raws[:2]


def test_certificates_are_found_by_height_and_old_ones_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_tables, "CERTIFICATES_KEPT_COMMITS", 100)
    tables, _ = make()
    assert tables.certificate() is None
    made = {
        height: Certificate(Statement(CHECKPOINT, bytes(32), 0, height, (bytes(32), bytes(32))), ())
        for height in range(10, 510, 10)
    }
    for certificate in made.values():
        tables.put_certificate(certificate)
    assert tables.certificate() == made[500]
    assert tables.certificate(450) == made[450]
    assert tables.certificate(455) is None
    assert tables.certificate(up_to=455) == made[450]
    assert tables.certificate(300) is None
    assert tables.certificate(400) == made[400]
    assert tables.commit_bytes(0) is not None
