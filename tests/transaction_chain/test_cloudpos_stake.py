"""CloudPoS stakes and weights: f keeps its promises for every input, and weights are mean shares."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.primitives.errors import Malformed
from blockcloud.transaction_chain.cloudpos.stake import (
    GAMMA_ONE,
    NOTHING,
    RESOURCE_LIMIT,
    BadStake,
    Resources,
    determine,
    free_stake,
)
from blockcloud.transaction_chain.cloudpos.weights import WHOLE_PPM, resource_weights
from blockcloud.transaction_chain.committee import Committee, Member

AMOUNTS = st.integers(0, RESOURCE_LIMIT)
GAMMAS = st.integers(0, GAMMA_ONE)
RESOURCES = st.builds(Resources, AMOUNTS, AMOUNTS, AMOUNTS)
STAKES = st.lists(RESOURCES | st.builds(Resources, *[st.integers(0, 3)] * 3), min_size=1, max_size=100)


@given(AMOUNTS, GAMMAS, AMOUNTS)
def test_stake_is_a_part_of_what_is_free(allocated: int, gamma: int, used: int) -> None:
    stake = free_stake(allocated, gamma, used)
    assert 0 <= stake <= max(0, allocated - used)
    assert stake <= Fraction(gamma, GAMMA_ONE) * max(0, allocated - used) < stake + 1


@given(AMOUNTS, GAMMAS, AMOUNTS, st.data())
def test_stake_is_monotone(allocated: int, gamma: int, used: int, data: st.DataObject) -> None:
    stake = free_stake(allocated, gamma, used)
    assert free_stake(data.draw(st.integers(allocated, RESOURCE_LIMIT)), gamma, used) >= stake
    assert free_stake(allocated, data.draw(st.integers(gamma, GAMMA_ONE)), used) >= stake
    assert free_stake(allocated, gamma, data.draw(st.integers(0, used))) >= stake


@given(AMOUNTS, GAMMAS, st.data())
def test_nothing_is_staked_when_nothing_is_free(allocated: int, gamma: int, data: st.DataObject) -> None:
    assert free_stake(allocated, gamma, data.draw(st.integers(allocated, RESOURCE_LIMIT))) == 0
    assert free_stake(allocated, 0, data.draw(AMOUNTS)) == 0


def test_all_that_is_free_is_staked_at_full_greed() -> None:
    assert free_stake(1_001, 1_000, 1) == 1_000
    assert free_stake(1_001, 500, 0) == 500


@given(RESOURCES, GAMMAS, RESOURCES)
def test_no_product_leaves_64_bits(allocated: Resources, gamma: int, used: Resources) -> None:
    stake = determine(allocated, gamma, used)
    assert max(stake.dimensions()) * GAMMA_ONE < 2**63
    assert codec.decode(codec.encode(stake), Resources, limit=64) == stake


@pytest.mark.parametrize(
    ("allocated", "gamma", "used"),
    [(-1, 1, 0), (1, -1, 0), (1, GAMMA_ONE + 1, 0), (1, 1, -1), (RESOURCE_LIMIT + 1, 1, 0), (1, 1, RESOURCE_LIMIT + 1)],
)
def test_what_is_out_of_range_is_refused(allocated: int, gamma: int, used: int) -> None:
    with pytest.raises(BadStake):
        free_stake(allocated, gamma, used)


@pytest.mark.parametrize("amount", [-1, RESOURCE_LIMIT + 1])
def test_resources_on_the_wire_are_bounded(amount: int) -> None:
    with pytest.raises(Malformed):
        codec.decode(codec.encode([0, amount, 0]), Resources, limit=64)


def test_the_rule_can_be_replaced() -> None:
    half = determine(Resources(10, 20, 30), 1_000, NOTHING, lambda has, gamma, uses: has // 2)
    assert half == Resources(5, 10, 15)


def mean_shares(stakes: list[Resources]) -> list[Fraction]:
    columns = [column for column in zip(*(stake.dimensions() for stake in stakes), strict=True) if any(column)]
    if not columns:
        return [Fraction(1, len(stakes))] * len(stakes)
    return [
        sum((Fraction(column[member], sum(column)) for column in columns), Fraction(0)) / len(columns)
        for member in range(len(stakes))
    ]


@given(STAKES)
def test_weights_are_mean_shares_and_sum_to_a_million(stakes: list[Resources]) -> None:
    weights = resource_weights(stakes)
    shares = mean_shares(stakes)
    assert sum(weights) == WHOLE_PPM
    assert min(weights) >= 1
    # The 1 ppm that everybody has comes out of everybody's share.
    assert all(abs(weight - share * WHOLE_PPM) <= len(stakes) for weight, share in zip(weights, shares, strict=True))


@given(STAKES)
def test_more_resources_never_weigh_less(stakes: list[Resources]) -> None:
    weights, shares = resource_weights(stakes), mean_shares(stakes)
    order = sorted(range(len(stakes)), key=lambda member: shares[member])
    assert all(weights[one] <= weights[other] + (shares[one] == shares[other]) for one, other in pairwise(order))


@given(STAKES, st.integers(2, 1_000))
def test_units_do_not_matter(stakes: list[Resources], factor: int) -> None:
    scaled = [Resources(stake.compute * factor, stake.storage, stake.data_rate) for stake in stakes]
    assert resource_weights(scaled) == resource_weights(stakes)


def test_weights_by_hand() -> None:
    one, other = Resources(30, 100, 0), Resources(10, 300, 0)
    assert resource_weights([one, other]) == (500_000, 500_000)
    assert resource_weights([one, NOTHING]) == (999_999, 1)
    assert resource_weights([NOTHING] * 3) == (333_334, 333_333, 333_333)
    # Shares (1/2, 1/4, 1/4), (1/2, 1/4, 1/4), (0, 1/2, 1/2).
    assert resource_weights([Resources(4, 1, 2), Resources(4, 1, 2), Resources(0, 2, 4)]) == (333_334, 333_333, 333_333)


@given(STAKES)
def test_a_committee_can_be_made_of_them(stakes: list[Resources]) -> None:
    weights = resource_weights(stakes)
    Committee(Member(bytes([index]) * 32, 1, weight) for index, weight in enumerate(weights))
