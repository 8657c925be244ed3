"""The wire of a relay: what is sent is what is read, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.errors import Malformed, Oversized, PeerFault
from blockcloud.service_access.relay.errors import REFUSALS, Status
from blockcloud.service_access.relay.messages import (
    ANSWER_BYTES,
    HEADER_BYTES,
    NO_SUBJECT,
    PREAMBLE_BYTES,
    ControlMessage,
    HandshakePart,
    Invite,
    MessageKind,
    Preamble,
    Refused,
    Registered,
    RelayPing,
    RelayPong,
    Wish,
    decode_answer,
    decode_body,
    decode_header,
    decode_preamble,
    encode_answer,
    encode_message,
    encode_preamble,
)

subjects = st.binary(min_size=32, max_size=32)
preambles = st.one_of(
    st.just(Preamble(Wish.CONTROL)), st.builds(Preamble, st.sampled_from((Wish.DIAL, Wish.MEET)), subjects)
)
numbers = st.integers(0, 2**62)
parts = st.builds(
    HandshakePart,
    st.sampled_from((MessageKind.HELLO, MessageKind.REPLY, MessageKind.FINISH)),
    st.binary(max_size=4_096),
)
messages = st.one_of(
    parts,
    st.builds(Registered, st.integers(1, 3_600_000)),
    st.builds(Refused, st.text(max_size=20), st.text(max_size=40)),
    st.builds(Invite, subjects),
    st.builds(RelayPing, numbers),
    st.builds(RelayPong, numbers),
)


@given(preambles)
def test_a_preamble_is_read_as_it_was_written(preamble: Preamble) -> None:
    data = encode_preamble(preamble)
    assert len(data) == PREAMBLE_BYTES
    assert decode_preamble(data) == preamble


@given(st.one_of(st.binary(max_size=80), st.binary(min_size=PREAMBLE_BYTES, max_size=PREAMBLE_BYTES)))
def test_garbage_is_no_preamble_and_no_answer(data: bytes) -> None:
    for decode in (decode_preamble, decode_answer):
        with pytest.raises(Malformed):
            decode(data)


@given(preambles, st.integers(0, PREAMBLE_BYTES * 8 - 1))
def test_a_preamble_with_a_flipped_bit_is_another_one_or_none(preamble: Preamble, bit: int) -> None:
    data = bytearray(encode_preamble(preamble))
    data[bit // 8] ^= 1 << bit % 8
    try:
        read = decode_preamble(bytes(data))
    except Malformed:
        return
    assert encode_preamble(read) == bytes(data)


@pytest.mark.parametrize("change", [slice(0, 4), slice(4, 5), slice(5, 6), slice(6, 8)])
def test_each_field_of_a_preamble_is_checked(change: slice) -> None:
    data = bytearray(encode_preamble(Preamble(Wish.DIAL, bytes(range(32)))))
    data[change] = b"\xff" * (change.stop - change.start)
    with pytest.raises(Malformed):
        decode_preamble(bytes(data))


def test_who_registers_cannot_name_a_key() -> None:
    with pytest.raises(Malformed):
        decode_preamble(encode_preamble(Preamble(Wish.CONTROL, bytes(31) + b"\1")))
    assert decode_preamble(encode_preamble(Preamble(Wish.CONTROL))).subject == NO_SUBJECT


@pytest.mark.parametrize("status", list(Status))
def test_every_answer_is_read_and_every_refusal_has_a_reason(status: Status) -> None:
    data = encode_answer(status)
    assert len(data) == ANSWER_BYTES
    assert decode_answer(data) is status
    assert status is Status.OK or REFUSALS[status].status is status


def read(data: bytes) -> ControlMessage:
    kind, length = decode_header(data[:HEADER_BYTES])
    assert length == len(data) - HEADER_BYTES
    return decode_body(kind, data[HEADER_BYTES:])


@given(messages)
def test_a_message_is_read_as_it_was_written(message: ControlMessage) -> None:
    assert read(encode_message(message)) == message


@given(st.binary(min_size=HEADER_BYTES, max_size=200))
def test_garbage_is_refused_by_type_or_is_a_message(data: bytes) -> None:
    try:
        kind, _ = decode_header(data[:HEADER_BYTES])
        message = decode_body(kind, data[HEADER_BYTES:])
    except PeerFault:
        return
    assert encode_message(message)[HEADER_BYTES:] == data[HEADER_BYTES:]


def test_a_length_beyond_the_limit_is_refused_before_anything_is_read() -> None:
    with pytest.raises(Oversized):
        decode_header(bytes([MessageKind.PING]) + (4_097).to_bytes(2))
    with pytest.raises(Malformed):
        decode_header(b"\0\0\1")


@pytest.mark.parametrize(
    "message",
    [
        Registered(0),
        Registered(3_600_001),
        Refused("x", "y" * 256),
        Invite(bytes(31)),
        RelayPing(-1),
        RelayPong(2**62 + 1),
    ],
)
def test_what_is_out_of_range_is_refused(message: ControlMessage) -> None:
    with pytest.raises(Malformed):
        read(encode_message(message))
