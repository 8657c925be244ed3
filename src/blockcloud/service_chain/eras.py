"""Eras: who gets ready for the next committee, which beacon it draws its leaders by, and how one era becomes another.

The schedule of an era of L commits, by parameters of the genesis:

    first height         candidates bond, unbond, and get ready for the next era
    30 % of L (freeze)   before this commit the bonds and keys of all who are ready are written down
    40 % to 70 %         members reveal the layers of their onions
    45 % to 85 %         resources that were put up are tested (`resources.py`)
    last height          settled, and the next committee is chosen

*Freeze.* Nobody who sees the reveals can still move a bond or a key into the next committee: what is bonded after the
freeze does not count. What is lost after it does not count either: a seat gets the smaller of the frozen bond and the
bond at the boundary, so no seat has weight that is not slashable, and who fell below the minimum or was jailed in
between (an equivocator found late) is left out. That leaves one lever after the reveals: to step down, at the price of
the seat.

*Liveness before rotation.* If fewer than min(4, present members) may sit, the present seats stay, with their consensus
keys and bonds, under the next era's number and beacon. Members that were jailed for an offence go even then, if
enough are left.

*Consensus keys.* A key serves one candidate once, so that a signature of an era accuses one member. Who used a key is
remembered for `unbonding_eras` and a few more. What is judged later names its era, and the plan of that era its keys.
Somebody may name a key that he saw in another's `Ready` on its way; the other one's is refused then, and it names
another. That costs the thief his own Ready.

*Upgrades.* With `Ready` a candidate says which protocol version it can run. When a quorum of the next committee could
run a higher one at the ends of two eras in a row, the era after them runs it.

*Placement.* With its first seat a node gets a salt that decides which service files and address records it keeps
(`routing.placement`): H(its key, the beacon of that era). It is the same for all its later seats; somebody who wants
another must leave with all that is bonded, wait until that can be withdrawn, and bond again.

*Beacon.* beacon(e + 1) = H(beacon(e), e, sorted reveals of era e). DESIGN sections 3.3 and 3.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import quorum_weight
from blockcloud.primitives.hash_onion import verify_reveal
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.service_chain.accounts import NO_EVENTS, Context, Event
from blockcloud.service_chain.genesis import PROTOCOL_VERSION, RESOURCE_WEIGHT, StakingParameters
from blockcloud.service_chain.operations import Ready, Reveal
from blockcloud.service_chain.records import (
    Candidate,
    ConsensusKeyUse,
    CurrentEra,
    EraEnd,
    EraTally,
    FrozenCandidates,
    Reveals,
    Upgrade,
)
from blockcloud.service_chain.rejections import (
    BondBelowMinimum,
    CandidatesFrozen,
    ConsensusKeyUsed,
    Jailed,
    NoOnion,
    NotAMember,
    NotTheNextEra,
    OnionTooDeep,
    OutsideBeaconWindow,
    ReadyAlready,
    RevealedAlready,
    WrongReveal,
)
from blockcloud.service_chain.resources import seat_weights
from blockcloud.service_chain.staking import (
    candidate_of,
    candidates,
    forget_key,
    put_candidate,
    reveal_number,
    with_onion_of,
)
from blockcloud.service_chain.state_keys import (
    CURRENT_ERA_KEY,
    FROZEN_KEY,
    REVEALS_KEY,
    TALLY_KEY,
    UPGRADE_KEY,
    candidate_key,
    consensus_key_use_key,
    era_end_key,
    era_key,
)
from blockcloud.service_chain.working_state import WorkingState
from blockcloud.transaction_chain.era import EraPlan, Seat, placement_salt

# The highest protocol version that this code can run.
SUPPORTED_VERSION: Final = 1
# Ready candidates written down at a freeze, the highest bonds: a full committee and as many again that may move up.
FROZEN_MAX: Final = 256
# Eras beyond `unbonding_eras` for which the use of a consensus key is remembered.
KEY_MEMORY_ERAS: Final = 2
# Below so many ready candidates, or the present committee's size if that is less, the present committee stays.
FEWEST_SEATS: Final = 4


def freeze_height(plan: EraPlan, era_length: int, staking: StakingParameters) -> int:
    """The first height of an era at which it is too late to get ready for the next."""
    return plan.first_height + era_length * staking.freeze_percent // 100


def beacon_window(plan: EraPlan, era_length: int, staking: StakingParameters) -> range:
    """The heights of an era at which reveals count."""
    first, end = staking.beacon_from_percent, staking.beacon_to_percent
    return range(plan.first_height + era_length * first // 100, plan.first_height + era_length * end // 100)


def last_height(plan: EraPlan, era_length: int) -> int:
    """The height of an era's last commit."""
    return plan.first_height + era_length - 1


