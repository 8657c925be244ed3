"""The genesis as bytes and as a file, and how the price of a transaction follows the load."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.service_chain.execution import RULES
from blockcloud.service_chain.fees import OPERATION_WEIGHTS, next_base_fee
from blockcloud.service_chain.genesis import FeeParameters, Genesis, NamingParameters
from blockcloud.service_chain.operations import OPERATIONS, Transfer
from blockcloud.transaction_chain.parameters import Parameters
from tests.service_chain.ledger_in_memory import USERS, Ledger, small_genesis

GENESIS = small_genesis()


def test_a_genesis_file_reads_back() -> None:
    read = Genesis.from_json(GENESIS.to_json())
    assert read == GENESIS
    assert read.chain_id() == GENESIS.chain_id()


def test_whatever_differs_makes_another_chain() -> None:
    changes: list[dict[str, Any]] = [
        {"name": "other"},
        {"time_ms": 1},
        {"parameters": Parameters(checkpoint_period=5)},
        {"naming": NamingParameters()},
        {"fees": FeeParameters(base_fee=11)},
        {"accounts": GENESIS.accounts[::-1]},
        {"validators": GENESIS.validators[::-1]},
    ]
    ids = {msgspec.structs.replace(GENESIS, **change).chain_id() for change in changes}
    assert len(ids | {GENESIS.chain_id()}) == len(changes) + 1


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"time_ms": -1},
        {"accounts": GENESIS.accounts[:-1]},
        {"accounts": (*GENESIS.accounts, (bytes(32), 1))},
        {"accounts": (*GENESIS.accounts, (bytes(31), 0))},
        {"accounts": (*GENESIS.accounts, (USERS[0].public, 0))},
        {"validators": ()},
        {"naming": NamingParameters(preorder_min=5, preorder_max=5)},
        {"fees": FeeParameters(base_fee=0)},
        {"parameters": Parameters(leader_slots=3)},
    ],
)
def test_a_genesis_that_does_not_add_up_is_refused(change: dict[str, Any]) -> None:
    genesis = msgspec.structs.replace(GENESIS, **change)
    with pytest.raises(BadConfiguration):
        genesis.check()
    with pytest.raises(BadConfiguration):
        Genesis.from_json(genesis.to_json())
    with pytest.raises(BadConfiguration):
        Ledger(genesis)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", GENESIS.to_json().replace('"name"', '"nom"')])
def test_what_is_not_a_genesis_file_is_refused(text: str) -> None:
    with pytest.raises(BadConfiguration):
        Genesis.from_json(text)


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(BadConfiguration):
        Genesis.from_json(GENESIS.to_json().replace('"lifetime"', '"life"'))
    with pytest.raises(BadConfiguration):
        Genesis.from_json(GENESIS.to_json().replace('"lifetime": 20', '"lifetime": "20"'))


def test_every_operation_has_a_weight_and_a_rule() -> None:
    assert list(OPERATION_WEIGHTS) == list(RULES) == list(OPERATIONS)


@given(st.integers(1, 2**40), st.integers(0, 2**40), st.integers(1, 2**30))
def test_the_base_fee_moves_by_at_most_an_eighth_towards_the_target(base: int, weight: int, target: int) -> None:
    parameters = FeeParameters(target_weight=target)
    after = next_base_fee(base, weight, parameters)
    assert after >= parameters.base_fee_floor
    assert abs(after - base) <= max(1, base // 8)
    if weight == target:
        assert after == base
    elif weight > target:
        assert after > base
    else:
        assert after < base or base == parameters.base_fee_floor


def test_the_base_fee_rises_under_load_shuts_cheap_offers_out_and_falls_afterwards() -> None:
    """A ledger whose target is twenty transfers a commit gets sixty in each."""
    payer, payee, weight = USERS[1], USERS[2].public, 13
    ledger = Ledger(small_genesis(fees=FeeParameters(base_fee=8, target_weight=20 * weight)))
    cheap_limit = 10 * weight
    assert ledger.run(payer, Transfer(payee, 1), fee_limit=cheap_limit) == "ok"
    fees = [ledger.chain.base_fee]
    while fees[-1] < 100:
        first = ledger.sequence(payer)
        codes = ledger.commit(*[ledger.sign(payer, Transfer(payee, 1), sequence=first + n) for n in range(60)])
        assert codes == ["ok"] * 60
        fees.append(ledger.chain.base_fee)
        assert fees[-2] < fees[-1] <= fees[-2] + max(1, fees[-2] // 8), fees
    assert len(fees) < 40, "an eighth each commit"
    assert ledger.run(payer, Transfer(payee, 1), fee_limit=cheap_limit) == "fee_limit_too_low"
    falling = [ledger.chain.base_fee]
    while falling[-1] > 1:
        ledger.advance(1)
        falling.append(ledger.chain.base_fee)
        assert falling[-2] - max(1, falling[-2] // 8) <= falling[-1] < falling[-2], falling
    ledger.advance(1)
    assert ledger.chain.base_fee == 1, "the floor"
    assert ledger.run(payer, Transfer(payee, 1), fee_limit=cheap_limit) == "ok"
