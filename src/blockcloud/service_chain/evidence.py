"""Evidence: what a member signed and must never have signed, and what that costs it.

Two lies can be proved by two signatures: two blocks of one author, era and level (equivocation), and two different
statements of one kind, era and height; an era has only one hand-over, so for those the height does not matter. That the
signatures are good and the two things contradict each other is checked when the transaction is
(`operations.check_operation`), by anybody and without the state; here it is asked whether the key had a seat in that
era, and whether the offence is new.

The first offence costs 5 % of all that is at stake, unbonding amounts included, each further one all of it. The member
is jailed at once and has no seat in the next era. Who reports gets a small part of what was slashed, so reporting
oneself loses all but that part; the rest is burned. Evidence counts until what vouched for the lie may have been paid
out, by the same rule (`staking.is_over`). An offence counts once: it is named by era, place and key, not by the bytes
of the evidence, of which there may be many.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.service_chain.accounts import Context, Event, credit
from blockcloud.service_chain.operations import ReportConflict, ReportEquivocation, header_of, statement_place
from blockcloud.service_chain.records import Candidate, Offence
from blockcloud.service_chain.rejections import (
    EvidenceOfAnotherChain,
    EvidenceOutdated,
    NothingToSlash,
    NotOfTheAccused,
    OffenceKnown,
)
from blockcloud.service_chain.staking import burn, is_over, put_candidate, take_stake
from blockcloud.service_chain.state_keys import candidate_key, era_key, offence_key
from blockcloud.service_chain.working_state import WorkingState
from blockcloud.transaction_chain.era import EraPlan, Seat

EQUIVOCATION = "equivocation"


def offence_id(kind: str, era: int, node_key: bytes, place: int) -> bytes:
    """The identity of an offence, 32 bytes: `kind` of a statement, or EQUIVOCATION, and its height or level."""
    return tagged_hash("offence/v1", codec.encode((kind, era, node_key, place)))


def apply_report_equivocation(
    state: WorkingState, sender: bytes, operation: ReportEquivocation, context: Context
) -> Sequence[Event]:
    """Slash the author of two blocks of one level."""
    header = header_of(operation.first)
    seats = _seats_of(state, header.chain_id, header.era, context)
    if header.author >= len(seats) or seats[header.author].consensus_key != operation.first.signer:
        raise NotOfTheAccused(era=header.era, author=header.author)
    accused = seats[header.author].node_key
    _punish(state, sender, accused, offence_id(EQUIVOCATION, header.era, accused, header.level), context)
    return [("slashed", accused)]


def apply_report_conflict(
    state: WorkingState, sender: bytes, operation: ReportConflict, context: Context
) -> Sequence[Event]:
    """Slash the signer of two different statements about one height."""
    chain_id, kind, era, height = statement_place(operation.first.statement)
    seats = _seats_of(state, chain_id, era, context)
    accused = next((seat.node_key for seat in seats if seat.consensus_key == operation.first.signer), None)
    if accused is None:
        raise NotOfTheAccused(era=era)
    _punish(state, sender, accused, offence_id(kind, era, accused, height), context)
    return [("slashed", accused)]


def _seats_of(state: WorkingState, chain_id: bytes, era: int, context: Context) -> tuple[Seat, ...]:
    """The seats of an era that can be judged now. Raises EvidenceOfAnotherChain or EvidenceOutdated."""
    if chain_id != context.chain_id:
        raise EvidenceOfAnotherChain
    present = context.plan.era
    if not 0 <= era <= present or is_over(state, era, context):
        raise EvidenceOutdated(era=era, present=present)
    plan = state.get(era_key(era), EraPlan)
    assert plan is not None, "each era has its plan"
    return plan.seats


def _punish(state: WorkingState, reporter: bytes, accused: bytes, offence: bytes, context: Context) -> None:
    """Slash and jail `accused`. Raises OffenceKnown or NothingToSlash."""
    place = offence_key(offence)
    if state.get(place, Offence) is not None:
        raise OffenceKnown
    candidate = state.get(candidate_key(accused), Candidate)
    if candidate is None or candidate.at_stake == 0:
        raise NothingToSlash
    percent = context.staking.slash_percent if candidate.offences == 0 else 100
    left, slashed = take_stake(candidate, max(1, candidate.at_stake * percent // 100))
    put_candidate(state, accused, replace(left, jailed_era=context.plan.era, offences=candidate.offences + 1))
    state.put(place, Offence(context.height, slashed))
    reward = slashed * context.staking.reporter_percent // 100
    credit(state, reporter, reward)
    burn(state, slashed - reward)
