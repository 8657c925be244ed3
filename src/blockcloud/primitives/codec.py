"""The one canonical encoding: msgpack of array-like frozen structs of integers, bytes, strings and lists.

A value has exactly one encoding, because what is hashed and signed is the received bytes. msgspec encodes every value
in one way but decodes longer forms too (an integer in nine bytes, say), so `decode` encodes again and compares.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec

from blockcloud.primitives.errors import Malformed, NonCanonical, Oversized

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


class Struct(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of everything that is hashed, signed, sent between nodes or kept in state. Fields in order, no names.

    Frozen trees of plain values have no cycles, so the garbage collector need not know of them.
    """


@lru_cache(maxsize=256)
def _decoder(shape: Hashable) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(shape, strict=True)


def encode(value: object) -> bytes:
    """The canonical bytes of `value`."""
    return _encoder.encode(value)


def decode(data: bytes, shape: type[T], *, limit: int) -> T:
    """The value of type `shape` in `data`, which must be canonical and at most `limit` bytes.

    Raises Oversized, Malformed or NonCanonical.
    """
    if len(data) > limit:
        raise Oversized("input is larger than its limit", bytes=len(data), limit=limit)
    try:
        value: T = _decoder(cast("Hashable", shape)).decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Malformed(f"does not decode as {getattr(shape, '__name__', shape)}: {error}") from None
    if _encoder.encode(value) != data:
        raise NonCanonical("input is not the canonical encoding of its value")
    return value
