"""Text at the edge: names, URIs and decimal amounts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC, format_amount, parse_amount
from blockcloud.primitives.errors import InvalidAmount, InvalidName
from blockcloud.primitives.names import parent_of, parse_name, split_uri


@pytest.mark.parametrize("name", ["a", "acme", "thermo.kitchen.acme", "xn--bcher-kva.acme", "a-b.c9", "a" * 63])
def test_names(name: str) -> None:
    assert parse_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "A",
        "a_b",
        "-a",
        "a-",
        "ab--c",
        "a b",
        "é",
        "a" * 64,
        "a\n",
        "١",
        ".".join(["a" * 63] * 4),
    ],
)
def test_not_names(name: str) -> None:
    with pytest.raises(InvalidName):
        parse_name(name)


def test_parents_and_uris() -> None:
    assert parent_of("thermo.kitchen.acme") == "kitchen.acme"
    assert parent_of("acme") == ""
    assert split_uri("bloc://thermo.acme/a/b?c") == ("thermo.acme", "/a/b?c")
    with pytest.raises(InvalidName):
        split_uri("http://thermo.acme/")


@given(st.integers(0, MAXIMUM_MICRO_BLOC))
def test_amounts_round_trip(micro: int) -> None:
    assert parse_amount(format_amount(micro)) == micro


@pytest.mark.parametrize("text", ["", "-1", "1.0000001", "1e6", ".5", "1.", "٣", "1 ", "99999999999999999", "0x1"])
def test_not_amounts(text: str) -> None:
    with pytest.raises(InvalidAmount):
        parse_amount(text)
