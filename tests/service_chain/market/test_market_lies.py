"""Who lies gains nothing where the truth is promised, and what he gains elsewhere is found."""

from __future__ import annotations

import pytest

from blockcloud.service_chain.market.m1 import clear_m1
from blockcloud.service_chain.market.mcafee import clear_mcafee
from blockcloud.simulation.market.liars import (
    Gains,
    false_name_gains,
    outstaying_gains,
    ratchet_gains,
    sealed_gains,
    several_units_gains,
)

# Values of 1 to 6 take the smallest steps; those of 100 to 600 also the clamp and the near target.
SCALES = (1, 100)


def nobody_gains(gains: Gains) -> None:
    assert gains.could_gain == 0, gains.example
    assert gains.truthful_losses == 0
    assert gains.deficits == 0
    assert gains.truthful_total > 0, "somebody traded"


@pytest.mark.parametrize("scale", SCALES)
def test_the_ratchet_gives_a_liar_nothing(scale: int, run_seed: int) -> None:
    nobody_gains(ratchet_gains(run_seed, 250, scale))


@pytest.mark.long
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("part", [1, 2])
def test_the_ratchet_gives_twenty_thousand_liars_nothing(scale: int, part: int, run_seed: int) -> None:
    gains = ratchet_gains(run_seed + part, 5_000, scale)
    assert gains.traders >= 5_000
    nobody_gains(gains)


def test_mcafee_gives_a_liar_about_his_limit_nothing(run_seed: int) -> None:
    nobody_gains(sealed_gains(clear_mcafee, run_seed, 2_000))


def test_the_manipulations_of_the_original_rule_are_found(run_seed: int) -> None:
    nobody_gains(sealed_gains(clear_m1, run_seed, 1_000, buyers=True))
    sellers = sealed_gains(clear_m1, run_seed, 1_000, buyers=False)
    assert sellers.could_gain > 100, "a seller of one unit sets his own price"
    assert sellers.truthful_losses == 0
    buyers_of_several = sealed_gains(clear_m1, run_seed, 1_000, units=3, buyers=True)
    assert buyers_of_several.could_gain > 20, "a buyer asks for less than he wants"


def test_several_units_are_not_promised_to_mcafee_traders(run_seed: int) -> None:
    assert sealed_gains(clear_mcafee, run_seed, 1_000, units=2).could_gain > 20


def test_several_units_under_one_name_hardly_ever_gain(run_seed: int) -> None:
    one_name = several_units_gains(run_seed, 60)
    assert one_name.could_gain <= 3
    assert one_name.truthful_losses == 0


@pytest.mark.long
def test_the_holes_of_the_ratchet_are_as_small_as_published() -> None:
    """`docs/explanation/market.md` gives the figures of these seeds."""
    assert 0 < outstaying_gains(1, 2_000).could_gain < 100
    assert 0 < false_name_gains(1, 2_000).could_gain < 100
    assert 0 < several_units_gains(1, 500, two_names=True).could_gain < 50