def next_beacon(beacon: bytes, era: int, reveals: Iterable[bytes]) -> bytes:
    """The beacon of the era after `era`, whose own is `beacon`, 32 bytes."""
    return tagged_hash("beacon-next/v1", codec.encode((beacon, era, sorted(reveals))))


def apply_ready(state: WorkingState, sender: bytes, operation: Ready, context: Context) -> Sequence[Event]:
    """Name the consensus key for the next era, before the freeze. The first one stands."""
    candidate, key = candidate_of(state, sender), operation.consensus_key
    if operation.era != context.plan.era + 1:
        raise NotTheNextEra(era=operation.era, next=context.plan.era + 1)
    freeze = freeze_height(context.plan, context.era_length, context.staking)
    if context.height >= freeze:
        raise CandidatesFrozen(height=context.height, freeze=freeze)
    if candidate.jailed:
        raise Jailed(era=candidate.jailed_era)
    if candidate.bond < context.staking.minimum_bond:
        raise BondBelowMinimum(bond=candidate.bond, minimum=context.staking.minimum_bond)
    if candidate.keys and candidate.keys[-1][0] == operation.era:
        raise ReadyAlready(era=operation.era)
    place = consensus_key_use_key(key)
    if state.get(place, ConsensusKeyUse) is not None or state.get(candidate_key(key), Candidate) is not None:
        raise ConsensusKeyUsed(key=key.hex()[:16])
    state.put(place, ConsensusKeyUse(sender, operation.era))
    remembered = context.staking.unbonding_eras + KEY_MEMORY_ERAS
    keys = (*candidate.keys, (operation.era, key))
    for _, old in keys[:-remembered]:
        forget_key(state, old)
    put_candidate(
        state, sender, replace(candidate, keys=keys[-remembered:], protocol_version=operation.protocol_version)
    )
    return [("ready", sender)]


def apply_reveal(state: WorkingState, sender: bytes, operation: Reveal, context: Context) -> Sequence[Event]:
    """Give this era's layer of the sender's onion to the beacon. Which layer that is follows from the era alone, so
    that who missed some eras cannot choose between several."""
    era = context.plan.era
    if all(seat.node_key != sender for seat in context.plan.seats):
        raise NotAMember(era=era)
    window = beacon_window(context.plan, context.era_length, context.staking)
    if context.height not in window:
        raise OutsideBeaconWindow(height=context.height, first=window.start, last=window.stop - 1)
    candidate = candidate_of(state, sender)
    current, number = with_onion_of(candidate, era), reveal_number(candidate, era)
    if number == 0:
        raise NoOnion(era=era)
    if number == current.onion_reveals:
        raise RevealedAlready(era=era)
    # This bounds the hashes too: no more than the onion has layers.
    if number > context.staking.onion_length:
        raise OnionTooDeep(reveal=number, layers=context.staking.onion_length)
    if not verify_reveal(current.onion, operation.value, number - current.onion_reveals):
        raise WrongReveal(reveal=number)
    put_candidate(state, sender, replace(current, onion=operation.value, onion_reveals=number))
    reveals = state.get(REVEALS_KEY, Reveals)
    assert reveals is not None, "the genesis and each era's end write the reveals"
    state.put(REVEALS_KEY, Reveals(era, (*reveals.values, operation.value)))
    return NO_EVENTS


def current_plan(state: WorkingState) -> EraPlan:
    """The plan of the era that the commit under way belongs to."""
    current = state.get(CURRENT_ERA_KEY, CurrentEra)
    assert current is not None, "the genesis writes the era"
    plan = state.get(era_key(current.era), EraPlan)
    assert plan is not None, "each era has its plan"
    return plan


def freeze_candidates(state: WorkingState, context: Context) -> None:
    """At the freeze height, before the commit's transactions: write down who is ready for the next era."""
    plan, staking = context.plan, context.staking
    if context.height != freeze_height(plan, context.era_length, staking):
        return
    entries = []
    for node_key in candidates(state):
        candidate = candidate_of(state, node_key)
        if candidate.jailed or candidate.bond < staking.minimum_bond or not candidate.keys:
            continue
        era, consensus_key = candidate.keys[-1]
        if era == plan.era + 1:
            entries.append((node_key, consensus_key, candidate.bond))
    entries.sort(key=lambda entry: (-entry[2], entry[0]))
    state.get(FROZEN_KEY, FrozenCandidates)
    state.put(FROZEN_KEY, FrozenCandidates(plan.era + 1, tuple(entries[:FROZEN_MAX])))


