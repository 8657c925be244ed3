"""Resource weights: from confirmed stakes to parts per million (CloudPoS phase 1, DESIGN section 3.4).

Units differ between dimensions, so a member counts in each by its share of what all members have confirmed there, and
its weight is the mean of its shares. A dimension in which nobody has anything is left out of the mean: its share would
be lost for all alike. The weights sum to a million exactly; what rounding down leaves over goes to the largest
remainders. Nobody has less than 1, since a committee has no member of weight 0 and a draw without replacement must
always find enough members; who is to lead nothing is given 0 in the leader table instead (`reputation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

from blockcloud.transaction_chain.cloudpos.stake import Resources

WHOLE_PPM: Final = 1_000_000


def resource_weights(stakes: Sequence[Resources]) -> tuple[int, ...]:
    """Weights in ppm, one for each of the (at most a million) `stakes`: at least 1 each, a million in all. If nobody
    has anything, all are equal."""
    assert 0 < len(stakes) <= WHOLE_PPM, "there is something to share, and enough of it"
    numerators, denominator = _mean_shares(stakes)
    # One ppm each, and the rest by share: this keeps the order of the shares, which a correction afterwards would not.
    rest = WHOLE_PPM - len(stakes)
    parts = [divmod(rest * numerator, denominator) for numerator in numerators]
    weights = [1 + whole for whole, _ in parts]
    by_remainder = sorted(range(len(stakes)), key=lambda member: (-parts[member][1], member))
    for member in by_remainder[: WHOLE_PPM - sum(weights)]:
        weights[member] += 1
    return tuple(weights)


def _mean_shares(stakes: Sequence[Resources]) -> tuple[list[int], int]:
    """The mean share of each member, exactly, as numerators over one denominator."""
    columns = [column for column in zip(*(stake.dimensions() for stake in stakes), strict=True) if any(column)]
    if not columns:
        return [1] * len(stakes), len(stakes)
    totals = [sum(column) for column in columns]
    whole = prod(totals)
    numerators = [
        sum(column[member] * (whole // total) for column, total in zip(columns, totals, strict=True))
        for member in range(len(stakes))
    ]
    return numerators, whole * len(columns)
