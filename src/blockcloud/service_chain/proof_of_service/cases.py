"""Cases against providers: the sequential test accuses, judges who were drawn afresh convict, a larger panel hears the
appeal, and clients are paid from the bond.

`TRANSITIONS` says what may be done in which status; the turn of an era (`settlement.py`) moves a case on. Whoever
accused does not judge. Two thirds of the panel convict, the silent ones counted as members, and pay for their silence.
The slash is burned: nobody who judges gains by a verdict. DESIGN section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from blockcloud.service_chain.accounts import Context, Event, credit, debit
from blockcloud.service_chain.agreements.keys import agreement_key, provider_key
from blockcloud.service_chain.agreements.parameters import PARTS_PER_MILLION
from blockcloud.service_chain.agreements.records import Agreement, ProviderRecord
from blockcloud.service_chain.agreements.rules import pay_breach
from blockcloud.service_chain.proof_of_service.keys import case_key, standing_key
from blockcloud.service_chain.proof_of_service.operations import AppealCase, ClaimBreach, JudgeCase
from blockcloud.service_chain.proof_of_service.parameters import ProofOfServiceParameters
from blockcloud.service_chain.proof_of_service.records import CaseRecord, CaseStatus, StandingRecord, VerifierRecord
from blockcloud.service_chain.proof_of_service.rejections import (
    AppealTooLate,
    BreachPaid,
    BreachTooLate,
    CaseNotFinal,
    CaseNotJudged,
    JudgedAlready,
    NotAJudge,
    NotAppealable,
    NotInBreach,
    NotTheAccused,
    UnknownCase,
)
from blockcloud.service_chain.proof_of_service.scores import REPORTS_MIN
from blockcloud.service_chain.proof_of_service.sortition import panel
from blockcloud.service_chain.rejections import Failed
from blockcloud.service_chain.staking import burn
from blockcloud.service_chain.working_state import WorkingState

_OPERATIONS: Final = (JudgeCase, AppealCase, ClaimBreach)
# What may be done about a case in which status: None where it may, else why not.
TRANSITIONS: Final[Mapping[CaseStatus, Mapping[type, type[Failed] | None]]] = {
    CaseStatus.UNKNOWN: dict.fromkeys(_OPERATIONS, UnknownCase),
    CaseStatus.JUDGING: {JudgeCase: None, AppealCase: NotAppealable, ClaimBreach: CaseNotFinal},
    CaseStatus.CONVICTED: {JudgeCase: CaseNotJudged, AppealCase: None, ClaimBreach: CaseNotFinal},
    CaseStatus.APPEALED: {JudgeCase: CaseNotJudged, AppealCase: AppealTooLate, ClaimBreach: CaseNotFinal},
    CaseStatus.APPEAL_JUDGING: {JudgeCase: None, AppealCase: AppealTooLate, ClaimBreach: CaseNotFinal},
    CaseStatus.FINAL: {JudgeCase: CaseNotJudged, AppealCase: AppealTooLate, ClaimBreach: None},
    CaseStatus.CLOSED: {JudgeCase: CaseNotJudged, AppealCase: AppealTooLate, ClaimBreach: BreachTooLate},
    CaseStatus.DISMISSED: {JudgeCase: CaseNotJudged, AppealCase: NotAppealable, ClaimBreach: CaseNotFinal},
}
JUDGED: Final = (CaseStatus.JUDGING, CaseStatus.APPEAL_JUDGING)


def apply_judge(state: WorkingState, sender: bytes, operation: JudgeCase, context: Context) -> Sequence[Event]:
    """Note a judge's verdict. The first one stands."""
    record = _allowed(state, operation.case, operation)
    if sender not in record.judges:
        raise NotAJudge(case=operation.case.hex())
    if sender in record.guilty or sender in record.innocent:
        raise JudgedAlready(case=operation.case.hex())
    if operation.guilty:
        record = replace(record, guilty=(*record.guilty, sender))
    else:
        record = replace(record, innocent=(*record.innocent, sender))
    return _put(state, operation.case, record)


def apply_appeal(state: WorkingState, sender: bytes, operation: AppealCase, context: Context) -> Sequence[Event]:
    """Ask for the larger panel, which sits in the next era."""
    record = _allowed(state, operation.case, operation)
    if sender != record.provider:
        raise NotTheAccused(case=operation.case.hex())
    debit(state, sender, context.proof_of_service.appeal_bond)
    appealed = replace(record, status=CaseStatus.APPEALED, appeal_bond=context.proof_of_service.appeal_bond)
    return _put(state, operation.case, appealed)


