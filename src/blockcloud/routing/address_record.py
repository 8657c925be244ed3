"""Address records: where an instance of a name is right now, signed by the instance's own key.

A record is a COSE_Sign1 over CWT claims (RFC 8392), type `application/bc-addr+cwt`, minutes to live. The highest
sequence number wins; a record without endpoints withdraws the instance. Whether the key may speak for the name is not
in the record: the ledger says so. DESIGN 5.1, `reference/provenance-and-iot.md` 4.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Final

from blockcloud.primitives.errors import InvalidName, WrongKey
from blockcloud.primitives.hashes import DIGEST_BYTES
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import ADDRESS_RECORD_BYTES, CLOCK_SKEW_SECONDS, LEASE_SECONDS, RECORD_ENDPOINTS
from blockcloud.primitives.names import parse_name
from blockcloud.routing.cose import open_sign1, sign1
from blockcloud.routing.errors import InvalidAddressRecord, IssuedInFuture, LeaseExpired, LeaseTooLong

MEDIA_TYPE: Final = "application/bc-addr+cwt"
LOAD_MAX: Final = 1_000
_SEQUENCE_MAX: Final = 2**63 - 1
_SECONDS_MAX: Final = 2**40

# Registered CWT claims, then our own from the range for private use (below -65536).
_SUBJECT: Final = 2
_EXPIRES: Final = 4
_ISSUED: Final = 6
_SEQUENCE: Final = -65537
_SERVICE_FILE: Final = -65538
_ENDPOINTS: Final = -65539
_LOAD: Final = -65540
_DRAINING: Final = -65541  # optional: true, or not there
_CLAIMS: Final = frozenset({_SUBJECT, _EXPIRES, _ISSUED, _SEQUENCE, _SERVICE_FILE, _ENDPOINTS, _LOAD})

_PROTOCOL = re.compile(r"[a-z][a-z0-9+-]{0,15}", re.ASCII)
_PATH = re.compile(r"(/[!-.0-~][ -.0-~]*)+", re.ASCII)
_PATH_BYTES: Final = 107  # unix(7): sun_path, without its last zero
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to reach an instance: the kind of link, and where (for "unix" `host` is a path and `port` is 0).

    Lower `priority` first; among equals in proportion to `weight` (as RFC 2782)."""

    protocol: str
    host: str
    port: int
    priority: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class AddressRecord:
    """`load` is what the instance measured, in thousandths of its capacity. `draining`: it takes no new sessions, but
    those that it has must still find it. `service_file_hash`: 32 bytes or empty."""

    name: str
    instance_key: bytes
    sequence: int
    issued_s: int
    expires_s: int
    service_file_hash: bytes
    endpoints: tuple[Endpoint, ...]
    load: int = 0
    draining: bool = False


def sign_record(record: AddressRecord, key: SigningKey) -> bytes:
    """The signed bytes of `record`, whose instance key must be that of `key`. Raises a PeerFault."""
    if key.public != record.instance_key:
        raise WrongKey("an instance signs its own record only", expected=record.instance_key.hex()[:16])
    _check(record)
    endpoints = [[e.protocol, e.host, e.port, e.priority, e.weight] for e in record.endpoints]
    claims: dict[int, object] = {
        _SUBJECT: record.name,
        _EXPIRES: record.expires_s,
        _ISSUED: record.issued_s,
        _SEQUENCE: record.sequence,
        _SERVICE_FILE: record.service_file_hash,
        _ENDPOINTS: endpoints,
        _LOAD: record.load,
    }
    if record.draining:
        claims[_DRAINING] = True
    return sign1(claims, MEDIA_TYPE, key)


