"""Blocks, commit records and certificates in the store: what a restart and a lagging peer find."""

from __future__ import annotations

import pytest

from blockcloud.node import ledger_tables
from blockcloud.node.ledger_tables import LedgerTables, initialise_data
from blockcloud.primitives import codec
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.primitives.certificates import CERTIFICATE_BYTES, CHECKPOINT, HANDOVER, Certificate, Statement
from blockcloud.primitives.errors import BadConfiguration, StorageFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.merkle import merkle_root
from blockcloud.primitives.storage import Batch, MemoryStore
from blockcloud.service_chain.genesis import Genesis, GenesisValidator, NamingParameters
from blockcloud.transaction_chain.block import Block, BlockReference, Header, sign_block
from blockcloud.transaction_chain.commit import CommitRecord, EraStart, genesis_record
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.messages import FetchBlocks, FetchCommits, FetchLevels
from blockcloud.transaction_chain.parameters import Parameters

KEY = SigningKey(b"k" * 32)
OTHER = SigningKey(b"o" * 32)
GENESIS = Genesis(
    "test",
    5,
    Parameters(leader_slots=1, gc_depth_levels=10),
    NamingParameters(),
    (GenesisValidator(KEY.public, 1, "", "127.0.0.1:1"),),
    ((KEY.public, GENESIS_SUPPLY_MICRO_BLOC - 1),),
)


START = EraStart.of_chain(GENESIS.chain_id(), GENESIS.time_ms)


def block(level: int, payload: tuple[bytes, ...] = (), *, era: int = 0) -> Block:
    parent = BlockReference(level - 1, 0, bytes(32))
    header = Header(GENESIS.chain_id(), era, 0, level, (parent,), level, merkle_root(payload))
    return sign_block(header, payload, KEY)


def make(*, initialise: bool = True) -> tuple[LedgerTables, MemoryStore]:
    store = MemoryStore()
    if initialise:
        initialise_data(store, GENESIS)
    return LedgerTables(store, GENESIS), store


def commit(
    tables: LedgerTables, store: MemoryStore, height: int, level: int, blocks: list[Block], *, era: int = 0
) -> CommitRecord:
    references = tuple(one.reference for one in blocks)
    record = CommitRecord(era, height, level, bytes(32), references[-1:], references, level)
    batch = Batch()
    tables.put_commit(record, batch)
    store.write(batch, sync=False)
    return record


def test_an_initialised_store_begins_and_another_one_observes() -> None:
    tables, store = make()
    assert tables.recover(0, START, 0, KEY.public) is None
    with pytest.raises(BadConfiguration):
        initialise_data(store, GENESIS)
    lost, _ = make(initialise=False)
    recovered = lost.recover(0, START, 0, KEY.public)
    assert recovered is not None
    assert recovered.own_level is None
    assert recovered.last_commit == genesis_record(0, GENESIS.chain_id(), GENESIS.time_ms)
    follower = tables.recover(0, START, 0, None)
    assert follower is not None
    assert follower.own_level is None, "who has no key in an era signs nothing"


def test_who_may_sign_with_what() -> None:
    tables, store = make()
    assert tables.may_sign(KEY.public)
    assert not tables.may_sign(OTHER.public), "made before this data was there, or nobody knows when"
    tables.add_signer(OTHER.public)
    assert tables.may_sign(OTHER.public)
    again = LedgerTables(store, GENESIS)
    assert (again.may_sign(KEY.public), again.may_sign(OTHER.public)) == (True, True)
    lost, _ = make(initialise=False)
    assert not lost.may_sign(KEY.public)
    lost.add_signer(OTHER.public)
    assert (lost.may_sign(KEY.public), lost.may_sign(OTHER.public)) == (False, True)


def test_a_new_key_is_durable_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, store = make()
    synced: list[bool] = []
    write = store.write

    def spy(batch: Batch, *, sync: bool) -> None:
        synced.append(sync)
        write(batch, sync=sync)

    monkeypatch.setattr(store, "write", spy)
    tables.add_signer(OTHER.public)
    assert synced == [True]


