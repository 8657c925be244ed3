"""The turn of an era for proof of service: medians decide, verifiers are paid and slashed, cases move on.

Of each service, in this order:

1. The reports of the era have a median, which is the service's score, and the sequential test reads it. If the service
   turned out to be an audit, the planted truth stands in the median's place, and nobody is accused.
2. The pot pays each report that agrees with that an equal part of `pay_ppm` of the pot. Parts are of all reports, so
   that nobody gains by another's being wrong, and what is not paid stays. A pot never pays more than it holds.
3. A report that an audit proves wrong is noted. A verifier that got audits of `audit_misses` different auditors wrong,
   and none right in between, is slashed: one auditor that lies can take an era's pay from others, and no bond.

Then whoever did not reveal is slashed, cases move on, and the services of the next era are taken. Panels are drawn by
the beacon of the next era.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from blockcloud.service_chain.accounts import Context, Event, credit
from blockcloud.service_chain.agreements.keys import pot_key
from blockcloud.service_chain.agreements.parameters import PARTS_PER_MILLION
from blockcloud.service_chain.agreements.records import PotRecord
from blockcloud.service_chain.proof_of_service.cases import JUDGED, advance, case_of, draw_panel
from blockcloud.service_chain.proof_of_service.keys import VERIFICATION_ERA_KEY, case_id, case_key, verifier_key
from blockcloud.service_chain.proof_of_service.records import (
    CaseRecord,
    CaseStatus,
    ServiceRecord,
    VerificationEra,
    VerifierRecord,
)
from blockcloud.service_chain.proof_of_service.scores import Score, agrees, median, median_score
from blockcloud.service_chain.proof_of_service.sequential_test import Verdict, promise_test
from blockcloud.service_chain.proof_of_service.services import (
    offered_by,
    pot_of,
    put_service,
    service_of,
    verification_era,
)
from blockcloud.service_chain.proof_of_service.verifiers import put_verifier, serving, slash_verifier
from blockcloud.service_chain.working_state import WorkingState
from blockcloud.transaction_chain.era import EraPlan


def turn_verification(state: WorkingState, context: Context, following: EraPlan) -> Sequence[Event]:
    """At the last height of an era, when the next one is planned. Costs nothing while nobody verifies."""
    era = verification_era(state)
    if era is None:
        return ()
    events: list[Event] = []
    audited = {}
    accused: list[bytes] = []
    for name in era.names:
        record = service_of(state, name)
        truth = _truth(record, context.plan.era)
        if truth is not None:
            audited[name] = truth
        chosen = median_score([report.score for report in record.reports])
        _pay_reports(state, record, chosen, truth, context)
        settled = _with_score(record, chosen, context.plan.era)
        if truth is None and chosen is not None and not record.case:
            settled = _tested(state, settled, chosen, context)
            if settled.case:
                accused.append(settled.case)
        put_service(state, replace(settled, reports=()))
        events.append(("score", name.encode("ascii")))
    _slash_unrevealed(state, context)
    cases = _turn_cases(state, [*era.cases, *accused], context, following)
    names = _taken(state, [*era.names, *era.waiting], audited, context)
    present = serving(state, following.era, context.proof_of_service)
    state.put(VERIFICATION_ERA_KEY, VerificationEra(following.era, len(present), names, (), cases))
    events += [("case", case) for case in cases]
    return events


def _truth(record: ServiceRecord, era: int) -> int | None:
    """How the service was made to fail, if it was an audit and is known to be one."""
    audit = record.audit
    return audit.truth_ppm if audit is not None and audit.era == era and audit.truth_ppm >= 0 else None


def _with_score(record: ServiceRecord, chosen: Score | None, era: int) -> ServiceRecord:
    """`record` with the medians of its reports, if there are enough for a verdict."""
    latency = median([report.score.latency_ms for report in record.reports])
    throughput = median([report.score.throughput_kbps for report in record.reports])
    if chosen is None or latency is None or throughput is None:
        return record
    return replace(
        record,
        verdict_era=era,
        failed_ppm=chosen.failed_ppm,
        latency_ms=latency,
        throughput_kbps=throughput,
    )


def _tested(state: WorkingState, record: ServiceRecord, chosen: Score, context: Context) -> ServiceRecord:
    """`record` after the sequential test has seen the median; if that accuses, with the new case."""
    test = promise_test(record.quality_ppm)
    if test is None:
        return replace(record, likelihood=0)
    likelihood = test.after(record.likelihood, chosen.probes, chosen.failed)
    verdict = test.verdict(likelihood)
    if verdict is not Verdict.ACCUSED:
        return replace(record, likelihood=likelihood if verdict is Verdict.OPEN else 0)
    case = case_id(record.name, record.provider, context.plan.era)
    accusers = tuple(report.verifier for report in record.reports)
    earlier = state.get(case_key(case), CaseRecord)
    assert earlier is None, "a service is accused once in an era"
    state.put(
        case_key(case),
        CaseRecord(
            record.name,
            record.provider,
            context.plan.era,
            context.time_ms,
            chosen.failed_ppm,
            accusers,
            CaseStatus.JUDGING,
            context.plan.era,
        ),
    )
    return replace(record, likelihood=0, case=case)


def _pay_reports(
    state: WorkingState, record: ServiceRecord, chosen: Score | None, truth: int | None, context: Context
) -> None:
    expected = truth if truth is not None else chosen.failed_ppm if chosen is not None else None
    if expected is None:
        return
    share = (
        pot_of(state, record.name) * context.proof_of_service.pay_ppm // PARTS_PER_MILLION // len(record.reports)
        if record.reports
        else 0
    )
    for report in record.reports:
        right = agrees(report.score, expected)
        if right:
            _pay(state, record.name, report.verifier, share)
        if truth is not None and record.audit is not None:
            _note_audit(state, report.verifier, record.audit.auditor, right, context)


def _pay(state: WorkingState, name: str, verifier: bytes, amount: int) -> None:
    """Pay a verifier out of a pot."""
    pot = pot_of(state, name)
    record = state.get(verifier_key(verifier), VerifierRecord)
    if amount == 0 or record is None:
        return
    assert amount <= pot, "shares of a pot are not more than the pot"
    state.put(pot_key(name), PotRecord(name, pot - amount))
    put_verifier(state, verifier, replace(record, earned_total=record.earned_total + amount))
    credit(state, verifier, amount)


def _note_audit(state: WorkingState, verifier: bytes, auditor: bytes, right: bool, context: Context) -> None:
    """What an audit says about a verifier."""
    record = state.get(verifier_key(verifier), VerifierRecord)
    if record is None:
        return
    missed = () if right else tuple(dict.fromkeys((*record.missed, auditor)))
    if len(missed) < context.proof_of_service.audit_misses:
        put_verifier(state, verifier, replace(record, missed=missed))
        return
    put_verifier(state, verifier, replace(record, missed=()))
    slash_verifier(state, verifier, context.proof_of_service.audit_ppm, context)


def _slash_unrevealed(state: WorkingState, context: Context) -> None:
    """Whoever served in this era owed a layer of its onion."""
    era, limits = context.plan.era, context.proof_of_service
    for key, record in serving(state, era, limits).items():
        number = record.owed(era)
        if record.reveals < number <= limits.onion_length:
            slash_verifier(state, key, limits.unrevealed_ppm, context)


def _turn_cases(state: WorkingState, cases: Sequence[bytes], context: Context, following: EraPlan) -> tuple[bytes, ...]:
    """Move all cases on; those that are not over. A case that came up in this era gets its first panel."""
    limits = context.proof_of_service

    def draw(case: bytes, record: CaseRecord, size: int) -> tuple[bytes, ...]:
        judges = serving(state, following.era, limits)
        return draw_panel(case, record, judges, following.beacon, size)

    going = []
    for case in cases:
        record = case_of(state, case)
        if record.accused_era == context.plan.era:
            record = replace(record, era=following.era, judges=draw(case, record, limits.judges))
            state.put(case_key(case), record)
        else:
            if record.status in JUDGED:
                _pay_judges(state, record, context)
            record = advance(state, case, context, draw)
        if record.status in (CaseStatus.DISMISSED, CaseStatus.CLOSED):
            service = service_of(state, record.name)
            put_service(state, replace(service, case=b""))
        else:
            going.append(case)
    return tuple(going)


def _pay_judges(state: WorkingState, record: CaseRecord, context: Context) -> None:
    """Each judge who said something gets the same, whatever it said; the silent ones are slashed."""
    if not record.judges:
        return
    limits = context.proof_of_service
    share = pot_of(state, record.name) * limits.judge_ppm // PARTS_PER_MILLION // len(record.judges)
    for judge in record.judges:
        if judge in record.guilty or judge in record.innocent:
            _pay(state, record.name, judge, share)
        else:
            slash_verifier(state, judge, limits.silent_ppm, context)


def _taken(state: WorkingState, names: Sequence[str], audited: dict[str, int], context: Context) -> tuple[str, ...]:
    """The services of the next era, with what they promise. An audit that is out has served its time."""
    taken = []
    for name in names:
        offered = offered_by(state, name, context.height)
        if name in audited or offered is None or offered.offer is None:
            continue
        if pot_of(state, name) < context.proof_of_service.pot_min:
            continue
        taken.append(name)
        record = service_of(state, name)
        if not record.case:
            put_service(state, _promised(record, offered.provider, offered.offer.quality_ppm))
    return tuple(taken)


def _promised(record: ServiceRecord, provider: bytes, quality_ppm: int) -> ServiceRecord:
    """`record` with what is promised now. Another promise does not clear the provider of what was found before."""
    likelihood = record.likelihood
    if record.provider != provider:
        likelihood = 0
    elif record.quality_ppm != quality_ppm:
        likelihood = max(0, likelihood)
    return replace(record, provider=provider, quality_ppm=quality_ppm, likelihood=likelihood)
