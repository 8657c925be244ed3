"""A ledger in memory that is some eras old, with signed hand-overs and a snapshot of each era's beginning on disk."""

from __future__ import annotations

from pathlib import Path

from blockcloud.node.applying import SharedChain
from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.node.snapshot_files import StoredSnapshot, stored_snapshots
from blockcloud.node.snapshots import Snapshots
from blockcloud.primitives import codec
from blockcloud.primitives.certificates import DOMAIN, SignedStatement
from blockcloud.primitives.storage import Batch
from blockcloud.service_chain.handover import Handover
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.era import EraPlan, HandoverCollector, handover_statement
from blockcloud.transaction_chain.machine import Result
from tests.service_chain.era_world import MEMBERS, EraLedger, era_key_of

WAIT_S = 20


class RecordingLedger(EraLedger):
    """It keeps the last commit, for others to execute."""

    last_commit: Commit

    def _apply(self, commit: Commit) -> Result:
        self.last_commit = commit
        return super()._apply(commit)


class SnapshotWorld:
    """`EraLedger` at the beginning of era `eras`, with what a node that serves it has."""

    def __init__(self, folder: Path, eras: int) -> None:
        self.folder = folder
        self.ledger = RecordingLedger()
        self.tables = LedgerTables(self.ledger.store, self.ledger.genesis)
        self.handovers: list[Handover] = []
        for _ in range(eras):
            self.ledger.ready(*range(MEMBERS))
            self.handovers.append(self._ended(self.ledger.plan, self.ledger.end_era()))
        self.chain = SharedChain(self.ledger.genesis, self.ledger.store)
        self.snapshots = Snapshots(folder, self.ledger.store, self.chain, self.tables)

    def make(self) -> StoredSnapshot:
        """The snapshot of the newest era's beginning."""
        self.snapshots.make(self.ledger.plan)
        self.snapshots.wait(WAIT_S)
        assert self.snapshots.offers()[0].era == self.ledger.plan.era
        return stored_snapshots(self.folder)[0]

    def _ended(self, old: EraPlan, new: EraPlan) -> Handover:
        ledger, record, batch = self.ledger, self.ledger.record, Batch()
        self.tables.put_commit(record, batch)
        chain_id, root = ledger.chain.chain_id, ledger.chain.root_at(record.height)
        statement = handover_statement(chain_id, record.height, record.digest(), root, new)
        collector = HandoverCollector(old.committee(), chain_id, old.era)
        for node in range(MEMBERS):
            key = era_key_of(node, old.era)
            collector.add(SignedStatement(statement, key.public, key.sign(DOMAIN, codec.encode(statement))))
        certificate = collector.certificate(statement)
        assert certificate is not None
        handover = Handover(certificate, new)
        self.tables.put_handovers([handover], batch)
        ledger.store.write(batch, sync=False)
        return handover
