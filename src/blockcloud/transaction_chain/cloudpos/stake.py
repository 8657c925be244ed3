"""Stake determination: how much of its resources a node puts up (CloudPoS phase 1, DESIGN section 3.4).

The published design says X = f(R, gamma, Ru): stake is sliced off what a node has been allocated (R) and does not use
(Ru), scaled by its "implicit greediness" gamma. It gives no closed form; ours is floor(gamma * max(0, R - Ru)) for each
of three dimensions, with gamma in thousandths. Another f replaces `free_stake` (`determine` takes it as an argument)
as long as it gives nothing when nothing is free, never more than R, and never less for more R, more gamma or less Ru.

The result is a claim, not a fact: it counts for what the challenges of `node/resources` confirm (`verdicts`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import PeerFault

GAMMA_ONE: Final = 1_000
# In one dimension, of any unit. Bounded so that every product below fits where other implementations have 64 bits.
RESOURCE_LIMIT: Final = 2**50
COMPUTE_LANES_LIMIT: Final = 64

Amount: TypeAlias = Annotated[int, Meta(ge=0, le=RESOURCE_LIMIT)]
StakeRule: TypeAlias = Callable[[int, int, int], int]


class BadStake(PeerFault):
    """A stake is out of range."""

    code = "bad_stake"


class Resources(Struct, frozen=True):
    """The three dimensions: sequential hash steps a second, bytes on disk, bytes a second."""

    compute: Amount
    storage: Amount
    data_rate: Amount

    def dimensions(self) -> tuple[int, int, int]:
        """The amounts in the order in which every tuple of this package has them."""
        return self.compute, self.storage, self.data_rate


class StakeClaim(Struct, frozen=True):
    """What a candidate says it sets aside. `compute_lanes`: over how many cores it spreads its compute. `plot_root`
    commits to the plot of `resources.storage` bytes before the first challenge is known (`node/resources/plot.py`)."""

    resources: Resources
    compute_lanes: Annotated[int, Meta(ge=1, le=COMPUTE_LANES_LIMIT)]
    plot_root: Annotated[bytes, Meta(min_length=32, max_length=32)]


NOTHING: Final = Resources(0, 0, 0)


def free_stake(allocated: int, gamma: int, used: int) -> int:
    """f for one dimension: floor(gamma * max(0, allocated - used)), gamma in thousandths from 0 to 1,000.

    Raises BadStake for what is out of range.
    """
    if not (0 <= allocated <= RESOURCE_LIMIT and 0 <= used <= RESOURCE_LIMIT and 0 <= gamma <= GAMMA_ONE):
        raise BadStake(allocated=allocated, gamma=gamma, used=used)
    return gamma * max(0, allocated - used) // GAMMA_ONE


def determine(allocated: Resources, gamma: int, used: Resources, rule: StakeRule = free_stake) -> Resources:
    """X for all dimensions. Raises BadStake."""
    stakes = (rule(has, gamma, uses) for has, uses in zip(allocated.dimensions(), used.dimensions(), strict=True))
    return Resources(*stakes)
