"""Staked resources: what candidates put up, how it is tested, and what it is worth to a seat.

A candidate claims resources (`StakeResources`); a claim counts for nothing until challengers have confirmed it. There
is one round of tests an era, by parameters of the genesis and for an era of L commits:

    45 % of L (draw)     before this commit challengers are drawn from the members by the era's beacon, and the claims
                         of all who may sit in the next era are written down
    4 commits later      all tests begin; reports count from here on
    85 % of L (settle)   before this commit the reports are counted, and everything of the round is removed
    last height          who was drawn and did not report forfeits; seats of the next era get their weights

*A round judges the claims as they were drawn.* A claim that is changed meanwhile keeps at most what both the old and
the new one have, so a change gains nothing, before the settlement or after it. A plot is judged by its root: another
root is another plot, and nothing is known about that.

*The weight of a seat* is its share of what the chosen seats have confirmed. Nobody among them with anything confirmed:
all weigh the same, as before anybody staked. Only leader draws and rewards rest on it, never a quorum.

*What it costs.* Without a stake anywhere there is no round and no record of one. With one, a challenger that is silent
loses an era's reward out of its bond, unless the era passed too fast for any tests. The verdicts are counted in
`transaction_chain/cloudpos/verdicts.py`, the weights in `weights.py` there. DESIGN section 3.4,
phases 1, 2 and 5; ADR 14.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from blockcloud.service_chain.accounts import NO_EVENTS, Context, Event
from blockcloud.service_chain.genesis import RESOURCE_WEIGHT
from blockcloud.service_chain.operations import ReportChallenges, StakeResources
from blockcloud.service_chain.records import (
    Candidate,
    FrozenCandidates,
    OpenRound,
    SilentChallengers,
    StakeRecord,
    decode_record,
)
from blockcloud.service_chain.rejections import (
    NoOpenRound,
    NotAChallenger,
    NothingStaked,
    ReportedAlready,
    ReportOfAnotherRound,
    RoundNotBegun,
    StakeAddressMissing,
    WrongReportRows,
)
from blockcloud.service_chain.staking import candidate_of
from blockcloud.service_chain.state_keys import (
    FROZEN_KEY,
    ROUND_KEY,
    SILENT_CHALLENGERS_KEY,
    candidate_key,
    challenge_report_key,
    stake_key,
)
from blockcloud.service_chain.working_state import WorkingState
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.cloudpos.sortition import draw_round
from blockcloud.transaction_chain.cloudpos.stake import NOTHING, Resources, StakeClaim
from blockcloud.transaction_chain.cloudpos.verdicts import Outcomes, Report, confirmed_stake, settle
from blockcloud.transaction_chain.cloudpos.weights import resource_weights
from blockcloud.transaction_chain.era import EraPlan

# Candidates in a round, the highest bonds: a full committee and more than as many that may move up. The record of a
# round, with a claim and an address for each, must fit a state value.
ROUND_CANDIDATES: Final = 256
# One round an era has this number.
ROUND_NUMBER: Final = 0

Read = Callable[[bytes], bytes | None]


def draw_height(plan: EraPlan, era_length: int, challenges: ChallengeParameters) -> int:
    """The height before whose commit the round of an era is drawn."""
    return plan.first_height + era_length * challenges.draw_percent // 100


def settle_height(plan: EraPlan, era_length: int, challenges: ChallengeParameters) -> int:
    """The height before whose commit the round of an era is settled: the first at which a report is too late."""
    return plan.first_height + era_length * challenges.settle_percent // 100


def apply_stake_resources(
    state: WorkingState, sender: bytes, operation: StakeResources, context: Context
) -> Sequence[Event]:
    """Put up resources. What was confirmed stays as far as the new claim covers it."""
    candidate_of(state, sender)
    place, claim = stake_key(sender), operation.claim
    record = state.get(place, StakeRecord)
    if claim.resources == NOTHING:
        if record is None:
            raise NothingStaked
        state.delete(place)
        return [("candidate", sender)]
    if record is None:
        if not operation.address:
            raise StakeAddressMissing
        state.put(place, StakeRecord(claim, operation.address, NOTHING))
    else:
        kept = _covered(record.confirmed, record.claim, claim)
        state.put(place, StakeRecord(claim, operation.address or record.address, kept))
    return [("candidate", sender)]


def apply_report_challenges(
    state: WorkingState, sender: bytes, operation: ReportChallenges, context: Context
) -> Sequence[Event]:
    """Note what a challenger of the open round saw. The first report stands."""
    report, opened = operation.report, state.get(ROUND_KEY, OpenRound)
    if opened is None:
        raise NoOpenRound
    if context.height < opened.height:
        raise RoundNotBegun(height=context.height, begins=opened.height)
    if sender not in opened.challengers:
        raise NotAChallenger
    if (report.era, report.round_number) != (opened.era, opened.number):
        raise ReportOfAnotherRound(era=report.era, round=report.round_number, open_era=opened.era)
    if len(report.rows) != len(opened.candidates):
        raise WrongReportRows(rows=len(report.rows), candidates=len(opened.candidates))
    place = challenge_report_key(sender)
    if state.get(place, Report) is not None:
        raise ReportedAlready(era=opened.era)
    state.put(place, report)
    return NO_EVENTS


def turn_round(state: WorkingState, context: Context) -> None:
    """Before a commit's transactions: draw the round at the draw height, settle it at the settle height."""
    plan, length, challenges = context.plan, context.era_length, context.challenges
    if context.height == draw_height(plan, length, challenges):
        _draw(state, context)
    elif context.height == settle_height(plan, length, challenges):
        opened = state.get(ROUND_KEY, OpenRound)
        if opened is not None:
            _settle(state, opened, context)


