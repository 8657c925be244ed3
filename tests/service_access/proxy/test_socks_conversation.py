"""The SOCKS5 conversation without sockets: what passes in any pieces, what is refused and how, and noise."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from blockcloud.primitives.errors import BlockCloudError, TimedOut, Unreachable
from blockcloud.service_access.admission import PolicyDenied
from blockcloud.service_access.proxy.errors import (
    AddressNotName,
    MalformedSocks,
    NoCommonMethod,
    NotAServiceName,
    NotSocks,
    SocksAddressNotName,
    SocksRefused,
    UnsupportedCommand,
    WrongSocksToken,
)
from blockcloud.service_access.proxy.socks import Reply, SocksConversation, SocksRequest, reply_to
from blockcloud.service_access.resolution import UnknownName

TOKEN = b"a token of some length"
CONVERSATION_BYTES = 3 * 256 + 16  # the longest of each of the three messages
HOSTS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=255)


def greeting(*methods: int) -> bytes:
    return bytes((5, len(methods), *methods))


def password(shown: bytes, user: bytes = b"anybody") -> bytes:
    return bytes((1, len(user))) + user + bytes((len(shown),)) + shown


def connect(host: bytes, port: int = 80, *, command: int = 1, kind: int = 3) -> bytes:
    return bytes((5, command, 0, kind, len(host))) + host + port.to_bytes(2)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(
    host=HOSTS,
    port=st.integers(0, 0xFFFF),
    methods=st.lists(st.integers(3, 255), max_size=20),
    early=st.binary(max_size=40),
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
    guarded=st.booleans(),
)
def test_a_request_in_any_pieces(
    host: str, port: int, methods: list[int], early: bytes, cuts: list[int], guarded: bool
) -> None:
    conversation = SocksConversation(TOKEN if guarded else b"")
    said = greeting(*methods, 2 if guarded else 0) + (password(TOKEN) if guarded else b"")
    said += connect(host.encode(), port) + early
    answers = b"".join(conversation.receive(piece) for piece in in_pieces(said, cuts))
    rest = conversation.rest
    assert conversation.request == SocksRequest(host, port)
    assert answers == (b"\x05\x02\x01\x00" if guarded else b"\x05\x00")
    assert rest == early


@given(data=st.binary(max_size=2_000), cuts=st.lists(st.integers(0, 10_000), max_size=8), guarded=st.booleans())
def test_noise_ends_in_a_refusal_or_waits_with_little_kept(data: bytes, cuts: list[int], guarded: bool) -> None:
    conversation = SocksConversation(TOKEN if guarded else b"")
    answer = b""
    try:
        for piece in in_pieces(data, cuts):
            conversation.receive(piece)
    except SocksRefused as error:
        answer = error.answer
    else:
        event("not refused")
        assert conversation.request is not None or len(data) <= CONVERSATION_BYTES
    assert len(answer) <= 10


@given(shown=st.binary(max_size=255))
def test_no_other_token_passes(shown: bytes) -> None:
    conversation = SocksConversation(TOKEN)
    conversation.receive(greeting(0, 2))
    if shown == TOKEN:
        assert conversation.receive(password(shown)) == b"\x01\x00"
        return
    with pytest.raises(WrongSocksToken) as caught:
        conversation.receive(password(shown) + connect(b"files.acme"))
    assert caught.value.answer == b"\x01\x01"
    assert conversation.request is None


@pytest.mark.parametrize(
    ("said", "kind", "answer"),
    [
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", NotSocks, ""),
        (b"GET / HTTP/1.1\r\n", NotSocks, ""),
        (greeting(), NoCommonMethod, "05ff"),
        (greeting(1, 2), NoCommonMethod, "05ff"),
        (greeting(0) + b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", SocksAddressNotName, "0508"),
        (greeting(0) + b"\x05\x01\x00\x04" + bytes(18), SocksAddressNotName, "0508"),
        (greeting(0) + connect(b"files.acme", command=2), UnsupportedCommand, "0507"),
        (greeting(0) + connect(b"files.acme", command=3), UnsupportedCommand, "0507"),
        (greeting(0) + connect(b"files.acme", kind=9), MalformedSocks, "0508"),
        (greeting(0) + connect(b""), MalformedSocks, "0501"),
        (greeting(0) + connect("dépôt.acme".encode()), MalformedSocks, "0501"),
        (greeting(0) + b"\x04" + connect(b"files.acme")[1:], MalformedSocks, "0501"),
        (greeting(0) + b"\x05\x01\x01" + connect(b"files.acme")[3:], MalformedSocks, "0501"),
    ],
)
def test_each_refusal_says_why_in_the_words_of_socks(said: bytes, kind: type[SocksRefused], answer: str) -> None:
    with pytest.raises(kind) as caught:
        SocksConversation().receive(said)
    assert caught.value.answer[:2].hex() == answer
    assert len(caught.value.answer) in (0, 2, 10)


def test_a_guarded_proxy_takes_nobody_without_a_password() -> None:
    with pytest.raises(NoCommonMethod):
        SocksConversation(TOKEN).receive(greeting(0, 1))
    conversation = SocksConversation(TOKEN)
    conversation.receive(greeting(2))
    with pytest.raises(MalformedSocks):
        conversation.receive(b"\x05")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PolicyDenied(), Reply.NOT_ALLOWED),
        (NotAServiceName(), Reply.NOT_ALLOWED),
        (AddressNotName(), Reply.ADDRESS_TYPE),
        (UnknownName(), Reply.HOST_UNREACHABLE),
        (Unreachable(), Reply.NETWORK_UNREACHABLE),
        (TimedOut(), Reply.EXPIRED),
        (BlockCloudError(), Reply.FAILURE),
    ],
)
def test_a_failed_connect_has_its_reply(error: BlockCloudError, code: Reply) -> None:
    assert reply_to(error) == bytes((5, code, 0, 1, 0, 0, 0, 0, 0, 0))
