"""The pure parts of `bench catchup`, the ledger that it makes, and one small real run."""

from __future__ import annotations

import pytest

from blockcloud.bench.catchup import Leg, Sample, run, speeds
from blockcloud.bench.ledger_history import History
from blockcloud.bench.payments import Payers, percentiles_ms, seeded_keys
from blockcloud.bench.places import Places, make_places
from blockcloud.node.applying import SharedChain
from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.node.storage import RocksStore
from blockcloud.service_chain.handover import Handover
from blockcloud.service_chain.transaction import parse_transaction, verify_signatures
from blockcloud.transaction_chain.block import BlockRules
from blockcloud.transaction_chain.messages import FetchLevels
from blockcloud.transaction_chain.parameters import Parameters

ERA_LENGTH = 50
COMMITS = 120
TRANSFERS = 4
AUTHORS = (0, 1, 2)
TIME_MS = 1_700_000_000_000


def sample(at_s: float, height: int, transfers: int, live_height: int, live_transfers: int, mode: str) -> Sample:
    return Sample(at_s, height, transfers, live_height, live_transfers, mode)


def test_a_member_that_goes_ten_times_as_fast() -> None:
    samples = [
        sample(1.0, 0, 0, 1_000, 10_000, "catching_up"),
        sample(2.0, 0, 0, 1_010, 10_100, "catching_up"),
        sample(4.0, 200, 2_100, 1_030, 10_300, "catching_up"),
        sample(12.0, 1_100, 11_000, 1_110, 11_100, "fast"),
    ]
    found = speeds(samples, dense=True)
    assert found["in_step"]
    # It counts from the last sample in which it stood still.
    assert found["seconds"] == 10.0
    assert (found["commits"], found["commits_per_s"], found["live_commits_per_s"]) == (1_100, 110.0, 10.0)
    assert (found["ratio_commits"], found["ratio_transfers"], found["ratio"]) == (11.0, 11.0, 11.0)


def test_the_lower_ratio_counts_in_a_dense_past_only() -> None:
    samples = [sample(0, 0, 0, 100, 0, "catching_up"), sample(10, 1_000, 500, 200, 1_000, "catching_up")]
    assert speeds(samples, dense=True)["ratio"] == 0.5
    assert speeds(samples, dense=False)["ratio"] == 10.0
    assert not speeds(samples, dense=True)["in_step"]


def test_a_member_that_never_moves_has_no_speed() -> None:
    assert speeds([sample(0, 0, 0, 5, 5, "observing")] * 3, dense=True) == {"in_step": False, "ratio": 0.0}


def test_a_member_may_be_in_step_when_it_answers_first() -> None:
    found = speeds([sample(0, 0, 0, 500, 0, "starting"), sample(4, 520, 40, 520, 80, "fast")], dense=False)
    assert found["in_step"]
    assert (found["commits"], found["seconds"], found["ratio"]) == (520, 4.0, 26.0)


def test_only_two_eras_of_past_and_more_take_a_snapshot() -> None:
    assert not Leg(199, 1, 100).has_snapshot
    assert Leg(200, 1, 100).has_snapshot
    assert not Leg(100_000, 1).has_snapshot


def test_percentiles_of_hardly_anything_are_zero() -> None:
    assert percentiles_ms([]) == percentiles_ms([1.0]) == (0.0, 0.0)
    p50_ms, p95_ms = percentiles_ms([number / 1_000 for number in range(1, 102)])
    assert (p50_ms, p95_ms) == (51.0, 96.9)


def test_payers_take_turns_with_rising_sequences() -> None:
    keys = seeded_keys(3, "test")
    payers = Payers(bytes(32), keys, [key.public for key in keys])
    made = [parse_transaction(payers.next(2)) for _ in range(7)]
    for transaction in made:
        verify_signatures(transaction)
    assert [transaction.body.sequence for transaction in made] == [0, 0, 0, 1, 1, 1, 2]
    assert [transaction.body.sender for transaction in made[:4]] == [keys[i].public for i in (0, 1, 2, 0)]
    assert all(len(transaction.body.operations) == 2 for transaction in made)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """A ledger of some eras in the homes of three of four members."""
    payers = seeded_keys(20, "test")
    parameters = Parameters(era_length=ERA_LENGTH, leader_table_period=10)
    made = make_places(tmp_path_factory.mktemp("history"), 4, payers, parameters, TIME_MS)
    transactions = Payers(made.genesis.chain_id(), payers, [payer.public for payer in payers])
    history = History(made, AUTHORS, transactions.next, 100)
    counted = history.write(COMMITS, TRANSFERS)
    history.share()
    assert counted.eras == 3
    assert counted.commits >= COMMITS
    # An era's end loses none of them: each payer's sequences go on without a gap, or most would be void.
    assert counted.transactions >= (COMMITS - 3 * counted.eras) * TRANSFERS
    return made


def opened(places: Places, number: int) -> tuple[RocksStore, SharedChain, LedgerTables]:
    store = RocksStore(places.configs[number].data_path)
    return store, SharedChain(places.genesis, store), LedgerTables(store, places.genesis)


def test_the_past_is_the_same_in_each_home_and_would_be_accepted_from_a_peer(places: Places) -> None:
    seen = []
    for number in AUTHORS:
        store, chain, tables = opened(places, number)
        seen.append((chain.height, chain.checkpoint, tables.commit_digest(chain.height)))
        if number == 0:
            plan = chain.plan
            assert plan.era == 2
            handovers = []
            for era in (1, 2):
                before, after, certificate = chain.plan_of(era - 1), chain.plan_of(era), tables.handover(era)
                assert before is not None
                assert after is not None
                assert certificate is not None
                handovers.append(Handover(certificate, after))
                handovers[-1].verify(chain.chain_id, before.committee().weights_by_key)
            rules = BlockRules(chain.chain_id, 2, plan.committee(), handovers[-1].certificate.statement.digest())
            raws = tables.blocks_for(FetchLevels(1, 10, 2))
            for block in map(rules.parse, raws):
                rules.verify(block)
                for payload in block.payload:
                    chain.check(payload)
            assert len(raws) == 10 * len(AUTHORS)
            certificate = tables.certificate()
            assert certificate is not None
            certificate.verify(plan.committee().weights_by_key)
            assert certificate.statement.height == chain.height // 10 * 10
        store.close()
    assert seen == [seen[0]] * len(AUTHORS)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_member_catches_up_in_every_way() -> None:
    report = run(commits=300, dense_commits=200, transfers=5, load=100, accounts=2_000, deadline_s=90)
    for leg in ("dense", "long", "eras"):
        figures = report["figures"][leg]
        assert figures["in_step"], figures
        assert figures["commits"] >= 200
        assert figures["load"]["committed"] > 0
    # The snapshot skipped what is before the last boundary.
    assert report["figures"]["eras"]["largest_jump_commits"] >= 264 - 1
    assert report["figures"]["long"]["transfers"] >= 290
