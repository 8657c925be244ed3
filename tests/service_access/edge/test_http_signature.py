"""Signed responses: what was signed verifies, for us and for somebody else's library, and nothing else does."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field, replace
from typing import Any

import http_sf
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, InvalidSignature, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import CLOCK_SKEW_SECONDS
from blockcloud.service_access.edge import errors, http_signature
from blockcloud.service_access.edge.http_message import Fields, Request, Response, values, without
from blockcloud.service_access.edge.http_signature import (
    LIFETIME_SECONDS_MAX,
    LIFETIME_SECONDS_MIN,
    Verified,
    sign_response,
    signable,
    verify,
)

NAME = "files.acme"
NOW = 1_800_000_000
KEY, OTHER = SigningKey(b"k" * 32), SigningKey(b"o" * 32)
REQUEST = Request("GET", "/a/b?c=1", (("host", NAME), ("accept-language", "de")))
RESPONSE = Response(
    200, (("content-type", "text/plain"), ("cache-control", "max-age=60"), ("etag", '"1"'), ("server", "x")), b"content"
)
SIGNED = sign_response(KEY, NAME, REQUEST, RESPONSE, now_s=NOW)

FEW = settings(max_examples=30)  # each example checks a dozen signatures
text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30).map(str.strip)
targets = st.from_regex(r"/[!-\"$-~]{0,20}(\?[!-\"$-~]{0,20})?", fullmatch=True)
optional = st.dictionaries(
    st.sampled_from(["etag", "last-modified", "content-language", "content-encoding", "location"]), text, max_size=3
)


def checked(
    response: Response, *, request: Request = REQUEST, name: str = NAME, now_s: float = NOW + 1, **how: Any
) -> Verified:
    return verify(request, response, name=name, **{"keys": (KEY.public,), "digests": {}, **how}, now_s=now_s)


def changed(response: Response, name: str, value: str | None) -> Response:
    """With another value of a field, or without it."""
    fields = without(response.fields, (name,))
    return replace(response, fields=fields if value is None else (*fields, (name, value)))


def resigned(text_of: str, *, key: SigningKey = KEY, response: Response = SIGNED) -> Response:
    """`response` under a Signature-Input of the attacker's choice, signed by `key` as RFC 9421 wants it."""
    parsed: Any = http_sf.parse(f"x={text_of}".encode(), tltype="dictionary")
    components = tuple((name, bool(parameters)) for name, parameters in parsed["x"][0])
    base = http_signature._base(REQUEST, response, components, text_of)
    signature = base64.b64encode(key.sign_standard(base)).decode()
    response = changed(response, "signature-input", f"blockcloud={text_of}")
    return changed(response, "signature", f"blockcloud=:{signature}:")


def parameters() -> str:
    (found,) = values(SIGNED.fields, "signature-input")
    return found.partition("=")[2]


# --- what is signed verifies ------------------------------------------------------------------------------------------


def test_the_covered_components_are_those_of_the_reference_and_what_changes_the_meaning() -> None:
    components = re.findall(r'"[^"]*"(?:;req)?', parameters().partition(")")[0])
    assert components[:7] == [
        *(
            '"@status"',
            '"content-digest"',
            '"content-type"',
            '"cache-control"',
            '"bc-name"',
            '"@path";req',
            '"@query";req',
        )
    ]
    assert components[7:] == ['"etag"']
    verified = checked(SIGNED)
    assert (verified.key, verified.created_s, verified.expires_s) == (KEY.public, NOW, NOW + 60)
    assert "server" not in dict(verified.fields), "what is not covered is not the provider's word"
    assert dict(verified.fields)["etag"] == '"1"'