def take_silent_challengers(state: WorkingState) -> tuple[bytes, ...]:
    """At an era's end: who was drawn in it and did not report. They are forgotten with that."""
    silent = state.get(SILENT_CHALLENGERS_KEY, SilentChallengers)
    if silent is None:
        return ()
    state.delete(SILENT_CHALLENGERS_KEY)
    return silent.node_keys


def seat_weights(state: WorkingState, node_keys: Sequence[bytes]) -> tuple[int, ...]:
    """The resource weights of the chosen seats, in their order, in ppm: a million in all, or the same for each if none
    of them has anything confirmed."""
    records = [state.get(stake_key(node_key), StakeRecord) for node_key in node_keys]
    confirmed = [NOTHING if record is None else record.confirmed for record in records]
    if not any(resources != NOTHING for resources in confirmed):
        return (RESOURCE_WEIGHT,) * len(node_keys)
    return resource_weights(confirmed)


def _draw(state: WorkingState, context: Context) -> None:
    """Open the era's round, if anybody who may sit has put up anything."""
    plan, challenges = context.plan, context.challenges
    members = tuple(seat.node_key for seat in plan.seats)
    staked = _who_is_tested(state, members, plan.era + 1)
    if not staked:
        return
    drawn = draw_round(
        beacon=plan.beacon,
        era=plan.era,
        number=ROUND_NUMBER,
        height=context.height + challenges.lead_commits,
        members=members,
        candidates=tuple(node_key for node_key, _ in staked),
        challengers=challenges.challengers,
    )
    assert state.get(ROUND_KEY, OpenRound) is None, "a round is settled in its era"
    state.put(
        ROUND_KEY,
        OpenRound(
            drawn.era,
            drawn.number,
            drawn.height,
            settle_height(plan, context.era_length, challenges),
            drawn.challengers,
            drawn.candidates,
            tuple((record.claim, record.address) for _, record in staked),
            context.time_ms,
        ),
    )


def _who_is_tested(state: WorkingState, members: tuple[bytes, ...], next_era: int) -> list[tuple[bytes, StakeRecord]]:
    """Who has put up resources and sits now or may sit in `next_era`, in ascending order of keys."""
    frozen = state.get(FROZEN_KEY, FrozenCandidates)
    coming = frozen.entries if frozen is not None and frozen.era == next_era else ()
    staked = []
    for node_key in sorted(dict.fromkeys((*members, *(node_key for node_key, _, _ in coming)))):
        record = state.get(stake_key(node_key), StakeRecord)
        if record is not None:
            staked.append((node_key, record))
    if len(staked) > ROUND_CANDIDATES:
        staked.sort(key=lambda entry: (-_bond(state, entry[0]), entry[0]))
        staked = sorted(staked[:ROUND_CANDIDATES], key=lambda entry: entry[0])
    return staked


def _bond(state: WorkingState, node_key: bytes) -> int:
    candidate = state.get(candidate_key(node_key), Candidate)
    return 0 if candidate is None else candidate.bond


def _settle(state: WorkingState, opened: OpenRound, context: Context) -> None:
    """Count the reports, write down what they confirm, and remove everything of the round. Who is silent is noted if
    there was time to report."""
    reports = []
    for challenger in opened.challengers:
        place = challenge_report_key(challenger)
        report = state.get(place, Report)
        if report is not None:
            reports.append((challenger, report))
            state.delete(place)
    settlement = settle(opened.drawn(), reports)
    for node_key, (claim, _) in zip(opened.candidates, opened.stakes, strict=True):
        _confirm(state, node_key, claim, settlement.outcomes[node_key])
    state.delete(ROUND_KEY)
    if settlement.forfeits and context.time_ms - opened.drawn_ms >= context.challenges.report_ms:
        state.get(SILENT_CHALLENGERS_KEY, SilentChallengers)
        state.put(SILENT_CHALLENGERS_KEY, SilentChallengers(opened.era, settlement.forfeits))


def _confirm(state: WorkingState, node_key: bytes, claim: StakeClaim, outcomes: Outcomes) -> None:
    """Write down what the round says about `claim`, as far as the claim that stands now covers it."""
    place = stake_key(node_key)
    record = state.get(place, StakeRecord)
    if record is None:
        return
    confirmed = confirmed_stake(claim.resources, record.confirmed, outcomes)
    if record.claim != claim:
        confirmed = _covered(confirmed, claim, record.claim)
    if confirmed != record.confirmed:
        state.put(place, replace(record, confirmed=confirmed))


def _covered(confirmed: Resources, claim: StakeClaim, now: StakeClaim) -> Resources:
    """What of `confirmed`, which was found of `claim`, still counts when the claim is `now`."""
    compute, storage, data_rate = (
        min(found, claimed) for found, claimed in zip(confirmed.dimensions(), now.resources.dimensions(), strict=True)
    )
    return Resources(compute, storage if now.plot_root == claim.plot_root else 0, data_rate)


# What anybody can see of it. `read` gives the committed bytes of a state key.


def open_round(read: Read) -> OpenRound | None:
    """The round that is drawn and not settled."""
    return decode_record(read(ROUND_KEY), OpenRound)


def stake_record(read: Read, node_key: bytes) -> StakeRecord | None:
    """What a candidate has put up."""
    return decode_record(read(stake_key(node_key)), StakeRecord)


def reported(read: Read, challenger: bytes) -> bool:
    """Whether a challenger of the open round has reported."""
    return read(challenge_report_key(challenger)) is not None
