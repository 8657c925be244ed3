"""Prices in service files: text and back, exact amounts, nothing that is not a price."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC
from blockcloud.routing.errors import InvalidPrice, InvalidServiceFile
from blockcloud.routing.posted_price import UNIT_CHARACTERS, PostedPrice, parse_price, read_price
from blockcloud.routing.service_file import build_service_file, parse_service_file, read_document

NAME = "thermo.kitchen.acme"
PRICES = st.builds(
    PostedPrice,
    st.integers(0, MAXIMUM_MICRO_BLOC),
    st.from_regex(r"\A[a-z][a-z0-9-]*\Z").filter(lambda unit: len(unit) <= UNIT_CHARACTERS),
)


@given(PRICES)
def test_a_price_is_the_same_as_text_and_in_a_file(price: PostedPrice) -> None:
    assert parse_price(str(price)) == price
    file = build_service_file(NAME, "Thermometer", terms={"bc:price": price.term(), "bc:crit": ["bc:price"]})
    assert read_price(parse_service_file(file)) == price


@given(st.text(max_size=20))
def test_whatever_is_typed_is_a_price_or_refused(text: str) -> None:
    try:
        price = parse_price(text)
    except InvalidPrice:
        return
    assert parse_price(str(price)) == price


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "1",
            "/request",
            "0.001/",
            "-1/request",
            "1e3/request",
            "0.0000001/request",
            "1/Request",
            "1/a b",
            "1/9a",
        ),
        *("1/request/hour", "x/request", "1,5/request", "9999999999999/request", "1/" + "u" * (UNIT_CHARACTERS + 1)),
    ],
)
def test_nonsense_is_no_price(text: str) -> None:
    with pytest.raises(InvalidPrice):
        parse_price(text)


@pytest.mark.parametrize(
    "term",
    [
        None,
        "1/request",
        1,
        [],
        {},
        {"amount": "1"},
        {"amount": 1, "unit": "request"},
        {"amount": "1", "unit": 2},
        {"amount": "1", "unit": "request", "per": "day"},
        {"amount": "-1", "unit": "request"},
    ],
)
def test_a_file_with_another_kind_of_price_is_refused(term: object) -> None:
    document = json.loads(build_service_file(NAME, "Thermometer"))
    data = json.dumps({**document, "bc:price": term}, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(InvalidServiceFile, match="bc:price"):
        read_document(data)


def test_a_file_need_not_have_one() -> None:
    assert read_price(parse_service_file(build_service_file(NAME, "Thermometer"))) is None
