"""What a validator keeps of the ledger besides the state: blocks, commit records, certificates, its own last level.

    blocks    level (8 bytes) author (2 bytes) digest    raw block
    commits   height (8 bytes)                           CommitRecord, written with the commit's effects
    meta      initialised                                chain id: this data began at the genesis
              own_level                                  the highest level this validator ever signed, 8 bytes
              certificate + height (8 bytes)             Certificate of a checkpoint

A commit record is written in the same batch as its effects, so the last record is the last applied commit. What was
decided and not applied is decided again from the blocks. All integers are big-endian, so that keys are in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from blockcloud.node.storage import BLOCKS, COMMITS, META
from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CERTIFICATE_BYTES, Certificate
from blockcloud.primitives.errors import BadConfiguration, StorageFault
from blockcloud.primitives.storage import Batch, Store
from blockcloud.service_chain.genesis import Genesis
from blockcloud.transaction_chain.block import Block, BlockReference, parse_own
from blockcloud.transaction_chain.commit import COMMIT_BYTES, CommitRecord, genesis_record
from blockcloud.transaction_chain.core import Recovered
from blockcloud.transaction_chain.messages import ANSWER_BYTES, FetchBlocks, FetchLevels

INITIALISED: Final = b"initialised"
OWN_LEVEL: Final = b"own_level"
CERTIFICATE: Final = b"certificate"
# Certificates older than this are dropped; nothing so old can be proved.
CERTIFICATES_KEPT_COMMITS: Final = 10_000


def initialise_data(store: Store, genesis: Genesis) -> None:
    """Mark an empty store as one that begins at the genesis, so that its validator may sign from level 1 on.

    A validator whose data was lost must not do that again: it could sign a second block for a level. Its new store
    lacks the mark, and it only observes. Raises BadConfiguration if the store is not empty.
    """
    if next(iter(store.scan(META, b"", limit=1)), None) is not None:
        raise BadConfiguration("the data folder is not empty", chain=genesis.name)
    batch = Batch()
    batch.put(META, INITIALISED, genesis.chain_id())
    store.write(batch, sync=True)


class LedgerTables:
    """Blocks, commits and certificates in `store`."""

    def __init__(self, store: Store, genesis: Genesis) -> None:
        self._store = store
        self._genesis = genesis
        mark = store.get(META, INITIALISED)
        if mark is not None and mark != genesis.chain_id():
            raise BadConfiguration("the data folder belongs to another chain", chain=mark.hex()[:16])
        self._initialised = mark is not None

    def put_blocks(self, blocks: Iterable[Block], own: Iterable[Block]) -> None:
        """Store blocks in one batch, and the level of those that are our own. Durable after the next sync."""
        batch = Batch()
        for block in blocks:
            batch.put(BLOCKS, _block_key(block.reference), block.raw)
        level = max((block.level for block in own), default=0)
        if level:
            batch.put(META, OWN_LEVEL, _number(level))
        self._store.write(batch, sync=False)

    def blocks_for(self, request: FetchBlocks | FetchLevels) -> list[bytes]:
        """Raw blocks of the request, lowest level first, as many as fit into one answer."""
        found: list[bytes] = []
        room = ANSWER_BYTES
        if isinstance(request, FetchBlocks):
            stored = (self._store.get(BLOCKS, _block_key(reference)) for reference in sorted(request.references))
            raws = (raw for raw in stored if raw is not None)
        else:
            start, stop = _number(request.first), _number(request.last + 1)
            raws = (raw for _, raw in self._store.scan(BLOCKS, start, stop))
        for raw in raws:
            room -= len(raw) + 8
            if room < 0:
                break
            found.append(raw)
        return found

    def put_commit(self, record: CommitRecord, batch: Batch) -> None:
        """Add a commit record to the batch of its effects."""
        batch.put(COMMITS, _number(record.height), codec.encode(record))

    def commit_bytes(self, height: int) -> bytes | None:
        """The canonical bytes of the commit record at `height`; height 0 is the genesis."""
        if height == 0:
            return codec.encode(self._genesis_record())
        return self._store.get(COMMITS, _number(height))

    def put_certificate(self, certificate: Certificate) -> None:
        """Store the certificate of a checkpoint."""
        height = certificate.statement.height
        batch = Batch()
        batch.put(META, CERTIFICATE + _number(height), codec.encode(certificate))
        if height > CERTIFICATES_KEPT_COMMITS:
            stop = CERTIFICATE + _number(height - CERTIFICATES_KEPT_COMMITS)
            for key, _ in self._store.scan(META, CERTIFICATE, stop, limit=2):
                batch.delete(META, key)
        self._store.write(batch, sync=False)

    def certificate(self, height: int | None = None, *, up_to: int = 2**63) -> Certificate | None:
        """The certificate of the checkpoint at `height`, or the newest one not above `up_to`."""
        if height is not None:
            data = self._store.get(META, CERTIFICATE + _number(height))
        else:
            newest = self._store.scan(META, CERTIFICATE + _number(up_to), CERTIFICATE, reverse=True, limit=1)
            data = next((value for _, value in newest), None)
        return None if data is None else codec.decode(data, Certificate, limit=CERTIFICATE_BYTES)

    def recover(self, height: int) -> Recovered | None:
        """What the core needs to go on above the last applied commit `height`; None for a store at its beginning."""
        stored_level = self._store.get(META, OWN_LEVEL)
        own_level = int.from_bytes(stored_level) if stored_level else 0 if self._initialised else None
        last = self._record(height)
        gc_level = max(0, last.level - self._genesis.parameters.gc_depth_levels)
        blocks = [parse_own(raw) for _, raw in self._store.scan(BLOCKS, _number(gc_level + 1))]
        if not height and not blocks and own_level == 0:
            return None
        return Recovered(last, self._linearised(height, gc_level), blocks, own_level)

    def _linearised(self, height: int, gc_level: int) -> list[BlockReference]:
        """The blocks above `gc_level` that commits up to `height` have brought."""
        found: list[BlockReference] = []
        while height > 0:
            record = self._record(height)
            if record.level <= gc_level:
                break
            found += [reference for reference in record.blocks if reference.level > gc_level]
            height -= 1
        return found

    def _record(self, height: int) -> CommitRecord:
        data = self.commit_bytes(height)
        if data is None:
            raise StorageFault("a commit record is missing", height=height)
        return codec.decode(data, CommitRecord, limit=COMMIT_BYTES)

    def _genesis_record(self) -> CommitRecord:
        return genesis_record(0, self._genesis.chain_id(), self._genesis.time_ms)


def _number(value: int) -> bytes:
    return value.to_bytes(8)


def _block_key(reference: BlockReference) -> bytes:
    return reference.level.to_bytes(8) + reference.author.to_bytes(2) + reference.digest