def test_a_restart_finds_blocks_above_the_collection_level_and_its_own_level() -> None:
    tables, store = make()
    blocks = [block(level) for level in range(1, 31)]
    tables.put_blocks(0, blocks[:25], blocks[20:23])
    tables.put_blocks(0, blocks[25:], [])
    for height, level in enumerate(range(2, 26, 3), 1):
        last = commit(tables, store, height, level, blocks[level - 3 if level > 2 else 0 : level])
    recovered = tables.recover(0, START, 8, KEY.public)
    assert recovered is not None
    assert (recovered.last_commit, recovered.last_commit.level, recovered.own_level) == (last, 23, 23)
    assert [one.level for one in recovered.blocks] == list(range(14, 31))
    assert sorted(reference.level for reference in recovered.linearised) == list(range(14, 24))
    assert [one.reference for one in recovered.blocks] == [one.reference for one in blocks[13:]]
    with pytest.raises(StorageFault):
        tables.recover(0, START, 9, KEY.public)


def test_eras_do_not_mix() -> None:
    """Levels begin anew in each era: what one left behind is not taken for the other's."""
    tables, store = make()
    tables.add_signer(OTHER.public)
    old, new = [block(level) for level in range(1, 13)], [block(level, era=1) for level in range(1, 7)]
    tables.put_blocks(0, old, old)
    for height in (1, 2, 3):
        last = commit(tables, store, height, 4 * height, old[4 * height - 4 : 4 * height])
    start = EraStart(3, last.digest(), last.time_ms, b"d" * 32)
    assert tables.commit_digest(3) == (last.digest(), 12)
    assert tables.recover(1, start, 3, OTHER.public) is None, "the era begins, and nothing was signed in it"
    tables.put_blocks(1, new, new[:5])
    begun = tables.recover(1, start, 3, OTHER.public)
    assert begun is not None
    assert begun.last_commit == CommitRecord(1, 3, 0, b"d" * 32, (), (), 12)
    assert (begun.own_level, list(begun.linearised)) == (5, [])
    assert [one.reference for one in begun.blocks] == [one.reference for one in new]
    first = commit(tables, store, 4, 3, new[:3], era=1)
    going = tables.recover(1, start, 4, OTHER.public)
    assert going is not None
    assert (going.last_commit, going.own_level) == (first, 5)
    assert set(going.linearised) == {one.reference for one in new[:3]}, "not those of the era before"
    stranger = tables.recover(1, start, 4, SigningKey(b"x" * 32).public)
    assert stranger is not None
    assert stranger.own_level is None, "this data does not know what that key has signed"
    before = tables.recover(0, START, 3, KEY.public)
    assert before is not None
    assert {one.header.era for one in before.blocks} == {0}


def test_handovers_are_found_by_the_era_they_lead_into() -> None:
    tables, store = make()
    made = [Certificate(Statement(HANDOVER, bytes(32), era, 10, (bytes(32),) * 3), ()) for era in range(3)]
    for era, certificate in enumerate(made):
        tables.put_handover(era + 1, certificate)
    assert [tables.handover(era) for era in range(5)] == [None, *made, None]
    assert LedgerTables(store, GENESIS).handover(2) == made[1]
    assert tables.certificate() is None, "they are not taken for checkpoints"


def test_peers_get_blocks_by_reference_and_by_level_as_far_as_an_answer_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, _ = make()
    blocks = [block(level, (b"x" * 1_000,)) for level in range(1, 9)]
    tables.put_blocks(0, blocks, [])
    later = [block(level, era=1) for level in range(4, 6)]
    tables.put_blocks(1, later, [])
    raws = [one.raw for one in blocks]
    assert tables.blocks_for(FetchLevels(3, 5)) == raws[2:5]
    wanted = (blocks[6].reference, BlockReference(4, 0, b"z" * 32), blocks[0].reference)
    assert tables.blocks_for(FetchBlocks(wanted)) == [raws[0], raws[6]]
    assert tables.blocks_for(FetchLevels(50, 60)) == []
    assert tables.blocks_for(FetchLevels(1, 9, era=1)) == [one.raw for one in later]
    assert tables.blocks_for(FetchBlocks(wanted, era=1)) == []
    assert tables.blocks_for(FetchBlocks((later[0].reference,), era=1)) == [later[0].raw]
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


