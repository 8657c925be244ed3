"""Amounts of BLOC: integers in micro-BLOC everywhere inside, decimal text only at the edge."""

from __future__ import annotations

import re

from blockcloud.primitives.errors import InvalidAmount

MICRO_PER_BLOC = 1_000_000
GENESIS_SUPPLY_MICRO_BLOC = 10_000_000_000 * MICRO_PER_BLOC
# Supply plus all emission (30 %) stays far below this; a sum of two amounts stays below 2**63.
MAXIMUM_MICRO_BLOC = 2**62
_DECIMAL = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,6}))?", re.ASCII)


def parse_amount(text: str) -> int:
    """Micro-BLOC of a decimal text such as `12` or `0.25`. Raises InvalidAmount."""
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise InvalidAmount("an amount is a decimal number of BLOC with at most six places", text=text[:40])
    return check_amount(int(match[1]) * MICRO_PER_BLOC + int((match[2] or "").ljust(6, "0")))


def format_amount(micro_bloc: int) -> str:
    """Decimal BLOC without trailing zeros: `0.25`."""
    whole, part = divmod(micro_bloc, MICRO_PER_BLOC)
    return f"{whole}.{part:06d}".rstrip("0") if part else str(whole)


def check_amount(micro_bloc: int) -> int:
    """`micro_bloc` if it is in range. Raises InvalidAmount."""
    if not 0 <= micro_bloc <= MAXIMUM_MICRO_BLOC:
        raise InvalidAmount("amount out of range", micro_bloc=micro_bloc)
    return micro_bloc
