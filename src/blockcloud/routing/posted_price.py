"""What a service asks, as its service file posts it (`bc:price`): an amount of BLOC for one of a unit.

The unit is a word that provider and consumer understand in the same way ("request", "session", "hour"). Prices in
different units cannot be compared, and nothing here converts them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from blockcloud.primitives.amounts import format_amount, parse_amount
from blockcloud.primitives.errors import InvalidAmount
from blockcloud.routing.errors import InvalidPrice

PRICE_TERM: Final = "bc:price"
UNIT_CHARACTERS: Final = 32
_UNIT = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class PostedPrice:
    """`micro_bloc` for one `unit`."""

    micro_bloc: int
    unit: str

    def __str__(self) -> str:
        return f"{format_amount(self.micro_bloc)}/{self.unit}"

    def term(self) -> dict[str, str]:
        """As it stands in a service file; the amount is text, because JSON has no exact decimal numbers."""
        return {"amount": format_amount(self.micro_bloc), "unit": self.unit}


def parse_price(text: str) -> PostedPrice:
    """The price in a text such as `0.001/request`. Raises InvalidPrice."""
    amount, slash, unit = text.partition("/")
    if not slash:
        raise InvalidPrice("a price is an amount of BLOC for a unit, as in 0.001/request", text=text[:60])
    return _price(amount, unit)


def read_price(document: Mapping[str, Any]) -> PostedPrice | None:
    """The price that a service file posts, None if it posts none. Raises InvalidPrice."""
    if PRICE_TERM not in document:
        return None
    term = document[PRICE_TERM]
    if not isinstance(term, dict) or term.keys() != {"amount", "unit"}:
        raise InvalidPrice("a posted price has an amount and a unit")
    return _price(term["amount"], term["unit"])


def _price(amount: object, unit: object) -> PostedPrice:
    if not isinstance(unit, str) or len(unit) > UNIT_CHARACTERS or not _UNIT.fullmatch(unit):
        raise InvalidPrice("a unit is a word of small letters, digits and hyphens", unit=str(unit)[:60])
    if not isinstance(amount, str):
        raise InvalidPrice("the amount of a price is text", amount=str(amount)[:60])
    try:
        return PostedPrice(parse_amount(amount), unit)
    except InvalidAmount as error:
        raise InvalidPrice(error.message, amount=amount[:60]) from None