def test_of_certificates_long_past_one_in_a_range_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_tables, "CERTIFICATES_KEPT_COMMITS", 100)
    tables, _ = make()
    for height in range(10, 1_010, 10):
        tables.put_certificate(Certificate(Statement(CHECKPOINT, bytes(32), 0, height, (bytes(32), bytes(32))), ()))
    kept = [height for height in range(10, 1_010, 10) if tables.certificate(height) is not None]
    assert kept == [120, 250, 380, 510, 630, 760, 890, *range(900, 1_010, 10)]


def test_peers_get_commits_up_to_a_certified_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, store = make()
    records = [commit(tables, store, height, height, [block(height)], era=height // 26) for height in range(1, 31)]
    raws = [codec.encode(record) for record in records]
    made = {
        height: Certificate(Statement(CHECKPOINT, bytes(32), 0, height, (bytes(32),) * 2), ()) for height in (10, 20)
    }
    for certificate in made.values():
        tables.put_certificate(certificate)
    assert tables.certified_commits(FetchCommits(0, 3, 19)) == (raws[2:10], made[10])
    assert tables.certified_commits(FetchCommits(0, 3, 25)) == (raws[2:20], made[20])
    assert tables.certified_commits(FetchCommits(0, 11, 19)) == ([], None), "nothing of it is certified"
    assert tables.certified_commits(FetchCommits(0, 21, 30)) == ([], None)
    assert tables.certified_commits(FetchCommits(1, 3, 25)) == ([], None), "certified in another era"
    assert tables.certified_commits(FetchCommits(0, 40, 50)) == ([], None)
    handover = Certificate(Statement(HANDOVER, bytes(32), 0, 25, (bytes(32),) * 3), ())
    tables.put_handover(1, handover)
    assert tables.certified_commits(FetchCommits(0, 3, 25)) == (raws[2:25], handover)
    assert tables.certified_commits(FetchCommits(0, 3, 40)) == (raws[2:25], handover), "the era's last commit"
    assert tables.certified_commits(FetchCommits(0, 3, 24)) == (raws[2:20], made[20])
    room = CERTIFICATE_BYTES + 12 * (max(map(len, raws)) + 8)
    monkeypatch.setattr(ledger_tables, "ANSWER_BYTES", room)
    assert tables.certified_commits(FetchCommits(0, 1, 25)) == (raws[:10], made[10]), "an answer has its limit"


def test_what_is_long_past_is_pruned_and_what_the_era_follows_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_tables, "COMMITS_KEPT", 5)
    tables, store = make()
    for era in range(5):
        tables.put_blocks(era, [block(1, era=era)], [])
    for height in range(1, 21):
        commit(tables, store, height, height, [])
    tables.prune(EraPlan(4, 21, bytes(32), 1, ()), 0)
    assert all(tables.blocks_for(FetchLevels(1, 8, era)) for era in range(4)), "without a snapshot nothing is dropped"
    tables.prune(EraPlan(4, 21, bytes(32), 1, ()), 4)
    kept = [era for era in range(5) if tables.blocks_for(FetchLevels(1, 1, era))]
    assert kept == [2, 3, 4]
    assert [height for height in range(1, 21) if tables.commit_bytes(height)] == [15, 16, 17, 18, 19, 20]
    assert tables.commit_bytes(0) is not None, "the genesis is always known"
    tables.prune(EraPlan(1, 6, bytes(32), 1, ()), 1)
    assert tables.blocks_for(FetchLevels(1, 1, 2))


def test_who_signed_in_a_later_era_only_observes_an_earlier_one() -> None:
    """What it had signed there is not known any more, so it must not sign there again."""
    tables, _ = make()
    tables.put_blocks(3, [block(5, era=3)], [block(5, era=3)])
    for era, own_level in ((2, None), (3, 5), (4, 0)):
        recovered = tables.recover(era, START, 0, KEY.public)
        assert (recovered.own_level if recovered is not None else 0) == own_level
