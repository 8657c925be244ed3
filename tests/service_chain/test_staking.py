"""Bonds: limits, what can be taken from a stake, and what is left behind by who leaves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadConfiguration, Malformed
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.operations import AnnounceEndpoint, Bond, Operation, Ready, Unbond, Unjail, Withdraw
from blockcloud.service_chain.records import Candidate, CandidateIndex
from blockcloud.service_chain.rejections import TooManyCandidates
from blockcloud.service_chain.staking import CANDIDATES_MAX, UNBONDINGS_MAX, candidates, put_candidate, take_stake
from blockcloud.service_chain.state_keys import CANDIDATES_KEY, consensus_key_use_key
from blockcloud.service_chain.working_state import WorkingState
from tests.service_chain.era_world import (
    API,
    BOND,
    LINK,
    MINIMUM,
    NODES,
    EraLedger,
    era_genesis,
    era_key_of,
    onion,
)


def candidate(bond: int, unbonding: tuple[tuple[int, int], ...] = ()) -> Candidate:
    return Candidate(bond, LINK, API, unbonding)


@given(st.integers(0, 100), st.lists(st.integers(1, 100), max_size=5), st.integers(0, 700))
def test_a_stake_loses_bond_first_and_then_what_leaves_next(bond: int, amounts: list[int], amount: int) -> None:
    before = candidate(bond, tuple(enumerate(amounts)))
    after, taken = take_stake(before, amount)
    assert taken == min(amount, before.at_stake)
    assert after.at_stake == before.at_stake - taken
    assert after.bond == max(0, bond - amount)
    # One by one, the obvious way.
    coins = [era for era, held in enumerate(amounts) for _ in range(held)][max(0, amount - bond) :]
    assert after.unbonding == tuple((era, coins.count(era)) for era in dict.fromkeys(coins))


def test_the_index_is_sorted_and_holds_so_many() -> None:
    keys = tuple(bytes([5]) + number.to_bytes(31) for number in range(CANDIDATES_MAX - 1))
    stored = {CANDIDATES_KEY: codec.encode(CandidateIndex(keys))}
    state = WorkingState(stored.get)
    put_candidate(state, bytes(32), candidate(1))
    assert candidates(state) == (bytes(32), *keys)
    mark = state.mark()
    with pytest.raises(TooManyCandidates):
        put_candidate(state, bytes([9]) * 32, candidate(1))
    state.roll_back(mark)
    put_candidate(state, bytes(32), candidate(2))
    put_candidate(state, bytes(32), candidate(0))
    put_candidate(state, bytes([9]) * 32, candidate(1))
    assert candidates(state) == (*keys, bytes([9]) * 32)
    assert len(codec.encode(CandidateIndex(candidates(state)))) < 2**16


def test_unbonding_amounts_are_one_for_each_era_and_so_many_at_most() -> None:
    ledger = EraLedger()
    assert ledger.bond(5, MINIMUM + 100) == "ok"
    for era in range(UNBONDINGS_MAX):
        assert ledger.do(5, Unbond(1), Unbond(2)) == "ok"
        assert ledger.candidate(5).unbonding[-1] == (era + 3, 3)
        ledger.end_era()
    assert ledger.do(5, Unbond(1)) == "too_many_unbondings"
    assert ledger.do(5, Withdraw()) == "ok"
    assert ledger.candidate(5).unbonding == ((9, 3), (10, 3))
    assert ledger.do(5, Unbond(1)) == "ok"


def test_who_leaves_leaves_nothing_behind() -> None:
    ledger = EraLedger()
    before = set(ledger.state())
    assert ledger.bond(5, BOND) == "ok"
    assert ledger.do(5, Ready(1, era_key_of(5, 1).public), Unbond(BOND)) == "ok"
    assert ledger.chain.get(consensus_key_use_key(era_key_of(5, 1).public))
    for _ in range(3):
        ledger.end_era()
    assert ledger.do(5, Withdraw()) == "ok"
    new = set(ledger.state()) - before
    assert {key[:1] for key in new} == {b"e", b"t", b"Z"}
    assert ledger.do(5, Withdraw()) == "not_a_candidate"
    assert ledger.bond(5, BOND) == "ok"


@pytest.mark.parametrize(
    "operation", [Unbond(1), Withdraw(), Unjail(), Ready(1, bytes(32)), AnnounceEndpoint("http://x:1")]
)
def test_who_never_bonded_is_no_candidate(operation: Operation) -> None:
    assert EraLedger().do(6, operation) == "not_a_candidate"


@pytest.mark.parametrize(
    "operation",
    [
        Bond(MINIMUM, "no port", API, b""),
        Bond(MINIMUM, "two words:1", API, b""),
        Bond(MINIMUM, LINK, "ftp://x", b""),
        Bond(MINIMUM, LINK, API, b"short"),
        Bond(0, LINK, API, b""),
        Bond(MINIMUM, "x" * 128 + ":1", API, b""),
        AnnounceEndpoint("http://x", "no port"),
        Unbond(0),
        Ready(1, b"short"),
    ],
)
def test_operations_that_make_no_sense_are_no_valid_transactions(operation: Operation) -> None:
    ledger = EraLedger()
    with pytest.raises(Malformed):
        ledger.chain.check(ledger.sign(NODES[0], operation))


def test_later_bonds_change_only_what_they_name() -> None:
    ledger = EraLedger()
    assert ledger.bond(5, BOND, generation=0) == "ok"
    first = ledger.candidate(5)
    assert (first.onion, first.onion_start) == (onion(5).tip, 2)
    assert ledger.do(5, Bond(1, "127.0.0.1:9", "", b"")) == "ok"
    assert ledger.candidate(5) == replace(first, bond=BOND + 1, link_address="127.0.0.1:9")
    ledger.end_era()
    assert ledger.bond(5, 1, generation=0) == "ok"
    assert (ledger.candidate(5).onion_start, ledger.candidate(5).next_onion) == (2, b"")
    # Another tip than the one that does not count yet takes its place and waits anew.
    assert ledger.bond(5, 1, generation=1) == "ok"
    assert (ledger.candidate(5).onion, ledger.candidate(5).onion_start) == (onion(5, 1).tip, 3)
    assert ledger.candidate(5).next_onion == b""


def test_a_genesis_with_staking_reads_back() -> None:
    genesis = era_genesis(onions=True)
    assert Genesis.from_json(genesis.to_json()) == genesis
    assert replace(genesis, staking=replace(genesis.staking, committee_size=5)).chain_id() != genesis.chain_id()


@pytest.mark.parametrize("changes", [{"onion_tip": b"short"}, {"api_url": "x" * 257}, {"link_address": "x" * 257}])
def test_a_genesis_with_a_validator_that_cannot_work_is_refused(changes: dict[str, object]) -> None:
    genesis = era_genesis()
    wrong = replace(genesis.validators[0], **changes)
    with pytest.raises(BadConfiguration):
        replace(genesis, validators=(wrong, *genesis.validators[1:])).check()