def read_record(data: bytes) -> AddressRecord:
    """The record in `data`, whatever its age; form, limits and the signature of the key inside are checked.

    Raises Oversized, Malformed, NonCanonical, BadSignature, InvalidAddressRecord, LeaseTooLong.
    """
    opened = open_sign1(data, MEDIA_TYPE, limit=ADDRESS_RECORD_BYTES)
    claims = opened.claims
    if claims.keys() - {_DRAINING} != _CLAIMS or claims.get(_DRAINING, True) is not True:
        raise InvalidAddressRecord("a claim is missing, or one is unknown")
    record = AddressRecord(
        _text(claims[_SUBJECT]),
        opened.key,
        _integer(claims[_SEQUENCE], _SEQUENCE_MAX),
        _integer(claims[_ISSUED], _SECONDS_MAX),
        _integer(claims[_EXPIRES], _SECONDS_MAX),
        _digest_or_empty(claims[_SERVICE_FILE]),
        _endpoints(claims[_ENDPOINTS]),
        _integer(claims[_LOAD], LOAD_MAX),
        _DRAINING in claims,
    )
    _check(record)
    return record


def verify_record(data: bytes, now_s: int) -> AddressRecord:
    """As `read_record`, and the lease holds at `now_s`. Raises LeaseExpired and IssuedInFuture too.

    The caller checks that the ledger lists `instance_key` for `name`.
    """
    record = read_record(data)
    if record.issued_s > now_s + CLOCK_SKEW_SECONDS:
        raise IssuedInFuture(issued_s=record.issued_s, now_s=now_s)
    if record.expires_s + CLOCK_SKEW_SECONDS <= now_s:
        raise LeaseExpired(expires_s=record.expires_s, now_s=now_s)
    return record


def _check(record: AddressRecord) -> None:
    """The rules that need no clock."""
    try:
        parse_name(record.name)
    except InvalidName as error:
        raise InvalidAddressRecord(f"the subject is not a name: {error}") from None
    if not record.issued_s < record.expires_s:
        raise InvalidAddressRecord("the lease ends before it starts")
    if record.expires_s - record.issued_s > LEASE_SECONDS:
        raise LeaseTooLong(seconds=record.expires_s - record.issued_s, limit=LEASE_SECONDS)
    _integer(record.sequence, _SEQUENCE_MAX)
    _integer(record.issued_s, _SECONDS_MAX)
    _integer(record.load, LOAD_MAX)
    _digest_or_empty(record.service_file_hash)
    if len(record.endpoints) > RECORD_ENDPOINTS:
        raise InvalidAddressRecord("too many endpoints", endpoints=len(record.endpoints), limit=RECORD_ENDPOINTS)
    for endpoint in record.endpoints:
        if not _PROTOCOL.fullmatch(endpoint.protocol) or not _is_place(endpoint):
            raise InvalidAddressRecord("an endpoint has a protocol, a host in lower case and a port", shown=endpoint)
        for value in (endpoint.port, endpoint.priority, endpoint.weight):
            _integer(value, 0xFFFF)


def _is_place(endpoint: Endpoint) -> bool:
    """Host and port, or the path of a Unix socket, which has no port."""
    if endpoint.protocol == "unix":
        return endpoint.port == 0 and len(endpoint.host) <= _PATH_BYTES and _PATH.fullmatch(endpoint.host) is not None
    return endpoint.port >= 1 and _is_host(endpoint.host)


def _is_host(host: str) -> bool:
    """An IPv4 address or host name, or an IPv6 address in its one canonical form (RFC 5952)."""
    if ":" not in host:
        return _HOST.fullmatch(host) is not None
    try:
        return str(IPv6Address(host)) == host
    except ValueError:
        return False


def _endpoints(value: Any) -> tuple[Endpoint, ...]:
    if not isinstance(value, list | tuple) or len(value) > RECORD_ENDPOINTS:
        raise InvalidAddressRecord("endpoints are a list of at most its limit", limit=RECORD_ENDPOINTS)
    endpoints = []
    for item in value:
        if not isinstance(item, list | tuple) or len(item) != 5:
            raise InvalidAddressRecord("an endpoint is [protocol, host, port, priority, weight]")
        protocol, host, *numbers = item
        endpoints.append(Endpoint(_text(protocol), _text(host), *(_integer(number, 0xFFFF) for number in numbers)))
    return tuple(endpoints)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidAddressRecord("a claim is not a text")
    return value


def _integer(value: Any, maximum: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
        raise InvalidAddressRecord("a claim is not a number in its range", value=str(value)[:40], maximum=maximum)
    return value


def _digest_or_empty(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) not in (0, DIGEST_BYTES):
        raise InvalidAddressRecord("the service file's hash is empty or 32 bytes")
    return value
