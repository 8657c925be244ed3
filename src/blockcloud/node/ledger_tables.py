"""What a validator keeps of the ledger besides the state: blocks, commits, certificates, and what it may sign.

    blocks    era (4 bytes) level (8 bytes) author (2 bytes) digest   raw block
    commits   height (8 bytes)                           CommitRecord, written with the commit's effects
    meta      initialised                                chain id: this data began at the genesis
              signer + consensus key (32 bytes)          the key was made when this data was there already
              own_level                                  era (4 bytes) and level (8 bytes) of the newest own block
              certificate + height (8 bytes)             Certificate of a checkpoint
              handover + era (8 bytes)                   Certificate of the hand-over into an era

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
from blockcloud.service_chain.handover import Handover
from blockcloud.transaction_chain.block import Block, BlockReference, parse_own
from blockcloud.transaction_chain.commit import COMMIT_BYTES, CommitRecord, EraStart, genesis_record
from blockcloud.transaction_chain.core import Recovered
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.messages import ANSWER_BYTES, FetchBlocks, FetchCommits, FetchLevels

INITIALISED: Final = b"initialised"
SIGNER: Final = b"signer"
OWN_LEVEL: Final = b"own_level"
CERTIFICATE: Final = b"certificate"
HANDOVER: Final = b"handover"
# Certificates older than this are dropped; nothing so old can be proved.
CERTIFICATES_KEPT_COMMITS: Final = 10_000
# But one of so many heights stays: it vouches for commits that somebody fetches who was away for long.
VOUCHING_COMMITS: Final = 128
# What a node that is no archive keeps: blocks of the present era and so many before it, and so many commit records.
BLOCKS_KEPT_ERAS: Final = 2
COMMITS_KEPT: Final = 10_000


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
        self._first_keys = frozenset(validator.key for validator in genesis.validators)

    def put_blocks(self, era: int, blocks: Iterable[Block], own: Iterable[Block]) -> None:
        """Store blocks of an era in one batch, and the level of those that are our own. Durable after the next sync."""
        batch, place = Batch(), _era(era)
        for block in blocks:
            batch.put(BLOCKS, place + _block_key(block.reference), block.raw)
        level = max((block.level for block in own), default=0)
        if level:
            batch.put(META, OWN_LEVEL, place + _number(level))
        self._store.write(batch, sync=False)

    def add_signer(self, consensus_key: bytes) -> None:
        """Note, durably, that a new key belongs to this data: it has signed nothing that this data does not know."""
        batch = Batch()
        batch.put(META, SIGNER + consensus_key, b"")
        self._store.write(batch, sync=True)

    def may_sign(self, consensus_key: bytes) -> bool:
        """Whether this data knows everything that `consensus_key` has signed: data that was lost is not replaced by
        what others remember (DESIGN section 3.5)."""
        if self._initialised and consensus_key in self._first_keys:
            return True
        return self._store.get(META, SIGNER + consensus_key) is not None

    def put_handover(self, era: int, certificate: Certificate) -> None:
        """Store the certificate of the hand-over into `era`."""
        batch = Batch()
        batch.put(META, HANDOVER + _number(era), codec.encode(certificate))
        self._store.write(batch, sync=False)

    def put_handovers(self, handovers: Iterable[Handover], batch: Batch) -> None:
        """Add hand-overs that somebody sent, and that were verified, to a batch."""
        for one in handovers:
            batch.put(META, HANDOVER + _number(one.plan.era), codec.encode(one.certificate))

    def handover(self, era: int) -> Certificate | None:
        """The certificate of the hand-over into `era`."""
        data = self._store.get(META, HANDOVER + _number(era))
        return None if data is None else codec.decode(data, Certificate, limit=CERTIFICATE_BYTES)

    def blocks_for(self, request: FetchBlocks | FetchLevels) -> list[bytes]:
        """Raw blocks of the request, lowest level first, as many as fit into one answer."""
        found: list[bytes] = []
        room = ANSWER_BYTES
        place = _era(request.era)
        if isinstance(request, FetchBlocks):
            stored = (self._store.get(BLOCKS, place + _block_key(item)) for item in sorted(request.references))
            raws = (raw for raw in stored if raw is not None)
        else:
            start, stop = place + _number(request.first), place + _number(request.last + 1)
            raws = (raw for _, raw in self._store.scan(BLOCKS, start, stop))
        for raw in raws:
            room -= len(raw) + 8
            if room < 0:
                break
            found.append(raw)
        return found

    def prune(self, plan: EraPlan, newest_snapshot: int) -> None:
        """At the beginning of an era: delete the blocks of eras long past, and commits that are old. What is deleted
        cannot be fetched any more; a node that lacks it needs a snapshot, and replays from there: so blocks from the
        era `newest_snapshot` on stay."""
        batch = Batch()
        kept = min(plan.era - BLOCKS_KEPT_ERAS, newest_snapshot)
        if kept > 0:
            batch.delete_range(BLOCKS, _era(0), _era(kept))
        last = plan.first_height - 1  # the new era follows it, so it stays
        if last > COMMITS_KEPT:
            batch.delete_range(COMMITS, _number(0), _number(last - COMMITS_KEPT))
            batch.delete_range(META, CERTIFICATE + _number(0), CERTIFICATE + _number(last - COMMITS_KEPT))
        if len(batch):
            self._store.write(batch, sync=False)

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
        stop = max(0, height - CERTIFICATES_KEPT_COMMITS) // VOUCHING_COMMITS * VOUCHING_COMMITS
        start = max(0, stop - VOUCHING_COMMITS)
        old = self._store.scan(META, CERTIFICATE + _number(start), CERTIFICATE + _number(stop))
        for key, _ in list(old)[:-1]:
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

    def certified_commits(self, request: FetchCommits) -> tuple[list[bytes], Certificate | None]:
        """Canonical commit records from the first of the request to the highest certified one, as far as they fit into
        one answer, and its certificate: that of a checkpoint, or of the hand-over that ends the era. Else nothing."""
        raws: list[bytes] = []
        room = ANSWER_BYTES - CERTIFICATE_BYTES
        for key, raw in self._store.scan(COMMITS, _number(request.first), _number(request.last + 1)):
            room -= len(raw) + 8
            if room < 0 or key != _number(request.first + len(raws)):
                break
            raws.append(raw)
        certificate = self._commit_certificate(request.era, request.first + len(raws) - 1)
        if certificate is None or not raws or certificate.statement.height < request.first:
            return [], None
        return raws[: certificate.statement.height - request.first + 1], certificate

    def _commit_certificate(self, era: int, up_to: int) -> Certificate | None:
        """The certificate of the highest commit of `era` not above `up_to`."""
        handover = self.handover(era + 1)
        if handover is not None and handover.statement.height <= up_to:
            return handover
        certificate = self.certificate(up_to=up_to)
        return certificate if certificate is not None and certificate.statement.era == era else None

    def recover(self, era: int, start: EraStart, height: int, consensus_key: bytes | None) -> Recovered | None:
        """What the core of `era` needs to go on above the last applied commit `height`; None at the era's beginning.

        `consensus_key` is ours in that era, None for an observer.
        """
        own_level = None
        if consensus_key is not None and self.may_sign(consensus_key):
            stored = self._store.get(META, OWN_LEVEL)
            if stored is None or stored[:4] < _era(era):
                own_level = 0
            elif stored[:4] == _era(era):
                own_level = int.from_bytes(stored[4:])
            # Else we signed in a later era already, and what in this one is not known any more: only observe.
        last = self.record(height) if height > start.height else start.record(era)
        gc_level = max(0, last.level - self._genesis.parameters.gc_depth_levels)
        found = self._store.scan(BLOCKS, _era(era) + _number(gc_level + 1), _era(era + 1))
        blocks = [parse_own(raw) for _, raw in found]
        if height == start.height and not blocks and own_level == 0:
            return None
        records = [self.record(number) for number in range(start.height + 1, height + 1)]
        linearised = [item for record in records for item in record.blocks if item.level > gc_level]
        return Recovered(last, linearised, blocks, own_level, records)

    def commit_digest(self, height: int) -> tuple[bytes, int]:
        """Digest and time (ms) of the commit at `height`; height 0 is the genesis. Raises StorageFault."""
        record = self.record(height)
        return record.digest(), record.time_ms

    def record(self, height: int) -> CommitRecord:
        """The commit record at `height`. Raises StorageFault."""
        data = self.commit_bytes(height)
        if data is None:
            raise StorageFault("a commit record is missing", height=height)
        return codec.decode(data, CommitRecord, limit=COMMIT_BYTES)

    def _genesis_record(self) -> CommitRecord:
        return genesis_record(0, self._genesis.chain_id(), self._genesis.time_ms)


def _era(value: int) -> bytes:
    return value.to_bytes(4)


def _number(value: int) -> bytes:
    return value.to_bytes(8)


def _block_key(reference: BlockReference) -> bytes:
    return reference.level.to_bytes(8) + reference.author.to_bytes(2) + reference.digest
