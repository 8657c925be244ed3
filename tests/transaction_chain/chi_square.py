"""Pearson's chi-square statistic, exactly, and the bounds beyond which a draw does not have the expected distribution.

The bounds are the quantiles of the chi-square distribution at 1 - 10^-6: a right draw exceeds one in a million times.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

# Degrees of freedom -> bound.
BOUNDS = {3: Fraction("30.66"), 9: Fraction("44.81"), 11: Fraction("48.87"), 19: Fraction("63.68")}


def statistic(counts: Sequence[int], probabilities: Sequence[Fraction]) -> Fraction:
    """Sum of (observed - expected)^2 / expected over all cells, none of which is impossible."""
    assert sum(probabilities) == 1
    total = sum(counts)
    expected = [total * probability for probability in probabilities]
    assert min(expected) >= 5, "too few draws for the distribution to hold"
    return sum(((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True)), Fraction(0))


def fits(counts: Sequence[int], probabilities: Sequence[Fraction]) -> bool:
    """Whether `counts` can come from independent draws with `probabilities`."""
    return statistic(counts, probabilities) <= BOUNDS[len(counts) - 1]
