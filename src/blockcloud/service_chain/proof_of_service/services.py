"""Services under verification: which they are, what their pots pay for, and audits among them.

A service is verified from the era after somebody funded its pot, and as long as the pot has something left: each claim
of a voucher pays a levy into it. What it promised is noted when an era begins, so no promise can be lowered to fit.

An audit is a service whose owner knows how it fails, because it makes it fail. It commits to the truth an era ahead and
reveals it when all scores are committed. Only members of the committee may, each of whom risks its bond for the chain,
and no auditor alone can get a verifier slashed (`settlement.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC
from blockcloud.service_chain.accounts import Context, Event, debit
from blockcloud.service_chain.agreements.keys import pot_key, provider_key
from blockcloud.service_chain.agreements.records import PotRecord, ProviderRecord
from blockcloud.service_chain.proof_of_service.keys import VERIFICATION_ERA_KEY, audit_commitment, service_key
from blockcloud.service_chain.proof_of_service.operations import FundVerification, PlantAudit, RevealAudit
from blockcloud.service_chain.proof_of_service.records import AuditRecord, ServiceRecord, VerificationEra
from blockcloud.service_chain.proof_of_service.rejections import (
    AuditPlanted,
    NoAudit,
    NotAnAuditor,
    NothingOffered,
    OutsideRevealWindow,
    PotTooLarge,
    PotTooSmall,
    TooManyServices,
    WrongAudit,
)
from blockcloud.service_chain.records import NameRecord
from blockcloud.service_chain.state_keys import name_key
from blockcloud.service_chain.working_state import WorkingState


def commit_end(context: Context) -> int:
    """The first height of the era at which scores are not committed any more."""
    return context.plan.first_height + context.era_length * context.proof_of_service.commit_percent // 100


def reveal_window(context: Context) -> range:
    """The heights of the era at which scores and audits are revealed."""
    end = context.plan.first_height + context.era_length * context.proof_of_service.reveal_percent // 100
    return range(commit_end(context), end)


def verification_era(state: WorkingState) -> VerificationEra | None:
    """What is verified now; None: nobody has ever asked for it."""
    return state.get(VERIFICATION_ERA_KEY, VerificationEra)


def service_of(state: WorkingState, name: str) -> ServiceRecord:
    """What is known of the service of a name."""
    return state.get(service_key(name), ServiceRecord) or ServiceRecord(name)


def put_service(state: WorkingState, record: ServiceRecord) -> None:
    """Write what is known of a service, which was read before."""
    state.put(service_key(record.name), record)


def pot_of(state: WorkingState, name: str) -> int:
    """What is in a pot."""
    pot = state.get(pot_key(name), PotRecord)
    return pot.balance if pot is not None else 0


def offered_by(state: WorkingState, name: str, height: int) -> ProviderRecord | None:
    """What the owner of an active name offers under it, or None."""
    record = state.get(name_key(name), NameRecord)
    if record is None or not record.is_active(height):
        return None
    standing = state.get(provider_key(record.owner, name), ProviderRecord)
    return standing if standing is not None and standing.offer is not None else None


def apply_fund(state: WorkingState, sender: bytes, operation: FundVerification, context: Context) -> Sequence[Event]:
    """Put more into a pot, and have its service verified from the next era on."""
    name, limits = operation.name, context.proof_of_service
    if offered_by(state, name, context.height) is None:
        raise NothingOffered(name=name)
    balance = pot_of(state, name) + operation.amount
    if balance < limits.pot_min:
        raise PotTooSmall(balance=balance, least=limits.pot_min)
    if balance > MAXIMUM_MICRO_BLOC:
        raise PotTooLarge(balance=balance)
    debit(state, sender, operation.amount)
    state.put(pot_key(name), PotRecord(name, balance))
    era = verification_era(state) or VerificationEra(context.plan.era)
    if name not in era.names and name not in era.waiting:
        if len(era.names) + len(era.waiting) >= limits.services:
            raise TooManyServices(limit=limits.services)
        state.put(VERIFICATION_ERA_KEY, replace(era, waiting=(*era.waiting, name)))
    return [("verification", name.encode("ascii"))]


def apply_plant_audit(state: WorkingState, sender: bytes, operation: PlantAudit, context: Context) -> Sequence[Event]:
    """Note an audit of the next era. The first commitment stands."""
    name, coming = operation.name, context.plan.era + 1
    era = verification_era(state)
    offered = offered_by(state, name, context.height)
    seated = any(seat.node_key == sender for seat in context.plan.seats)
    listed = era is not None and (name in era.names or name in era.waiting)
    if not seated or not listed or offered is None or offered.provider != sender:
        raise NotAnAuditor(name=name)
    record = service_of(state, name)
    if record.audit is not None and record.audit.era >= context.plan.era:
        raise AuditPlanted(era=record.audit.era)
    put_service(state, replace(record, audit=AuditRecord(sender, coming, operation.commitment)))
    return [("audit", operation.commitment)]


def apply_reveal_audit(state: WorkingState, sender: bytes, operation: RevealAudit, context: Context) -> Sequence[Event]:
    """Note the truth about a service of this era."""
    name, era = operation.name, context.plan.era
    record = service_of(state, name)
    audit = record.audit
    if audit is None or audit.auditor != sender or audit.era != era:
        raise NoAudit(name=name, era=era)
    window = reveal_window(context)
    if context.height not in window:
        raise OutsideRevealWindow(height=context.height, first=window.start, last=window.stop - 1)
    if audit.truth_ppm >= 0:
        raise AuditPlanted(era=era)
    if audit_commitment(sender, name, era, operation.failed_ppm, operation.salt) != audit.commitment:
        raise WrongAudit(name=name)
    put_service(state, replace(record, audit=replace(audit, truth_ppm=operation.failed_ppm)))
    return [("audit", audit.commitment)]
