"""Service files: what a name offers, as a W3C Thing Description 1.1 with our own `bc:` terms.

The bytes are JSON in its JCS form (RFC 8785), so that a document has one hash; that hash stands on the ledger. There
are no addresses in it, because they change: hosts in forms are names, which the service access layer resolves. Unknown
`bc:` terms are ignored, except those listed in `bc:crit`: who does not know them must refuse. DESIGN 5.1,
`reference/provenance-and-iot.md` 4.2.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import rfc8785

from blockcloud.primitives.errors import InvalidName, Malformed, NonCanonical, Oversized
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.limits import SERVICE_FILE_BYTES
from blockcloud.primitives.names import URI_SCHEME, parse_name
from blockcloud.routing.errors import AddressInServiceFile, InvalidPrice, InvalidServiceFile, UnknownCriticalTerm
from blockcloud.routing.posted_price import PRICE_TERM, read_price

TD_CONTEXT: Final = "https://www.w3.org/2022/wot/td/v1.1"
BC_CONTEXT: Final = "urn:blockcloud:terms:v1#"
# The terms that this version acts upon: a file may call these critical, and no others.
UNDERSTOOD: Final = frozenset(
    {
        "bc:name",
        "bc:seq",
        "bc:prev",
        "bc:transport",
        "bc:protocol",
        "bc:ports",
        "bc:crit",
        "bc:content",
        "bc:keys",
        PRICE_TERM,
    }
)
CONTENT_PATHS: Final = 100
CONTENT_PATH_CHARACTERS: Final = 1_024
PORTS: Final = 8
RESPONSE_KEYS: Final = 16
RESPONSE_SIGNING: Final = "response-signing"
_DEPTH_MAX: Final = 32
_CONTENT_PATH = re.compile(r"/[\x21\x22\x24-\x3e\x40-\x7e]*", re.ASCII)  # as it is asked for: no query, no fragment
_JWK_KEY = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


def build_service_file(
    name: str,
    title: str,
    *,
    description: str = "",
    sequence: int = 1,
    previous: bytes = b"",
    transport: str = "tcp",
    protocol: str = "",
    terms: Mapping[str, object] | None = None,
) -> bytes:
    """The smallest valid file for a service behind `name` that speaks `protocol` (say "http") over `transport`.

    `previous` is the hash of the file that this one replaces. `terms` are added at the top level, for whoever has a
    richer Thing Description. Raises what `parse_service_file` raises.
    """
    document: dict[str, object] = {
        "@context": [TD_CONTEXT, {"bc": BC_CONTEXT}],
        "id": f"urn:blockcloud:name:{name}",
        "title": title,
        "version": {"instance": str(sequence)},
        "base": f"{URI_SCHEME}://{name}/",
        # The session handshake proves the key behind the name, whatever protocol runs inside.
        "security": ["session"],
        "securityDefinitions": {"session": {"scheme": "auto"}},
        "bc:name": name,
        "bc:seq": sequence,
        "bc:transport": transport,
    }
    optional = {"description": description, "bc:prev": previous.hex(), "bc:protocol": protocol}
    document.update({term: value for term, value in optional.items() if value})
    document.update(terms or {})
    return encode_service_file(document)


def encode_service_file(document: Mapping[str, object]) -> bytes:
    """The JCS bytes of a Thing Description. Raises what `parse_service_file` raises."""
    data = _canonical(dict(document))
    parse_service_file(data)
    return data


def service_file_hash(data: bytes) -> bytes:
    """SHA-256 of the file's bytes: its name in the routing layer and on the ledger."""
    return sha256(data)


def parse_service_file(data: bytes) -> dict[str, Any]:
    """The document in `data`, for somebody who acts upon it.

    Raises Oversized, Malformed, NonCanonical, InvalidServiceFile, AddressInServiceFile or UnknownCriticalTerm.
    """
    document = read_document(data)
    critical = document.get("bc:crit", [])
    for term in critical:
        if term not in UNDERSTOOD:
            raise UnknownCriticalTerm(term=term)
    return document


def read_document(data: bytes) -> dict[str, Any]:
    """The document in `data`, for somebody who only keeps it and need not understand its critical terms."""
    if len(data) > SERVICE_FILE_BYTES:
        raise Oversized("a service file is larger than its limit", bytes=len(data), limit=SERVICE_FILE_BYTES)
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a service file is JSON: {error}") from None
    if _canonical(document) != data:
        raise NonCanonical("a service file is in JCS form (RFC 8785)")
    if not isinstance(document, dict):
        raise InvalidServiceFile("a Thing Description is an object")
    _check_thing(document)
    _check_terms(document)
    _refuse_addresses(document, 0)
    return document


def _canonical(document: object) -> bytes:
    try:
        return rfc8785.dumps(document)  # type: ignore[arg-type] # it checks the value itself
    except (ValueError, RecursionError) as error:
        raise Malformed(f"has no canonical JSON form: {error}") from None


def _check_thing(document: dict[str, Any]) -> None:
    """What the Thing Description 1.1 makes mandatory (its section 5.3.1.1)."""
    context = document.get("@context")
    first = context[0] if isinstance(context, list) and context else context
    if first != TD_CONTEXT:
        raise InvalidServiceFile("@context starts with that of the Thing Description 1.1", expected=TD_CONTEXT)
    if not isinstance(document.get("title"), str) or not document["title"]:
        raise InvalidServiceFile("a Thing has a title")
    definitions = document.get("securityDefinitions")
    if not isinstance(definitions, dict) or not definitions:
        raise InvalidServiceFile("a Thing has securityDefinitions")
    security = document.get("security")
    named = [security] if isinstance(security, str) else security
    if not isinstance(named, list) or not named:
        raise InvalidServiceFile("a Thing has security")
    if any(not isinstance(item, str) or item not in definitions for item in named):
        raise InvalidServiceFile("security names a scheme that securityDefinitions does not define")


