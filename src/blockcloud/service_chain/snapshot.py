"""Snapshots: the whole service chain at the end of an era, for whoever cannot or will not replay what led there.

The hand-over statement, which the members of the ending era sign, names the last commit and the state root. So the
manifest of a snapshot, the record of that commit and the roots of the parts of the state, is checked as a whole before
any chunk is asked for, and each chunk before it is kept (`state/snapshot.py`).

What is not part of the state does not travel: the history before, and the receipts. A transaction from before the
snapshot that is submitted again is void by its sequence number as everywhere; this node only cannot say `duplicate`.

An import replaces the state in many batches. `begin_import` marks the store, `end_import` takes the mark away with the
last one: a marked store holds half a state and must not be opened. DESIGN 3.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

from msgspec import Meta

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import HANDOVER, Statement
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.storage import Batch, Store
from blockcloud.service_chain import parties
from blockcloud.service_chain.machine import CHAIN_KEY, CHECKPOINT_KEY, HEIGHT_KEY, META, encode_checkpoint
from blockcloud.service_chain.state.snapshot import (
    PARTS,
    BadSnapshot,
    Entry,
    Part,
    clear,
    fold_parts,
    put_entries,
    put_root,
)
from blockcloud.transaction_chain.commit import CommitRecord

MANIFEST_BYTES: Final = 4 * 1024 * 1024
MANIFEST_DOMAIN: Final = "snapshot-manifest/v1"
IMPORT_KEY: Final = b"importing"
_DIGESTS: Final = 3


class Manifest(Struct, frozen=True):
    """What a snapshot consists of: the record of the last commit before era `era`, and the parts of the state there."""

    era: Annotated[int, Meta(ge=1)]
    record: CommitRecord
    parts: Annotated[tuple[Part, ...], Meta(min_length=1, max_length=PARTS)]

    def check(self, statement: Statement) -> None:
        """Raise BadSnapshot unless this is a snapshot of what the hand-over `statement` certifies."""
        height, record = statement.height, self.record
        if statement.kind != HANDOVER or len(statement.digests) != _DIGESTS:
            raise BadSnapshot("not the statement of a hand-over", kind=statement.kind[:32])
        if self.era != statement.era + 1 or record.height != height or record.era != statement.era:
            raise BadSnapshot("a snapshot of another height", era=self.era, height=record.height, expected=height)
        if record.digest() != statement.digests[0]:
            raise BadSnapshot("the commit is not the certified one", era=self.era)
        if fold_parts(self.parts) != statement.digests[1]:
            raise BadSnapshot("the parts do not fold to the certified root", era=self.era)


def manifest_digest(data: bytes) -> bytes:
    """The identity of a snapshot, 32 bytes. Its parts are asked for by it: another cut would have other parts."""
    return tagged_hash(MANIFEST_DOMAIN, data)


def open_manifest(data: bytes, statement: Statement) -> Manifest:
    """The manifest in `data`. Raises BadSnapshot unless it is one of what `statement` certifies."""
    try:
        manifest = codec.decode(data, Manifest, limit=MANIFEST_BYTES)
    except PeerFault as fault:
        raise BadSnapshot(f"a manifest does not decode: {fault.message}") from None
    manifest.check(statement)
    return manifest


def importing(store: Store) -> bytes | None:
    """The digest of the manifest whose import was begun and not ended."""
    return store.get(META, IMPORT_KEY)


def begin_import(store: Store, digest: bytes) -> None:
    """Delete the state and mark the store, durably."""
    batch = Batch()
    clear(batch)
    for key in (HEIGHT_KEY, CHECKPOINT_KEY, parties.COMPLETE_KEY):
        batch.delete(META, key)
    batch.put(META, IMPORT_KEY, digest)
    store.write(batch, sync=True)


def import_entries(store: Store, manifest: Manifest, entries: Iterable[Entry]) -> None:
    """Write the entries of one checked chunk."""
    batch = Batch()
    put_entries(manifest.record.height, entries, batch)
    store.write(batch, sync=False)


def end_import(store: Store, manifest: Manifest, chain_id: bytes, root: bytes, batch: Batch) -> None:
    """Make the state valid, durably: `ServiceChain` goes on after the snapshot's height. `batch` may hold more rows
    that belong to it. Opening the state compares its tree with `root`."""
    record = manifest.record
    put_root(record.height, root, batch)
    batch.put(META, HEIGHT_KEY, record.height.to_bytes(8))
    batch.put(META, CHAIN_KEY, chain_id)
    batch.put(META, CHECKPOINT_KEY, encode_checkpoint(record.height, record.digest(), root))
    batch.delete(META, IMPORT_KEY)
    store.write(batch, sync=True)


def drop_import(store: Store) -> None:
    """Give up an import that cannot be ended: the store has no state, and begins at the genesis."""
    batch = Batch()
    clear(batch)
    batch.delete(META, IMPORT_KEY)
    store.write(batch, sync=True)
