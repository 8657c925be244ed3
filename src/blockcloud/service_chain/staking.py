"""Candidates: who put how much behind a seat in the committee, and how that money comes and goes.

Anyone may bond. A candidate is known by its node key for life; which keys sign its blocks is another matter (`eras`).
A bond leaves in two steps: `Unbond` takes it out of the weight of later eras, `Withdraw` pays it out later, and until
then it can be slashed for what its owner signed while it counted. "Later" is one rule, `is_over`, for who withdraws and
for who accuses (`evidence`): `unbonding_eras` eras after the era and `unbonding_ms` of commit time after its end have
passed, both. Eras alone have no fixed length, and light clients count in time (half of it: `trusting_period_ms`).

A committee that stays for want of others has seats that may weigh more than the bonds behind them; then what was
unbonded counts from the last such era on (`Candidate.kept_era`). DESIGN sections 3.3 and 3.6, ADR 13.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from blockcloud.service_chain.account_keys import signing_keys
from blockcloud.service_chain.accounts import NO_EVENTS, Context, Event, credit, debit
from blockcloud.service_chain.operations import AnnounceEndpoint, Bond, Unbond, Unjail, Withdraw
from blockcloud.service_chain.records import (
    Account,
    Candidate,
    CandidateIndex,
    ConsensusKeyUse,
    EraEnd,
    Fees,
    StakeRecord,
)
from blockcloud.service_chain.rejections import (
    AddressMissing,
    BondBelowMinimum,
    CandidateKeepsKey,
    InsufficientBond,
    JailedInThisEra,
    NotACandidate,
    NothingToWithdraw,
    NotJailed,
    StakeNeeded,
    TooManyCandidates,
    TooManyUnbondings,
)
from blockcloud.service_chain.state_keys import (
    CANDIDATES_KEY,
    FEES_KEY,
    account_key,
    candidate_key,
    consensus_key_use_key,
    era_end_key,
    stake_key,
)
from blockcloud.service_chain.working_state import WorkingState

# Candidates with a bond. Each costs its owner the minimum bond; all of them are read once in an era.
CANDIDATES_MAX: Final = 1_000
# Unbonding amounts of one candidate; those of one era are one.
UNBONDINGS_MAX: Final = 8
# A tip registered in era e counts from e + 2 on: by then it was chosen without knowing the beacon it will move.
ONION_ERAS_AHEAD: Final = 2


def apply_bond(state: WorkingState, sender: bytes, operation: Bond, context: Context) -> Sequence[Event]:
    """Add to the sender's bond; the first time the sender becomes a candidate. Its account has its own key alone."""
    account = state.get(account_key(sender), Account)
    if account is not None and signing_keys(state, sender, account) != (1, (sender,)):
        raise CandidateKeepsKey
    candidate = state.get(candidate_key(sender), Candidate)
    if candidate is None:
        if not operation.link_address or not operation.api_url:
            raise AddressMissing
        candidate = Candidate(0, operation.link_address, operation.api_url)
    bond = candidate.bond + operation.amount
    if bond < context.staking.minimum_bond:
        raise BondBelowMinimum(bond=bond, minimum=context.staking.minimum_bond)
    debit(state, sender, operation.amount)
    changed = replace(
        candidate,
        bond=bond,
        link_address=operation.link_address or candidate.link_address,
        api_url=operation.api_url or candidate.api_url,
    )
    put_candidate(state, sender, _with_onion(changed, operation.onion_tip, context.plan.era))
    return [("candidate", sender)]


def apply_unbond(state: WorkingState, sender: bytes, operation: Unbond, context: Context) -> Sequence[Event]:
    """Take from the bond; what is left is nothing or at least the minimum."""
    candidate = candidate_of(state, sender)
    left = candidate.bond - operation.amount
    if left < 0:
        raise InsufficientBond(bond=candidate.bond, amount=operation.amount)
    if 0 < left < context.staking.minimum_bond:
        raise BondBelowMinimum(bond=left, minimum=context.staking.minimum_bond)
    release = context.plan.era + context.staking.unbonding_eras
    entries, amount = candidate.unbonding, operation.amount
    if entries and entries[-1][0] == release:
        entries, amount = entries[:-1], amount + entries[-1][1]
    if len(entries) >= UNBONDINGS_MAX:
        raise TooManyUnbondings(limit=UNBONDINGS_MAX)
    put_candidate(state, sender, replace(candidate, bond=left, unbonding=(*entries, (release, amount))))
    return [("candidate", sender)]


def apply_withdraw(state: WorkingState, sender: bytes, operation: Withdraw, context: Context) -> Sequence[Event]:
    """Pay out the unbonding amounts of eras that are judged no more. A candidate that leaves nothing behind, not even
    an offence, is forgotten."""
    candidate, wait = candidate_of(state, sender), context.staking.unbonding_eras
    over = [is_over(state, era - wait, context) for era, _ in candidate.unbonding]
    due = sum(amount for (_, amount), free in zip(candidate.unbonding, over, strict=True) if free)
    if due == 0:
        raise NothingToWithdraw
    if not is_over(state, candidate.kept_era, context):
        raise StakeNeeded(era=candidate.kept_era)
    credit(state, sender, due)
    kept = tuple(entry for entry, free in zip(candidate.unbonding, over, strict=True) if not free)
    if candidate.bond or kept or candidate.offences:
        put_candidate(state, sender, replace(candidate, unbonding=kept))
        return [("candidate", sender)]
    for _, key in candidate.keys:
        forget_key(state, key)
    if state.get(stake_key(sender), StakeRecord) is not None:
        state.delete(stake_key(sender))
    state.delete(candidate_key(sender))
    return [("candidate", sender)]


