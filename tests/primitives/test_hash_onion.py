"""Hash onions: every reveal leads to the tip in exactly its number of steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.hash_onion import HashOnion, peel, verify_reveal


@given(st.binary(min_size=32, max_size=32), st.integers(1, 60), st.integers(1, 9), st.data())
def test_reveals(core: bytes, length: int, stride: int, data: st.DataObject) -> None:
    onion = HashOnion(core, length, stride)
    number = data.draw(st.integers(1, length))
    earlier = data.draw(st.integers(0, number - 1))
    known = onion.tip if earlier == 0 else onion.reveal(earlier)
    assert verify_reveal(known, onion.reveal(number), number - earlier)
    assert not verify_reveal(known, onion.reveal(number), number - earlier + 1)
    assert not verify_reveal(known, peel(onion.reveal(number)), number - earlier)
    assert onion.reveal(length) == core


def test_bounds() -> None:
    onion = HashOnion(bytes(32), 3)
    assert onion.tip == peel(peel(peel(bytes(32))))
    for number in (0, 4):
        with pytest.raises(IndexError):
            onion.reveal(number)
    assert not verify_reveal(onion.tip, onion.tip, 0)
