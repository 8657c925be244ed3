"""The guard against DNS rebinding: requests wait for their Host, everything else passes as it comes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.service_access.proxy.errors import HttpRefused, MisdirectedRequest, OversizedHead
from blockcloud.service_access.proxy.host_gate import HostGate
from blockcloud.service_access.proxy.http_rules import HEAD_BYTES

OWN = "temp.acme"
CUTS = st.lists(st.integers(0, 500), max_size=6)


def gate() -> HostGate:
    return HostGate(lambda host: host in (OWN, f"{OWN}:80"))


def passed(data: bytes, cuts: list[int]) -> bytes:
    """What passes of `data` that comes in pieces."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    guard = gate()
    return b"".join(guard.receive(data[a:b]) for a, b in itertools.pairwise(places))


@given(CUTS, st.sampled_from(["GET", "POST", "foo", "PATCH"]), st.sampled_from([OWN, f"{OWN}:80"]))
def test_a_request_to_the_service_passes_whole(cuts: list[int], method: str, host: str) -> None:
    said = f"{method} /x HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\n\r\nbody".encode()
    assert passed(said, cuts) == said


@given(CUTS, st.sampled_from(["GET", "POST", "foo"]), st.sampled_from(["evil.example", "127.0.0.1", "", "temp.acmee"]))
def test_a_request_under_another_name_does_not_even_begin(cuts: list[int], method: str, host: str) -> None:
    said = f"{method} /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    places = sorted({0, len(said), *(cut % (len(said) + 1) for cut in cuts)})
    guard = gate()
    for start, end in itertools.pairwise(places[:-1]):
        assert guard.receive(said[start:end]) == b""
    with pytest.raises(MisdirectedRequest):
        guard.receive(said[places[-2] :])


@pytest.mark.parametrize(
    "said",
    [
        b"GET /x HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.0\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: temp.acme\r\nHost: temp.acme\r\n\r\n",
        b"GET /x HTTP/1.1\nHost: evil\n\n",
        b"GET http://temp.acme/x HTTP/1.1\r\nHost: evil\r\n\r\n",
    ],
)
def test_a_request_that_does_not_say_for_whom(said: bytes) -> None:
    with pytest.raises(HttpRefused):
        gate().receive(said)


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",  # PostgreSQL
        b"\x10\x1a\x00\x04MQTT",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"HELO hello\r\n",
        b"SET /key HTTP\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"AMQP\x00\x00\x09\x01",
    ],
)
def test_other_protocols_pass_at_once(said: bytes) -> None:
    assert gate().receive(said) == said


@given(st.binary(min_size=1, max_size=300), CUTS)
def test_noise_passes_unchanged_or_is_held_or_refused(data: bytes, cuts: list[int]) -> None:
    try:
        assert data.startswith(passed(data, cuts))
    except HttpRefused:
        assert b"HTTP/1." in data


def test_a_head_without_end_is_refused() -> None:
    guard = gate()
    with pytest.raises(OversizedHead):
        guard.receive(b"GET /" + b"x" * HEAD_BYTES)
    guard = gate()
    line = b"X: " + b"y" * 1_000 + b"\r\n"
    assert guard.receive(b"GET / HTTP/1.1\r\n" + line * (HEAD_BYTES // len(line) - 1)) == b""
    with pytest.raises(OversizedHead):
        guard.receive(line + line)


def test_the_answer_is_a_response() -> None:
    answer = gate().answer(MisdirectedRequest(host="evil.example"))
    assert answer.startswith(b"HTTP/1.1 421 ")
    assert b'"code":"misdirected_request"' in answer
