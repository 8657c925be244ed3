"""The snapshots that a node makes at the beginning of each era and serves, and what becomes of one it fetched.

A thread writes the state at the era's boundary into files while the node goes on: it reads the store only
(`entries_at`), and rests four times as long as it works. The longer it takes, the more keys have changed meanwhile and
are read from the history; so it is quick about it and then rests a hundred times the processor time that it took. If
eras are shorter than that, not every boundary gets its snapshot. One is offered when its hand-over is certified; the
newest two are kept. DESIGN 3.5.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

import structlog

from blockcloud.node.applying import Applier, SharedChain
from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.node.memory import give_back_memory
from blockcloud.node.snapshot_files import KEPT, SnapshotWriter, StoredSnapshot, drop_snapshot, stored_snapshots
from blockcloud.primitives import codec
from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.storage import Batch, Store
from blockcloud.service_chain.handover import Handover
from blockcloud.service_chain.snapshot import (
    MANIFEST_BYTES,
    Manifest,
    begin_import,
    drop_import,
    end_import,
    import_entries,
    importing,
    open_manifest,
)
from blockcloud.service_chain.state import StateCorrupt
from blockcloud.service_chain.state.snapshot import BadSnapshot, Part, cut, entries_at, fold_parts, open_chunk
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.messages import (
    ANSWER_HANDOVERS,
    HANDOVERS_BYTES,
    SNAPSHOT_OFFERS,
    Handovers,
    SnapshotOffer,
)

RESTS_PER_WORK: Final = 4
RESTS_PER_SNAPSHOT: Final = 100
JOIN_SECONDS: Final = 10

log = structlog.get_logger()


class Snapshots:
    """The snapshots of one node. Methods belong to the event loop's thread, `piece` may be called from any."""

    def __init__(self, folder: Path, store: Store, chain: SharedChain, tables: LedgerTables) -> None:
        self.folder, self._store, self._chain, self._tables = folder, store, chain, tables
        self.chain_id = chain.chain_id
        self._stored: dict[bytes, StoredSnapshot] = {}
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._rests_until_s = 0.0
        for snapshot in stored_snapshots(folder):
            if self._is_ours(snapshot):
                self._stored[snapshot.digest] = snapshot
            else:
                drop_snapshot(snapshot)

    def make(self, plan: EraPlan) -> None:
        """Begin to write the state with which the era of `plan` begins, unless it is there, or another is written or
        was a moment ago."""
        busy = self._thread is not None and self._thread.is_alive()
        if (
            plan.era == 0
            or busy
            or time.monotonic() < self._rests_until_s
            or any(one.era >= plan.era for one in self._stored.values())
        ):
            return
        self._thread = threading.Thread(target=self._write_and_tidy, args=(plan,), name="snapshot", daemon=True)
        self._thread.start()

    def add(self, snapshot: StoredSnapshot) -> None:
        """One more snapshot is whole. May be called from any thread."""
        with self._lock:
            # One of the same era had the same folder.
            others = [one for one in self._stored.values() if one.era != snapshot.era]
            newest = sorted([*others, snapshot], key=lambda one: -one.era)
            # A new dictionary: other threads may be looking at the old one.
            self._stored = {one.digest: one for one in newest[:KEPT]}
        for old in newest[KEPT:]:
            drop_snapshot(old)

    def close(self) -> None:
        """Stop writing; what is not whole is made again."""
        self._closing.set()
        self.wait(JOIN_SECONDS)

    def wait(self, timeout_s: float) -> None:
        """Until the snapshot that is being written is whole, if there is one."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def offers(self) -> tuple[SnapshotOffer, ...]:
        """What this node can serve, newest first."""
        newest = sorted(self._stored.values(), key=lambda one: -one.era)
        certified = [one for one in newest if self._tables.handover(one.era) is not None]
        return tuple(SnapshotOffer(one.era, one.digest) for one in certified[:SNAPSHOT_OFFERS])

    @property
    def newest_era(self) -> int:
        """The newest era with whose boundary a newcomer can begin here; 0 if it has to replay everything."""
        return max((offer.era for offer in self.offers()), default=0)

    def piece(self, digest: bytes, piece: int) -> bytes:
        """The manifest (0) or a chunk (from 1) of a snapshot; empty if it is not here."""
        snapshot = self._stored.get(digest)
        if snapshot is None:
            return b""
        return snapshot.manifest if piece == 0 else snapshot.chunk(piece - 1) or b""

    def handovers(self, first: int) -> Handovers:
        """The hand-overs into the eras from `first` on, as many as fit, and what this node can serve."""
        raws: list[bytes] = []
        room = HANDOVERS_BYTES
        for era in range(max(first, 1), max(first, 1) + ANSWER_HANDOVERS):
            certificate, plan = self._tables.handover(era), self._chain.plan_of(era)
            if certificate is None or plan is None:
                break
            raw = codec.encode(Handover(certificate, plan))
            room -= len(raw)
            if room < 0 and raws:
                break
            raws.append(raw)
        return Handovers(first, tuple(raws), self.offers())

    def _is_ours(self, snapshot: StoredSnapshot) -> bool:
        """Whether a snapshot found on disk is one of this chain, and certified."""
        certificate = self._tables.handover(snapshot.era)
        if certificate is None:
            return False
        try:
            manifest = open_manifest(snapshot.manifest, certificate.statement)
        except BadSnapshot:
            return False
        return manifest.era == snapshot.era and len(manifest.parts) == snapshot.chunks

    # The thread

    def _write_and_tidy(self, plan: EraPlan) -> None:
        try:
            self._write(plan)
        finally:
            give_back_memory()

    def _write(self, plan: EraPlan) -> None:
        began = time.monotonic()
        try:
            snapshot = self._written(plan)
        except BlockCloudError as error:
            # The store was closed meanwhile, or the disk is full: the ledger does not depend on it.
            if not self._closing.is_set():
                log.error("snapshot_failed", era=plan.era, error=error)
            return
        finally:
            self._rests_until_s = time.monotonic() + RESTS_PER_SNAPSHOT * time.thread_time()
        if snapshot is not None:
            self.add(snapshot)
            seconds = round(time.monotonic() - began, 1)
            log.info("snapshot_written", era=plan.era, chunks=snapshot.chunks, seconds=seconds)

    def _written(self, plan: EraPlan) -> StoredSnapshot | None:
        """The snapshot at the beginning of an era, from the store; None if the node stops meanwhile."""
        height = plan.first_height - 1
        writer = SnapshotWriter(self.folder, "export")
        try:
            parts: list[Part] = []
            began = time.monotonic()
            for part, data in cut(entries_at(self._store, height)):
                writer.add(len(parts), data)
                parts.append(part)
                if self._closing.wait(RESTS_PER_WORK * (time.monotonic() - began)):
                    return None
                began = time.monotonic()
            root = fold_parts(parts)
            if root != self._chain.root_at(height):
                raise StateCorrupt("the snapshot has another root than the checkpoint", height=height)
            record = self._tables.record(height)
            return writer.finish(plan.era, codec.encode(Manifest(plan.era, record, tuple(parts))))
        finally:
            writer.abort()


def import_snapshot(
    store: Store, tables: LedgerTables, chain_id: bytes, snapshot: StoredSnapshot, handovers: list[Handover]
) -> None:
    """Replace the state in `store` by a whole snapshot; `handovers` lead to its era and are kept with it.

    Each chunk is checked once more, for it comes from a disk. May be called again after a crash, on a store that is
    still marked. Raises BadSnapshot (nothing valid is in the store then) or StorageFault.
    """
    manifest = codec.decode(snapshot.manifest, Manifest, limit=MANIFEST_BYTES)
    begin_import(store, snapshot.digest)
    # Beside the mark, so that an import that was cut off can be ended without asking anybody.
    kept = Batch()
    tables.put_handovers(handovers, kept)
    store.write(kept, sync=False)
    for number, part in enumerate(manifest.parts):
        import_entries(store, manifest, open_chunk(part, snapshot.chunk(number) or b""))
    batch = Batch()
    tables.put_commit(manifest.record, batch)
    end_import(store, manifest, chain_id, fold_parts(manifest.parts), batch)


def replace_state(
    store: Store,
    tables: LedgerTables,
    chain: SharedChain,
    applier: Applier,
    snapshot: StoredSnapshot,
    handovers: list[Handover],
) -> None:
    """In a running node, in a thread: import a snapshot and let `chain` go on from it. What `applier` had still to do
    belongs to the state that goes; it ends."""
    applier.close()
    import_snapshot(store, tables, chain.chain_id, snapshot, handovers)
    chain.reload()


def finish_import(store: Store, tables: LedgerTables, chain_id: bytes, folder: Path) -> None:
    """At the start of a node: end an import that was cut off. If its snapshot is gone, the state begins at the genesis
    and the node fetches another."""
    digest = importing(store)
    if digest is None:
        return
    snapshot = next((one for one in stored_snapshots(folder) if one.digest == digest), None)
    certificate = None if snapshot is None else tables.handover(snapshot.era)
    try:
        if snapshot is None or certificate is None:
            raise BadSnapshot("the snapshot whose import was cut off is gone", digest=digest.hex()[:16])
        open_manifest(snapshot.manifest, certificate.statement)
        import_snapshot(store, tables, chain_id, snapshot, [])
        log.info("import_resumed", era=snapshot.era)
    except BadSnapshot as error:
        log.warning("import_dropped", error=error)
        drop_import(store)
