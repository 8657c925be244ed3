"""Who sits in the next committee: freeze, ties, joining and leaving, the beacon, and who stays for want of others."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.service_chain.genesis import StakingParameters
from blockcloud.service_chain.operations import Bond, Ready, Reveal, Unbond, Unjail, Withdraw
from blockcloud.service_chain.staking import reveal_number
from blockcloud.service_chain.state_keys import CURRENT_ERA_KEY, era_key
from blockcloud.transaction_chain.era import placement_salt
from tests.service_chain.era_world import (
    API,
    BOND,
    ERA_LENGTH,
    FREEZE,
    LINK,
    MINIMUM,
    NODES,
    ONION_LAYERS,
    STAKING,
    WINDOW_FIRST,
    WINDOW_LAST,
    EraLedger,
    equivocation,
    era_genesis,
    era_key_of,
    onion,
)

ONIONS = era_genesis(onions=True)
# Where nobody loses his bond for a reveal that he did not give.
CALM_ONIONS = era_genesis(replace(STAKING, forfeit_era_rewards=0), onions=True)


def bonded(*nodes: int, bond: int = BOND) -> EraLedger:
    """A ledger in which these nodes have bonded too."""
    ledger = EraLedger()
    for node in nodes:
        assert ledger.bond(node, bond) == "ok"
    return ledger


def test_era_zero_is_the_genesis() -> None:
    ledger = EraLedger()
    plan = ledger.genesis.plan()
    assert ledger.chain.plan == ledger.chain.plan_of(0) == plan
    assert (plan.era, plan.first_height, plan.beacon) == (0, 1, ledger.genesis.beacon())
    assert [(seat.node_key, seat.consensus_key, seat.bond) for seat in plan.seats] == [
        (node.public, node.public, BOND) for node in NODES[:4]
    ]
    assert plan.committee().weights == ledger.genesis.committee().weights


def test_an_era_ends_with_a_plan_and_a_root() -> None:
    ledger = EraLedger()
    results = [ledger.execute() for _ in range(3 * ERA_LENGTH)]
    ends = [result for result in results if result.next_era is not None]
    assert [result.height for result in ends] == [20, 40, 60]
    assert all(result.state_root == ledger.chain.root_at(result.height) for result in ends)
    assert [plan.era for plan in ledger.plans] == [0, 1, 2, 3]
    assert [plan.first_height for plan in ledger.plans] == [1, 21, 41, 61]
    for plan in ledger.plans:
        assert ledger.chain.plan_of(plan.era) == plan
    assert ledger.chain.plan_of(4) is None
    assert ledger.chain.checkpoint == (60, ledger.record.digest(), ledger.chain.root_at(60))
    assert ledger.chain.get(CURRENT_ERA_KEY, 59) == codec.encode((2,))
    assert ledger.chain.prove(era_key(3), 60)


def test_a_candidate_that_is_ready_joins_and_leaves_after_it_unbonded() -> None:
    ledger = bonded(5, bond=BOND + 1)
    ledger.ready(0, 1, 2, 5)
    assert ledger.end_era() == ledger.chain.plan
    assert ledger.members() == [5, *sorted([0, 1, 2], key=lambda node: NODES[node].public)]
    assert [seat.consensus_key for seat in ledger.plan.seats] == [
        era_key_of(node, 1).public for node in ledger.members()
    ]
    assert ledger.plan.seats[0].bond == BOND + 1
    ledger.ready(0, 1, 2, 5)
    assert ledger.do(5, Unbond(BOND + 1)) == "ok"
    assert ledger.do(5, Withdraw()) == "nothing_to_withdraw"
    ledger.ready(3)
    ledger.end_era()
    assert sorted(ledger.members()) == [0, 1, 2, 3]
    for _ in range(2):
        assert ledger.do(5, Withdraw()) == "nothing_to_withdraw"
        ledger.end_era()
    assert ledger.plan.era == 4
    before = ledger.chain.account(NODES[5].public)
    assert ledger.do(5, Withdraw()) == "ok"
    after = ledger.chain.account(NODES[5].public)
    assert before is not None
    assert after is not None
    receipt = ledger.chain.receipt(ledger.results[-1].outcomes[0][0])
    assert receipt is not None
    assert after.balance == before.balance + BOND + 1 - receipt.fee
    assert ledger.chain.candidate(NODES[5].public) is None


def test_the_highest_bonds_sit_and_ties_go_to_the_lower_key() -> None:
    ledger = bonded(4, 5, 6)
    assert ledger.bond(6, 1) == "ok"
    ledger.ready(*range(7))
    ledger.end_era()
    by_key = sorted(range(6), key=lambda node: NODES[node].public)
    assert ledger.members() == [6, *by_key[:3]]


def test_what_is_bonded_after_the_freeze_does_not_count() -> None:
    ledger = bonded(5, 6, bond=MINIMUM)
    ledger.ready(0, 1, 2, 3, 5, 6)
    ledger.at(FREEZE - 2)
    assert ledger.bond(5, BOND) == "ok"  # in the last commit before the freeze
    assert ledger.bond(6, 10 * BOND) == "ok"
    assert ledger.candidate(6).bond > ledger.candidate(5).bond
    ledger.end_era()
    assert ledger.members()[0] == 5
    assert 6 not in ledger.members()


def test_what_is_lost_after_the_freeze_does_not_count() -> None:
    ledger = bonded(4, 5, 6, bond=5 * BOND)
    ledger.ready(0, 1, 2, 4, 5, 6)
    ledger.at(FREEZE)
    assert ledger.do(4, Unbond(3 * BOND)) == "ok"
    assert ledger.do(5, Unbond(5 * BOND)) == "ok"
    chain_id = ledger.chain.chain_id
    assert ledger.do(6, equivocation(chain_id, 0, 0, 3, NODES[0])) == "ok"
    ledger.end_era()
    # 4 with what is left, 5 not at all, 0 as an equivocator not either.
    assert sorted(ledger.members()) == [1, 2, 4, 6]
    assert [seat.bond for seat in ledger.plan.seats] == [5 * BOND, 2 * BOND, BOND, BOND]


def test_the_highest_bond_does_not_help_a_liar_that_is_found_late() -> None:
    ledger = bonded(4, bond=2 * BOND)
    assert ledger.bond(0, 9 * BOND) == "ok"
    ledger.ready(0, 1, 2, 3, 4)
    ledger.at(FREEZE + 1)
    assert ledger.do(4, equivocation(ledger.chain.chain_id, 0, 0, 3, NODES[0])) == "ok"
    assert ledger.candidate(0).bond > 9 * BOND
    ledger.end_era()
    assert sorted(ledger.members()) == [1, 2, 3, 4]


@pytest.mark.parametrize("ready", [[], [0], [0, 1, 2], [4, 5, 6]])
def test_too_few_ready_candidates_leave_the_committee_as_it_is(ready: list[int]) -> None:
    ledger = bonded(*(node for node in ready if node > 3), bond=2 * BOND)
    ledger.ready(*ready)
    before = ledger.plan
    after = ledger.end_era()
    assert after.seats == before.seats
    assert (after.era, after.first_height) == (1, 21)
    assert after.beacon != before.beacon
    assert after.digest() != before.digest()


def test_a_committee_smaller_than_four_needs_only_as_many() -> None:
    ledger = EraLedger(era_genesis(members=2))
    ledger.ready(1)
    ledger.end_era()
    assert ledger.members() == [0, 1]
    ledger.ready(0, 1)
    ledger.end_era()
    assert [seat.consensus_key for seat in ledger.plan.seats] == [
        era_key_of(node, 2).public for node in ledger.members()
    ]


def test_an_equivocator_goes_even_when_the_committee_stays() -> None:
    ledger = EraLedger(era_genesis(members=5))
    ledger.do(0, equivocation(ledger.chain.chain_id, 0, 2, 3, NODES[2]))
    ledger.end_era()
    assert ledger.members() == [0, 1, 3, 4]
    ledger.do(0, equivocation(ledger.chain.chain_id, 0, 3, 3, NODES[3]))
    ledger.end_era()
    # Three would be too few.
    assert ledger.members() == [0, 1, 3, 4]


def test_a_silent_member_stays_when_the_committee_does() -> None:
    ledger = EraLedger(era_genesis(members=5))
    while ledger.plan.era == 0:
        ledger.execute(authors=[0, 1, 2, 3])
    assert ledger.candidate(4).jailed
    assert ledger.members() == [0, 1, 2, 3, 4]


def test_a_seat_that_stays_keeps_its_stake_here() -> None:
    ledger = EraLedger()
    assert ledger.do(0, Unbond(BOND)) == "ok"
    for _ in range(4):
        ledger.end_era()
    assert ledger.plan.seats[0].bond == BOND
    assert ledger.do(0, Withdraw()) == "stake_needed"
    for node in (4, 5):
        assert ledger.bond(node, BOND) == "ok"
    assert ledger.do(1, Unjail()) == "not_jailed"
    ledger.ready(1, 2, 3, 4)
    ledger.end_era()
    assert 0 not in ledger.members()
    assert ledger.do(0, Withdraw()) == "stake_needed"
    ledger.end_era()
    ledger.end_era()
    assert ledger.do(0, Withdraw()) == "ok"


def test_a_member_that_stays_withdraws_what_its_seats_do_not_weigh() -> None:
    ledger = EraLedger()
    assert ledger.do(0, Unbond(BOND - MINIMUM)) == "ok"
    for _ in range(3):
        ledger.at(0)
        ledger.ready(0, 1, 2, 3)
        ledger.end_era()
    assert [seat.bond for seat in ledger.plan.seats] == [BOND, BOND, BOND, MINIMUM]
    assert ledger.do(0, Withdraw()) == "ok"
    assert ledger.candidate(0).unbonding == ()


def test_ready_is_for_the_next_era_before_the_freeze_and_once() -> None:
    ledger = bonded(5)
    key = era_key_of(5, 1).public
    assert ledger.do(6, Ready(1, key)) == "not_a_candidate"
    assert ledger.do(5, Ready(0, key)) == "not_the_next_era"
    assert ledger.do(5, Ready(2, key)) == "not_the_next_era"
    assert ledger.do(5, Ready(1, key)) == "ok"
    ledger.to(FREEZE - 2)
    assert ledger.do(5, Ready(1, era_key_of(5, 1, 1).public)) == "ready_already"
    assert ledger.do(0, Ready(1, era_key_of(0, 1).public)) == "candidates_frozen"


def test_ready_counts_up_to_the_last_commit_before_the_freeze() -> None:
    ledger = bonded(5, bond=2 * BOND)
    ledger.to(FREEZE - 2)
    ledger.ready(0, 1, 2, 5)
    assert ledger.height == FREEZE - 1
    ledger.end_era()
    assert 5 in ledger.members()


def test_a_consensus_key_is_used_once() -> None:
    ledger = bonded(5)
    stolen = era_key_of(1, 1).public
    assert ledger.do(1, Ready(1, stolen)) == "ok"
    assert ledger.do(5, Ready(1, stolen)) == "consensus_key_used"
    assert ledger.do(5, Ready(1, NODES[0].public)) == "consensus_key_used"
    assert ledger.do(5, Ready(1, NODES[5].public)) == "consensus_key_used"
    assert ledger.do(0, Ready(1, NODES[0].public)) == "consensus_key_used"
    ledger.end_era()
    assert ledger.do(1, Ready(2, stolen)) == "consensus_key_used"


def test_old_consensus_keys_are_forgotten() -> None:
    ledger = EraLedger()
    for _ in range(9):
        ledger.at(0)
        ledger.ready(0)
        ledger.end_era()
    remembered = STAKING.unbonding_eras + 2
    assert [era for era, _ in ledger.candidate(0).keys] == list(range(10 - remembered, 10))
    uses = [key for key in ledger.state() if key[:1] == b"k"]
    assert len(uses) == remembered + 3


def test_the_beacon_is_the_hash_of_the_sorted_reveals() -> None:
    ledger = EraLedger(ONIONS)
    ledger.to(WINDOW_FIRST - 1)
    ledger.reveal(3)
    ledger.reveal(1, 0)
    ledger.end_era()
    reveals = sorted(onion(node).reveal(1) for node in (0, 1, 3))
    first = ledger.genesis.beacon()
    assert ledger.plan.beacon == tagged_hash("beacon-next/v1", codec.encode((first, 0, reveals)))
    second = ledger.plan.beacon
    ledger.end_era()
    assert ledger.plan.beacon == tagged_hash("beacon-next/v1", codec.encode((second, 1, [])))


def test_reveals_count_in_their_window_only() -> None:
    ledger = EraLedger(ONIONS)
    layer = Reveal(onion(0).reveal(1))
    ledger.to(WINDOW_FIRST - 2)
    assert ledger.do(0, layer) == "outside_beacon_window"
    assert ledger.do(0, layer) == "ok"
    assert ledger.do(0, layer) == "revealed_already"
    ledger.to(WINDOW_LAST - 1)
    assert ledger.do(1, Reveal(onion(1).reveal(1))) == "ok"
    assert ledger.do(2, Reveal(onion(2).reveal(1))) == "outside_beacon_window"


def test_only_members_reveal_and_only_what_their_onion_says() -> None:
    ledger = EraLedger(ONIONS)
    assert ledger.bond(5, BOND) == "ok"
    ledger.at(WINDOW_FIRST - 1)
    assert ledger.do(5, Reveal(onion(5).reveal(1))) == "not_a_member"
    for value in (onion(0).tip, onion(0).reveal(2), onion(1).reveal(1), bytes(32)):
        assert ledger.do(0, Reveal(value)) == "wrong_reveal"


def test_who_missed_eras_reveals_deeper() -> None:
    ledger = EraLedger(ONIONS)
    for _ in range(3):
        ledger.end_era()
    ledger.at(WINDOW_FIRST - 1)
    assert reveal_number(ledger.candidate(0), 3) == 4
    for number in (1, 2, 3, 5):
        assert ledger.do(0, Reveal(onion(0).reveal(number))) == "wrong_reveal"
    assert ledger.do(0, Reveal(onion(0).reveal(4))) == "ok"
    ledger.end_era()
    ledger.at(WINDOW_FIRST - 1)
    assert ledger.do(0, Reveal(onion(0).reveal(5))) == "ok"


def test_an_onion_has_an_end() -> None:
    ledger = EraLedger(ONIONS)
    for _ in range(ONION_LAYERS):
        ledger.end_era()
    ledger.at(WINDOW_FIRST - 1)
    assert ledger.do(0, Reveal(bytes(32))) == "onion_too_deep"


def test_a_tip_counts_two_eras_later_and_the_old_onion_until_then() -> None:
    ledger = EraLedger(CALM_ONIONS)
    assert ledger.bond(5, BOND + 1, generation=0) == "ok"
    assert ledger.bond(0, 1, generation=1) == "ok"
    ledger.ready(0, 1, 2, 5)
    ledger.at(WINDOW_FIRST - 1)
    assert ledger.do(0, Reveal(onion(0, 1).reveal(1))) == "wrong_reveal"
    assert ledger.do(0, Reveal(onion(0).reveal(1))) == "ok"
    ledger.end_era()
    ledger.ready(0, 1, 2, 5)
    ledger.at(WINDOW_FIRST - 1)
    assert ledger.do(5, Reveal(onion(5).reveal(1))) == "no_onion"
    assert ledger.do(0, Reveal(onion(0).reveal(2))) == "ok"
    ledger.end_era()
    ledger.at(WINDOW_FIRST - 1)
    assert ledger.do(5, Reveal(onion(5).reveal(1))) == "ok"
    assert ledger.do(0, Reveal(onion(0).reveal(3))) == "wrong_reveal"
    assert ledger.do(0, Reveal(onion(0, 1).reveal(1))) == "ok"


def test_a_restart_in_any_place_changes_nothing() -> None:
    def run(restarts: bool) -> EraLedger:
        ledger = EraLedger()
        ledger.bond(5, 2 * BOND, 0)
        ledger.ready(0, 1, 2, 5)
        for _ in range(3 * ERA_LENGTH):
            if restarts:
                ledger.restart()
            ledger.execute()
        return ledger

    steady, restarted = run(False), run(True)
    assert restarted.results == steady.results
    assert restarted.plans == steady.plans


@pytest.mark.parametrize(
    "changes",
    [
        {"committee_size": 0},
        {"committee_size": 101},
        {"minimum_bond": 0},
        {"unbonding_eras": 0},
        {"unbonding_ms": 0},
        {"freeze_percent": 1},
        {"freeze_percent": 45},
        {"beacon_from_percent": 70},
        {"beacon_to_percent": 100},
        {"onion_length": 0},
        {"slash_percent": 0},
        {"slash_percent": 101},
        {"reporter_percent": 100},
        {"emission_percent_a_year": 51, "emission_years": 2},
        {"active_percent": 101},
    ],
)
def test_staking_parameters_that_cannot_work_are_refused(changes: dict[str, int]) -> None:
    STAKING.check(ERA_LENGTH)
    with pytest.raises(BadConfiguration):
        StakingParameters(**changes).check(ERA_LENGTH)


def test_bond_needs_addresses_and_the_minimum() -> None:
    ledger = EraLedger()
    assert ledger.do(5, Bond(MINIMUM, "", API, b"")) == "address_missing"
    assert ledger.do(5, Bond(MINIMUM, LINK, "", b"")) == "address_missing"
    assert ledger.do(5, Bond(MINIMUM - 1, LINK, API, b"")) == "bond_below_minimum"
    assert ledger.do(5, Bond(2**60, LINK, API, b"")) == "insufficient_balance"
    assert ledger.chain.candidate(NODES[5].public) is None
    assert ledger.do(5, Bond(MINIMUM, LINK, API, b"")) == "ok"
    assert ledger.do(5, Bond(1, "", "", b"")) == "ok"
    assert ledger.do(5, Unbond(2)) == "bond_below_minimum"
    assert ledger.do(5, Unbond(MINIMUM + 2)) == "insufficient_bond"
    assert ledger.do(5, Unbond(1)) == "ok"
    assert ledger.do(5, Unbond(MINIMUM)) == "ok"
    assert ledger.candidate(5).unbonding == ((3, MINIMUM + 1),)


def signal(ledger: EraLedger, versions: dict[int, int]) -> int:
    """Get ready with these protocol versions, and end the era; the version of the next one."""
    era = ledger.plan.era + 1
    for node, version in versions.items():
        assert ledger.do(node, Ready(era, era_key_of(node, era).public, version)) == "ok"
    return ledger.end_era().protocol_version


def test_a_new_version_runs_after_a_quorum_could_at_two_ends() -> None:
    ledger = EraLedger()
    assert signal(ledger, {0: 3, 1: 2, 2: 2, 3: 1}) == 1, "once is not enough"
    assert signal(ledger, {0: 2, 1: 3, 2: 2, 3: 1}) == 2, "three of four weigh a quorum"
    assert signal(ledger, {0: 1, 1: 1, 2: 1, 3: 1}) == 2, "it never goes back"


def test_less_than_a_quorum_and_a_quorum_at_one_end_change_nothing() -> None:
    ledger = EraLedger()
    assert signal(ledger, {0: 2, 1: 2, 2: 1, 3: 1}) == 1
    assert signal(ledger, {0: 2, 1: 2, 2: 2, 3: 1}) == 1
    assert signal(ledger, {0: 2, 1: 2, 2: 1, 3: 1}) == 1
    assert signal(ledger, {0: 2, 1: 2, 2: 2, 3: 1}) == 1
    assert signal(ledger, {0: 2, 1: 2, 2: 2, 3: 2}) == 2


def test_a_node_gets_its_placement_salt_with_its_first_seat_and_keeps_it() -> None:
    """From the beacon of that era, which nobody knew when its key was frozen; not from a later one, nor an earlier."""
    ledger = bonded(4)
    beacons = [ledger.plan.beacon]
    salts = {seat.node_key: seat.placement_salt for seat in ledger.plan.seats}
    assert salts == {node: placement_salt(node, beacons[0]) for node in salts}
    assert not ledger.candidate(4).placement_salt
    for ready in ([1, 2, 3, 4], [0, 1, 2, 3], [1, 2, 3, 4]):
        ledger.ready(*ready)
        beacons.append(ledger.end_era().beacon)
        assert sorted(ledger.members()) == ready
        for seat in ledger.plan.seats:
            assert seat.placement_salt == salts.setdefault(seat.node_key, seat.placement_salt)
    newcomer = NODES[4].public
    assert salts[newcomer] == placement_salt(newcomer, beacons[1]) == ledger.candidate(4).placement_salt
    assert len(set(beacons)) == 4
