"""Signed HTTP responses: RFC 9421 signatures by a provider over RFC 9530 digests, so that a cache need not be trusted.

The signature covers the status, the digest of the content, type, caching rules and name, and of the request the path
and the query; whoever verifies REQUIRES that list, because whoever serves might present a signature over less. It also
covers those further fields that change what a reader makes of the content (`MEANING`), and the request's fields that
the response varies by. What is not covered is not the provider's word: `Verified.fields` leaves it out.

Only answers to GET are signed, so a signature says by itself which method it answers. The times are Unix seconds; the
key is one that the ledger lists for the name, or that its proven service file names, and keyid is its 64 hex digits.

The base is a text that begins with a quotation mark; nothing else that these keys sign does (`keys.sign_standard`).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import http_sf

from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SIGNATURE_BYTES, SigningKey, verify_raw
from blockcloud.primitives.limits import CLOCK_SKEW_SECONDS
from blockcloud.service_access.edge.cache_control import CacheControl, parse_cache_control
from blockcloud.service_access.edge.errors import (
    AlgorithmRefused,
    ComponentsMissing,
    DigestMismatch,
    DuplicateField,
    ResponseRefused,
    SignatureExpired,
    SignatureMalformed,
    SignatureMismatch,
    SignatureNotYetValid,
    UnknownResponseKey,
    Unsigned,
    WrongMethod,
    WrongName,
)
from blockcloud.service_access.edge.http_message import Fields, Request, Response, combined, values, without

TAG: Final = "blockcloud"
ALGORITHM: Final = "ed25519"
NAME_FIELD: Final = "bc-name"
Component = tuple[str, bool]  # (name, whether it is the request's)
REQUIRED: Final[tuple[Component, ...]] = (
    ("@status", False),
    ("content-digest", False),
    ("content-type", False),
    ("cache-control", False),
    (NAME_FIELD, False),
    ("@path", True),
    ("@query", True),
)
MEANING: Final = ("content-encoding", "content-language", "etag", "last-modified", "location", "vary")
SIGNED_STATUS: Final = (200, 204, 301, 308, 404, 410)
COMPONENTS: Final = 48
VARIED_FIELDS: Final = 16
SIGNATURE_INPUT_BYTES: Final = 4_096
# Long enough for a revalidation to get through; the upper end bounds for how long an old answer can be replayed.
LIFETIME_SECONDS_MIN: Final = 60
LIFETIME_SECONDS_MAX: Final = 7 * 24 * 3_600
DEFAULT_TYPE: Final = "application/octet-stream"
CREDENTIALS: Final = ("authorization", "cookie")
_SIGNATURE_FIELDS: Final = ("signature", "signature-input", "content-digest", NAME_FIELD)

# What our own signer writes, read without the general parser, which costs as much as the signature check.
_OURS = re.compile(
    r'[a-z][a-z0-9_]{0,31}=(\(((?:"[a-z0-9@-]{1,64}"(?:;req)?(?: (?="))?){1,48})\)'
    r';created=(\d{1,12});expires=(\d{1,12});keyid="([0-9a-f]{64})";tag="blockcloud")',
    re.ASCII,
)
_OUR_SIGNATURE = re.compile(r"[a-z][a-z0-9_]{0,31}=:([A-Za-z0-9+/]{86}==):", re.ASCII)
_OUR_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):", re.ASCII)
_FIELD_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Verified:
    """What the provider has said: by which key (empty: by the service file), until when, and the fields it covers."""

    key: bytes
    created_s: int
    expires_s: int
    fields: Fields


@dataclass(frozen=True, slots=True)
class _Input:
    """One member of Signature-Input: what is covered, the parameters, and the text that was signed for them."""

    label: str
    components: tuple[Component, ...]
    created: int
    expires: int
    keyid: str
    text: str


def content_digest(body: bytes) -> str:
    """The Content-Digest field for `body`."""
    return f"sha-256=:{base64.b64encode(sha256(body)).decode()}:"


def varied_by(fields: Fields) -> tuple[str, ...] | None:
    """The request's fields that a response varies by, in lower case; None where nobody can know (`*`)."""
    text = combined(fields, "vary") or ""
    names = tuple(dict.fromkeys(item.strip().lower() for item in text.split(",") if item.strip()))
    if len(names) > VARIED_FIELDS or any(name == "*" or not _FIELD_NAME.fullmatch(name) for name in names):
        return None
    return names