@FEW
@given(targets, st.binary(max_size=200), text, optional, st.sampled_from([200, 204, 301, 308, 404, 410]))
def test_what_is_signed_verifies_and_no_other_content_path_or_name_does(
    target: str, body: bytes, kind: str, more: dict[str, str], status: int
) -> None:
    request = Request("GET", target, (("host", NAME),))
    response = Response(status, (("content-type", kind or "x"), *more.items()), body)
    signed = sign_response(KEY, NAME, request, response, now_s=NOW)
    verified = checked(signed, request=request)
    assert {name: value for name, value in verified.fields if name in more} == more
    with pytest.raises(errors.DigestMismatch):
        checked(replace(signed, body=body + b"x"), request=request)
    with pytest.raises(errors.SignatureMismatch):
        checked(signed, request=replace(request, target=target + "x"))
    with pytest.raises(errors.SignatureMismatch):
        checked(replace(signed, status=410 if status != 410 else 200), request=request)
    with pytest.raises(errors.WrongName):
        checked(signed, request=request, name="other.acme")


@FEW
@given(st.integers(0, len(SIGNED.fields) - 1), st.data())
def test_no_covered_field_can_be_altered_removed_or_doubled(number: int, data: st.DataObject) -> None:
    name, value = SIGNED.fields[number]
    covered = dict(checked(SIGNED).fields).keys() | {"signature", "signature-input"}
    other = data.draw(text.filter(lambda drawn: drawn not in ("", value)))
    for fields in (
        (*SIGNED.fields[:number], (name, other), *SIGNED.fields[number + 1 :]),
        SIGNED.fields[:number] + SIGNED.fields[number + 1 :],
        (*SIGNED.fields, (name, value)),
    ):
        if name in covered:
            with pytest.raises(errors.ResponseRefused):
                checked(replace(SIGNED, fields=fields))
        else:
            assert checked(replace(SIGNED, fields=fields)) == checked(SIGNED)


@FEW
@given(text, text)
def test_a_field_that_was_not_there_cannot_be_slipped_in(etag: str, encoding: str) -> None:
    bare = sign_response(KEY, NAME, REQUEST, replace(RESPONSE, fields=RESPONSE.fields[:2]), now_s=NOW)
    assert checked(replace(bare, fields=(*bare.fields, ("x-other", etag)))) == checked(bare)
    for field_ in (("etag", etag), ("content-encoding", encoding), ("vary", "accept-language")):
        with pytest.raises(errors.ComponentsMissing):
            checked(replace(bare, fields=(*bare.fields, field_)))


def test_a_variant_is_for_its_request_only() -> None:
    german = sign_response(
        KEY, NAME, REQUEST, replace(RESPONSE, fields=(*RESPONSE.fields, ("vary", "Accept-Language, X"))), now_s=NOW
    )
    checked(german)
    english = replace(REQUEST, fields=(("host", NAME), ("accept-language", "en")))
    with pytest.raises(errors.SignatureMismatch):
        checked(german, request=english)
    with pytest.raises(errors.ComponentsMissing):
        checked(german, request=replace(REQUEST, fields=(("host", NAME),)))
    with pytest.raises(errors.ComponentsMissing):
        checked(german, request=replace(REQUEST, fields=(*REQUEST.fields, ("x", "1"))))


# --- what an attacker may try -----------------------------------------------------------------------------------------


def test_times_count() -> None:
    with pytest.raises(errors.SignatureExpired):
        checked(SIGNED, now_s=NOW + 60)
    checked(SIGNED, now_s=NOW + 59.9)
    checked(SIGNED, now_s=NOW - CLOCK_SKEW_SECONDS)
    with pytest.raises(errors.SignatureNotYetValid):
        checked(SIGNED, now_s=NOW - CLOCK_SKEW_SECONDS - 1)
    forever = parameters().replace(f"expires={NOW + 60}", f"expires={NOW + LIFETIME_SECONDS_MAX + 1}")
    with pytest.raises(errors.SignatureMalformed):
        checked(resigned(forever))


def test_only_keys_of_the_name_count() -> None:
    with pytest.raises(errors.UnknownResponseKey):
        checked(SIGNED, keys=(OTHER.public,))
    with pytest.raises(errors.UnknownResponseKey):
        checked(sign_response(OTHER, NAME, REQUEST, RESPONSE, now_s=NOW))
    with pytest.raises(errors.SignatureMismatch):  # keyid of the right one, signed by another
        checked(resigned(parameters(), key=OTHER))
    checked(sign_response(OTHER, NAME, REQUEST, RESPONSE, now_s=NOW), keys=(KEY.public, OTHER.public))


