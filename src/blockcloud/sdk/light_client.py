"""The light client: checks what any node says about the state, knowing the genesis and nothing else. No I/O.

genesis -> hand-over certificates, era by era -> committee of the era -> certificate of a checkpoint (commit digest and
state root, signed by a quorum) -> commit record (its time) -> proof of a key, or of its absence. It keeps the newest
certificate it has seen, so that a node that is behind, or pretends to be, cannot take it back in time. DESIGN 3.6.

What is guaranteed, and what is not. Keys of past members are worth something after their bonds are paid back: with a
quorum of them one can sign a second history that begins in their era (long-range attack). So certificates count only
as long as their signers can still be punished, with room to spare: half of the unbonding time that the genesis names
and the ledger keeps to by commit time (`trusting period`; `service_chain.staking.is_over`).
A client whose newest certificate is older refuses everything (`TrustExpired`) until it is given a fresh one by `trust`.
As long as it comes back in time, it is safe while less than a third of the weight of each era it lives through lies.

A client that has the genesis and nothing else may follow the hand-overs from era 0 whatever their age, else nobody
could ever join. It then relies on something weaker: that no quorum of any past committee has kept its keys (honest
members erase them after the hand-over) and sold them; and if the nodes that it asks show it both histories, it refuses
both. From its first fresh certificate on the trusting period holds for it as for all others. Who does not want to
rely on that starts from a recent `TrustedState` obtained from somebody it trusts, and passes
`genesis_suffices=False`, which makes a genesis count as a certificate of its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NoReturn

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CERTIFICATE_BYTES, CHECKPOINT, HANDOVER, Certificate, Statement
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadCertificate, Malformed, PeerFault, WrongChain
from blockcloud.primitives.limits import (
    CLOCK_SKEW_SECONDS,
    PROOF_BYTES,
    RESOLUTION_AGE_SECONDS,
    STATE_KEY_BYTES,
    STATE_VALUE_BYTES,
)
from blockcloud.sdk.errors import (
    ConflictingCertificates,
    ConflictingHandovers,
    ForgottenEra,
    ProofFromFuture,
    Rollback,
    SkippedEra,
    StaleProof,
    TrustExpired,
    UnknownEra,
    WrongHeight,
    WrongStateKey,
)
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.handover import HANDOVER_BYTES, Handover, WrongEra
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.transaction_chain.commit import COMMIT_BYTES
from blockcloud.transaction_chain.era import EraPlan

PROVEN_BYTES: Final = STATE_KEY_BYTES + STATE_VALUE_BYTES + PROOF_BYTES + CERTIFICATE_BYTES + COMMIT_BYTES + 64
# The newest era and those before it whose certificates still count. Whoever is that far behind asks another node.
ERAS_KEPT: Final = 3
TRUSTED_STATE_BYTES: Final = ERAS_KEPT * HANDOVER_BYTES + 3 * CERTIFICATE_BYTES + 2 * HANDOVER_BYTES + 256
_GENESIS_ERA: Final = 0


@dataclass(frozen=True, slots=True)
class Proven:
    """A value that a quorum vouches for (None: the key is absent), as of `height`, whose ledger time is `time_ms`.

    `fresh`: it is no older than was asked for. A value of the past is not: what it is now, it does not say.
    """

    value: bytes | None
    height: int
    time_ms: int
    fresh: bool = True


class TrustedState(Struct, frozen=True):
    """From where a client goes on: what it keeps over a restart, or gets from somebody it trusts.

    `handovers` lead into the newest eras it knows, ascending (none: era 0, whose committee is the genesis's); the first
    is taken as it is. `newest` is the newest certified checkpoint, `time_ms` the ledger's time there (Unix). `evidence`
    is empty, or the canonical bytes of two certificates, or hand-overs, that contradict each other.
    """

    chain_id: bytes
    handovers: tuple[Handover, ...]
    newest: Certificate | None
    time_ms: int
    evidence: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class _Era:
    """The committee of an era (key -> bond) and where it begins. `handover` leads into it; the first era has none."""

    number: int
    first_height: int
    weights: Mapping[bytes, int]
    handover: Handover | None


class LightClient:
    """Accepts or refuses proven values of one chain. Not thread-safe; one for each process is best.

    Starts from `trusted` if given, else from the genesis. The trusting period is the chain's, or `trusting_period_s`
    seconds if that is less. See the module for what is guaranteed and for `genesis_suffices`. Raises as `trust`.
    """

    def __init__(
        self,
        genesis: Genesis,
        *,
        trusted: TrustedState | None = None,
        trusting_period_s: int | None = None,
        genesis_suffices: bool = True,
    ) -> None:
        self.chain_id = genesis.chain_id()
        self._genesis_plan = genesis.plan()
        self._genesis_era = _Era(_GENESIS_ERA, 1, self._genesis_plan.committee().weights_by_key, None)
        period_ms = genesis.staking.trusting_period_ms
        self.period_ms = period_ms if trusting_period_s is None else min(period_ms, trusting_period_s * 1_000)
        self._eras: dict[int, _Era] = {_GENESIS_ERA: self._genesis_era}
        self._anchored = not genesis_suffices  # whether `newest_time_ms` is a time that trust counts from
        self.newest: Certificate | None = None
        self.newest_time_ms = genesis.time_ms
        self.evidence: tuple[bytes, ...] = ()
        if trusted is not None:
            self.trust(trusted)

    @property
    def height(self) -> int:
        """The newest certified height that was seen."""
        return self.newest.statement.height if self.newest is not None else 0

    @property
    def era(self) -> int:
        """The newest era whose committee is known."""
        return max(self._eras)

    def plan(self, era: int) -> EraPlan | None:
        """The plan of one of the newest eras, which a quorum of the era before has signed; the genesis says era 0."""
        known = self._eras.get(era)
        if known is None:
            return None
        return self._genesis_plan if known.handover is None else known.handover.plan

    def accept(self, data: bytes, key: bytes, now_ms: int, max_age_s: int = RESOLUTION_AGE_SECONDS) -> Proven:
        """What `data`, the canonical bytes of a ProvenValue, proves about `key`.

        Raises TrustExpired, UnknownEra (follow the hand-overs, then ask again), Oversized, Malformed, NonCanonical,
        WrongStateKey, WrongChain, WrongEra, BadCertificate, BadSignature, BadProof, ConflictingCertificates,
        ProofFromFuture, Rollback or StaleProof.
        """
        proven, value, time_ms = self._verified(data, key, now_ms, past=False)
        height, age_ms = proven.certificate.statement.height, now_ms - time_ms
        if self.newest_time_ms - time_ms > max_age_s * 1_000:
            raise Rollback(height=height, newest=self.height, behind_ms=self.newest_time_ms - time_ms)
        allowed_ms = min(max_age_s * 1_000, self.period_ms)
        if age_ms > allowed_ms:
            raise StaleProof(height=height, age_ms=age_ms, allowed_ms=allowed_ms)
        return Proven(value, height, time_ms)

    def accept_past(
        self, data: bytes, key: bytes, heights: range, now_ms: int, plans: Mapping[int, EraPlan] | None = None
    ) -> Proven:
        """What `data`, the canonical bytes of a ProvenValue, proves about `key` at one of `heights`, however long ago.

        Not longer than the trusting period, though: whoever signed then may have its bond back. Of the eras before the
        newest three the committee is not known here; `plans` are those that the caller has proven by the ledger's
        newest state, which keeps all. It takes the one of the certificate's era and the one after it.

        Raises as `accept` (not Rollback), WrongHeight, or ForgottenEra if these plans are lacking.
        """
        proven, value, time_ms = self._verified(data, key, now_ms, past=True, plans=plans or {})
        height = proven.certificate.statement.height
        if height not in heights:
            raise WrongHeight(lowest=heights.start, highest=heights.stop - 1, answered=height)
        if now_ms - time_ms > self.period_ms:
            raise StaleProof(
                "the height is further back than this client trusts what was signed",
                height=height,
                age_ms=now_ms - time_ms,
                allowed_ms=self.period_ms,
            )
        return Proven(value, height, time_ms, fresh=False)

    def _verified(
        self, data: bytes, key: bytes, now_ms: int, *, past: bool, plans: Mapping[int, EraPlan] = MappingProxyType({})
    ) -> tuple[ProvenValue, bytes | None, int]:
        """A proven value, what it proves, and the ledger's time there; its certificate is remembered."""
        proven = codec.decode(data, ProvenValue, limit=PROVEN_BYTES)
        if proven.key != key:
            raise WrongStateKey(asked=key.hex()[:80], answered=proven.key.hex()[:80])
        certificate = proven.certificate
        is_checkpoint = certificate.statement.kind == CHECKPOINT
        if past and not is_checkpoint and certificate.statement.era >= self.era:
            # It counts once the hand-over that it belongs to has been followed, and so compared with all the rest.
            raise UnknownEra(era=certificate.statement.era + 1, known=self.era)
        try:
            weights = self.committee_for(certificate, now_ms)
        except ForgottenEra as forgotten:
            if not {forgotten.era, forgotten.era + 1} <= plans.keys():
                raise
            _check_past_place(certificate.statement, plans[forgotten.era], plans[forgotten.era + 1])
            weights = plans[forgotten.era].committee().weights_by_key
            value, _, time_ms = proven.verify(self.chain_id, weights, past=past)
            return proven, value, time_ms
        value, _, time_ms = proven.verify(self.chain_id, weights, past=past)
        self.check_place(certificate)
        if time_ms > now_ms + CLOCK_SKEW_SECONDS * 1_000:
            raise ProofFromFuture(time_ms=time_ms, now_ms=now_ms)
        # An older one would end a newcomer's trust at once, and nothing follows from it.
        if is_checkpoint and now_ms - time_ms <= self.period_ms:
            self._keep(certificate, time_ms)
        return proven, value, time_ms

    def follow(self, data: bytes, now_ms: int) -> int:
        """Take the canonical bytes of the hand-over into the next era; the newest era known afterwards.

        One that is known already is checked against the known one. Raises TrustExpired, SkippedEra, WrongEra,
        ConflictingHandovers, ConflictingCertificates, or what decoding and `Handover.verify` raise.
        """
        self.require_trust(now_ms)
        handover = codec.decode(data, Handover, limit=HANDOVER_BYTES)
        number = handover.plan.era
        if number > self.era + 1:
            handover.check(self.chain_id)
            raise SkippedEra(known=self.era, era=number)
        before = self._eras.get(number - 1)
        if before is None:
            handover.check(self.chain_id)
            raise WrongEra("the committee that signed this hand-over is not known any more", era=number)
        weights = handover.verify(self.chain_id, before.weights).weights_by_key
        known = self._eras.get(number)
        if known is not None and known.handover is not None:
            if known.handover.certificate.statement != handover.certificate.statement:
                self._conflict(ConflictingHandovers(era=number), known.handover, handover)
            return self.era
        self._check_last_height(before, handover)
        self._add_era(_Era(number, handover.plan.first_height, weights, handover))
        return self.era

    def trust(self, state: TrustedState) -> None:
        """Go on from `state`, which somebody trusted has given, instead of from what was known before.

        Whether it is fresh is asked at each later call. Raises WrongChain, WrongEra or what else shows that it does not
        fit together; then nothing has changed.
        """
        if state.chain_id != self.chain_id:
            raise WrongChain("trusted state of another chain", chain=state.chain_id.hex()[:16])
        if len(state.handovers) > ERAS_KEPT or len(state.evidence) not in (0, 2):
            raise Malformed("a trusted state has more than its parts", handovers=len(state.handovers))
        eras = dict(list(self._eras_of(state))[-ERAS_KEPT:])
        if state.newest is not None:
            statement = state.newest.statement
            if statement.kind != CHECKPOINT or statement.chain_id != self.chain_id:
                raise BadCertificate("the newest certificate is not of a checkpoint of this chain")
            if statement.era > max(eras):
                raise WrongEra("the newest certificate is of an era that the state does not know", era=statement.era)
            # It may be older than the eras that are kept, if hand-overs were followed since.
            if statement.era in eras:
                state.newest.verify(eras[statement.era].weights)
        self._eras = eras
        self.newest, self.newest_time_ms, self.evidence = state.newest, state.time_ms, state.evidence
        self._anchored = True

    def state(self) -> TrustedState | None:
        """What to keep over a restart, or to give to others; None before there is a certificate with its time."""
        if self.newest is None:
            return None
        handovers = tuple(era.handover for era in self._eras.values() if era.handover is not None)
        return TrustedState(self.chain_id, handovers, self.newest, self.newest_time_ms, self.evidence)

    def committee_for(self, certificate: Certificate, now_ms: int) -> Mapping[bytes, int]:
        """The committee (key -> bond) that a certificate is to be verified by.

        Raises TrustExpired, ConflictingCertificates, WrongChain, UnknownEra or WrongEra.
        """
        self.require_trust(now_ms)
        statement = certificate.statement
        if statement.chain_id != self.chain_id:
            raise WrongChain("certificate of another chain", chain=statement.chain_id.hex()[:16])
        if statement.era > self.era:
            raise UnknownEra(era=statement.era, known=self.era)
        era = self._eras.get(statement.era)
        if era is None:
            raise ForgottenEra("a certificate of an era long ago does not count", era=statement.era, newest=self.era)
        return era.weights

    def check_place(self, certificate: Certificate) -> None:
        """Compare a verified certificate of a known era with the hand-overs into that era and out of it.

        Raises ConflictingCertificates: then a quorum of that era has signed two histories.
        """
        statement = certificate.statement
        era, after = self._eras[statement.era], self._eras.get(statement.era + 1)
        if statement.height < era.first_height and era.handover is not None:
            self._conflict(ConflictingCertificates("a checkpoint below its era"), era.handover, certificate)
        if after is None or after.handover is None:
            return
        last = after.handover.certificate.statement
        if statement.kind == HANDOVER and statement != last:
            self._conflict(ConflictingHandovers(era=statement.era + 1), after.handover, certificate)
        if statement.height > last.height or (
            statement.height == last.height and statement.digests[:2] != last.digests[:2]
        ):
            error = ConflictingCertificates("a checkpoint contradicts a hand-over")
            self._conflict(error, after.handover, certificate)

    def require_trust(self, now_ms: int) -> None:
        """Whether anything counts at all now. Raises ConflictingCertificates, ProofFromFuture or TrustExpired."""
        if self.evidence:
            raise ConflictingCertificates("a quorum has signed two histories")
        if not self._anchored:
            return
        age_ms = now_ms - self.newest_time_ms
        if age_ms < -CLOCK_SKEW_SECONDS * 1_000:
            raise ProofFromFuture("the trusted certificate is ahead of the clock", ahead_ms=-age_ms)
        if age_ms > self.period_ms:
            raise TrustExpired(
                "the newest certificate that this client trusts is too old",
                age_s=age_ms // 1_000,
                trusting_period_s=self.period_ms // 1_000,
            )

    def _check_last_height(self, before: _Era, handover: Handover) -> None:
        """Compare a new hand-over with what is certified of the era that it ends.

        Raises ConflictingCertificates or WrongEra.
        """
        last = handover.certificate.statement
        if last.height < before.first_height:
            raise WrongEra("an era ends before it begins", height=last.height, first_height=before.first_height)
        if self.newest is None:
            return
        seen = self.newest.statement
        if seen.height > last.height or (seen.height == last.height and seen.digests != last.digests[:2]):
            self._conflict(ConflictingCertificates("a hand-over contradicts a checkpoint"), self.newest, handover)

    def _keep(self, certificate: Certificate, time_ms: int) -> None:
        """Remember a verified certificate if it is newer. Raises ConflictingCertificates."""
        self._anchored = True
        if self.newest is not None:
            new, old = certificate.statement, self.newest.statement
            if new.height == old.height and new != old:
                self._conflict(ConflictingCertificates(height=new.height), self.newest, certificate)
            if (new.height > old.height and time_ms < self.newest_time_ms) or (
                new.height < old.height and time_ms > self.newest_time_ms
            ):
                error = ConflictingCertificates("the ledger's time runs backwards", height=new.height)
                self._conflict(error, self.newest, certificate)
            if new.height <= old.height:
                return
        self.newest, self.newest_time_ms = certificate, time_ms

    def _conflict(self, error: PeerFault, first: Struct, second: Struct) -> NoReturn:
        """Keep the evidence and raise `error`. From now on nothing counts: both histories look true."""
        self.evidence = (codec.encode(first), codec.encode(second))
        raise error

    def _eras_of(self, state: TrustedState) -> Iterator[tuple[int, _Era]]:
        """The eras that a trusted state knows, ascending. Raises what shows that they do not follow one another."""
        before: _Era | None = None
        if not state.handovers or state.handovers[0].plan.era == _GENESIS_ERA + 1:
            before = self._genesis_era
            yield _GENESIS_ERA, before
        for handover in state.handovers:
            if before is not None and handover.plan.era != before.number + 1:
                raise SkippedEra(known=before.number, era=handover.plan.era)
            committee = (
                handover.check(self.chain_id) if before is None else handover.verify(self.chain_id, before.weights)
            )
            before = _Era(handover.plan.era, handover.plan.first_height, committee.weights_by_key, handover)
            yield before.number, before

    def _add_era(self, era: _Era) -> None:
        self._eras[era.number] = era
        while len(self._eras) > ERAS_KEPT:
            del self._eras[min(self._eras)]


def _check_past_place(statement: Statement, plan: EraPlan, following: EraPlan) -> None:
    """Raise WrongEra unless `statement` belongs into the era of `plan`, which `following` came after."""
    if not plan.first_height <= statement.height < following.first_height:
        raise WrongEra("a certificate of a height outside its era", era=statement.era, height=statement.height)
    if statement.kind == HANDOVER and statement.digests[-1:] != (following.digest(),):
        raise WrongEra("a hand-over to another committee", era=following.era)
