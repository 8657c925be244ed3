"""What the HTTP proxy does to a request and to an answer (RFC 9110, 9112); sans-IO. `h11` reads and writes the bytes.

A request is read in full, judged, and written anew, so that its reader behind the proxy cannot see another one in the
same bytes. What can be read in two ways is refused rather than mended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import h11
import msgspec

from blockcloud.primitives.errors import BlockCloudError, Malformed
from blockcloud.primitives.limits import NAME_BYTES
from blockcloud.service_access.proxy.errors import (
    AmbiguousRequest,
    HostMismatch,
    HttpRefused,
    NotAProxyRequest,
    OversizedHead,
    ProxyAuthenticationRequired,
)
from blockcloud.service_access.proxy.token import basic_password, is_token

Headers = list[tuple[bytes, bytes]]

HEAD_BYTES: Final = 32 * 1024
HEADER_FIELDS: Final = 128
VIA: Final = b"1.1 blockcloud"
MEDIA_TYPE: Final = b"application/problem+json"
HTTP_PORT: Final = 80
# RFC 9110, section 7.6.1, and what only speaks to a proxy. Framing is written anew by `h11`.
HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization proxy-authentication-info te "
    b"transfer-encoding trailer upgrade".split()
)
# What a failed connect is called in HTTP; everything else is 502.
_STATUSES: Final = {
    "access_denied": 403,
    "policy_denied": 403,
    "not_a_service_name": 404,
    "address_not_name": 404,
    "invalid_name": 404,
    "unknown_name": 404,
    "name_revoked": 404,
    "name_expired": 404,
    "too_many": 503,
    "too_many_waiting": 503,
    "no_verdict": 504,
    "busy": 503,
    "timed_out": 504,
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is for. `path` is empty for a tunnel (CONNECT)."""

    host: str
    port: int
    authority: bytes
    path: bytes = b""


def read_target(request: h11.Request) -> Target:
    """Where `request` goes. Raises HttpRefused's children."""
    if len(request.headers) > HEADER_FIELDS:
        raise OversizedHead("too many header fields", limit=HEADER_FIELDS)
    raw = bytes(request.target)
    # The parser has a limit for what is incomplete; a head may also come all at once.
    if len(raw) + sum(len(name) + len(value) for name, value in request.headers) > HEAD_BYTES:
        raise OversizedHead(limit=HEAD_BYTES)
    target = _tunnel(raw) if request.method == b"CONNECT" else _absolute(raw)
    hosts = [value for name, value in request.headers if name == b"host"]
    for host in hosts:  # none or one (h11)
        if _split(bytes(host).lower(), target.port) != (target.host, target.port):
            raise HostMismatch(target=target.authority.decode(), host=host[:NAME_BYTES].decode("latin-1"))
    framings = {bytes(name) for name, _ in request.headers if name in (b"transfer-encoding", b"content-length")}
    if len(framings) > 1:
        raise AmbiguousRequest("Content-Length beside Transfer-Encoding")
    if framings and request.method == b"CONNECT":
        raise AmbiguousRequest("CONNECT has no body")
    return target


def _tunnel(raw: bytes) -> Target:
    host, separator, _ = raw.rpartition(b":")
    if not separator or not host:
        raise HttpRefused("CONNECT takes host:port", target=raw[:NAME_BYTES].decode("latin-1"))
    name, port = _split(raw.lower(), 0)
    return Target(name, port, raw.lower())


