"""The operations of proof of service, and what they weigh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeAlias

from msgspec import Meta

from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import Malformed
from blockcloud.primitives.names import parse_name
from blockcloud.service_chain.agreements.operations import Quality
from blockcloud.service_chain.fields import Amount, Digest, Key, NameText, OptionalDigest, PositiveAmount, Salt
from blockcloud.service_chain.proof_of_service.scores import Score

# Of one verifier in one era: beyond that it is drawn for more than anybody can probe.
SCORES_MAX: Final = 64
Scores: TypeAlias = Annotated[tuple[Score, ...], Meta(max_length=SCORES_MAX)]


class RegisterVerifier(Struct, frozen=True, tag=90):
    """Verify services from the era after the next one on: with `bond`, as a key of `owner`, by the onion of this tip.
    With an empty tip: put `bond` more behind the sender, who is a verifier already."""

    owner: Key
    onion_tip: OptionalDigest
    bond: Amount


class RetireVerifier(Struct, frozen=True, tag=91):
    """Verify no more after this era; some eras later, again: the bond comes back."""


class CommitScores(Struct, frozen=True, tag=92):
    """Hide this era's scores in a commitment (`scores.commitment`). Whoever is drawn for nothing may do so too, so that
    a commitment says nothing."""

    commitment: Digest


class RevealScores(Struct, frozen=True, tag=93):
    """Reveal this era's layer of the onion, and the scores of the services that it draws."""

    value: Digest
    salt: Salt
    scores: Scores


class FundVerification(Struct, frozen=True, tag=94):
    """Put `amount` into the pot of a name, whose service is verified from the next era on. Anybody may."""

    name: NameText
    amount: PositiveAmount


class PlantAudit(Struct, frozen=True, tag=95):
    """A member of the committee commits to how its own service will fail in the next era."""

    name: NameText
    commitment: Digest


class RevealAudit(Struct, frozen=True, tag=96):
    """Say what was planted, once all scores are committed."""

    name: NameText
    failed_ppm: Quality
    salt: Salt


class JudgeCase(Struct, frozen=True, tag=97):
    """The verdict of a judge who was drawn."""

    case: Digest
    guilty: bool


class AppealCase(Struct, frozen=True, tag=98):
    """The convicted provider asks for a larger panel, against a bond."""

    case: Digest


class ClaimBreach(Struct, frozen=True, tag=99):
    """Pay the client of an agreement from the bond of a provider whose conviction is final. Anybody may."""

    case: Digest
    agreement: Digest


ProofOfServiceOperation: TypeAlias = (
    RegisterVerifier
    | RetireVerifier
    | CommitScores
    | RevealScores
    | FundVerification
    | PlantAudit
    | RevealAudit
    | JudgeCase
    | AppealCase
    | ClaimBreach
)

# In the units of `fees.OPERATION_WEIGHTS`. A reveal draws a ticket for each service and rewrites the reports of some.
PROOF_OF_SERVICE_WEIGHTS: Final[Mapping[type, int]] = {
    RegisterVerifier: 24,
    RetireVerifier: 16,
    CommitScores: 6,
    RevealScores: 64,
    FundVerification: 24,
    PlantAudit: 12,
    RevealAudit: 12,
    JudgeCase: 10,
    AppealCase: 12,
    ClaimBreach: 16,
}


def _check_name(operation: FundVerification | PlantAudit | RevealAudit) -> None:
    parse_name(operation.name)


def _check_register(operation: RegisterVerifier) -> None:
    if len(operation.onion_tip) not in (0, 32):
        raise Malformed("an onion's tip has 32 bytes, or none for a larger bond")


def _check_reveal(operation: RevealScores) -> None:
    names = [score.name for score in operation.scores]
    for name in names:
        parse_name(name)
    if names != sorted(dict.fromkeys(names)):
        raise Malformed("scores are of different services, in the order of their names")
    if any(score.failed > score.probes for score in operation.scores):
        raise Malformed("more probes failed than there were")


# What can be refused without looking at the state (`operations.check_operation`).
PROOF_OF_SERVICE_CHECKS: Final[Mapping[type, Callable[[Any], None]]] = {
    RegisterVerifier: _check_register,
    RevealScores: _check_reveal,
    FundVerification: _check_name,
    PlantAudit: _check_name,
    RevealAudit: _check_name,
}
