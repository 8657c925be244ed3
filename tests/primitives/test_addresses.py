"""Addresses against the vectors of BIP 350, and against typing errors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.addresses import bech32m_decode, bech32m_encode, format_address, parse_address
from blockcloud.primitives.errors import InvalidAddress

ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
# BIP 350: valid strings whose data is a whole number of bytes, with that data.
VALID = [
    ("abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx", "abcdef", "ffbbcdeb38bdab49ca307b9ac5a928398a418820"),
    ("A1LQFN3A", "a", ""),
]
INVALID = [
    "qyrz8wqd2c9m",
    "1qyrz8wqd2c9m",
    "y1b0jsk6g",
    "lt1igcx5c0",
    "in1muywd",
    "mm1crxm3i",
    "M1VUXWEZ",
    "16plkw9",
    "1p2gdwpf",
]


@pytest.mark.parametrize(("text", "prefix", "data"), VALID)
def test_valid_vectors(text: str, prefix: str, data: str) -> None:
    assert bech32m_decode(text) == (prefix, bytes.fromhex(data))
    assert bech32m_encode(prefix, bytes.fromhex(data)) == text.lower()


@pytest.mark.parametrize("text", INVALID)
def test_invalid_vectors(text: str) -> None:
    with pytest.raises(InvalidAddress):
        bech32m_decode(text)


@given(st.binary(min_size=32, max_size=32), st.data())
def test_up_to_four_wrong_characters_are_found(key: bytes, data: st.DataObject) -> None:
    address = format_address(key)
    assert parse_address(address) == key
    places = data.draw(st.sets(st.integers(len("bloc1"), len(address) - 1), min_size=1, max_size=4))
    wrong = list(address)
    for place in sorted(places):
        wrong[place] = data.draw(st.sampled_from([c for c in ALPHABET if c != address[place]]))
    with pytest.raises(InvalidAddress):
        parse_address("".join(wrong))


def test_another_prefix_and_another_length_are_refused() -> None:
    with pytest.raises(InvalidAddress):
        parse_address(bech32m_encode("blok", bytes(32)))
    with pytest.raises(InvalidAddress):
        parse_address(bech32m_encode("bloc", bytes(33)))
