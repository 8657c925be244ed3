"""From checkpoints to certificates at one node: sign what we computed, collect what others signed, compare.

Equal statements of a quorum are a certificate. A node whose own root differs from a certified one has executed
something differently from the quorum, or read a broken disk: it raises Diverged and must halt (DESIGN section 3.4).
"""

from __future__ import annotations

from typing import Final, TypeVar

import structlog

from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, DOMAIN, Certificate, SignedStatement, Statement
from blockcloud.primitives.errors import Diverged, PeerFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.transaction_chain.checkpoints import CheckpointCollector
from blockcloud.transaction_chain.committee import Committee

# Own roots, and certificates ahead of our own state, that wait for their counterpart.
WAITING: Final = 64

T = TypeVar("T")
log = structlog.get_logger()


class Certification:
    """The certificates of one era. `newest` is the newest certificate that our own state has reached and equals."""

    def __init__(
        self,
        committee: Committee,
        chain_id: bytes,
        era: int,
        tables: LedgerTables,
        checkpoint: tuple[int, bytes, bytes],
    ) -> None:
        self._chain_id, self._era, self._tables = chain_id, era, tables
        self._ahead: dict[int, Certificate] = {}
        height, *digests = checkpoint
        self._own: dict[int, tuple[bytes, ...]] = {height: tuple(digests)}
        stored = tables.certificate()
        self.collector = CheckpointCollector(committee, chain_id, era, stored)
        self.newest = tables.certificate(up_to=height)
        self.refused = 0
        if self.newest is not None and self.newest.statement.height == height:
            _compare(self.newest, self._own[height])

    @property
    def certified_height(self) -> int:
        """The height of the newest certificate that is known, whether or not our state has reached it; 0 if none."""
        return self.collector.newest.statement.height if self.collector.newest is not None else 0

    def sign(self, height: int, commit_digest: bytes, root: bytes, key: SigningKey) -> SignedStatement:
        """Our statement about a checkpoint of our own."""
        statement = Statement(CHECKPOINT, self._chain_id, self._era, height, (commit_digest, root))
        return SignedStatement(statement, key.public, key.sign(DOMAIN, codec.encode(statement)))

    def reached(self, height: int, commit_digest: bytes, root: bytes) -> bool:
        """Our state is at a checkpoint; whether `newest` moved. Raises Diverged if a quorum certified another one."""
        digests = (commit_digest, root)
        _remember(self._own, height, digests)
        certificate = self._ahead.pop(height, None)
        return certificate is not None and self._adopt(certificate, digests)

    def add(self, signed: SignedStatement) -> bool:
        """Count a statement; whether `newest` moved. Raises Diverged.

        A bad statement in a valid block is its author's fault, not its sender's: it counts for nothing.
        """
        try:
            certificate = self.collector.add(signed)
        except PeerFault as fault:
            self.refused += 1
            log.warning("statement_refused", signer=signed.signer.hex()[:16], error=fault)
            return False
        if certificate is None:
            return False
        height = certificate.statement.height
        self._tables.put_certificate(certificate)
        digests = self._own.get(height)
        if digests is not None:
            return self._adopt(certificate, digests)
        _remember(self._ahead, height, certificate)
        return False

    def _adopt(self, certificate: Certificate, digests: tuple[bytes, ...]) -> bool:
        _compare(certificate, digests)
        if self.newest is not None and self.newest.statement.height >= certificate.statement.height:
            return False
        self.newest = certificate
        return True


def _compare(certificate: Certificate, digests: tuple[bytes, ...]) -> None:
    statement = certificate.statement
    if statement.digests != digests:
        raise Diverged(
            "this node's state differs from the certified one",
            height=statement.height,
            own=[digest.hex() for digest in digests],
            certified=[digest.hex() for digest in statement.digests],
        )


def _remember(kept: dict[int, T], height: int, value: T) -> None:
    kept[height] = value
    if len(kept) > WAITING:
        del kept[min(kept)]
