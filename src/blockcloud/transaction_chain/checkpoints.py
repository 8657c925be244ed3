"""Collecting checkpoint statements into certificates (DESIGN section 3.4, phase 4).

Every C commits each validator signs what it computed: Statement(checkpoint, chain, era, height, (commit digest, state
root)). Equal statements of quorum weight are a certificate. Of one member and height the first statement counts; a
second, different one is evidence of a lie. A member can keep only a bounded number of statements here, so it can only
push out its own.
"""

from __future__ import annotations

from blockcloud.primitives.certificates import CHECKPOINT, Certificate, SignedStatement
from blockcloud.primitives.errors import Malformed, UnknownSigner, WrongChain
from blockcloud.primitives.hashes import DIGEST_BYTES
from blockcloud.transaction_chain.committee import Committee

STATEMENTS_PER_MEMBER = 64
CONFLICTS = 64


class CheckpointCollector:
    """Statements of one era. `newest` is the certificate of the greatest height."""

    def __init__(self, committee: Committee, chain_id: bytes, era: int, newest: Certificate | None = None) -> None:
        self._committee = committee
        self._chain_id = chain_id
        self._era = era
        self.newest = newest
        # Bounded to `CONFLICTS` pairs of statements of one signer and height: evidence.
        self.conflicts: list[tuple[SignedStatement, SignedStatement]] = []
        self._statements: dict[bytes, dict[int, SignedStatement]] = {member.key: {} for member in committee.members}

    def add(self, signed: SignedStatement) -> Certificate | None:
        """Count a statement. Returns the certificate if this made a new one, higher than all before.

        Raises Malformed, WrongChain, UnknownSigner or BadSignature. A statement of another era counts for nothing.
        """
        statement = signed.statement
        if statement.kind != CHECKPOINT or [len(digest) for digest in statement.digests] != [DIGEST_BYTES] * 2:
            raise Malformed("not a checkpoint statement", kind=statement.kind[:32])
        if statement.chain_id != self._chain_id:
            raise WrongChain("statement of another chain", chain=statement.chain_id.hex()[:16])
        if signed.signer not in self._statements:
            raise UnknownSigner(signer=signed.signer.hex()[:16])
        if statement.era != self._era or not self._keep(signed):
            return None
        if self.newest is not None and statement.height <= self.newest.statement.height:
            return None
        return self._certify(signed)

    def _keep(self, signed: SignedStatement) -> bool:
        """Whether `signed` is the first of its signer and height, and was kept."""
        height = signed.statement.height
        kept = self._statements[signed.signer]
        first = kept.get(height)
        if first is not None and first.statement == signed.statement:
            return False
        signed.verify()
        if first is not None:
            self._conflict(first, signed)
            return False
        kept[height] = signed
        if len(kept) > STATEMENTS_PER_MEMBER:
            del kept[min(kept)]
        return height in kept

    def _conflict(self, first: SignedStatement, second: SignedStatement) -> None:
        known = any(
            pair[0].signer == first.signer and pair[0].statement.height == first.statement.height
            for pair in self.conflicts
        )
        if not known and len(self.conflicts) < CONFLICTS:
            self.conflicts.append((first, second))

    def _certify(self, signed: SignedStatement) -> Certificate | None:
        statement = signed.statement
        agreeing = []
        weight = 0
        for member in self._committee.members:
            other = self._statements[member.key].get(statement.height)
            if other is not None and other.statement == statement:
                agreeing.append((other.signer, other.signature))
                weight += member.bond
        if weight < self._committee.quorum:
            return None
        self.newest = Certificate(statement, tuple(sorted(agreeing)))
        return self.newest
