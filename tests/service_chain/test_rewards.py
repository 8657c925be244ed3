"""Rewards: emission exact to the micro-BLOC, shares of the fees, forfeits, and jail for the silent."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.service_chain.operations import Ready, Reveal, Transfer, Unjail
from blockcloud.service_chain.rewards import YEAR_MS, issued_after
from tests.service_chain.era_world import (
    BOND,
    ERA_LENGTH,
    NODES,
    STAKING,
    WINDOW_FIRST,
    EraLedger,
    era_genesis,
    era_key_of,
    onion,
)

SIX_YEARS_MS = 6 * YEAR_MS
# Where commits carry no emission worth mentioning: all times are that of the genesis.
STILL = 1_000


def balances(ledger: EraLedger, members: int = 4) -> list[int]:
    found = [ledger.chain.account(node.public) for node in NODES[:members]]
    return [account.balance for account in found if account is not None]


@given(st.integers(-(10**12), 10**12))
def test_emission_is_linear_and_rounds_down(elapsed_ms: int) -> None:
    exact = Fraction(GENESIS_SUPPLY_MICRO_BLOC * 3, 10) * min(max(elapsed_ms, 0), SIX_YEARS_MS) / SIX_YEARS_MS
    issued = issued_after(elapsed_ms, STAKING)
    assert 0 <= exact - issued < 1


@given(st.lists(st.integers(0, SIX_YEARS_MS // 20), min_size=1, max_size=45), st.data())
@settings(max_examples=25, deadline=None)
def test_over_six_years_thirty_percent_are_issued_exactly(jumps: list[int], data: st.DataObject) -> None:
    ledger = EraLedger()
    now = ledger.genesis.time_ms
    for jump in [*jumps, SIX_YEARS_MS, 12_345]:
        now += jump
        members = len(ledger.plan.seats)
        leaders = data.draw(st.lists(st.integers(0, members - 1), min_size=0, max_size=2, unique=True))
        before = ledger.chain.fees.supply
        ledger.execute(leaders=leaders, time_ms=now)
        supply = ledger.chain.fees.supply
        elapsed = min(now - ledger.genesis.time_ms, SIX_YEARS_MS)
        if leaders:
            assert supply - GENESIS_SUPPLY_MICRO_BLOC == GENESIS_SUPPLY_MICRO_BLOC * 3 * elapsed // (10 * SIX_YEARS_MS)
        else:
            assert supply == before
        assert ledger.money() == supply
    ledger.execute(time_ms=now)
    assert ledger.chain.fees.supply == GENESIS_SUPPLY_MICRO_BLOC * 13 // 10


def test_leaders_share_a_commit_equally_and_the_first_gets_the_rest() -> None:
    ledger = EraLedger()
    ledger.execute(leaders=[2, 1, 3], time_ms=ledger.genesis.time_ms + 1)
    due = issued_after(1, STAKING)
    assert due % 3
    ledger.to(ERA_LENGTH - 1)
    before = balances(ledger)
    ledger.execute(leaders=[0], time_ms=ledger.record.time_ms)
    gained = [after - earlier for after, earlier in zip(balances(ledger), before, strict=True)]
    # The empty commits in between were led by member 0.
    assert gained[1:] == [due // 3, due // 3 + due % 3, due // 3]
    assert sum(gained) == issued_after(ledger.record.time_ms - ledger.genesis.time_ms, STAKING)


def test_the_pot_is_shared_by_weight_times_levels_and_keeps_the_rest() -> None:
    genesis = era_genesis()
    weights = [1, 2, 3, 1_000]
    validators = [replace(v, resource_weight=w) for v, w in zip(genesis.validators, weights, strict=True)]
    ledger = EraLedger(replace(genesis, validators=tuple(validators)))
    levels = [19, 7, 5, 0]
    for height in range(1, ERA_LENGTH):
        authors = [author for author in range(4) if height <= levels[author]]
        payloads = (ledger.sign(NODES[6], Transfer(NODES[5].public, 1)),)
        ledger.execute(payloads, authors=authors, time_ms=STILL)
    pot, before = ledger.chain.fees.era_pot, balances(ledger)
    assert pot > 0
    ledger.execute(authors=[0], time_ms=STILL)
    gained = [after - earlier for after, earlier in zip(balances(ledger), before, strict=True)]
    parts = [1 * 20, 2 * 7, 3 * 5, 0]
    assert gained == [pot * part // sum(parts) for part in parts]
    assert ledger.chain.fees.era_pot == pot - sum(gained)
    assert ledger.money() == ledger.chain.fees.supply == GENESIS_SUPPLY_MICRO_BLOC


def test_a_level_counts_once_whatever_an_author_puts_there() -> None:
    ledger = EraLedger()
    ledger.execute(authors=[0, 0, 1], level=3, time_ms=STILL)
    ledger.execute(authors=[0], level=3, time_ms=STILL)
    ledger.execute((ledger.sign(NODES[6], Transfer(NODES[5].public, 1)),), authors=[1], level=4, time_ms=STILL)
    while ledger.height < ERA_LENGTH - 1:
        ledger.execute(authors=[], time_ms=STILL)
    pot, before = ledger.chain.fees.era_pot, balances(ledger)
    ledger.execute(authors=[], time_ms=STILL)
    gained = [after - earlier for after, earlier in zip(balances(ledger), before, strict=True)]
    assert gained == [pot // 3, pot * 2 // 3, 0, 0]


def test_without_blocks_the_pot_waits() -> None:
    ledger = EraLedger()
    ledger.execute((ledger.sign(NODES[6], Transfer(NODES[5].public, 1)),), authors=[], time_ms=STILL)
    while ledger.plan.era == 0:
        # Every payload comes in a block, so this history is not one of consensus; the rule must hold up all the same.
        ledger.execute(authors=[], time_ms=STILL)
    assert ledger.chain.fees.era_pot >= 0
    assert ledger.money() == ledger.chain.fees.supply


def test_who_owes_a_reveal_and_gives_none_forfeits_twice_its_reward() -> None:
    genesis = era_genesis(onions=True)
    silent = replace(genesis.validators[3], onion_tip=b"")
    ledger = EraLedger(replace(genesis, validators=(*genesis.validators[:3], silent)))
    ledger.to(WINDOW_FIRST - 1)
    ledger.commit(ledger.sign(NODES[0], Reveal(onion(0).reveal(1))), blocks=1)
    ledger.to(ERA_LENGTH - 1)
    before, burned = balances(ledger), ledger.chain.fees.burned
    ledger.execute(leaders=[1, 2], time_ms=ledger.record.time_ms)
    gained = [after - earlier for after, earlier in zip(balances(ledger), before, strict=True)]
    bonds = [ledger.candidate(node).bond for node in range(4)]
    assert min(gained) > 0
    assert bonds == [BOND, BOND - 2 * gained[1], BOND - 2 * gained[2], BOND]
    assert ledger.chain.fees.burned == burned + 2 * gained[1] + 2 * gained[2]


def test_a_forfeit_takes_no_more_than_there_is() -> None:
    ledger = EraLedger(era_genesis(onions=True))
    ledger.execute(leaders=[1], time_ms=ledger.genesis.time_ms + 1_000_000)
    ledger.end_era()
    assert ledger.candidate(1).at_stake == 0
    assert NODES[1].public not in ledger.candidate_keys()
    assert ledger.money() == ledger.chain.fees.supply


def test_a_member_in_too_few_levels_is_jailed() -> None:
    ledger = EraLedger()
    ledger.ready(0, 1, 2, 3)
    # 10 % of 20 levels are two: 2 has just enough, 3 not.
    while ledger.plan.era == 0:
        ledger.execute(authors=[0, 1, 2] if ledger.height < 2 else [0, 1], time_ms=STILL)
    assert [ledger.candidate(node).jailed_era for node in range(4)] == [-1, -1, -1, 0]
    # It stays for want of others, keeps its stake, and may ask back in.
    assert ledger.members() == [0, 1, 2, 3]
    assert ledger.candidate(3).at_stake == BOND
    assert ledger.do(3, Ready(2, era_key_of(3, 2).public)) == "jailed"
    assert ledger.do(3, Unjail()) == "ok"
    assert ledger.do(3, Ready(2, era_key_of(3, 2).public)) == "ok"


@pytest.mark.parametrize("length", [1, 3, 4])
def test_each_commit_of_an_era_is_counted_for_that_era(length: int) -> None:
    ledger = EraLedger()
    for _ in range(length):
        ledger.end_era()
        # All that was issued until then has reached the accounts.
        issued = ledger.chain.fees.supply - GENESIS_SUPPLY_MICRO_BLOC
        assert issued == issued_after(ledger.record.time_ms - ledger.genesis.time_ms, STAKING)
        tally = ledger.tally()
        assert (tally.era, sum(tally.earned), sum(tally.levels)) == (ledger.plan.era, 0, 0)
