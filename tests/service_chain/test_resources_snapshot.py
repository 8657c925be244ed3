"""A snapshot carries stakes and what is confirmed of them: who begins with it draws and settles rounds like others."""

from __future__ import annotations

from blockcloud.primitives.storage import Batch, MemoryStore
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.resources import stake_record
from blockcloud.service_chain.snapshot import Manifest, begin_import, end_import, import_entries
from blockcloud.service_chain.state.snapshot import cut, entries_at, fold_parts, open_chunk
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.machine import Result
from tests.service_chain.era_world import ERA_LENGTH, MEMBERS, NODES
from tests.service_chain.resource_rounds import ALL_PASSED, ALL_SILENT, START, RoundLedger


class RecordingLedger(RoundLedger):
    """It keeps its commits, for others to execute."""

    def _apply(self, commit: Commit) -> Result:
        self.commits = [*getattr(self, "commits", []), commit]
        return super()._apply(commit)


def copied(ledger: RoundLedger) -> tuple[ServiceChain, MemoryStore]:
    """A chain, and its store, that begins with a snapshot of the present height, the last of an era."""
    store, record = MemoryStore(), ledger.record
    pieces = list(cut(entries_at(ledger.store, ledger.height)))
    manifest = Manifest(ledger.plan.era, record, tuple(part for part, _ in pieces))
    begin_import(store, bytes(32))
    for part, data in pieces:
        import_entries(store, manifest, open_chunk(part, data))
    end_import(store, manifest, ledger.chain.chain_id, fold_parts(manifest.parts), Batch())
    return ServiceChain(ledger.genesis, store), store


def test_a_chain_from_a_snapshot_goes_on_with_the_rounds() -> None:
    ledger = RecordingLedger()
    for node in range(MEMBERS):
        assert ledger.stake(node, (node + 1, 10, 10)) == "ok"
    ledger.ready(*range(MEMBERS))
    ledger.run_round({1: ALL_SILENT})
    ledger.end_era()
    copy, store = copied(ledger)
    for key in (node.public for node in NODES):
        assert stake_record(copy.get, key) == stake_record(ledger.chain.get, key)
    assert len(set(ledger.weights().values())) > 1
    ledger.at(START)
    for challenger in ledger.drawn()[:2]:
        assert ledger.report(challenger, ALL_PASSED) == "ok"
    ledger.end_era()
    for commit, expected in zip(ledger.commits[-ERA_LENGTH:], ledger.results[-ERA_LENGTH:], strict=True):
        batch = Batch()
        assert copy.execute(commit, batch) == expected
        store.write(batch, sync=False)
    assert copy.plan == ledger.plan