def _check_terms(document: dict[str, Any]) -> None:
    """Our own terms, where they are present, have their types; the name must be."""
    name = document.get("bc:name")
    try:
        parse_name(name if isinstance(name, str) else "")
    except InvalidName as error:
        raise InvalidServiceFile(f"bc:name: {error}") from None
    sequence = document.get("bc:seq", 0)
    if not isinstance(sequence, int) or isinstance(sequence, bool) or sequence < 0:
        raise InvalidServiceFile("bc:seq is a number that only grows")
    previous = document.get("bc:prev")
    if previous is not None and not (isinstance(previous, str) and _HEX_DIGEST.fullmatch(previous)):
        raise InvalidServiceFile("bc:prev is the hash of the file before, 64 hex digits")
    _check_content(document.get("bc:content", {}))
    _check_keys(document.get("bc:keys", []))
    _check_ports(document.get("bc:ports", []))
    try:
        read_price(document)
    except InvalidPrice as error:
        raise InvalidServiceFile(f"{PRICE_TERM}: {error}") from None
    critical = document.get("bc:crit", [])
    if not isinstance(critical, list) or any(not isinstance(term, str) for term in critical):
        raise InvalidServiceFile("bc:crit is a list of terms")
    for term in critical:
        if not term.startswith("bc:") or term not in document:
            raise InvalidServiceFile("bc:crit names a term that the file does not have", term=term[:60])


def content_digests(document: Mapping[str, Any]) -> dict[str, bytes]:
    """SHA-256 by path of the content that a checked file fixes (`bc:content`)."""
    return {path: bytes.fromhex(digest) for path, digest in document.get("bc:content", {}).items()}


def response_keys(document: Mapping[str, Any]) -> tuple[bytes, ...]:
    """The Ed25519 keys that a checked file names for signing responses, beside those of instances (`bc:keys`)."""
    jwks = (jwk for jwk in document.get("bc:keys", []) if jwk.get("role") == RESPONSE_SIGNING)
    return tuple(base64.urlsafe_b64decode(jwk["x"] + "=") for jwk in jwks)


def _check_content(content: object) -> None:
    if not isinstance(content, dict) or len(content) > CONTENT_PATHS:
        raise InvalidServiceFile("bc:content says digests by path, not too many", limit=CONTENT_PATHS)
    for path, digest in content.items():
        if len(path) > CONTENT_PATH_CHARACTERS or not _CONTENT_PATH.fullmatch(path):
            raise InvalidServiceFile("bc:content has paths as they are asked for", path=path[:60])
        if not isinstance(digest, str) or not _HEX_DIGEST.fullmatch(digest):
            raise InvalidServiceFile("bc:content has a SHA-256 for each path, 64 hex digits", path=path[:60])


def _check_keys(keys: object) -> None:
    if not isinstance(keys, list) or len(keys) > RESPONSE_KEYS or any(not isinstance(jwk, dict) for jwk in keys):
        raise InvalidServiceFile("bc:keys is a list of JWKs, not too many", limit=RESPONSE_KEYS)
    for jwk in keys:
        if jwk.get("role") != RESPONSE_SIGNING:
            continue  # of another use, which others may know
        x = jwk.get("x")
        kind = jwk.get("kty"), jwk.get("crv")
        if kind != ("OKP", "Ed25519") or not isinstance(x, str) or not _JWK_KEY.fullmatch(x):
            raise InvalidServiceFile("a key that signs responses is an Ed25519 JWK (RFC 8037)")


def _check_ports(ports: object) -> None:
    if not isinstance(ports, list) or len(ports) > PORTS or not all(_is_port(port) for port in ports):
        raise InvalidServiceFile("bc:ports is a list of port numbers, not too many", limit=PORTS)


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 0xFFFF


def declared_ports(document: Mapping[str, Any]) -> tuple[int, ...]:
    """The TCP ports at which programs expect the service of a read file, as in `http://name/` or `name:5432`."""
    return tuple(dict.fromkeys(document.get("bc:ports", ())))


def _refuse_addresses(value: object, depth: int) -> None:
    """No host of a `base` or `href`, however deep, is an address."""
    if depth > _DEPTH_MAX:
        raise InvalidServiceFile("nested too deep", limit=_DEPTH_MAX)
    children: Iterable[object] = ()
    if isinstance(value, dict):
        for term in ("base", "href"):
            if isinstance(value.get(term), str):
                _refuse_address(value[term])
        children = value.values()
    elif isinstance(value, list):
        children = value
    for child in children:
        _refuse_addresses(child, depth + 1)


def _refuse_address(uri: str) -> None:
    try:
        host = urlsplit(uri).hostname or ""
    except ValueError as error:
        raise InvalidServiceFile(f"not a URI: {error}", uri=uri[:80]) from None
    last = host.rstrip(".").rpartition(".")[2]
    # A last label of digits, or 0x and digits, makes the whole an IPv4 address for every URL parser there is.
    if ":" in host or host == "localhost" or last.isdecimal() or last.startswith("0x"):
        raise AddressInServiceFile(uri=uri[:80])