@pytest.mark.parametrize("number", range(7))
def test_each_required_component_must_be_covered(number: int) -> None:
    inner, rest = parameters()[1:].split(")", 1)
    components = inner.split(" ")
    del components[number]
    with pytest.raises(errors.ComponentsMissing):
        checked(resigned(f"({' '.join(components)}){rest}"))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (';tag="blockcloud"', ';tag="blockcloud";alg="hmac-sha256"', errors.AlgorithmRefused),
        (';tag="blockcloud"', ';tag="blockcloud";alg="rsa-v1_5-sha256"', errors.AlgorithmRefused),
        (';tag="blockcloud"', ';tag="other"', errors.Unsigned),
        (';tag="blockcloud"', "", errors.Unsigned),
        (f"created={NOW};", "", errors.SignatureMalformed),
        (f"expires={NOW + 60};", "", errors.SignatureMalformed),
        ('"@status"', '"@status" "@status"', errors.SignatureMalformed),
        ('"@status"', '"@status" "@status";req', errors.SignatureMalformed),
        ('"@path";req', '"@path"', errors.ComponentsMissing),
        ('"etag"', '"x-absent" "etag"', errors.ComponentsMissing),
        ('"etag"', '"@method";req "etag"', errors.SignatureMalformed),
        ('"etag"', '"etag";sf', errors.SignatureMalformed),
    ],
)
def test_a_signature_that_says_something_else_is_refused(old: str, new: str, error: type[Exception]) -> None:
    assert old in parameters()
    text_of = parameters().replace(old, new)
    try:
        response = resigned(text_of)
    except errors.SignatureMalformed:  # there is nothing to sign for that
        response = changed(SIGNED, "signature-input", f"blockcloud={text_of}")
    with pytest.raises(error):
        checked(response)


def test_the_general_form_of_the_fields_is_understood() -> None:
    checked(resigned(parameters().replace(';tag="blockcloud"', ';tag="blockcloud";alg="ed25519";nonce="n"')))
    ours = dict(SIGNED.fields)
    both = changed(SIGNED, "signature-input", f'a=("x");tag="other", {ours["signature-input"]}')
    both = changed(both, "signature", f"a=:AAAA:, {ours['signature']}")
    checked(both)
    twice = changed(SIGNED, "signature-input", f"{ours['signature-input']}, b={parameters()}")
    with pytest.raises(errors.SignatureMalformed):
        checked(twice)


@pytest.mark.parametrize("digest", ["md5=:AAAA:", "sha-512=:AAAA:", "sha-256", "sha-256=:AAAA:", "", "x" * 2_000])
def test_a_weaker_digest_does_not_count(digest: str) -> None:
    response = resigned(parameters(), response=changed(SIGNED, "content-digest", digest))
    with pytest.raises((errors.AlgorithmRefused, errors.DigestMismatch)):
        checked(response)


@FEW
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=60), st.booleans())
def test_garbage_in_the_signature_fields_is_refused(garbage: str, which: bool) -> None:
    name = "signature" if which else "signature-input"
    with pytest.raises(errors.ResponseRefused):
        checked(changed(SIGNED, name, garbage))


def test_an_answer_to_another_method_and_none_at_all_are_refused() -> None:
    with pytest.raises(errors.WrongMethod):
        checked(SIGNED, request=replace(REQUEST, method="HEAD"))
    with pytest.raises(errors.Unsigned):
        checked(changed(SIGNED, "signature-input", None))
    with pytest.raises(errors.Unsigned):
        checked(changed(SIGNED, "signature", None))


# --- the digest in the service file -----------------------------------------------------------------------------------