# --- signing ----------------------------------------------------------------------------------------------------------


def signable(request: Request, status: int, fields: Fields) -> bool:
    """Whether a response may be signed, that is, shown to anybody whom the service lets in: an answer to GET that is
    not about one person."""
    if request.method != "GET" or status not in SIGNED_STATUS or values(request.fields, "range"):
        return False
    if values(fields, "set-cookie") or varied_by(fields) is None or values(request.fields, "authorization"):
        return False
    rules = parse_cache_control(combined(fields, "cache-control"))
    return rules.public or not (rules.private or values(request.fields, "cookie"))


def lifetime_s(rules: CacheControl) -> int:
    """How long a signature lasts for a response with these rules: as long as a cache may serve it, errors included."""
    lasting = 0 if rules.no_store or rules.no_cache else (rules.freshness_s or 0) + (rules.stale_if_error or 0)
    return max(LIFETIME_SECONDS_MIN, min(lasting, LIFETIME_SECONDS_MAX))


def sign_response(key: SigningKey, name: str, request: Request, response: Response, *, now_s: int) -> Response:
    """`response` to `request`, which must be `signable`, with the fields that make it verifiable."""
    return sign_digest(key, name, request, response, content_digest(response.body), now_s=now_s)


def sign_digest(
    key: SigningKey, name: str, request: Request, response: Response, digest: str, *, now_s: int
) -> Response:
    """As `sign_response`, for content of which only the Content-Digest is at hand."""
    given = {
        "content-digest": digest,
        "content-type": combined(response.fields, "content-type") or DEFAULT_TYPE,
        "cache-control": combined(response.fields, "cache-control") or "no-cache",
        NAME_FIELD: name,
    }
    given |= {each: value for each in MEANING if (value := combined(response.fields, each)) is not None}
    fields = without(response.fields, (*given, *_SIGNATURE_FIELDS)) + tuple(given.items())
    response = replace(response, fields=fields)
    varied = [(each, True) for each in varied_by(fields) or () if values(request.fields, each)]
    components = (*REQUIRED, *((each, False) for each in MEANING if each in given), *varied)
    expires = now_s + lifetime_s(parse_cache_control(given["cache-control"]))
    covered = " ".join(f'"{each}";req' if of_request else f'"{each}"' for each, of_request in components)
    text = f'({covered});created={now_s};expires={expires};keyid="{key.public.hex()}";tag="{TAG}"'
    base = _base(request, response, components, text)
    signature = base64.b64encode(key.sign_standard(base)).decode()
    added = (("signature-input", f"{TAG}={text}"), ("signature", f"{TAG}=:{signature}:"))
    return replace(response, fields=fields + added)


# --- verifying --------------------------------------------------------------------------------------------------------


def verify(
    request: Request,
    response: Response,
    *,
    name: str,
    keys: Collection[bytes],
    digests: Mapping[str, bytes],
    now_s: float,
) -> Verified:
    """Check that `response` is what the provider of `name` answers to `request`.

    `keys` are the proven keys of the name, `digests` the content that its proven service file lists (path to SHA-256):
    what stands there must match, signed or not, and needs no signature. Raises ResponseRefused's children.
    """
    if request.method != "GET":
        raise WrongMethod(method=request.method)
    listed = digests.get(request.path) if request.query == "?" and response.status == 200 else None
    if listed is not None and sha256(response.body) != listed:
        raise DigestMismatch("the content is not what the service file lists", path=request.path)
    try:
        return verify_signature(request, response, name=name, keys=keys, now_s=now_s)
    except ResponseRefused:
        if listed is None:
            raise
        return Verified(b"", int(now_s), int(now_s) + LIFETIME_SECONDS_MIN, ())  # the owner's word, of the content only


