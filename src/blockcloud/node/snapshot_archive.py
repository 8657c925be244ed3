"""A node's data folder and a snapshot in a file: the newest one out of it, or one into it. The node is not running.

Importing reads the file twice: once to verify all of it, so that nothing is kept of a file that is wrong anywhere, and
once to keep it as if it had been fetched from others (`node/snapshots.py`), where each chunk is checked again before it
gets into the state. A crash in the middle is mended at the node's next start, as after a fetch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from blockcloud.node.config import NodeConfig
from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.node.snapshot_files import SnapshotWriter as Folder
from blockcloud.node.snapshot_files import StoredSnapshot, stored_snapshots
from blockcloud.node.snapshots import import_snapshot
from blockcloud.node.storage import RocksStore
from blockcloud.primitives import codec
from blockcloud.primitives.certificates import Statement
from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, StorageFault
from blockcloud.primitives.limits import STATE_VALUE_BYTES
from blockcloud.primitives.storage import Batch, Store
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.handover import Handover
from blockcloud.service_chain.records import CurrentEra, decode_record
from blockcloud.service_chain.snapshot import Manifest, importing, open_manifest
from blockcloud.service_chain.snapshot_file import NoSnapshot, SnapshotReader, SnapshotWriter
from blockcloud.service_chain.state.snapshot import BadSnapshot, open_chunk
from blockcloud.service_chain.state.specification import key_hash
from blockcloud.service_chain.state.versioned import value_at
from blockcloud.service_chain.state_keys import CURRENT_ERA_KEY, era_key
from blockcloud.transaction_chain.era import EraPlan

HANDOVERS_PER_WRITE: Final = 64
_NOW: Final = 2**62


class SnapshotNotNewer(BlockCloudError):
    """The node's data is as far as the snapshot already."""

    code = "snapshot_not_newer"
    hint = "The node needs no snapshot: start it, and it goes on from where it is."


def export_from_data(config: NodeConfig, genesis: Genesis, file: BinaryIO) -> Manifest:
    """Write the newest certified snapshot in a node's folder into `file`, each piece verified before.

    Raises NoSnapshot, BadSnapshot or StorageFault (also while the node is running).
    """
    with _opened(config) as store:
        tables = LedgerTables(store, genesis)
        for snapshot in stored_snapshots(config.snapshots_path):
            certificate = tables.handover(snapshot.era)
            if certificate is not None:
                manifest = open_manifest(snapshot.manifest, certificate.statement)
                writer = SnapshotWriter(file.write, genesis.chain_id(), snapshot.era)
                for era in range(1, snapshot.era + 1):
                    writer.add(codec.encode(_handover(store, tables, era)))
                writer.add(snapshot.manifest)
                _write_chunks(snapshot, manifest, writer)
                return manifest
    raise NoSnapshot


def import_from_file(
    config: NodeConfig, genesis: Genesis, path: Path, trusted: Mapping[int, Statement] | None = None
) -> Manifest:
    """Replace the state in a node's data folder by that in the file at `path`; the node goes on from there.

    `trusted`: see `snapshot_file`. Raises BadSnapshot, UntrustedSnapshot, WrongChain, SnapshotNotNewer: then nothing
    has changed; or StorageFault.
    """
    check_file(genesis, path, trusted)
    return import_checked_file(config, genesis, path, trusted)


def import_checked_file(
    config: NodeConfig, genesis: Genesis, path: Path, trusted: Mapping[int, Statement] | None = None
) -> Manifest:
    """As `import_from_file`, for a file that `check_file` has just found good."""
    with _opened(config) as store, _reading(path) as file:
        tables = LedgerTables(store, genesis)
        reader = SnapshotReader(file, genesis, trusted)
        era = _era_of(store)
        if era >= reader.era:
            raise SnapshotNotNewer(era=era, snapshot=reader.era)
        folder = Folder(config.snapshots_path, "import")
        try:
            _keep_handovers(store, tables, reader.handovers())
            manifest, raw = reader.manifest()
            for number, chunk in enumerate(reader.chunks(manifest)):
                folder.add(number, chunk)
            stored = folder.finish(manifest.era, raw)
        finally:
            folder.abort()
        import_snapshot(store, tables, genesis.chain_id(), stored, [])
        return manifest


def check_file(genesis: Genesis, path: Path, trusted: Mapping[int, Statement] | None = None) -> Manifest:
    """Verify all of a snapshot's file, and keep nothing. Raises as `import_from_file`."""
    with _reading(path) as file:
        return SnapshotReader(file, genesis, trusted).check()


def _keep_handovers(store: Store, tables: LedgerTables, handovers: Iterator[Handover]) -> None:
    """Store verified hand-overs, some at a time: others may ask for them."""
    waiting: list[Handover] = []

    def write() -> None:
        batch = Batch()
        tables.put_handovers(waiting, batch)
        store.write(batch, sync=False)
        waiting.clear()

    for handover in handovers:
        waiting.append(handover)
        if len(waiting) == HANDOVERS_PER_WRITE:
            write()
    write()


def _write_chunks(snapshot: StoredSnapshot, manifest: Manifest, writer: SnapshotWriter) -> None:
    for number, part in enumerate(manifest.parts):
        chunk = snapshot.chunk(number) or b""
        try:
            open_chunk(part, chunk)
        except BadSnapshot as fault:
            piece = f"chunk {number + 1} of {len(manifest.parts)}"
            raise BadSnapshot(f"the stored snapshot is damaged: {fault.message}", piece=piece) from None
        writer.add(chunk)


def _handover(store: Store, tables: LedgerTables, era: int) -> Handover:
    certificate = tables.handover(era)
    plan = decode_record(value_at(store, key_hash(era_key(era)), _NOW), EraPlan)
    if certificate is None or plan is None:
        raise NoSnapshot("a hand-over on the way to the snapshot is missing here; ask another node", era=era)
    return Handover(certificate, plan)


def _era_of(store: Store) -> int:
    """The era that the state in `store` is in; -1 if there is none, or half of one."""
    value = None if importing(store) is not None else value_at(store, key_hash(CURRENT_ERA_KEY), _NOW)
    return -1 if value is None else codec.decode(value, CurrentEra, limit=STATE_VALUE_BYTES).era


@contextmanager
def _opened(config: NodeConfig) -> Iterator[RocksStore]:
    if not config.data_path.is_dir():
        raise BadConfiguration("this home has no data of a node", folder=str(config.home))
    try:
        store = RocksStore(config.data_path)
    except StorageFault as fault:
        raise StorageFault(f"{fault.message}; a node that runs has it locked: stop the node first") from None
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadConfiguration(f"cannot read the snapshot: {error.strerror}", path=str(path)) from None
    with file:
        try:
            yield file
        except OSError as error:
            raise StorageFault(f"cannot read the snapshot: {error.strerror}", path=str(path)) from None
