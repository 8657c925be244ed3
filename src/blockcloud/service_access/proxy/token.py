"""The token of a proxy. Loopback is open to every user of a machine; who shows the token may use the proxy."""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final

TOKEN_CHARACTERS_MIN: Final = 16
TOKEN_CHARACTERS_MAX: Final = 255  # RFC 1929: the length of a password is one byte
BASIC: Final = b"basic "


def is_token(shown: bytes, token: bytes) -> bool:
    """Whether `shown` is `token`, in a time that does not depend on where they differ."""
    return hmac.compare_digest(shown, token)


def basic_password(value: bytes) -> bytes | None:
    """The password in a header of HTTP's Basic scheme (RFC 7617); None if it holds none."""
    if value[: len(BASIC)].lower() != BASIC:
        return None
    try:
        pair = base64.b64decode(value[len(BASIC) :].strip(), validate=True)
    except binascii.Error:
        return None
    _, colon, password = pair.partition(b":")
    return password if colon else None
