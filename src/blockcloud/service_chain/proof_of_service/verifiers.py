"""Verifiers on the ledger: who they are, and what they say about services in an era.

    era e       a verifier registers the tip of its onion; the beacon of era e + 2 is not known before the next era
    era e + 2   it serves: it knows from the beacon which services it verifies, and nobody else does
      to 70 %   it commits to its scores
      to 95 %   it reveals the layer of this era, which proves what it was drawn for, and the scores
      the end   medians, pay, slashes (`settlement.py`)

Which layer an era asks for follows from the era alone, so that who misses some eras cannot choose between several.
Whoever serves must reveal, drawn or not: silence would otherwise be a way out of every draw that one does not like. A
key does not verify what it, or its owner, delivers. DESIGN section 7.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC
from blockcloud.primitives.hash_onion import verify_reveal
from blockcloud.service_chain.accounts import Context, Event, credit, debit
from blockcloud.service_chain.agreements.parameters import PARTS_PER_MILLION
from blockcloud.service_chain.proof_of_service.keys import VERIFICATION_ERA_KEY, VERIFIER_INDEX_KEY, verifier_key
from blockcloud.service_chain.proof_of_service.operations import (
    CommitScores,
    RegisterVerifier,
    RetireVerifier,
    RevealScores,
)
from blockcloud.service_chain.proof_of_service.parameters import ProofOfServiceParameters
from blockcloud.service_chain.proof_of_service.records import (
    NEVER,
    Report,
    ServiceRecord,
    VerificationEra,
    VerifierIndex,
    VerifierRecord,
)
from blockcloud.service_chain.proof_of_service.rejections import (
    CommittedAlready,
    NotAVerifier,
    NotDrawn,
    NotServing,
    OutsideCommitWindow,
    OutsideRevealWindow,
    ScoresRevealedAlready,
    TooFewProbes,
    TooManyVerifiers,
    VerifierAlready,
    VerifierBondHeld,
    VerifierBondTooLarge,
    VerifierBondTooSmall,
    VerifierOnionTooDeep,
    WrongScores,
    WrongTicketReveal,
)
from blockcloud.service_chain.proof_of_service.scores import commitment
from blockcloud.service_chain.proof_of_service.services import (
    commit_end,
    put_service,
    reveal_window,
    service_of,
    verification_era,
)
from blockcloud.service_chain.proof_of_service.sortition import is_drawn, threshold
from blockcloud.service_chain.staking import burn
from blockcloud.service_chain.working_state import WorkingState

# So that three report although some draws are thin: `ProofOfServiceParameters.drawn` is the least that is hoped for.
DRAWN_FACTOR: Final = 2
# A verifier that registers in era e serves from era e + 2: the beacon of that era is made in the one between.
ERAS_AHEAD: Final = 2


def verifiers(state: WorkingState) -> tuple[bytes, ...]:
    """The keys of all verifiers, ascending."""
    index = state.get(VERIFIER_INDEX_KEY, VerifierIndex)
    return index.keys if index is not None else ()


def verifier_of(state: WorkingState, key: bytes) -> VerifierRecord:
    """The verifier of an account. Raises NotAVerifier."""
    record = state.get(verifier_key(key), VerifierRecord)
    if record is None:
        raise NotAVerifier(key=key.hex()[:16])
    return record


def put_verifier(state: WorkingState, key: bytes, record: VerifierRecord) -> None:
    """Write a verifier that was read before."""
    state.put(verifier_key(key), record)


def apply_register(
    state: WorkingState, sender: bytes, operation: RegisterVerifier, context: Context
) -> Sequence[Event]:
    """Become a verifier, come back as one, or put up a larger bond."""
    limits, era = context.proof_of_service, context.plan.era
    before = state.get(verifier_key(sender), VerifierRecord)
    bond = operation.bond + (before.bond if before is not None else 0)
    if bond < limits.bond_min:
        raise VerifierBondTooSmall(bond=bond, least=limits.bond_min)
    if bond > MAXIMUM_MICRO_BLOC:
        raise VerifierBondTooLarge(bond=bond)
    if operation.onion_tip and before is not None and era <= before.until_era:
        raise VerifierAlready(from_era=before.from_era)
    if not operation.onion_tip and before is None:
        raise NotAVerifier(key=sender.hex()[:16])
    debit(state, sender, operation.bond)
    if before is not None and not operation.onion_tip:
        put_verifier(state, sender, replace(before, bond=bond))
    else:
        if before is None:
            _list(state, sender, limits)
        record = VerifierRecord(operation.owner, bond, operation.onion_tip, era + ERAS_AHEAD)
        if before is not None:
            record = replace(record, missed=before.missed, earned_total=before.earned_total)
        put_verifier(state, sender, record)
        _begin(state, era)
    return [("verifier", sender)]


def apply_retire(state: WorkingState, sender: bytes, operation: RetireVerifier, context: Context) -> Sequence[Event]:
    """Serve until the end of this era; the bond stays for some eras more."""
    record, era = verifier_of(state, sender), context.plan.era
    if record.until_era == NEVER:
        put_verifier(state, sender, replace(record, until_era=era))
        return [("verifier", sender)]
    if era <= record.until_era + context.proof_of_service.hold_eras:
        raise VerifierBondHeld(until_era=record.until_era + context.proof_of_service.hold_eras)
    state.delete(verifier_key(sender))
    state.get(VERIFIER_INDEX_KEY, VerifierIndex)
    state.put(VERIFIER_INDEX_KEY, VerifierIndex(tuple(key for key in verifiers(state) if key != sender)))
    credit(state, sender, record.bond)
    return [("verifier", sender)]


def apply_commit(state: WorkingState, sender: bytes, operation: CommitScores, context: Context) -> Sequence[Event]:
    """Note the commitment of this era. The first one stands."""
    record, era = _serving(state, sender, context), context.plan.era
    if context.height >= commit_end(context):
        raise OutsideCommitWindow(height=context.height, end=commit_end(context))
    if record.committed_era == era:
        raise CommittedAlready(era=era)
    put_verifier(state, sender, replace(record, committed_era=era, commitment=operation.commitment))
    return [("scores_committed", sender)]


def apply_reveal(state: WorkingState, sender: bytes, operation: RevealScores, context: Context) -> Sequence[Event]:
    """Take the layer of this era and the scores that it entitles to. Whoever was drawn and says nothing is slashed."""
    record, era, limits = _serving(state, sender, context), context.plan.era, context.proof_of_service
    window = reveal_window(context)
    if context.height not in window:
        raise OutsideRevealWindow(height=context.height, first=window.start, last=window.stop - 1)
    number = record.owed(era)
    if record.reveals == number:
        raise ScoresRevealedAlready(era=era)
    # This bounds the hashes too.
    if number > limits.onion_length:
        raise VerifierOnionTooDeep(layer=number, layers=limits.onion_length)
    if not verify_reveal(record.onion, operation.value, number - record.reveals):
        raise WrongTicketReveal(layer=number)
    if operation.scores:
        hidden = commitment(sender, era, operation.scores, operation.salt)
        if record.committed_era != era or record.commitment != hidden:
            raise WrongScores(era=era)
    drawn = _drawn(state, sender, record.owner, operation.value, context)
    for score in operation.scores:
        if score.name not in drawn:
            raise NotDrawn(name=score.name)
        if score.probes < limits.probes_min:
            raise TooFewProbes(probes=score.probes, least=limits.probes_min)
        service = service_of(state, score.name)
        put_service(state, replace(service, reports=(*service.reports, Report(sender, score))))
    put_verifier(state, sender, replace(record, onion=operation.value, reveals=number))
    for _ in range(len(drawn) - len(operation.scores)):
        slash_verifier(state, sender, limits.silent_ppm, context)
    return [("scores", sender)]


def slash_verifier(state: WorkingState, key: bytes, share_ppm: int, context: Context) -> int:
    """Burn a share of a verifier's bond; how much. With too little left it serves no more until it registers again."""
    record = state.get(verifier_key(key), VerifierRecord)
    taken = record.bond * share_ppm // PARTS_PER_MILLION if record is not None else 0
    if record is None or taken == 0:
        return 0
    until_era = record.until_era
    if record.bond - taken < context.proof_of_service.bond_min:
        until_era = min(until_era, context.plan.era)
    put_verifier(state, key, replace(record, bond=record.bond - taken, until_era=until_era))
    burn(state, taken)
    return taken


