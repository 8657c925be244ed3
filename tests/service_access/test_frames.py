"""Frames: what is encoded is decoded however it is cut; limits hold before memory is taken; junk is typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.codec import encode
from blockcloud.primitives.errors import Malformed, NonCanonical, Oversized, PeerFault
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.frames import (
    DATA_BYTES,
    Ack,
    Challenge,
    Data,
    Datagram,
    Fin,
    Frame,
    FrameDecoder,
    HandshakeFrame,
    Kind,
    Moved,
    Ping,
    Pong,
    Proof,
    Resume,
    Rst,
    data_header,
    datagram_header,
    encode_frame,
    encode_handshake,
)
from blockcloud.service_access.handshake import HANDSHAKE_MESSAGE_BYTES

NUMBERS = st.integers(0, 2**62)
ADDRESSES = st.lists(
    st.one_of(
        st.builds(
            Address,
            st.sampled_from(("tls", "quic", "relay", "later-kind")),
            st.sampled_from(("127.0.0.1", "::1", "host.example")),
            st.integers(1, 65_535),
        ),
        st.just(Address("unix", "/run/a b/c.sock", 0)),
        st.just(Address("later-kind", "whatever it needs", 0)),
    ),
    max_size=4,
)
MALFORMED_ADDRESSES = (
    Address("tls", "h", 0),
    Address("tls", "", 5),
    Address("tls", "h", 65_536),
    Address("tls", "h\u00e9", 5),
    Address("quic", "h" * 254, 5),
    Address("Tls", "h", 5),
    Address("", "h", 5),
    Address("k" * 17, "h", 5),
    Address("later-kind", "", 5),
    Address("later-kind", "h", -1),
    Address("unix", "/a", 1),
    Address("unix", "a", 0),
    Address("unix", "/a/", 0),
    Address("unix", "/a\x00", 0),
    Address("unix", "/" + "a" * 107, 0),
)
B32 = st.binary(min_size=32, max_size=32)
STRUCTS = st.one_of(
    st.builds(Ack, NUMBERS, NUMBERS),
    st.builds(Ping, NUMBERS),
    st.builds(Pong, NUMBERS),
    st.builds(Fin, NUMBERS),
    st.builds(Rst, st.text(max_size=20), st.text(max_size=40)),
    st.builds(Moved, NUMBERS, ADDRESSES.map(tuple), B32),
    st.builds(Resume, st.binary(min_size=16, max_size=16), NUMBERS, B32),
    st.builds(Challenge, B32, NUMBERS, ADDRESSES.map(tuple), B32),
    st.builds(Proof, NUMBERS, ADDRESSES.map(tuple), B32),
)
DATAS = st.tuples(NUMBERS, st.binary(max_size=2_000))
DATAGRAMS = st.binary(max_size=1_200)


def wire(item: object) -> bytes:
    if isinstance(item, bytes):
        return datagram_header(len(item)) + item
    if isinstance(item, tuple):
        offset, payload = item
        return data_header(offset, len(payload)) + payload
    return encode_frame(item)  # type: ignore[arg-type]


def plain(frame: Frame | None) -> object:
    if isinstance(frame, Datagram):
        return bytes(frame.payload)
    return (frame.offset, bytes(frame.payload)) if isinstance(frame, Data) else frame


def decoder(authenticated: bool = True) -> FrameDecoder:
    made = FrameDecoder()
    if authenticated:
        made.authenticated()
    return made


@given(items=st.lists(st.one_of(STRUCTS, DATAS, DATAGRAMS), max_size=8), data=st.data())
def test_any_cut_gives_the_same_frames(items: list[object], data: st.DataObject) -> None:
    stream = b"".join(map(wire, items))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    parser, found = decoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        parser.feed(stream[start:end])
        while (frame := parser.next()) is not None:
            found.append(plain(frame))
    assert found == items
    assert parser.buffered == 0


def test_largest_frames() -> None:
    parser = decoder()
    payload = bytes(DATA_BYTES)
    parser.feed(wire((5, payload)))
    assert plain(parser.next()) == (5, payload)
    parser.feed(data_header(0, DATA_BYTES + 1))
    with pytest.raises(Oversized):
        parser.next()


def test_before_authentication_frames_are_small() -> None:
    parser = decoder(authenticated=False)
    parser.feed(encode_handshake(Kind.HELLO, bytes(HANDSHAKE_MESSAGE_BYTES)))
    assert parser.next() == HandshakeFrame(Kind.HELLO, bytes(HANDSHAKE_MESSAGE_BYTES))
    parser.feed(
        encode_handshake(Kind.HELLO, bytes(HANDSHAKE_MESSAGE_BYTES + 1))[:4]
    )  # the header alone is enough to refuse
    with pytest.raises(Oversized):
        parser.next()


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (b"\x00\x00\x00\x00", Malformed),
        (b"\xff\x00\x00\x00", Malformed),
        (bytes([Kind.DATA, 0, 0, 7]) + bytes(7), Malformed),
        (data_header(2**63, 0), Malformed),
        (bytes([Kind.PING, 0, 0, 3]) + b"\x91\xcc\x01", NonCanonical),
        (bytes([Kind.PING, 0, 0, 2]) + b"\x91\xff", Malformed),
        (encode_frame(Moved(1, (Address("tls", "h", 1),) * 5, bytes(32))), Malformed),
        *((encode_frame(Moved(1, (bad,), bytes(32))), Malformed) for bad in MALFORMED_ADDRESSES),
        (encode_frame(Moved(1, (), bytes(31))), Malformed),
        (encode_frame(Resume(bytes(15), 2, bytes(32))), Malformed),
        (encode_frame(Challenge(bytes(31), 2, (), bytes(32))), Malformed),
        (encode_frame(Proof(2, (), bytes(33))), Malformed),
        (encode_frame(Ack(2**62 + 1, 0)), Malformed),
        (datagram_header(1_201) + bytes(1_201), Oversized),
        (encode_frame(Rst("x" * 200, "y" * 100)), Malformed),
        (bytes([Kind.ACK, 0, 0, 10]) + encode((1, 2, "surplus")), Malformed),
    ],
)
def test_bad_frames(stream: bytes, error: type[PeerFault]) -> None:
    parser = decoder()
    parser.feed(stream)
    with pytest.raises(error):
        parser.next()


@given(junk=st.binary(max_size=400), authenticated=st.booleans())
def test_garbage_gives_frames_or_typed_errors(junk: bytes, authenticated: bool) -> None:
    parser = decoder(authenticated)
    parser.feed(junk)
    try:
        while parser.next() is not None:
            pass
    except PeerFault:
        return
    assert parser.buffered <= parser.limit + 4
