"""What the HTTP proxy makes of requests and answers, without sockets: targets, hosts, header fields, refusals."""

from __future__ import annotations

import base64
import json

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.primitives.errors import BlockCloudError, TimedOut, Unreachable
from blockcloud.service_access.admission import PolicyDenied
from blockcloud.service_access.proxy.errors import (
    AmbiguousRequest,
    HostMismatch,
    HttpRefused,
    NotAProxyRequest,
    OversizedHead,
    ProxyAuthenticationRequired,
)
from blockcloud.service_access.proxy.http_rules import (
    HEADER_FIELDS,
    HOP_BY_HOP,
    Target,
    answer_for_program,
    check_token,
    problem,
    read_target,
    request_for_origin,
    status_of,
)
from blockcloud.service_access.resolution import UnknownName

TOKEN = b"a token of some length"
FIELD_NAMES = st.from_regex(r"\A[A-Za-z][A-Za-z-]{0,15}\Z").filter(
    lambda name: name.lower() not in ("host", "content-length", "transfer-encoding", "via")
)
VALUES = st.from_regex(r"\A[!-~]{0,20}\Z")


def read(text: str) -> h11.Request:
    """The request in `text`, as the proxy reads it."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(text.replace("\n", "\r\n").encode("latin-1"))
    event = parser.next_event()
    assert isinstance(event, h11.Request)
    return event


def written(event: h11.Event, role: type[h11.CLIENT] | type[h11.SERVER] = h11.CLIENT) -> bytes:
    return h11.Connection(role).send(event) or b""


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("GET http://temp.acme/x HTTP/1.1\nHost: temp.acme\n\n", Target("temp.acme", 80, b"temp.acme", b"/x")),
        ("GET HTTP://Temp.Acme HTTP/1.1\nHost: TEMP.acme:80\n\n", Target("temp.acme", 80, b"temp.acme", b"/")),
        ("GET http://a:81?q HTTP/1.1\nHost: a:81\n\n", Target("a", 81, b"a:81", b"/?q")),
        ("GET http://a//b?c=//d HTTP/1.1\nHost: a\n\n", Target("a", 80, b"a", b"//b?c=//d")),
        ("GET http://a/ HTTP/1.0\n\n", Target("a", 80, b"a", b"/")),
        ("CONNECT a.acme:443 HTTP/1.1\nHost: a.acme:443\n\n", Target("a.acme", 443, b"a.acme:443")),
    ],
)
def test_where_a_request_goes(text: str, target: Target) -> None:
    assert read_target(read(text)) == target


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("GET /x HTTP/1.1\nHost: 127.0.0.1:8705\n\n", NotAProxyRequest),
        ("OPTIONS * HTTP/1.1\nHost: a\n\n", NotAProxyRequest),
        ("GET //a/x HTTP/1.1\nHost: a\n\n", NotAProxyRequest),
        ("GET https://a/x HTTP/1.1\nHost: a\n\n", HttpRefused),
        ("GET ftp://a/x HTTP/1.1\nHost: a\n\n", HttpRefused),
        ("GET http://user:pass@a/x HTTP/1.1\nHost: a\n\n", HttpRefused),
        ("GET http://a:b/x HTTP/1.1\nHost: a\n\n", HttpRefused),
        ("GET http://a:99999/x HTTP/1.1\nHost: a\n\n", HttpRefused),
        ("GET http://[::1/x HTTP/1.1\nHost: a\n\n", HttpRefused),
        ("CONNECT a HTTP/1.1\nHost: a\n\n", HttpRefused),
        ("CONNECT :443 HTTP/1.1\nHost: a\n\n", HttpRefused),
        ("GET http://a/x HTTP/1.1\nHost: b\n\n", HostMismatch),
        ("GET http://a/x HTTP/1.1\nHost: a:81\n\n", HostMismatch),
        ("CONNECT a:443 HTTP/1.1\nHost: a:444\n\n", HostMismatch),
        ("POST http://a/ HTTP/1.1\nHost: a\nContent-Length: 3\nTransfer-Encoding: chunked\n\n", AmbiguousRequest),
        ("CONNECT a:443 HTTP/1.1\nHost: a:443\nContent-Length: 3\n\n", AmbiguousRequest),
        ("GET http://a/x HTTP/1.1\nHost: a\n" + "A: b\n" * HEADER_FIELDS + "\n", OversizedHead),
    ],
)
def test_what_is_no_request_for_a_proxy(text: str, kind: type[HttpRefused]) -> None:
    with pytest.raises(HttpRefused) as caught:
        read_target(read(text))
    assert type(caught.value) is kind


@settings(max_examples=30)
@given(
    st.lists(st.tuples(FIELD_NAMES, VALUES), max_size=12), st.lists(FIELD_NAMES, max_size=4), st.sampled_from(range(3))
)
def test_only_what_is_end_to_end_passes(fields: list[tuple[str, str]], named: list[str], framing: int) -> None:
    lines = [f"{name}: {value}" for name, value in fields]
    lines += [f"Connection: {', '.join(named)}", "Keep-Alive: 5", "Proxy-Connection: x", "TE: trailers", "Upgrade: ws"]
    lines += [[], ["Content-Length: 3"], ["Transfer-Encoding: chunked"]][framing]
    request = read("\n".join(["POST http://a.acme:81/x HTTP/1.1", "Host: a.acme:81", *lines, "", ""]))
    passed = request_for_origin(request, read_target(request))
    dropped = {name.encode() for name in HOP_BY_HOP_TEXT} | {name.lower().encode() for name in named}
    connection = [value for name, value in fields if name.lower() == "connection"]
    dropped |= {token.strip().lower().encode() for value in connection for token in value.split(",")}
    expected = [(n.lower().encode(), v.encode()) for n, v in fields if n.lower().encode() not in dropped]
    framings = [[], [(b"content-length", b"3")], [(b"transfer-encoding", b"chunked")]][framing]
    kept = [(bytes(name), bytes(value)) for name, value in passed.headers]
    assert kept[0] == (b"host", b"a.acme:81")
    assert sorted(kept[1:]) == sorted([*expected, *framings, (b"via", b"1.1 blockcloud")])
    assert passed.target == b"/x"
    # What is written is read by the next one as the same request and nothing behind it.
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(written(passed))
    again = reader.next_event()
    assert isinstance(again, h11.Request)
    assert list(again.headers) == kept


HOP_BY_HOP_TEXT = tuple(name.decode() for name in HOP_BY_HOP)


def test_connection_cannot_take_away_what_frames_a_message() -> None:
    request = read("POST http://a/ HTTP/1.1\nHost: a\nContent-Length: 3\nConnection: content-length, host, x-y\n\n")
    names = [name for name, _ in request_for_origin(request, read_target(request)).headers]
    assert names == [b"host", b"content-length", b"via"]


def test_an_answer_loses_what_was_between_neighbours() -> None:
    answer = h11.Response(
        status_code=200,
        headers=[("Connection", "close, X-Hop"), ("X-Hop", "1"), ("Content-Length", "3"), ("Set-Cookie", "a=b")],
    )
    kept = dict(answer_for_program(answer).headers)
    assert kept == {b"content-length": b"3", b"set-cookie": b"a=b", b"via": b"1.1 blockcloud"}


def basic(password: bytes) -> str:
    return "Basic " + base64.b64encode(b"anybody:" + password).decode()


@pytest.mark.parametrize(
    ("lines", "passes"),
    [
        ("", False),
        (f"Proxy-Authorization: {basic(TOKEN)}\n", True),
        (f"Proxy-Authorization: {basic(TOKEN).replace('Basic', 'bAsic')}\n", True),
        (f"Proxy-Authorization: {basic(TOKEN[:-1])}\n", False),
        (f"Proxy-Authorization: {basic(b'')}\n", False),
        (f"Authorization: {basic(TOKEN)}\n", False),
        (f"Proxy-Authorization: Bearer {TOKEN.decode()}\n", False),
        ("Proxy-Authorization: Basic !!!!\n", False),
        (f"Proxy-Authorization: {basic(TOKEN)}\nProxy-Authorization: {basic(TOKEN)}\n", False),
    ],
)
def test_the_token_of_the_proxy(lines: str, passes: bool) -> None:
    request = read(f"GET http://a/ HTTP/1.1\nHost: a\n{lines}\n")
    check_token(request, b"")
    if passes:
        check_token(request, TOKEN)
    else:
        with pytest.raises(ProxyAuthenticationRequired):
            check_token(request, TOKEN)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PolicyDenied(), 403),
        (UnknownName(), 404),
        (ProxyAuthenticationRequired(), 407),
        (OversizedHead(), 431),
        (Unreachable(), 502),
        (TimedOut(), 504),
        (BlockCloudError(), 502),
    ],
)
def test_a_refusal_says_what_and_why(error: BlockCloudError, status: int) -> None:
    response, body = problem(error)
    assert status_of(error) == response.status_code == status
    document = json.loads(body)
    assert (document["status"], document["code"]) == (status, error.code)
    headers = dict(response.headers)
    assert headers[b"content-type"] == b"application/problem+json"
    assert (b"proxy-authenticate" in headers) == (status == 407)
