"""Rewards: what is issued to whom, how the fees of an era are shared, and what silence costs.

*Emission.* By commit time t since the genesis, floor(S * min(t, T) / T) has been issued, where S is the genesis supply
times the yearly percentage times the years, and T that many years of 365 days: exact to the micro-BLOC at any time,
whatever the pace of commits. What is due at a commit goes to the authors of its leaders in equal parts, an odd rest to
the first.

*Era pot.* Half of all fees. At an era's end each member gets its part by resource weight times levels with a committed
block; what does not divide stays in the pot. Who puts a neighbour's transactions into a block gains nothing.

*Silence.* A member that owed a reveal and gave none forfeits twice what it earned in the era, out of its stake; one
that was to report on challenges (`resources.py`) and did not, once that. Both are burned. A member with a block in too
few levels is jailed. A level counts once: the blocks of an author are committed in ascending order of levels, since
each has the one before as its parent, so a second block of a level shows.

Earnings stand in one record during the era and reach the accounts at its end. DESIGN section 3.4, phase 5 and beacon.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.service_chain.accounts import Context, credit
from blockcloud.service_chain.genesis import StakingParameters
from blockcloud.service_chain.records import Candidate, EraTally, Fees
from blockcloud.service_chain.resources import take_silent_challengers
from blockcloud.service_chain.staking import burn, put_candidate, reveal_number, take_stake, with_onion_of
from blockcloud.service_chain.state_keys import FEES_KEY, TALLY_KEY, candidate_key
from blockcloud.service_chain.working_state import WorkingState
from blockcloud.transaction_chain.commit import CommitRecord

# What a drawn challenger without a report loses, in rewards of the era.
REPORT_FORFEIT_ERA_REWARDS: Final = 1
YEAR_MS: Final = 365 * 24 * 3_600 * 1_000


def issued_after(elapsed_ms: int, staking: StakingParameters) -> int:
    """Micro-BLOC issued in all until so long after the genesis."""
    duration = staking.emission_years * YEAR_MS
    total = GENESIS_SUPPLY_MICRO_BLOC * staking.emission_percent_a_year * staking.emission_years // 100
    return total * min(max(0, elapsed_ms), duration) // duration


def note_commit(state: WorkingState, record: CommitRecord, genesis_time_ms: int, context: Context) -> None:
    """Count a commit: issue what is due to its leaders, and note the levels of its blocks."""
    members = len(context.plan.seats)
    tally = _tally(state)
    levels, highest = list(tally.levels), list(tally.highest)
    for block in record.blocks:
        author = block.author
        if author < members and block.level > highest[author]:
            levels[author] += 1
            highest[author] = block.level
    earned = list(tally.earned)
    leaders = [leader.author for leader in record.leaders if leader.author < members]
    fees = _fees(state)
    due = issued_after(record.time_ms - genesis_time_ms, context.staking) - (fees.supply - GENESIS_SUPPLY_MICRO_BLOC)
    # Without a leader it waits for the next commit.
    if leaders and due > 0:
        share, rest = divmod(due, len(leaders))
        for author in leaders:
            earned[author] += share
        earned[leaders[0]] += rest
        state.put(FEES_KEY, replace(fees, supply=fees.supply + due))
    state.put(TALLY_KEY, EraTally(tally.era, tuple(earned), tuple(levels), tuple(highest)))


def settle_era(state: WorkingState, levels: int, context: Context) -> None:
    """At the last commit of an era, which had `levels` levels: pay what was earned, and punish silence. The tally is
    spent then: the next era begins with a new one (`eras.begin_next_era`)."""
    tally, seats, silent = _tally(state), context.plan.seats, take_silent_challengers(state)
    shares = _pot_shares(state, tally, [seat.resource_weight for seat in seats])
    for seat, earned, share, active in zip(seats, tally.earned, shares, tally.levels, strict=True):
        reward = earned + share
        if reward:
            credit(state, seat.node_key, reward)
        candidate = state.get(candidate_key(seat.node_key), Candidate)
        if candidate is None:
            continue
        settled = _forfeit(state, candidate, reward, seat.node_key in silent, context)
        if active * 100 < context.staking.active_percent * levels and not settled.jailed:
            settled = replace(settled, jailed_era=context.plan.era)
        if settled is not candidate:
            put_candidate(state, seat.node_key, settled)


def _pot_shares(state: WorkingState, tally: EraTally, weights: list[int]) -> list[int]:
    """Take each member's part out of the era pot."""
    fees = _fees(state)
    parts = [weight * levels for weight, levels in zip(weights, tally.levels, strict=True)]
    whole = sum(parts)
    if whole == 0:
        return [0] * len(parts)
    shares = [fees.era_pot * part // whole for part in parts]
    state.put(FEES_KEY, replace(fees, era_pot=fees.era_pot - sum(shares)))
    return shares


def _forfeit(state: WorkingState, candidate: Candidate, reward: int, silent: bool, context: Context) -> Candidate:
    """`candidate` after what it loses for a reveal that it owed and did not give, and if it was `silent`, for a report
    on challenges."""
    era = context.plan.era
    number = reveal_number(candidate, era)
    revealed = number == 0 or with_onion_of(candidate, era).onion_reveals >= number
    rewards = (0 if revealed else context.staking.forfeit_era_rewards) + (REPORT_FORFEIT_ERA_REWARDS if silent else 0)
    left, taken = take_stake(candidate, reward * rewards)
    if taken == 0:
        return candidate
    burn(state, taken)
    return left


def _tally(state: WorkingState) -> EraTally:
    tally = state.get(TALLY_KEY, EraTally)
    assert tally is not None, "the genesis and each era's end write the tally"
    return tally


def _fees(state: WorkingState) -> Fees:
    fees = state.get(FEES_KEY, Fees)
    assert fees is not None, "the genesis writes the fee record"
    return fees