def serving(state: WorkingState, era: int, limits: ProofOfServiceParameters) -> dict[bytes, VerifierRecord]:
    """Who verifies and judges in `era`."""
    found = {key: verifier_of(state, key) for key in verifiers(state)}
    return {key: record for key, record in found.items() if record.serves(era, limits.bond_min)}


def _serving(state: WorkingState, sender: bytes, context: Context) -> VerifierRecord:
    record = verifier_of(state, sender)
    # Not its bond: who was slashed in this era still owes what it owes.
    if not record.from_era <= context.plan.era <= record.until_era:
        raise NotServing(from_era=record.from_era)
    return record


def _drawn(
    state: WorkingState, sender: bytes, owner: bytes, value: bytes, context: Context
) -> dict[str, ServiceRecord]:
    """The services of this era that the layer `value` draws, and that are not the verifier's own."""
    era = verification_era(state)
    if era is None or era.era != context.plan.era:
        return {}
    below = threshold(DRAWN_FACTOR * context.proof_of_service.drawn, era.verifiers)
    drawn = {}
    for name in era.names:
        if is_drawn(value, context.plan.beacon, name, below):
            service = service_of(state, name)
            if not _is_own(state, sender, owner, service.provider):
                drawn[name] = service
    return drawn


def _is_own(state: WorkingState, verifier: bytes, owner: bytes, provider: bytes) -> bool:
    """Whether provider and verifier are of one owner, as far as they say."""
    other = state.get(verifier_key(provider), VerifierRecord)
    return provider in (verifier, owner) or (other is not None and other.owner in (verifier, owner))


def _list(state: WorkingState, sender: bytes, limits: ProofOfServiceParameters) -> None:
    keys = verifiers(state)
    if len(keys) >= limits.verifiers:
        raise TooManyVerifiers(limit=limits.verifiers)
    place = bisect_left(keys, sender)
    state.put(VERIFIER_INDEX_KEY, VerifierIndex((*keys[:place], sender, *keys[place:])))


def _begin(state: WorkingState, era: int) -> None:
    """From the first verifier or funded pot on, eras are kept."""
    if verification_era(state) is None:
        state.put(VERIFICATION_ERA_KEY, VerificationEra(era))
