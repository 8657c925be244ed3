"""COSE_Sign1 with EdDSA (RFC 9052, RFC 9053), as little of it as address records need.

Own code, because every node must agree on which signatures are valid: the verifier is the system's one
(`primitives.keys.verify_raw`), not that of a COSE library. Input must be the deterministic encoding (RFC 8949 4.2) of
what it says, so that one statement has one form. The signed bytes are COSE's Sig_structure: it starts with byte 0x84,
so it can never be taken for what the ledger signs, which starts with "blockcloud/".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cbor2

from blockcloud.primitives.errors import BadSignature, Malformed, NonCanonical, Oversized
from blockcloud.primitives.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SigningKey, verify_raw

_TAG_SIGN1: Final = 18
_ALGORITHM: Final = 1
_KEY_ID: Final = 4
_TYPE: Final = 16  # RFC 9596
_EDDSA: Final = -8
_DEPTH: Final = 6


@dataclass(frozen=True, slots=True)
class Sign1:
    """An opened COSE_Sign1: its key (the key id is the whole public key), and the map that was signed."""

    key: bytes
    claims: dict[Any, Any]


def sign1(claims: dict[int, object], media_type: str, key: SigningKey) -> bytes:
    """Tagged COSE_Sign1 over `claims`; algorithm, key and type stand in the protected header."""
    protected = _encode({_ALGORITHM: _EDDSA, _KEY_ID: key.public, _TYPE: media_type})
    payload = _encode(claims)
    return _encode(cbor2.CBORTag(_TAG_SIGN1, [protected, {}, payload, _sign(key, _to_sign(protected, payload))]))


def open_sign1(data: bytes, media_type: str, *, limit: int) -> Sign1:
    """Check form, type and signature of `data`. Raises Oversized, Malformed, NonCanonical or BadSignature."""
    if len(data) > limit:
        raise Oversized("signed record is larger than its limit", bytes=len(data), limit=limit)
    tag = _decode(data)
    parts = tag.value if isinstance(tag, cbor2.CBORTag) and tag.tag == _TAG_SIGN1 else None
    if not isinstance(parts, list | tuple) or len(parts) != 4:
        raise Malformed("not a tagged COSE_Sign1")
    protected, unprotected, payload, signature = parts
    if not isinstance(protected, bytes) or not isinstance(payload, bytes) or not isinstance(signature, bytes):
        raise Malformed("header, payload and signature of a COSE_Sign1 are byte strings")
    if unprotected != {} or len(signature) != SIGNATURE_BYTES:
        raise Malformed("a header is unprotected, or the signature is not 64 bytes")
    if _encode(cbor2.CBORTag(_TAG_SIGN1, [protected, {}, payload, signature])) != data:
        raise NonCanonical("not the deterministic encoding of its value")
    key = _key_of(_canonical_map(protected), media_type)
    claims = _canonical_map(payload)
    if not verify_raw(key, _to_sign(protected, payload), signature):
        raise BadSignature("the record's signature does not verify", key=key.hex()[:16])
    return Sign1(key, claims)


def _key_of(header: dict[Any, Any], media_type: str) -> bytes:
    """The key of a protected header that says algorithm, key and type, and nothing else."""
    if header.keys() != {_ALGORITHM, _KEY_ID, _TYPE}:
        raise Malformed("the protected header has algorithm, key id and type only")
    if header[_ALGORITHM] != _EDDSA or header[_TYPE] != media_type:
        raise Malformed("another algorithm or type than expected", type=str(header[_TYPE])[:60])
    key = header[_KEY_ID]
    if not isinstance(key, bytes) or len(key) != PUBLIC_KEY_BYTES:
        raise Malformed("the key id is not a public key")
    return key


def _canonical_map(data: bytes) -> dict[Any, Any]:
    value = _decode(data)
    if not isinstance(value, dict):
        raise Malformed("not a map")
    try:
        canonical = _encode(value) == data
    except (cbor2.CBOREncodeError, TypeError, ValueError) as error:
        raise Malformed(f"holds a value of a kind that does not belong here: {error}") from None
    if not canonical:
        raise NonCanonical("not the deterministic encoding of its value")
    return value


def _decode(data: bytes) -> Any:
    try:
        return cbor2.loads(data, max_depth=_DEPTH, allow_indefinite=False, allow_duplicate_keys=False)
    except cbor2.CBORError as error:
        raise Malformed(f"not CBOR: {error}") from None


def _encode(value: object) -> bytes:
    return cbor2.dumps(value, canonical=True)


def _to_sign(protected: bytes, payload: bytes) -> bytes:
    """Sig_structure of RFC 9052 section 4.4, without external data."""
    return _encode(["Signature1", protected, b"", payload])


def _sign(key: SigningKey, message: bytes) -> bytes:
    # SigningKey signs under the ledger's tags only; COSE defines its own, so that other people's tools can verify.
    return key.sign_standard(message)
