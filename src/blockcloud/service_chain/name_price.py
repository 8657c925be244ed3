"""What a name below a namespace costs: a rule of a few small integers, fixed when the namespace is opened.

    price = coefficient * base ** exponents[min(length, 16) - 1] // discount

in micro-BLOC, rounded down. `length` counts the characters of the label, and the sixteenth exponent is for all longer
ones. `discount` is the larger of the two that apply: `no_vowel_discount` to a label without a, e, i, o, u and y,
`non_letter_discount` to one with a digit or a hyphen; 1 where none does.

The form is that of Blockstack's name system (`reference/sources.md` 6.2), with three differences: the coefficient is an
amount and has no hidden unit; everything is an integer; and the discounts do not multiply, as its documents say, but
the larger one counts, as its code did.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC
from blockcloud.primitives.codec import Struct

PRICED_LENGTHS: Final = 16
BASE_MAX: Final = 16
EXPONENT_MAX: Final = 15
DISCOUNT_MAX: Final = 15
VOWELS: Final = "aeiouy"

Exponent = Annotated[int, Meta(ge=0, le=EXPONENT_MAX)]
Discount = Annotated[int, Meta(ge=1, le=DISCOUNT_MAX)]


class PriceRule(Struct, frozen=True):
    """The rule of a namespace; `coefficient` in micro-BLOC. With base 1 all labels cost the same, but for discounts."""

    coefficient: Annotated[int, Meta(ge=0, le=MAXIMUM_MICRO_BLOC)]
    base: Annotated[int, Meta(ge=1, le=BASE_MAX)]
    exponents: Annotated[tuple[Exponent, ...], Meta(min_length=PRICED_LENGTHS, max_length=PRICED_LENGTHS)]
    no_vowel_discount: Discount
    non_letter_discount: Discount


def price_of_length(rule: PriceRule, length: int) -> int:
    """Micro-BLOC for a label of `length` characters (1 and up) that gets no discount."""
    factor: int = rule.base ** rule.exponents[min(length, PRICED_LENGTHS) - 1]
    return rule.coefficient * factor


def price_of_label(rule: PriceRule, label: str) -> int:
    """Micro-BLOC for a label."""
    discount = 1
    if not any(letter in VOWELS for letter in label):
        discount = rule.no_vowel_discount
    if not label.isalpha():
        discount = max(discount, rule.non_letter_discount)
    return price_of_length(rule, len(label)) // discount


def highest_price(rule: PriceRule) -> int:
    """Micro-BLOC that no label costs more than."""
    factor: int = rule.base ** max(rule.exponents)
    return rule.coefficient * factor
