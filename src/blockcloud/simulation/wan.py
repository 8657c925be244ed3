"""How far apart cloud regions are: round trips in milliseconds, approximate public figures, symmetric.

The data of `reference/parameters.md`, "WAN matrix for the simulator". Members of a committee are dealt to the regions
in turn.
"""

from __future__ import annotations

from typing import Final

REGIONS: Final = (
    "us-east",
    "us-west",
    "eu-west",
    "eu-central",
    "ap-northeast",
    "ap-southeast",
    "sa-east",
    "af-south",
    "ap-south",
)
# The upper triangle, row by row in the order of `REGIONS`, starting with a region's round trip to itself.
_ROUND_TRIP_MS: Final = (
    (2, 65, 75, 92, 150, 215, 115, 225, 190),
    (2, 130, 150, 105, 165, 175, 285, 225),
    (2, 25, 205, 175, 180, 155, 120),
    (2, 225, 160, 200, 155, 110),
    (2, 70, 255, 355, 125),
    (2, 320, 240, 60),
    (2, 340, 300),
    (2, 255),
    (2,),
)


def round_trip_ms(one: str, other: str) -> int:
    """The round trip between two regions. Raises ValueError for an unknown one."""
    low, high = sorted((REGIONS.index(one), REGIONS.index(other)))
    return _ROUND_TRIP_MS[low][high - low]


def latency_ms(members: int) -> tuple[tuple[int, ...], ...]:
    """One way from each member to each other: half a round trip, halves of a millisecond rounded up."""
    places = [REGIONS[member % len(REGIONS)] for member in range(members)]
    return tuple(tuple((round_trip_ms(one, other) + 1) // 2 for other in places) for one in places)