def apply_claim_breach(state: WorkingState, sender: bytes, operation: ClaimBreach, context: Context) -> Sequence[Event]:
    """Pay a client back the share of what it paid that failed, times `breach_factor`, and never more than it paid."""
    record = _allowed(state, operation.case, operation)
    agreement = state.get(agreement_key(operation.agreement), Agreement)
    if (
        agreement is None
        or (agreement.name, agreement.provider) != (record.name, record.provider)
        or agreement.start_ms > record.accused_ms
    ):
        raise NotInBreach(agreement=operation.agreement.hex())
    share = min(PARTS_PER_MILLION, context.proof_of_service.breach_factor * record.failed_ppm)
    due = agreement.paid * share // PARTS_PER_MILLION - agreement.breach_paid
    if due <= 0 or pay_breach(state, context, operation.agreement, due) == 0:
        raise BreachPaid(agreement=operation.agreement.hex())
    return [("breach", operation.case)]


def case_of(state: WorkingState, case: bytes) -> CaseRecord:
    """A case that the list of cases names."""
    record = state.get(case_key(case), CaseRecord)
    assert record is not None, "who is listed is a case"
    return record


def draw_panel(
    case: bytes,
    record: CaseRecord,
    judges: Mapping[bytes, VerifierRecord],
    beacon: bytes,
    size: int,
) -> tuple[bytes, ...]:
    """The panel of a case, or nobody if fewer than three may sit. Accusers, the accused and their owners do not."""
    owners = {key: verifier.owner for key, verifier in judges.items()}
    barred = [record.provider, *record.accusers, *(owners[key] for key in record.accusers if key in owners)]
    if record.provider in owners:
        barred.append(owners[record.provider])
    drawn = panel(owners, case, beacon, size, barred)
    return tuple(drawn) if len(drawn) >= REPORTS_MIN else ()


def advance(
    state: WorkingState,
    case: bytes,
    context: Context,
    draw: Callable[[bytes, CaseRecord, int], tuple[bytes, ...]],
) -> CaseRecord:
    """Move a case on at the end of an era; `draw(case, record, size)` draws a panel for the next one."""
    record, limits, coming = case_of(state, case), context.proof_of_service, context.plan.era + 1
    convicts = 3 * len(record.guilty) >= 2 * len(record.judges) > 0
    if record.status is CaseStatus.JUDGING:
        record = replace(record, status=CaseStatus.CONVICTED if convicts else CaseStatus.DISMISSED, era=coming)
    elif record.status is CaseStatus.CONVICTED:
        record = _convict(state, record, context)
    elif record.status is CaseStatus.APPEALED:
        judges = draw(case, record, limits.appeal_judges)
        record = replace(record, status=CaseStatus.APPEAL_JUDGING, era=coming, judges=judges, guilty=(), innocent=())
    elif record.status is CaseStatus.APPEAL_JUDGING and convicts:
        burn(state, record.appeal_bond)
        record = _convict(state, replace(record, appeal_bond=0), context)
    elif record.status is CaseStatus.APPEAL_JUDGING:
        credit(state, record.provider, record.appeal_bond)
        record = replace(record, status=CaseStatus.DISMISSED, era=coming, appeal_bond=0)
    elif record.status is CaseStatus.FINAL and context.plan.era >= record.era + limits.claim_eras:
        record = replace(record, status=CaseStatus.CLOSED, era=coming)
    _put(state, case, record)
    return record


def _convict(state: WorkingState, record: CaseRecord, context: Context) -> CaseRecord:
    """The conviction is final: the slash, and the provider's standing."""
    limits, era = context.proof_of_service, context.plan.era
    place = provider_key(record.provider, record.name)
    provider = state.get(place, ProviderRecord)
    taken = provider.bond * limits.provider_slash_ppm // PARTS_PER_MILLION if provider is not None else 0
    if provider is not None:
        state.put(place, replace(provider, bond=provider.bond - taken, offer=None))
    burn(state, taken)
    state.get(standing_key(record.provider), StandingRecord)
    state.put(standing_key(record.provider), _standing(state, record.provider, era, limits))
    return replace(record, status=CaseStatus.FINAL, era=era)


def _standing(state: WorkingState, provider: bytes, era: int, limits: ProofOfServiceParameters) -> StandingRecord:
    before = state.get(standing_key(provider), StandingRecord)
    convictions = 1 + (before.convictions if before is not None else 0)
    return StandingRecord(convictions, era + limits.quarantine_eras, convictions >= limits.ban_convictions)


def _allowed(state: WorkingState, case: bytes, operation: object) -> CaseRecord:
    """The case, if its status lets the operation through. Raises what `TRANSITIONS` says."""
    record = state.get(case_key(case), CaseRecord)
    refusal = TRANSITIONS[record.status if record is not None else CaseStatus.UNKNOWN][type(operation)]
    if refusal is not None:
        raise refusal(case=case.hex())
    assert record is not None, "an unknown case lets nothing through"
    return record


def _put(state: WorkingState, case: bytes, record: CaseRecord) -> Sequence[Event]:
    state.put(case_key(case), record)
    return [("case", case)]
