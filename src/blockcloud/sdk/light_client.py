"""The light client: checks what any node says about the state, knowing the genesis and nothing else. No I/O.

genesis -> committee -> certificate of a checkpoint (commit digest and state root, signed by a quorum) -> commit record
(its time) -> proof of a key, or of its absence. It keeps the newest certificate it has seen, so that a node that is
behind, or pretends to be, cannot take it back in time. Hand-overs to later committees come with eras. DESIGN 3.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CERTIFICATE_BYTES, Certificate
from blockcloud.primitives.errors import BadCertificate
from blockcloud.primitives.limits import (
    CLOCK_SKEW_SECONDS,
    PROOF_BYTES,
    RESOLUTION_AGE_SECONDS,
    STATE_KEY_BYTES,
    STATE_VALUE_BYTES,
)
from blockcloud.sdk.errors import ConflictingCertificates, ProofFromFuture, Rollback, StaleProof, WrongStateKey
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.transaction_chain.commit import COMMIT_BYTES

PROVEN_BYTES: Final = STATE_KEY_BYTES + STATE_VALUE_BYTES + PROOF_BYTES + CERTIFICATE_BYTES + COMMIT_BYTES + 64
_GENESIS_ERA: Final = 0


@dataclass(frozen=True, slots=True)
class Proven:
    """A value that a quorum vouches for (None: the key is absent), as of `height`, whose ledger time is `time_ms`."""

    value: bytes | None
    height: int
    time_ms: int


class LightClient:
    """Accepts or refuses proven values of one chain. Not thread-safe; one for each process is best."""

    def __init__(self, genesis: Genesis) -> None:
        self.chain_id = genesis.chain_id()
        self._weights = genesis.committee().weights_by_key
        self.newest: Certificate | None = None
        self.newest_time_ms = genesis.time_ms

    @property
    def height(self) -> int:
        """The newest certified height that was seen."""
        return self.newest.statement.height if self.newest is not None else 0

    def accept(self, data: bytes, key: bytes, now_ms: int, max_age_s: int = RESOLUTION_AGE_SECONDS) -> Proven:
        """What `data`, the canonical bytes of a ProvenValue, proves about `key`.

        Raises Oversized, Malformed, NonCanonical, WrongStateKey, WrongChain, BadCertificate, BadSignature, BadProof,
        ConflictingCertificates, ProofFromFuture, Rollback or StaleProof.
        """
        proven = codec.decode(data, ProvenValue, limit=PROVEN_BYTES)
        if proven.key != key:
            raise WrongStateKey(asked=key.hex()[:80], answered=proven.key.hex()[:80])
        value, height, time_ms = proven.verify(self.chain_id, self._weights)
        if proven.certificate.statement.era != _GENESIS_ERA:
            raise BadCertificate("certificate of an era whose committee is not known")
        if time_ms > now_ms + CLOCK_SKEW_SECONDS * 1_000:
            raise ProofFromFuture(time_ms=time_ms, now_ms=now_ms)
        self._keep(proven.certificate, time_ms)
        if self.newest_time_ms - time_ms > max_age_s * 1_000:
            raise Rollback(height=height, newest=self.height, behind_ms=self.newest_time_ms - time_ms)
        if now_ms - time_ms > max_age_s * 1_000:
            raise StaleProof(height=height, age_ms=now_ms - time_ms, allowed_ms=max_age_s * 1_000)
        return Proven(value, height, time_ms)

    def _keep(self, certificate: Certificate, time_ms: int) -> None:
        """Remember a verified certificate if it is newer. Raises ConflictingCertificates."""
        if self.newest is not None:
            new, old = certificate.statement, self.newest.statement
            if new.height == old.height and new != old:
                raise ConflictingCertificates(height=new.height)
            if (new.height > old.height and time_ms < self.newest_time_ms) or (
                new.height < old.height and time_ms > self.newest_time_ms
            ):
                raise ConflictingCertificates("the ledger's time runs backwards", height=new.height)
            if new.height <= old.height:
                return
        self.newest, self.newest_time_ms = certificate, time_ms