def verify_signature(
    request: Request, response: Response, *, name: str, keys: Collection[bytes], now_s: float
) -> Verified:
    """As `verify`, by the signature alone."""
    said = _read_input(_single(response.fields, "signature-input"))
    key = bytes.fromhex(said.keyid) if re.fullmatch(r"[0-9a-f]{64}", said.keyid, re.ASCII) else b""
    if key not in keys:
        raise UnknownResponseKey(keyid=said.keyid[:16], name=name)
    if said.created > now_s + CLOCK_SKEW_SECONDS:
        raise SignatureNotYetValid(created=said.created, now=int(now_s))
    if said.expires <= now_s:
        raise SignatureExpired(expires=said.expires, now=int(now_s))
    if not said.created < said.expires <= said.created + LIFETIME_SECONDS_MAX:
        raise SignatureMalformed("a signature lasts longer than any may", created=said.created, expires=said.expires)
    _check_components(request, response, said.components)
    served = _single(response.fields, NAME_FIELD)
    if served != name:
        raise WrongName(asked=name, served=served[:80])
    if _read_digest(_single(response.fields, "content-digest")) != sha256(response.body):
        raise DigestMismatch(path=request.path, bytes=len(response.body))
    signature = _read_signature(_single(response.fields, "signature"), said.label)
    if not verify_raw(key, _base(request, response, said.components, said.text), signature):
        raise SignatureMismatch(path=request.path, query=request.query, status=response.status)
    covered = {each for each, of_request in said.components if not of_request}
    fields = tuple(each for each in response.fields if each[0] in covered)
    return Verified(key, said.created, said.expires, fields)


def _check_components(request: Request, response: Response, components: tuple[Component, ...]) -> None:
    """All that must be covered is, once, and is there once. Raises ComponentsMissing, DuplicateField."""
    covered = set(components)
    if len(covered) != len(components):
        raise SignatureMalformed("a component is covered twice")
    missing = [each for each in REQUIRED if each not in covered]
    varied = varied_by(response.fields)
    if varied is None:
        raise SignatureMalformed("a signed response says what it varies by")
    missing += [(each, True) for each in varied if values(request.fields, each) and (each, True) not in covered]
    missing += [(each, False) for each in MEANING if values(response.fields, each) and (each, False) not in covered]
    if missing:
        raise ComponentsMissing("the signature does not cover what it must", missing=[each for each, _ in missing])
    for each, of_request in components:
        if not each.startswith("@"):
            _single((request if of_request else response).fields, each, joined=of_request)


def _single(fields: Fields, name: str, *, joined: bool = False) -> str:
    """The value of a field that must be there, in one line unless it is `joined`."""
    found = values(fields, name)
    if not found:
        if name in ("signature", "signature-input"):
            raise Unsigned
        raise ComponentsMissing("a covered field is not there", field=name)
    if len(found) > 1 and not joined:
        raise DuplicateField(field=name)
    return ", ".join(found)


def _base(request: Request, response: Response, components: tuple[Component, ...], parameters: str) -> bytes:
    """The bytes that are signed (RFC 9421 2.5)."""
    lines = []
    for name, of_request in components:
        message = request if of_request else response
        if not name.startswith("@"):
            value = ", ".join(values(message.fields, name))
        elif (name, of_request) in REQUIRED:
            value = {"@status": str(response.status), "@path": request.path, "@query": request.query}[name]
        else:
            raise SignatureMalformed("a derived component that responses do not have", component=name)
        lines.append(f'"{name}"{";req" if of_request else ""}: {value}')
    lines.append(f'"@signature-params": {parameters}')
    try:
        return "\n".join(lines).encode("ascii")
    except UnicodeEncodeError:
        raise SignatureMalformed("a covered field is not ASCII") from None


