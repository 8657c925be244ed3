"""SHA-256 with domain separation.

Every hash and signature covers a tag that says what the bytes are, so that bytes of one kind can never pass as another.
"""

from __future__ import annotations

from hashlib import sha256 as _sha256

DIGEST_BYTES = 32
ZERO_DIGEST = bytes(DIGEST_BYTES)


def sha256(data: bytes) -> bytes:
    """Plain SHA-256, 32 bytes."""
    return _sha256(data).digest()


def tagged(domain: str, data: bytes) -> bytes:
    """`data` under its domain tag: what is hashed or signed. The tag is ASCII and ends at the zero byte."""
    return b"blockcloud/" + domain.encode("ascii") + b"\x00" + data


def tagged_hash(domain: str, data: bytes) -> bytes:
    """SHA-256 of `data` under `domain`, 32 bytes."""
    return _sha256(tagged(domain, data)).digest()
