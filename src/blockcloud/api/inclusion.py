"""Finding the proof that a transaction stands in the ledger: its block, and the commits up to a certificate."""

from __future__ import annotations

from blockcloud.api.problems import NotFound
from blockcloud.node.validator import Validator
from blockcloud.primitives import codec
from blockcloud.primitives.certificates import Certificate
from blockcloud.primitives.errors import StorageFault
from blockcloud.service_chain.inclusion import COMMITS_MAX, ProvenTransaction, prove_transaction
from blockcloud.service_chain.state import NotACheckpoint, Pruned
from blockcloud.transaction_chain.block import Block, parse_own
from blockcloud.transaction_chain.commit import COMMIT_BYTES, CommitRecord
from blockcloud.transaction_chain.messages import FetchBlocks


def find_inclusion(validator: Validator, transaction_id: bytes) -> ProvenTransaction:
    """The proof of a committed transaction. Reads blocks from the disk: for a thread, not for the event loop.

    Raises NotFound, NotACheckpoint (not certified yet) or Pruned.
    """
    receipt = validator.chain.receipt(transaction_id)
    if receipt is None:
        raise NotFound("no receipt under this id: not committed, or rejected without a fee")
    certificate = _certificate_from(validator, receipt.height)
    heights = range(receipt.height, certificate.statement.height + 1)
    commits = [_commit_bytes(validator, height) for height in heights]
    record = codec.decode(commits[0], CommitRecord, limit=COMMIT_BYTES)
    block, index = _block_with(validator, record, receipt.index)
    return prove_transaction(block, index, commits, certificate)


def _certificate_from(validator: Validator, height: int) -> Certificate:
    """The first certificate at or above `height`."""
    period = validator.genesis.parameters.checkpoint_period
    newest = validator.certificate.statement.height if validator.certificate is not None else -1
    first = -(-height // period) * period
    for checkpoint in range(first, min(newest, height + COMMITS_MAX - 1) + 1, period):
        certificate = validator.tables.certificate(checkpoint)
        if certificate is not None:
            return certificate
    if newest < first:
        raise NotACheckpoint("no checkpoint above the transaction is certified yet", height=height)
    raise Pruned("this node no longer has the certificates of that time", height=height)


def _commit_bytes(validator: Validator, height: int) -> bytes:
    data = validator.tables.commit_bytes(height)
    if data is None:
        raise Pruned("this node no longer has the commits of that time", height=height)
    return data


def _block_with(validator: Validator, record: CommitRecord, index: int) -> tuple[Block, int]:
    """The block of `record` that has payload item `index` of the whole commit, and the item's number in the block."""
    for reference in record.blocks:
        raws = validator.tables.blocks_for(FetchBlocks((reference,), record.era))
        if not raws:
            raise Pruned("this node no longer has the blocks of that time", height=record.height)
        block = parse_own(raws[0])
        if index < len(block.payload):
            return block, index
        index -= len(block.payload)
    raise StorageFault("a receipt names a place that its commit does not have", height=record.height)
