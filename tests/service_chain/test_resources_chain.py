"""Staked resources on the chain: claims, rounds of tests, what is confirmed, who forfeits, and what a seat weighs."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadConfiguration, Malformed
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.limits import COMMITTEE_MEMBERS, STATE_VALUE_BYTES, TRANSACTION_BYTES
from blockcloud.service_chain import resources
from blockcloud.service_chain.fees import OPERATION_WEIGHTS, ROWS_PER_UNIT, weight_of
from blockcloud.service_chain.fields import LINK_ADDRESS_BYTES
from blockcloud.service_chain.genesis import RESOURCE_WEIGHT, Genesis
from blockcloud.service_chain.operations import (
    ReportChallenges,
    StakeResources,
    Transfer,
    Unbond,
    Withdraw,
    check_operation,
)
from blockcloud.service_chain.records import OpenRound, StakeRecord
from blockcloud.service_chain.resources import ROUND_CANDIDATES, seat_weights
from blockcloud.service_chain.rewards import issued_after
from blockcloud.service_chain.state_keys import ROUND_KEY, stake_key
from blockcloud.service_chain.working_state import WorkingState
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.cloudpos.stake import NOTHING, RESOURCE_LIMIT, Resources, StakeClaim
from blockcloud.transaction_chain.cloudpos.verdicts import Report, Verdict, Verdicts
from blockcloud.transaction_chain.cloudpos.weights import WHOLE_PPM, resource_weights
from blockcloud.transaction_chain.leaders import LeaderSchedule
from tests.service_chain.era_world import BOND, ERA_LENGTH, MEMBERS, MINIMUM, NODES, STAKING, EraLedger, onion
from tests.service_chain.resource_rounds import (
    ALL_PASSED,
    ALL_SILENT,
    CHALLENGES,
    DRAW,
    LATE,
    PASSED,
    PLACE,
    SETTLE,
    START,
    Amounts,
    RoundLedger,
    claim,
    round_genesis,
)
from tests.transaction_chain.chi_square import fits

FULL = (1_000, 2_000_000, 500_000)
NONE = (0, 0, 0)
verdicts = st.tuples(*[st.sampled_from(list(Verdict))] * 3)


def staked(amounts: Amounts = FULL, members: int = MEMBERS, report_ms: int = 0) -> RoundLedger:
    """All members have put up the same."""
    genesis = round_genesis()
    ledger = RoundLedger(replace(genesis, challenges=replace(CHALLENGES, report_ms=report_ms)))
    for node in range(members):
        assert ledger.stake(node, amounts) == "ok"
    return ledger


def others(ledger: RoundLedger) -> list[int]:
    return [node for node in range(MEMBERS) if node not in ledger.drawn()]


# Stakes


def test_a_stake_belongs_to_a_candidate_and_begins_unconfirmed() -> None:
    ledger = RoundLedger()
    assert ledger.stake(5, FULL) == "not_a_candidate"
    assert ledger.stake(0, NONE) == "nothing_staked"
    assert ledger.stake(0, FULL, address="") == "stake_address_missing"
    assert ledger.chain.stake(NODES[0].public) is None
    assert ledger.stake(0, FULL) == "ok"
    assert ledger.staked(0) == StakeRecord(claim(FULL), PLACE, NOTHING)
    assert ledger.stake(0, FULL, address="") == "ok"
    assert ledger.staked(0).address == PLACE
    assert ledger.stake(0, FULL, address="other:1") == "ok"
    assert ledger.staked(0).address == "other:1"
    assert ledger.stake(0, NONE) == "ok"
    assert ledger.chain.get(stake_key(NODES[0].public)) is None


@pytest.mark.parametrize("address", ["nowhere", "a b:1", "a:", "a:123456"])
def test_an_address_of_a_stake_is_host_and_port(address: str) -> None:
    with pytest.raises(Malformed):
        check_operation(StakeResources(claim(FULL), address))
    check_operation(StakeResources(claim(FULL), ""))


@pytest.mark.parametrize("change", [{"era": -1}, {"round_number": -1}])
def test_a_report_is_about_some_era(change: dict[str, int]) -> None:
    check_operation(ReportChallenges(Report(0, 0, ())))
    with pytest.raises(Malformed):
        check_operation(ReportChallenges(replace(Report(0, 0, ()), **change)))


def test_a_new_claim_keeps_what_it_covers_of_what_was_confirmed() -> None:
    ledger = staked()
    ledger.run_round()
    assert [ledger.confirmed(node) for node in range(MEMBERS)] == [FULL] * MEMBERS
    assert ledger.stake(0, (500, 9_000_000, 500_001)) == "ok"
    assert ledger.confirmed(0) == (500, 2_000_000, 500_000)
    assert ledger.stake(1, FULL, plot=2) == "ok"
    assert ledger.confirmed(1) == (1_000, 0, 500_000)
    # Once it is gone it does not come back by itself.
    assert ledger.stake(1, FULL) == "ok"
    assert ledger.confirmed(1) == (1_000, 0, 500_000)


def test_who_leaves_takes_its_stake_along() -> None:
    ledger = RoundLedger()
    before = set(ledger.state())
    assert ledger.bond(5, MINIMUM) == "ok"
    assert ledger.stake(5, FULL) == "ok"
    assert ledger.do(5, Unbond(MINIMUM)) == "ok"
    for _ in range(4):
        ledger.end_era()
    assert ledger.do(5, Withdraw()) == "ok"
    assert {key for key in set(ledger.state()) - before if key[:1] == b"r"} == set()


# Rounds


def test_without_a_stake_there_is_no_round_and_nothing_changes() -> None:
    ledger, plain = RoundLedger(), EraLedger()
    for _ in range(2 * ERA_LENGTH):
        ledger.execute()
        assert plain.execute().height == ledger.height
        assert ledger.chain.get(ROUND_KEY) is None
        assert ledger.state().keys() == plain.state().keys()
    assert [seat.resource_weight for seat in ledger.plan.seats] == [RESOURCE_WEIGHT] * MEMBERS
    assert ledger.do(0, ReportChallenges(Report(2, 0, ()))) == "no_open_round"


def test_a_round_is_drawn_at_its_height_with_the_claims_of_that_time() -> None:
    ledger = RoundLedger()
    assert ledger.bond(5, BOND) == "ok"
    assert ledger.bond(6, BOND) == "ok"
    ledger.ready(0, 1, 2, 5)
    for node in (1, 5, 6):
        assert ledger.stake(node, FULL, plot=node) == "ok"
    ledger.at(DRAW)
    assert ledger.chain.get(ROUND_KEY) is None
    # In the commit of the draw: too late.
    assert ledger.stake(2, FULL) == "ok"
    opened = ledger.opened()
    # 6 is neither a member nor ready.
    assert opened.candidates == tuple(sorted(NODES[node].public for node in (1, 5)))
    assert opened.stakes == tuple((claim(FULL, node), PLACE) for node in ledger.tested())
    assert (opened.era, opened.number, opened.height) == (0, 0, ledger.plan.first_height + START)
    assert opened.settle_height == ledger.plan.first_height + SETTLE
    assert len(set(ledger.drawn())) == 3
    assert set(ledger.drawn()) <= set(range(MEMBERS))
    drawn = opened.drawn()
    assert (drawn.challengers, drawn.candidates, drawn.height) == (
        opened.challengers,
        opened.candidates,
        opened.height,
    )
    ledger.stake(1, (1, 1, 1))
    assert ledger.opened() == opened


def test_of_too_many_the_highest_bonds_are_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "ROUND_CANDIDATES", 3)
    ledger = RoundLedger()
    assert ledger.bond(5, 2 * BOND) == "ok"
    assert ledger.bond(2, 1) == "ok"
    ledger.ready(5)
    for node in (0, 1, 2, 3, 5):
        assert ledger.stake(node, FULL) == "ok"
    ledger.at(DRAW + 1)
    ties = min([0, 1, 3], key=lambda node: NODES[node].public)
    assert sorted(ledger.tested()) == sorted([5, 2, ties])
    assert list(ledger.opened().candidates) == sorted(ledger.opened().candidates)


def test_everything_of_a_round_is_gone_when_it_is_settled() -> None:
    ledger = staked()
    before = set(ledger.state())
    ledger.at(START)
    first, second, _ = ledger.drawn()
    assert ledger.report(first, ALL_PASSED) == "ok"
    assert ledger.report(second, ALL_PASSED) == "ok"
    assert [ledger.has_reported(node) for node in ledger.drawn()] == [True, True, False]
    ledger.at(SETTLE)
    assert ledger.chain.get(ROUND_KEY) is not None
    ledger.execute()
    assert {key[:1] for key in set(ledger.state()) - before} == {b"S", b"Z"}
    ledger.end_era()
    assert {key[:1] for key in set(ledger.state()) - before} == {b"Z", b"e", b"t"}


def test_reports_are_refused_with_their_reason() -> None:
    ledger = staked()
    report = ReportChallenges(Report(0, 0, (ALL_PASSED,) * MEMBERS))
    ledger.at(DRAW - 1)
    assert ledger.do(0, report) == "no_open_round"
    # In the commit of the draw.
    assert ledger.do(0, report) == "round_not_begun"
    ledger.at(START - 1)
    challenger = ledger.drawn()[0]
    assert ledger.do(challenger, report) == "round_not_begun"
    (stranger,) = others(ledger)
    assert ledger.report(stranger, ALL_PASSED) == "not_a_challenger"
    assert ledger.report(6, ALL_PASSED) == "not_a_challenger"
    assert ledger.report(challenger, ALL_PASSED, era=1) == "report_of_another_round"
    ledger.at(SETTLE)
    assert ledger.do(challenger, report) == "no_open_round"


@pytest.mark.parametrize("rows", [0, MEMBERS - 1, MEMBERS + 1])
def test_a_report_has_a_row_for_each_candidate(rows: int) -> None:
    ledger = staked()
    ledger.at(START)
    report = Report(0, 0, (ALL_PASSED,) * rows)
    assert ledger.do(ledger.drawn()[0], ReportChallenges(report)) == "wrong_report_rows"
    assert not ledger.has_reported(ledger.drawn()[0])


def test_the_first_report_stands() -> None:
    ledger = staked()
    ledger.at(START)
    first, second, third = ledger.drawn()
    assert ledger.report(first, ALL_PASSED) == "ok"
    assert ledger.report(first, ALL_SILENT) == "reported_already"
    assert ledger.report(second, ALL_PASSED, round_number=1) == "report_of_another_round"
    assert ledger.report(second, ALL_PASSED) == "ok"
    # The last commit before the settlement, which the fourth transaction was.
    assert ledger.report(third, ALL_PASSED) == "no_open_round"
    ledger.at(SETTLE + 1)
    (judged_by_all,) = (node for node in range(MEMBERS) if node not in (first, second, third))
    assert ledger.confirmed(judged_by_all) == FULL


# Settlement


@given(st.lists(verdicts, min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_a_majority_of_those_drawn_decides_in_each_dimension(rows: list[Verdicts]) -> None:
    ledger = staked()
    ledger.at(START)
    (judged,) = others(ledger)
    for challenger, row in zip(ledger.drawn(), rows, strict=True):
        assert ledger.report(challenger, {judged: row}) == "ok"
    ledger.at(SETTLE + 1)
    passes = [sum(row[dimension] is PASSED for row in rows) for dimension in range(3)]
    assert ledger.confirmed(judged) == tuple(FULL[d] if passes[d] >= 2 else 0 for d in range(3))
    # Of itself a challenger says what it likes: two others judge it.
    assert ledger.silent() == []


@pytest.mark.parametrize("liar", [0, 1, 2])
@pytest.mark.parametrize("lie", [ALL_SILENT, (LATE, PASSED, Verdict.WRONG)])
def test_one_lying_challenger_of_three_changes_nothing(liar: int, lie: Verdicts) -> None:
    honest, deceived = staked(), staked()
    for ledger in (honest, deceived):
        ledger.at(START)
        (judged,) = others(ledger)
        truth = {judged: (PASSED, LATE, PASSED)}
        for place, challenger in enumerate(ledger.drawn()):
            lies = {node: lie for node in range(MEMBERS)}
            assert ledger.report(challenger, lies if ledger is deceived and place == liar else truth) == "ok"
        ledger.at(SETTLE + 1)
    (judged,) = (node for node in range(MEMBERS) if honest.confirmed(node)[1] == 0)
    assert deceived.confirmed(judged) == honest.confirmed(judged) == (FULL[0], 0, FULL[2])


def test_undecided_keeps_what_was_confirmed() -> None:
    ledger = staked()
    ledger.run_round()
    ledger.end_era()
    ledger.at(START)
    first, _, _ = ledger.drawn()
    (judged,) = others(ledger)
    assert ledger.report(first, ALL_SILENT) == "ok"
    ledger.at(SETTLE + 1)
    assert ledger.confirmed(judged) == FULL
    # Two of three are a majority.
    ledger.end_era()
    ledger.at(START)
    (judged,) = others(ledger)
    for challenger in ledger.drawn()[:2]:
        assert ledger.report(challenger, (PASSED, LATE, PASSED)) == "ok"
    ledger.at(SETTLE + 1)
    assert ledger.confirmed(judged) == (FULL[0], 0, FULL[2])


CHANGES: list[tuple[Amounts, int, Amounts]] = [
    ((2_000, 4_000_000, 1_000_000), 1, FULL),
    ((2_000, 4_000_000, 1_000_000), 2, (FULL[0], 0, FULL[2])),
    ((10, 20, 30), 1, (10, 20, 30)),
    (FULL, 2, (FULL[0], 0, FULL[2])),
]


@pytest.mark.parametrize(("amounts", "plot", "expected"), CHANGES)
def test_a_claim_changed_between_draw_and_settlement_gains_nothing(
    amounts: Amounts, plot: int, expected: Amounts
) -> None:
    ledger = staked()
    ledger.at(DRAW + 1)
    (judged,) = others(ledger)
    assert ledger.stake(judged, amounts, plot) == "ok"
    ledger.run_round()
    assert ledger.confirmed(judged) == expected
    # A stake that was taken back in between stays taken back.
    ledger.end_era()
    ledger.at(DRAW + 1)
    assert ledger.stake(judged, NONE) == "ok"
    ledger.run_round()
    assert ledger.chain.stake(NODES[judged].public) is None


# What a seat weighs, and what it costs


def test_the_next_seats_weigh_what_was_confirmed() -> None:
    ledger = RoundLedger()
    for node, amounts in enumerate([(4, 1, 2), (4, 1, 2), (0, 2, 4)]):
        assert ledger.stake(node, amounts) == "ok"
    ledger.ready(*range(MEMBERS))
    ledger.run_round()
    assert ledger.weights() == dict.fromkeys(range(MEMBERS), RESOURCE_WEIGHT)
    ledger.end_era()
    stakes = [Resources(*ledger.confirmed(node)) if node < 3 else NOTHING for node in ledger.members()]
    assert tuple(ledger.weights().values()) == resource_weights(stakes)
    assert sum(ledger.weights().values()) == WHOLE_PPM
    assert ledger.weights()[3] == 1
    # What is lost afterwards counts at the next boundary, for a committee that stays too.
    for node in range(3):
        assert ledger.stake(node, NONE) == "ok"
    ledger.end_era()
    assert ledger.weights() == dict.fromkeys(ledger.members(), RESOURCE_WEIGHT)


@given(st.lists(st.none() | st.tuples(*[st.integers(0, RESOURCE_LIMIT)] * 3), min_size=1, max_size=8))
def test_weights_of_seats_are_a_million_or_all_the_same(amounts: list[Amounts | None]) -> None:
    keys = [bytes([number]) * 32 for number in range(len(amounts))]
    records = {
        stake_key(key): codec.encode(StakeRecord(claim(FULL), PLACE, Resources(*found)))
        for key, found in zip(keys, amounts, strict=True)
        if found is not None
    }
    weights = seat_weights(WorkingState(records.get), keys)
    assert min(weights) >= 1
    if any(found not in (None, NONE) for found in amounts):
        assert sum(weights) == WHOLE_PPM
    else:
        assert weights == (RESOURCE_WEIGHT,) * len(keys)


def test_a_silent_challenger_forfeits_the_reward_of_one_era() -> None:
    ledger = staked()
    ledger.at(START)
    first, second, silent = ledger.drawn()
    for challenger in (first, second):
        assert ledger.report(challenger, ALL_PASSED) == "ok"
    ledger.at(SETTLE + 1)
    assert ledger.silent() == [silent]
    ledger.at(ERA_LENGTH - 1)
    before, burned = balances(ledger), ledger.chain.fees.burned
    ledger.execute(leaders=[silent], time_ms=ledger.record.time_ms)
    gained = [after - earlier for after, earlier in zip(balances(ledger), before, strict=True)]
    assert gained[silent] > 0
    lost = min(gained[silent], BOND)  # who led all the time earned more than it has at stake
    assert [ledger.candidate(node).bond for node in range(MEMBERS)] == [
        BOND - lost if node == silent else BOND for node in range(MEMBERS)
    ]
    assert ledger.chain.fees.burned == burned + lost
    assert ledger.silent() == []
    assert ledger.money() == ledger.chain.fees.supply


@pytest.mark.parametrize(("lasted_ms", "forfeits"), [(0, False), (14_999, False), (15_000, True)])
def test_silence_costs_nothing_where_there_was_no_time_to_report(lasted_ms: int, forfeits: bool) -> None:
    ledger = staked(report_ms=15_000)
    ledger.at(DRAW)
    begin_ms = ledger.record.time_ms
    for place in range(DRAW, SETTLE + 1):
        ledger.execute(time_ms=begin_ms + (lasted_ms if place == SETTLE else 0))
    assert bool(ledger.silent()) == forfeits


def test_both_silences_add_up() -> None:
    genesis = round_genesis()
    owes = replace(genesis.validators[0], onion_tip=onion(0).tip)
    ledger = RoundLedger(replace(genesis, validators=(owes, *genesis.validators[1:])))
    payload = ledger.sign(NODES[1], StakeResources(claim(FULL), PLACE))
    ledger.execute((payload,), leaders=[0], time_ms=ledger.record.time_ms + 1)
    while ledger.height < ERA_LENGTH - 1:
        ledger.execute(leaders=[0], time_ms=ledger.record.time_ms)
    silent, before = ledger.silent(), balances(ledger)
    ledger.execute(leaders=[0], time_ms=ledger.record.time_ms)
    gained = [after - earlier for after, earlier in zip(balances(ledger), before, strict=True)]
    lost = [BOND - ledger.candidate(node).bond for node in range(MEMBERS)]
    assert lost == [gained[node] * (2 * (node == 0) + (node in silent)) for node in range(MEMBERS)]
    assert len(silent) == 3


def balances(ledger: EraLedger) -> list[int]:
    accounts = [ledger.chain.account(node.public) for node in NODES[:MEMBERS]]
    return [account.balance for account in accounts if account is not None]


def test_emission_and_pot_follow_the_settled_weights_exactly() -> None:
    """Member 3 claims a hundred times what it has, is found out, and gets a millionth instead of most of it."""
    ledger = RoundLedger()
    honest: list[Amounts] = [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    for node, amounts in enumerate([*honest, (100, 100, 100)]):
        assert ledger.stake(node, amounts) == "ok"
    ledger.run_round({3: (LATE, LATE, LATE)})
    ledger.end_era()
    weights = [ledger.weights()[node] for node in range(MEMBERS)]
    # A ppm each, and shares of a sixth, two and three of the other 999,996; the liar keeps its ppm.
    assert weights == [1 + 166_666, 1 + 333_332, 1 + 499_998, 1]
    schedule = LeaderSchedule(ledger.plan.committee(), 1, ledger.plan.beacon)
    start = ledger.record.time_ms
    earned = [0] * MEMBERS
    for level in range(1, ERA_LENGTH):
        (leader,) = schedule.leaders(level)
        before = ledger.record.time_ms
        payload = ledger.sign(NODES[6], Transfer(NODES[5].public, 1))
        ledger.execute((payload,), leaders=[leader], time_ms=before + 7)
        genesis_ms = ledger.genesis.time_ms
        earned[leader] += issued_after(before + 7 - genesis_ms, STAKING) - issued_after(before - genesis_ms, STAKING)
    assert ledger.record.time_ms == start + 7 * (ERA_LENGTH - 1)
    pot, held = ledger.chain.fees.era_pot, balances(ledger)
    forfeits = ledger.silent()
    ledger.execute(leaders=[0], time_ms=ledger.record.time_ms)
    gained = [after - earlier for after, earlier in zip(balances(ledger), held, strict=True)]
    shares = [pot * weight // WHOLE_PPM for weight in weights]
    assert pot > 0
    assert gained == [share + issued for share, issued in zip(shares, earned, strict=True)]
    assert gained[3] == 0
    assert ledger.chain.fees.era_pot == pot - sum(shares)
    assert [ledger.candidate(node).bond for node in range(MEMBERS)] == [
        BOND - gained[node] * (node in forfeits) for node in range(MEMBERS)
    ]
    assert ledger.money() == ledger.chain.fees.supply


def test_leaders_of_many_eras_are_drawn_by_settled_weights() -> None:
    """The claims change from era to era; levels of eras with equal weights are counted together."""
    ledger = RoundLedger()
    amounts: list[Amounts] = [(1, 0, 3), (2, 5, 3), (3, 5, 0), (4, 10, 6)]
    orders = list(permutations(range(MEMBERS)))[::4]
    place_of: list[list[int]] = []
    drawn: list[int] = []
    for order in orders:
        for node in range(MEMBERS):
            assert ledger.stake(node, amounts[order[node]]) == "ok"
        ledger.run_round()
        ledger.end_era()
        by_node = ledger.weights()
        expected = resource_weights([Resources(*amounts[order[node]]) for node in range(MEMBERS)])
        assert sorted(by_node.values()) == sorted(expected)
        place_of.append([order[node] for node in ledger.members()])
        # Beacons of empty eras are hashes of each other, as good as any.
        schedule = LeaderSchedule(ledger.plan.committee(), 1, ledger.plan.beacon)
        drawn += [place_of[-1][schedule.leaders(level)[0]] for level in range(1, 501)]
    weights = resource_weights([Resources(*found) for found in amounts])
    counts = [drawn.count(place) for place in range(MEMBERS)]
    assert fits(counts, [Fraction(weight, WHOLE_PPM) for weight in weights])
    assert not fits(counts, [Fraction(1, MEMBERS)] * MEMBERS)


# Limits and parameters


def test_the_record_of_the_largest_round_fits() -> None:
    keys = [tagged_hash("test/v1", number.to_bytes(2)) for number in range(ROUND_CANDIDATES + COMMITTEE_MEMBERS)]
    largest = StakeClaim(Resources(RESOURCE_LIMIT, RESOURCE_LIMIT, RESOURCE_LIMIT), 64, bytes(32))
    opened = OpenRound(
        2**40,
        0,
        2**40,
        2**40,
        tuple(keys[ROUND_CANDIDATES:]),
        tuple(keys[:ROUND_CANDIDATES]),
        ((largest, "a" * LINK_ADDRESS_BYTES),) * ROUND_CANDIDATES,
        2**45,
    )
    assert len(codec.encode(opened)) <= STATE_VALUE_BYTES
    report = Report(2**40, 0, (ALL_SILENT,) * ROUND_CANDIDATES)
    assert len(codec.encode(report)) <= TRANSACTION_BYTES // 32


def test_a_report_costs_by_its_rows() -> None:
    reports = [
        ReportChallenges(Report(0, 0, (ALL_PASSED,) * rows)) for rows in (0, 1, ROWS_PER_UNIT, 1 + ROWS_PER_UNIT)
    ]
    base = OPERATION_WEIGHTS[ReportChallenges]
    assert [weight_of(0, 0, [report]) for report in reports] == [base, base + 1, base + 1, base + 2]
    assert weight_of(0, 0, reports[1:3]) == 2 * base + -(-(1 + ROWS_PER_UNIT) // ROWS_PER_UNIT)


@pytest.mark.parametrize(
    "challenges",
    [
        replace(CHALLENGES, challengers=0),
        replace(CHALLENGES, lead_commits=0),
        replace(CHALLENGES, lead_commits=8),
        replace(CHALLENGES, draw_percent=29),
        replace(CHALLENGES, settle_percent=100),
        replace(CHALLENGES, settle_percent=65),
        replace(CHALLENGES, window_ms=0),
    ],
)
def test_a_schedule_that_has_no_room_is_refused(challenges: ChallengeParameters) -> None:
    genesis = replace(round_genesis(), challenges=challenges)
    with pytest.raises(BadConfiguration):
        genesis.check()
    with pytest.raises(BadConfiguration):
        Genesis.from_json(genesis.to_json())


def test_challenge_parameters_are_part_of_the_genesis() -> None:
    genesis = round_genesis()
    assert Genesis.from_json(genesis.to_json()) == genesis
    other = replace(genesis, challenges=replace(CHALLENGES, plot=replace(CHALLENGES.plot, passes=5)))
    assert other.chain_id() != genesis.chain_id()
    text = genesis.to_json()
    for old, new in (('"passes"', '"runs"'), ('"plot": {', '"plots": {'), ('"links": 64', '"links": {}')):
        assert old in text
        with pytest.raises(BadConfiguration):
            Genesis.from_json(text.replace(old, new))


def test_a_restart_in_any_place_of_a_round_changes_nothing() -> None:
    def run(restarts: bool) -> RoundLedger:
        ledger = staked()
        ledger.ready(*range(MEMBERS))
        while ledger.plan.era < 2:
            if restarts:
                ledger.restart()
            if ledger.chain.get(ROUND_KEY) and ledger.height + 1 == ledger.opened().height:
                assert ledger.report(ledger.drawn()[0], ALL_PASSED) == "ok"
            else:
                ledger.execute()
        return ledger

    steady, restarted = run(False), run(True)
    assert restarted.results == steady.results
    assert restarted.plans == steady.plans
