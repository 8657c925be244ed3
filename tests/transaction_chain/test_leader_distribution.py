"""Leader election over many eras: the draw has the distribution that the weights ask for.

Beacons are hashes of the era's number, so the draws are fixed and this is no question of luck. Each test that something
fits has one beside it that shows that the statistic would notice if it did not.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations, product

import pytest

from blockcloud.primitives.hashes import tagged_hash
from blockcloud.transaction_chain.committee import Committee, Member
from blockcloud.transaction_chain.leaders import LeaderSchedule
from tests.transaction_chain.chi_square import fits

ERAS = 400
LEVELS = 20
EQUAL = (1,) * 10
UNEQUAL = (400_000, 200_000, 100_000, 100_000, 80_000, 50_000, 40_000, 15_000, 10_000, 5_000)


def draws(weights: tuple[int, ...], slots: int, table: tuple[int, ...] | None = None) -> list[tuple[int, ...]]:
    """The leaders of the first levels of many eras."""
    committee = Committee(Member(bytes([index]) * 32, 1, weight) for index, weight in enumerate(weights))
    drawn = []
    for era in range(ERAS):
        schedule = LeaderSchedule(committee, slots, tagged_hash("test/v1", era.to_bytes(8, "big")))
        if table is not None:
            schedule.use_weights(1, table)
        drawn += [schedule.leaders(level) for level in range(1, 1 + LEVELS)]
    return drawn


def counted(slot: int, drawn: list[tuple[int, ...]], members: int) -> list[int]:
    return [sum(leaders[slot] == member for leaders in drawn) for member in range(members)]


def first(weights: tuple[int, ...]) -> list[Fraction]:
    return [Fraction(weight, sum(weights)) for weight in weights]


def second(weights: tuple[int, ...]) -> list[Fraction]:
    """Drawn without replacement: j follows i with the weight it has among those left."""
    total = sum(weights)
    return [
        sum(
            (Fraction(one, total) * Fraction(weight, total - one) for i, one in enumerate(weights) if i != member),
            Fraction(0),
        )
        for member, weight in enumerate(weights)
    ]


@pytest.mark.parametrize("weights", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_leaders_follow_the_weights_over_many_eras(weights: tuple[int, ...]) -> None:
    drawn = draws(weights, 2)
    assert fits(counted(0, drawn, 10), first(weights))
    assert fits(counted(1, drawn, 10), second(weights))


def test_the_statistic_sees_other_weights() -> None:
    drawn = draws(UNEQUAL, 2)
    off = (350_000, 250_000, *UNEQUAL[2:])
    assert not fits(counted(0, drawn, 10), first(EQUAL))
    assert not fits(counted(0, drawn, 10), first(off))
    assert not fits(counted(1, drawn, 10), first(UNEQUAL))


def test_pairs_of_leaders_are_drawn_without_replacement() -> None:
    weights = (1, 2, 3, 4)
    drawn = draws(weights, 2)
    pairs: list[tuple[int, ...]] = list(permutations(range(4), 2))
    expected = [
        Fraction(weights[one], 10) * Fraction(weights[other], 10 - weights[one])
        for one, other in permutations(range(4), 2)
    ]
    assert fits([drawn.count(pair) for pair in pairs], expected)


def test_who_is_out_of_the_table_leads_nothing_and_the_others_share() -> None:
    weights, table = (1, 2, 3, 4, 5), (1, 2, 0, 4, 5)
    counts = counted(0, draws(weights, 2, table), 5)
    assert counts.pop(2) == 0
    assert fits(counts, first((1, 2, 4, 5)))


@pytest.mark.parametrize("offset", [0, 1])
def test_successive_levels_do_not_depend_on_each_other(offset: int) -> None:
    """The pair (leader of a level, leader of the next) has the product of both probabilities."""
    weights = (1, 2, 3, 4)
    leaders = [drawn[0] for drawn in draws(weights, 1)]
    eras = [leaders[at : at + LEVELS] for at in range(0, len(leaders), LEVELS)]
    pairs: list[tuple[int, ...]] = [
        pair for era in eras for pair in zip(era[offset::2], era[offset + 1 :: 2], strict=False)
    ]
    # Five of the 16 cells count as one, for which there is a bound.
    merged = [(0, 0), (0, 1), (1, 0), (0, 2), (2, 0)]
    cells = [cell for cell in product(range(4), repeat=2) if cell not in merged]
    counts = [sum(pair in merged for pair in pairs)] + [pairs.count(cell) for cell in cells]
    chance = [Fraction(weights[one] * weights[other], 100) for one, other in [*merged, *cells]]
    assert fits(counts, [sum(chance[: len(merged)], Fraction(0)), *chance[len(merged) :]])
