"""What a consumer makes of posted prices: which one is known, and which one is too high for it.

A price is a line of the service file (`routing.posted_price`), so asking for it may mean fetching that file. A limit
makes it worth that, once for each file and before a session begins; the choice among instances takes what is known.
"""

from __future__ import annotations

from typing import Protocol

from blockcloud.routing.posted_price import PostedPrice
from blockcloud.service_access.errors import OtherPriceUnit, PriceAboveMaximum
from blockcloud.service_access.resolution import Resolution


class PriceList(Protocol):
    """Knows the checked service files of names."""

    def known_price(self, resolution: Resolution) -> PostedPrice | None:
        """What the file posts, without asking anybody; None: it posts nothing, or it is not at hand."""

    async def price(self, resolution: Resolution) -> PostedPrice | None:
        """What the file posts; None: nothing, or the name has no file. Raises why the file cannot be had."""


class Prices:
    """`listed` prices for a consumer that pays `maximum` at most (None: whatever is asked)."""

    def __init__(self, listed: PriceList, maximum: PostedPrice | None = None) -> None:
        self._listed = listed
        self._maximum = maximum

    def known_micro_bloc(self, resolution: Resolution) -> int | None:
        """What is asked, as far as it is known."""
        price = self._listed.known_price(resolution)
        return price.micro_bloc if price is not None else None

    async def check(self, resolution: Resolution) -> None:
        """Let a service pass that posts no price, or one up to the maximum.

        Raises PriceAboveMaximum, OtherPriceUnit, and why nobody can say what is asked.
        """
        maximum = self._maximum
        if maximum is None:
            return
        price = await self._listed.price(resolution)
        if price is None:
            return
        if price.unit != maximum.unit:
            raise OtherPriceUnit(name=resolution.name, posted=str(price), maximum=str(maximum))
        if price.micro_bloc > maximum.micro_bloc:
            raise PriceAboveMaximum(name=resolution.name, posted=str(price), maximum=str(maximum))