def _read_input(text: str) -> _Input:
    """The signature of ours among those of Signature-Input. Raises Unsigned, SignatureMalformed, AlgorithmRefused."""
    if len(text) > SIGNATURE_INPUT_BYTES:
        raise SignatureMalformed("Signature-Input is too long", limit=SIGNATURE_INPUT_BYTES)
    if found := _OURS.fullmatch(text):
        items = (item.partition(";") for item in found[2].split(" "))
        components = tuple((name.strip('"'), bool(parameter)) for name, _, parameter in items)
        return _Input(text.partition("=")[0], components, int(found[3]), int(found[4]), found[5], found[1])
    members = _structured(text, "Signature-Input")
    ours = [
        (label, member, given)
        for label, (member, given) in members.items()
        if isinstance(member, list) and given.get("tag") == TAG
    ]
    if len(ours) > 1:
        raise SignatureMalformed("two signatures with the tag of BlockCloud")
    if not ours:
        raise Unsigned("the response has no signature with the tag of BlockCloud")
    label, member, given = ours[0]
    if given.get("alg", ALGORITHM) != ALGORITHM:
        raise AlgorithmRefused(alg=str(given["alg"])[:40])
    created, expires, keyid = given.get("created"), given.get("expires"), given.get("keyid")
    if type(created) is not int or type(expires) is not int or type(keyid) is not str:
        raise SignatureMalformed("a signature says created, expires and keyid")
    if len(member) > COMPONENTS:
        raise SignatureMalformed("a signature covers too much", limit=COMPONENTS)
    return _Input(label, tuple(_component(*each) for each in member), created, expires, keyid, _inner(member, given))


def _component(name: Any, parameters: Mapping[str, Any]) -> Component:
    """A component of the general form, if it is one that responses have here. Raises SignatureMalformed."""
    if type(name) is not str or name != name.lower() or parameters not in ({}, {"req": True}):
        raise SignatureMalformed("a component that is not understood here", component=str(name)[:40])
    return name, bool(parameters)


def _inner(member: list[Any], parameters: Mapping[str, Any]) -> str:
    """The canonical text of an inner list: what stands behind @signature-params."""
    return http_sf.ser({"x": (member, dict(parameters))}).removeprefix("x=")


def _structured(text: str, field: str) -> dict[str, Any]:
    """A field that is a dictionary (RFC 9651). Raises SignatureMalformed, DuplicateField."""

    def twice(key: str, context: str) -> None:
        raise DuplicateField("a key comes twice in a signature field", field=field, key=key[:40], context=context)

    try:
        parsed = http_sf.parse(text.encode("latin-1"), tltype="dictionary", on_duplicate_key=twice)
    except (http_sf.StructuredFieldError, ValueError, RecursionError) as error:
        raise SignatureMalformed(f"{field} is no dictionary of RFC 9651: {str(error)[:80]}") from None
    assert isinstance(parsed, dict), "asked for a dictionary"
    return parsed


def _read_signature(text: str, label: str) -> bytes:
    if (found := _OUR_SIGNATURE.fullmatch(text)) and text.startswith(f"{label}="):
        return _decoded(found[1])
    member = _structured(text, "Signature").get(label, (None, {}))[0] if len(text) <= SIGNATURE_INPUT_BYTES else None
    if not isinstance(member, bytes) or len(member) != SIGNATURE_BYTES:
        raise SignatureMalformed("Signature has no Ed25519 signature under the label of Signature-Input", label=label)
    return member


def _read_digest(text: str) -> bytes:
    if found := _OUR_DIGEST.fullmatch(text):
        return _decoded(found[1])
    member = _structured(text, "Content-Digest").get("sha-256", (None, {}))[0] if len(text) < 1_024 else None
    if not isinstance(member, bytes):
        raise AlgorithmRefused("Content-Digest has no SHA-256", digest=text[:40])
    return member


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise SignatureMalformed("not base64") from None
