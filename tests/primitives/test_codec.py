"""The codec accepts exactly one encoding of a value."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import Malformed, NonCanonical, Oversized, PeerFault


class Sample(Struct):
    number: int
    data: bytes
    items: tuple[str, ...]


samples = st.builds(Sample, st.integers(-(2**63), 2**64 - 1), st.binary(max_size=40), st.tuples(st.text(max_size=5)))


@given(samples)
def test_round_trip(sample: Sample) -> None:
    assert codec.decode(codec.encode(sample), Sample, limit=1_000) == sample


@given(samples, st.data())
def test_any_changed_byte_gives_another_value_or_a_typed_error(sample: Sample, data: st.DataObject) -> None:
    encoded = bytearray(codec.encode(sample))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        other = codec.decode(bytes(encoded), Sample, limit=1_000)
    except PeerFault:
        return
    assert codec.encode(other) == encoded


def test_longer_forms_are_refused() -> None:
    canonical = codec.encode(Sample(1, b"x", ("y",)))
    longer = canonical[:1] + b"\xcf" + (1).to_bytes(8, "big") + canonical[2:]
    assert msgspec.msgpack.decode(longer, type=Sample) == Sample(1, b"x", ("y",))
    with pytest.raises(NonCanonical):
        codec.decode(longer, Sample, limit=1_000)


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b + b"\x00", lambda b: b"", lambda b: b"\xff" * 20])
def test_truncated_trailing_and_garbage_are_malformed(spoil) -> None:
    with pytest.raises(Malformed):
        codec.decode(spoil(codec.encode(Sample(1, b"x", ("y",)))), Sample, limit=1_000)


def test_an_extra_field_is_malformed() -> None:
    with pytest.raises(Malformed):
        codec.decode(codec.encode([1, b"x", ["y"], 4]), Sample, limit=1_000)


def test_the_limit_comes_before_decoding() -> None:
    with pytest.raises(Oversized):
        codec.decode(b"\xff" * 101, Sample, limit=100)


@given(st.binary(max_size=200))
def test_garbage_never_raises_anything_else(garbage: bytes) -> None:
    try:
        codec.decode(garbage, Sample, limit=100)
    except PeerFault:
        pass
    else:
        assert codec.encode(codec.decode(garbage, Sample, limit=100)) == garbage