def begin_next_era(state: WorkingState, context: Context) -> EraPlan:
    """At the last height, when the era is settled: choose the next committee and make its era the present one."""
    plan = context.plan
    reveals = state.get(REVEALS_KEY, Reveals)
    assert reveals is not None, "the genesis and each era's end write the reveals"
    beacon = next_beacon(plan.beacon, plan.era, reveals.values)
    seats = _salted(state, _weighted(state, _next_seats(state, context)), beacon)
    following = EraPlan(
        era=plan.era + 1,
        first_height=context.height + 1,
        beacon=beacon,
        protocol_version=_next_version(state, plan.protocol_version, seats),
        seats=seats,
    )
    _note_kept_seats(state, following)
    state.get(era_end_key(plan.era), EraEnd)
    state.put(era_end_key(plan.era), EraEnd(context.time_ms))
    place, none = era_key(following.era), (0,) * len(following.seats)
    state.get(place, EraPlan)
    state.put(place, following)
    state.put(CURRENT_ERA_KEY, CurrentEra(following.era))
    state.get(TALLY_KEY, EraTally)
    state.put(TALLY_KEY, EraTally(following.era, none, none, none))
    state.put(REVEALS_KEY, Reveals(following.era, ()))
    return following


def _next_seats(state: WorkingState, context: Context) -> tuple[Seat, ...]:
    """The seats of the next era: the highest bonds that were frozen and still stand, ties to the lower key."""
    present, staking = context.plan.seats, context.staking
    frozen = state.get(FROZEN_KEY, FrozenCandidates)
    seats = []
    if frozen is not None and frozen.era == context.plan.era + 1:
        for node_key, consensus_key, frozen_bond in frozen.entries:
            candidate = state.get(candidate_key(node_key), Candidate)
            if candidate is None or candidate.jailed:
                continue
            bond = min(frozen_bond, candidate.bond)
            if bond >= staking.minimum_bond:
                seats.append(_seat(node_key, consensus_key, bond, candidate))
    seats.sort(key=lambda seat: (-seat.bond, seat.node_key))
    fewest = min(FEWEST_SEATS, len(present))
    if len(seats) >= fewest:
        return tuple(seats[: staking.committee_size])
    kept = tuple(seat for seat in present if not _offender(state, seat.node_key))
    return kept if len(kept) >= fewest else present


def _note_kept_seats(state: WorkingState, following: EraPlan) -> None:
    """Only a committee that stays has seats that weigh more than the bond behind them: what was unbonded meanwhile must
    not be paid out before the coming era can be judged no more."""
    for seat in following.seats:
        candidate = state.get(candidate_key(seat.node_key), Candidate)
        if candidate is not None and candidate.unbonding and candidate.bond < seat.bond:
            put_candidate(state, seat.node_key, replace(candidate, kept_era=following.era))


def _next_version(state: WorkingState, present: int, seats: tuple[Seat, ...]) -> int:
    """The protocol version of the next era: the highest that members of a quorum could run at this era's end and at the
    one before. It never goes back."""
    able = []
    for seat in seats:
        candidate = state.get(candidate_key(seat.node_key), Candidate)
        able.append((candidate.protocol_version if candidate is not None else PROTOCOL_VERSION, seat.bond))
    weight, quorum = 0, quorum_weight(sum(bond for _, bond in able))
    agreed = PROTOCOL_VERSION
    for version, bond in sorted(able, reverse=True):
        weight += bond
        if weight >= quorum:
            agreed = version
            break
    noted = state.get(UPGRADE_KEY, Upgrade)
    before = noted.protocol_version if noted is not None else PROTOCOL_VERSION
    if agreed != before:
        state.put(UPGRADE_KEY, Upgrade(agreed))
    return max(present, min(agreed, before))


def _weighted(state: WorkingState, seats: tuple[Seat, ...]) -> tuple[Seat, ...]:
    """`seats` with the resource weights that they have among themselves."""
    weights = seat_weights(state, [seat.node_key for seat in seats])
    return tuple(replace(seat, resource_weight=weight) for seat, weight in zip(seats, weights, strict=True))


def _salted(state: WorkingState, seats: tuple[Seat, ...], beacon: bytes) -> tuple[Seat, ...]:
    """`seats` with their placement salts: who sits for the first time gets one from the beacon of that era."""
    salted = []
    for seat in seats:
        candidate = state.get(candidate_key(seat.node_key), Candidate)
        if candidate is not None and not candidate.placement_salt:
            candidate = replace(candidate, placement_salt=placement_salt(seat.node_key, beacon))
            put_candidate(state, seat.node_key, candidate)
        # A member that stays for want of others may have withdrawn everything; then it is no candidate.
        salt = seat.placement_salt if candidate is None else candidate.placement_salt
        salted.append(replace(seat, placement_salt=salt))
    return tuple(salted)


def _seat(node_key: bytes, consensus_key: bytes, bond: int, candidate: Candidate) -> Seat:
    return Seat(node_key, consensus_key, bond, RESOURCE_WEIGHT, candidate.link_address, candidate.api_url)


def _offender(state: WorkingState, node_key: bytes) -> bool:
    """Whether a member is jailed and has lied: one that was only silent stays when nobody else is there."""
    candidate = state.get(candidate_key(node_key), Candidate)
    return candidate is not None and candidate.jailed and candidate.offences > 0
