"""Unbonding takes eras and time, both; until then evidence counts; and a light client relies on half of that time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from blockcloud.node.devnet import UNBONDING_SECONDS
from blockcloud.sdk.light_client import LightClient
from blockcloud.service_chain.genesis import UNBONDING_MS, StakingParameters
from blockcloud.service_chain.operations import Operation, Unbond, Withdraw
from tests.service_chain.era_world import (
    BOND,
    ERA_LENGTH,
    NODES,
    STAKING,
    EraLedger,
    conflict,
    equivocation,
    era_genesis,
    era_key_of,
)

DAY_MS = 24 * 3_600 * 1_000
WAIT_MS = 21 * DAY_MS
SEATED = 4  # the node that sits in era 1 and leaves then


def leaving() -> EraLedger:
    """NODES[SEATED] has unbonded in era 1, in whose committee it sits; the era goes on."""
    ledger = EraLedger(era_genesis(replace(STAKING, unbonding_ms=WAIT_MS)))
    assert ledger.bond(SEATED, BOND + 1) == "ok"
    ledger.ready(0, 1, 2, SEATED)
    ledger.end_era()
    assert SEATED in ledger.members()
    ledger.ready(0, 1, 2, 3)
    assert ledger.do(SEATED, Unbond(BOND + 1)) == "ok"
    return ledger


def pass_eras(ledger: EraLedger, count: int, members: tuple[int, ...] = (0, 1, 2, 3)) -> None:
    """Eras whose committee is `members`, from the next one on."""
    for _ in range(count):
        if ledger.candidate(members[0]).keys[-1][0] <= ledger.plan.era:
            ledger.at(0)
            ledger.ready(*members)
        ledger.end_era()


def at(ledger: EraLedger, time_ms: int, node: int, *operations: Operation) -> str:
    """The code of a transaction in a commit of this time."""
    payload = ledger.sign(NODES[node], *operations)
    ledger.chain.check(payload)
    (outcome,) = ledger.execute((payload,), time_ms=time_ms).outcomes
    return outcome[1]


def lie_of_era_1(ledger: EraLedger, level: int) -> Operation:
    seat = next(n for n, seat in enumerate(ledger.plans[1].seats) if seat.node_key == NODES[SEATED].public)
    return equivocation(ledger.chain.chain_id, 1, seat, level, era_key_of(SEATED, 1))


def test_public_networks_wait_21_days_and_clients_rely_on_half_of_that() -> None:
    assert StakingParameters().unbonding_ms == UNBONDING_MS == WAIT_MS
    assert StakingParameters().trusting_period_ms == WAIT_MS // 2
    assert 2 * DAY_MS < StakingParameters(unbonding_ms=UNBONDING_SECONDS * 1_000).trusting_period_ms < WAIT_MS // 2


def test_eras_alone_are_not_enough() -> None:
    ledger = leaving()
    pass_eras(ledger, 5)
    end_ms = ledger.chain.withdrawable_ms(4)
    assert end_ms is not None
    assert ledger.record.time_ms < end_ms
    assert at(ledger, end_ms - 1, SEATED, Withdraw()) == "nothing_to_withdraw"
    assert at(ledger, end_ms, SEATED, Withdraw()) == "ok"
    assert ledger.chain.candidate(NODES[SEATED].public) is None


def test_time_alone_is_not_enough() -> None:
    ledger = leaving()
    assert at(ledger, ledger.record.time_ms + 2 * WAIT_MS, SEATED, Withdraw()) == "nothing_to_withdraw"
    pass_eras(ledger, 2)
    # The time counts from the end of the era, however long that took.
    assert at(ledger, ledger.record.time_ms + 2 * WAIT_MS, SEATED, Withdraw()) == "nothing_to_withdraw"
    pass_eras(ledger, 1)
    assert ledger.plan.era == 4
    assert ledger.do(SEATED, Withdraw()) == "ok"


def test_the_wait_begins_with_the_end_of_the_era_not_with_the_request() -> None:
    """A seat weighs until its era ends, and signs as long."""
    ledger = leaving()
    asked_ms = ledger.record.time_ms
    ledger.to(2 * ERA_LENGTH - 1)
    ledger.execute(time_ms=asked_ms + 5 * DAY_MS)
    assert ledger.plan.era == 2
    assert ledger.chain.withdrawable_ms(4) == asked_ms + 5 * DAY_MS + WAIT_MS
    assert ledger.chain.withdrawable_ms(5) is None
    pass_eras(ledger, 3)
    assert at(ledger, asked_ms + WAIT_MS + 4 * DAY_MS, SEATED, Withdraw()) == "nothing_to_withdraw"
    assert at(ledger, asked_ms + WAIT_MS + 5 * DAY_MS, SEATED, Withdraw()) == "ok"


def test_evidence_counts_as_long_as_nobody_is_paid_and_no_longer() -> None:
    ledger = leaving()
    pass_eras(ledger, 9)
    end_ms = ledger.chain.withdrawable_ms(4)
    assert end_ms is not None
    assert at(ledger, end_ms - 1, 0, lie_of_era_1(ledger, 5)) == "ok"
    assert ledger.candidate(SEATED).at_stake == BOND + 1 - (BOND + 1) * 5 // 100
    assert at(ledger, end_ms, 0, lie_of_era_1(ledger, 6)) == "evidence_outdated"


def test_a_committee_that_stays_holds_what_its_seats_weigh_for_the_whole_time() -> None:
    ledger = EraLedger(era_genesis(replace(STAKING, unbonding_ms=WAIT_MS)))
    assert ledger.do(0, Unbond(BOND)) == "ok"
    for _ in range(6):
        ledger.end_era()  # nobody is ready: they stay
    start_ms, last_kept = ledger.chain.withdrawable_ms(3), ledger.plan.era
    assert start_ms is not None
    assert ledger.plan.seats[0].bond == BOND
    assert at(ledger, start_ms + DAY_MS, 0, Withdraw()) == "stake_needed"
    assert ledger.candidate(0).kept_era == last_kept
    for node in (4, 5):
        assert ledger.bond(node, BOND) == "ok"
    pass_eras(ledger, 1, (1, 2, 3, 4))
    assert 0 not in ledger.members()
    pass_eras(ledger, 4, (1, 2, 3, 4))
    free_ms = ledger.chain.withdrawable_ms(last_kept + 3)
    assert free_ms is not None
    lie = conflict(ledger.chain.chain_id, last_kept, 20 * last_kept + 5, NODES[0])
    assert at(ledger, free_ms - 2, 1, lie) == "ok"
    assert at(ledger, free_ms - 1, 0, Withdraw()) == "stake_needed"
    assert at(ledger, free_ms, 0, Withdraw()) == "ok"


@given(
    eras=st.lists(st.integers(0, 15 * DAY_MS), min_size=4, max_size=8),
    certified=st.integers(2, ERA_LENGTH - 1),
)
@settings(max_examples=60, deadline=None)
def test_who_signed_what_a_client_trusts_can_be_slashed(eras: list[int], certified: int) -> None:
    """Whatever the pace of eras, and however late in its era a leaving member signed: as long as a client relies on
    that certificate, the stake behind it is there, and evidence is accepted."""
    ledger = leaving()
    ledger.to(ERA_LENGTH + certified)
    signed_ms = ledger.record.time_ms  # of the certificate
    for pause in eras:
        ledger.execute(time_ms=ledger.record.time_ms + pause)
        pass_eras(ledger, 1)
    client = LightClient(ledger.genesis, trusting_period_s=10**9)
    until_ms = signed_ms + client.period_ms
    if until_ms <= ledger.record.time_ms:
        return
    assert at(ledger, until_ms, SEATED, Withdraw()) == "nothing_to_withdraw"
    assert at(ledger, until_ms, 0, lie_of_era_1(ledger, 5)) == "ok"
    # And as long again, for a lie that comes to light at the end.
    assert at(ledger, signed_ms + WAIT_MS - 1, SEATED, Withdraw()) == "nothing_to_withdraw"


@pytest.mark.parametrize("less", [1, 3_600])
def test_a_client_may_be_stricter_than_its_chain(less: int) -> None:
    assert LightClient(era_genesis(), trusting_period_s=10**9).period_ms == STAKING.unbonding_ms // 2
    genesis = era_genesis(replace(STAKING, unbonding_ms=WAIT_MS))
    assert LightClient(genesis).period_ms == WAIT_MS // 2
    assert LightClient(genesis, trusting_period_s=less).period_ms == less * 1_000