def _absolute(raw: bytes) -> Target:
    try:
        parts = urlsplit(raw.decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        raise HttpRefused("the target is no URL") from None
    if not parts.scheme or not parts.netloc:
        raise NotAProxyRequest
    if parts.scheme.lower() != "http":
        raise HttpRefused("only http:// is passed on by name; use CONNECT for others", scheme=parts.scheme[:16])
    if "@" in parts.netloc or parts.fragment:
        raise HttpRefused("the target has a user or a fragment, which no server is to see")
    authority = parts.netloc.lower().encode()
    host, port = _split(authority, HTTP_PORT)
    # As it stands, not put together from parsed parts: `//x` as a path must stay what it was.
    rest = raw[raw.index(b"//") + 2 + len(parts.netloc) :]
    return Target(host, port, authority, rest if rest[:1] == b"/" else b"/" + rest)


def _split(authority: bytes, default_port: int) -> tuple[str, int]:
    """(host, port) of `host` or `host:port`. Raises HttpRefused."""
    text = authority.decode("latin-1")
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]"):
        host, port = text, str(default_port)
    if not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 0xFFFF:
        raise HttpRefused("not a host with a port", host=text[:NAME_BYTES])
    return host, int(port)


def check_token(request: h11.Request, token: bytes) -> None:
    """Raises ProxyAuthenticationRequired unless the request shows `token` (empty: none is asked for)."""
    if not token:
        return
    values = [bytes(value) for name, value in request.headers if name == b"proxy-authorization"]
    shown = basic_password(values[0]) if len(values) == 1 else None
    if shown is None or not is_token(shown, token):
        raise ProxyAuthenticationRequired


def request_for_origin(request: h11.Request, target: Target) -> h11.Request:
    """`request` as the service is to see it: by path, under the host it is for, without what is between us and it."""
    headers: Headers = [(b"Host", target.authority)]
    headers += [(name, value) for name, value in _end_to_end(request.headers.raw_items()) if name.lower() != b"host"]
    if any(name == b"transfer-encoding" for name, _ in request.headers):
        headers.append((b"Transfer-Encoding", b"chunked"))
    headers.append((b"Via", VIA))
    return h11.Request(method=request.method, target=target.path, headers=headers)


def answer_for_program(answer: h11.Response | h11.InformationalResponse) -> h11.Response | h11.InformationalResponse:
    """The service's `answer` as the program is to see it; `h11` frames it for the program's version."""
    headers: Headers = [*_end_to_end(answer.headers.raw_items()), (b"Via", VIA)]
    return type(answer)(status_code=answer.status_code, reason=answer.reason, headers=headers)


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The fields that are not between two neighbours only: neither the known ones nor those that Connection names."""
    pairs = list(headers)
    named = {
        token.strip().lower() for name, value in pairs if name.lower() == b"connection" for token in value.split(b",")
    }
    # What frames a message or says where it goes is never between neighbours, whatever Connection says.
    drop = HOP_BY_HOP | (named - {b"host", b"content-length"})
    return [(bytes(name), bytes(value)) for name, value in pairs if name.lower() not in drop]


def status_of(error: BlockCloudError) -> int:
    """The HTTP status for a request that failed with `error`."""
    if isinstance(error, HttpRefused):
        return error.status
    return 400 if isinstance(error, Malformed) else _STATUSES.get(error.code, 502)


def refused_by_parser(error: h11.RemoteProtocolError) -> HttpRefused:
    """What `h11` found, as one of our own."""
    if error.error_status_hint == OversizedHead.status:
        return OversizedHead(limit=HEAD_BYTES)
    return HttpRefused(f"not a request that HTTP/1.1 allows: {error}"[:NAME_BYTES])


def problem(error: BlockCloudError, *, close: bool = True) -> tuple[h11.Response, bytes]:
    """The answer that says what happened, why, and what to do (RFC 9457), and its body."""
    status = status_of(error)
    body = {
        "type": f"urn:blockcloud:error:{error.code}",
        "title": error.message,
        "status": status,
        "detail": str(error),
        "code": error.code,
    }
    if error.hint:
        body["hint"] = error.hint
    content = msgspec.json.encode(body) + b"\n"
    headers: Headers = [(b"Content-Type", MEDIA_TYPE), (b"Content-Length", b"%d" % len(content)), (b"Via", VIA)]
    if status == ProxyAuthenticationRequired.status:
        headers.append((b"Proxy-Authenticate", b'Basic realm="blockcloud", charset="UTF-8"'))
    if close:
        headers.append((b"Connection", b"close"))
    return h11.Response(status_code=status, headers=headers), content