def apply_unjail(state: WorkingState, sender: bytes, operation: Unjail, context: Context) -> Sequence[Event]:
    """Be eligible again, from the next era that the candidate gets ready for."""
    candidate = candidate_of(state, sender)
    if not candidate.jailed:
        raise NotJailed
    if candidate.jailed_era >= context.plan.era:
        raise JailedInThisEra(era=context.plan.era)
    put_candidate(state, sender, replace(candidate, jailed_era=-1))
    return NO_EVENTS


def apply_announce_endpoint(
    state: WorkingState, sender: bytes, operation: AnnounceEndpoint, context: Context
) -> Sequence[Event]:
    """Publish where the sender's client API and links are, so that who has only the genesis finds them."""
    candidate = candidate_of(state, sender)
    link_address = operation.link_address or candidate.link_address
    put_candidate(state, sender, replace(candidate, api_url=operation.api_url, link_address=link_address))
    return [("endpoint", sender)]


def candidate_of(state: WorkingState, node_key: bytes) -> Candidate:
    """The candidate of a node key. Raises NotACandidate."""
    candidate = state.get(candidate_key(node_key), Candidate)
    if candidate is None:
        raise NotACandidate
    return candidate


def put_candidate(state: WorkingState, node_key: bytes, candidate: Candidate) -> None:
    """Store a candidate, and note in the index whether it has a bond. Raises TooManyCandidates."""
    place = candidate_key(node_key)
    earlier = state.get(place, Candidate)
    if (earlier is not None and earlier.bond > 0) != (candidate.bond > 0):
        keys = candidates(state)
        position = bisect_left(keys, node_key)
        if candidate.bond == 0:
            keys = keys[:position] + keys[position + 1 :]
        elif len(keys) >= CANDIDATES_MAX:
            raise TooManyCandidates(limit=CANDIDATES_MAX)
        else:
            keys = (*keys[:position], node_key, *keys[position:])
        state.put(CANDIDATES_KEY, CandidateIndex(keys))
    state.put(place, candidate)


def is_over(state: WorkingState, era: int, context: Context) -> bool:
    """Whether nobody is judged any more for what he signed in `era`, so that its stakes may be paid out."""
    if era < 0:  # no era
        return True
    if context.plan.era < era + context.staking.unbonding_eras:
        return False
    end = state.get(era_end_key(era), EraEnd)
    assert end is not None, "each era that is over has its end"
    return context.time_ms >= end.time_ms + context.staking.unbonding_ms


def candidates(state: WorkingState) -> tuple[bytes, ...]:
    """The node keys of all who have a bond, ascending."""
    index = state.get(CANDIDATES_KEY, CandidateIndex)
    return () if index is None else index.keys


def take_stake(candidate: Candidate, amount: int) -> tuple[Candidate, int]:
    """`candidate` without `amount` micro-BLOC, or all it has if that is less, and how much that was. The bond goes
    first, then the unbonding amounts, oldest first: those are the next to get away."""
    taken = min(amount, candidate.bond)
    left, entries = amount - taken, []
    for era, held in candidate.unbonding:
        cut = min(left, held)
        left, taken = left - cut, taken + cut
        if held > cut:
            entries.append((era, held - cut))
    bond = candidate.bond - min(amount, candidate.bond)
    return replace(candidate, bond=bond, unbonding=tuple(entries)), taken


def burn(state: WorkingState, amount: int) -> None:
    """Note that so many micro-BLOC are gone for good."""
    fees = state.get(FEES_KEY, Fees)
    assert fees is not None, "the genesis writes the fee record"
    state.put(FEES_KEY, replace(fees, burned=fees.burned + amount))


def forget_key(state: WorkingState, consensus_key: bytes) -> None:
    """Forget whose consensus key this was."""
    place = consensus_key_use_key(consensus_key)
    if state.get(place, ConsensusKeyUse) is not None:
        state.delete(place)


def with_onion_of(candidate: Candidate, era: int) -> Candidate:
    """`candidate` with the onion that counts in `era` in its first place: a newer tip takes over when its era comes."""
    if candidate.next_onion and era >= candidate.next_onion_start:
        return replace(
            candidate,
            onion=candidate.next_onion,
            onion_start=candidate.next_onion_start,
            onion_reveals=0,
            next_onion=b"",
            next_onion_start=0,
        )
    return candidate


def reveal_number(candidate: Candidate, era: int) -> int:
    """Which reveal of its onion, 1 and up, the candidate owes as a member in `era`; 0: none."""
    current = with_onion_of(candidate, era)
    return era - current.onion_start + 1 if current.onion and era >= current.onion_start else 0


def _with_onion(candidate: Candidate, tip: bytes, era: int) -> Candidate:
    """`candidate` after it registered `tip` in `era`. One that reveals by an onion already goes on with that until the
    new one counts, so that a new tip is no way around a reveal."""
    current, start = with_onion_of(candidate, era), era + ONION_ERAS_AHEAD
    if not tip or tip in (current.onion, current.next_onion):
        return current
    if not current.onion or current.onion_start > era:
        return replace(current, onion=tip, onion_start=start, onion_reveals=0)
    return replace(current, next_onion=tip, next_onion_start=start)