def test_content_that_the_service_file_lists_needs_no_signature_and_must_match() -> None:
    request = Request("GET", "/logo.png")
    digests = {"/logo.png": sha256(b"logo")}
    verified = checked(Response(200, (("content-type", "text/html"),), b"logo"), request=request, digests=digests)
    assert (verified.key, verified.fields) == (b"", ())
    with pytest.raises(errors.DigestMismatch):
        checked(Response(200, (), b"log"), request=request, digests=digests)
    signed = sign_response(KEY, NAME, request, replace(RESPONSE, body=b"newer"), now_s=NOW)
    with pytest.raises(errors.DigestMismatch):  # what the owner fixed, no instance changes
        checked(signed, request=request, digests=digests)
    with pytest.raises(errors.Unsigned):
        checked(Response(200, (), b"logo"), request=replace(request, target="/logo.png?v=2"), digests=digests)
    expired = sign_response(KEY, NAME, request, replace(RESPONSE, body=b"logo"), now_s=NOW - 10_000)
    assert checked(expired, request=request, digests=digests).key == b""


# --- what may be signed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "request_fields", "status", "fields", "expected"),
    [
        ("GET", (), 200, (), True),
        ("HEAD", (), 200, (), False),
        ("POST", (), 200, (), False),
        ("GET", (), 206, (), False),
        ("GET", (), 500, (), False),
        ("GET", (("range", "bytes=0-1"),), 200, (), False),
        ("GET", (("authorization", "x"),), 200, (("cache-control", "public"),), False),
        ("GET", (("cookie", "x"),), 200, (), False),
        ("GET", (("cookie", "x"),), 200, (("cache-control", "public"),), True),
        ("GET", (), 200, (("cache-control", "private"),), False),
        ("GET", (), 200, (("set-cookie", "x"),), False),
        ("GET", (), 200, (("vary", "*"),), False),
    ],
)
def test_only_what_is_for_everybody_is_signed(
    method: str, request_fields: Fields, status: int, fields: Fields, expected: bool
) -> None:
    assert signable(Request(method, "/", request_fields), status, fields) is expected


@pytest.mark.parametrize(
    "rules", ["no-cache", "no-store", "max-age=0", "max-age=99999999", "max-age=600, stale-if-error=60", "x"]
)
def test_a_signature_lasts_as_long_as_a_cache_may_serve_it_within_bounds(rules: str) -> None:
    response = replace(RESPONSE, fields=(("content-type", "x"), ("cache-control", rules)))
    verified = checked(sign_response(KEY, NAME, REQUEST, response, now_s=NOW))
    lasts = verified.expires_s - verified.created_s
    assert LIFETIME_SECONDS_MIN <= lasts <= LIFETIME_SECONDS_MAX
    assert lasts == 660 or "stale" not in rules


# --- somebody else's library ------------------------------------------------------------------------------------------


@dataclass
class TheirRequest:
    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class TheirResponse:
    status_code: int
    headers: dict[str, str]
    request: TheirRequest


class TheirKeys(HTTPSignatureKeyResolver):
    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key_id))

    def resolve_private_key(self, key_id: str) -> Any:
        raise NotImplementedError


class TheirVerifier(HTTPMessageVerifier):
    """Without the clock: our times are the test's."""

    def validate_created_and_expires(self, *_: Any, **__: Any) -> None:
        return None


@FEW
@given(st.from_regex(r"/[a-z0-9/._~-]{0,20}(\?[a-z0-9=&]{0,20})?", fullmatch=True), st.binary(max_size=50), optional)
def test_an_independent_library_verifies_what_we_sign(target: str, body: bytes, more: dict[str, str]) -> None:
    request = replace(REQUEST, target=target)
    fields = (("content-type", "text/plain"), ("vary", "accept-language"), *more.items())
    signed = sign_response(KEY, NAME, request, Response(200, fields, body), now_s=NOW)
    theirs = TheirRequest("GET", f"http://{NAME}{target}", dict(request.fields))
    verifier = TheirVerifier(signature_algorithm=algorithms.ED25519, key_resolver=TheirKeys())
    required = [f'"{name}"{";req" if of_request else ""}' for name, of_request in http_signature.REQUIRED]

    def ask(status: int = 200, content: bytes = body) -> Any:
        message = TheirResponse(status, dict(signed.fields), theirs)
        return verifier.verify(message, expect_tag="blockcloud", require_components=required, body=content)

    (result,) = ask()
    assert result.parameters["keyid"] == KEY.public.hex()
    with pytest.raises(InvalidSignature):
        ask(status=404)
    with pytest.raises(InvalidSignature):
        ask(content=body + b"x")
