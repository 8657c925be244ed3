"""State values as plain objects: what they are, whom they belong to, and what is in them.

`value` has the bytes as they are proven and hashed; `record` the same for reading, null where nothing stands.
"""

from __future__ import annotations

from typing import Any

import msgspec

from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.codec import Struct
from blockcloud.service_chain.kinds import ADDRESS, NAME, NUMBER, kind_of, name_view, record_in, subject_of
from blockcloud.service_chain.records import NameRecord


def value_view(key: bytes, value: bytes | None) -> dict[str, Any]:
    """A state key and what stands under it; `value` and `record` are null where nothing does."""
    return {
        "key": key.hex(),
        "kind": kind_of(key),
        "of": _subject(key),
        "value": None if value is None else value.hex(),
        "record": None if value is None else _record_view(key, value),
    }


def _subject(key: bytes) -> str | int | None:
    what, data = subject_of(key)
    if what == ADDRESS and len(data) == 32:
        return format_address(data)
    if what == NAME:
        return data.decode("ascii", "backslashreplace")
    return int.from_bytes(data) if what == NUMBER else None


def _record_view(key: bytes, value: bytes) -> Any:
    record = record_in(key, value)
    match record:
        case None:
            return None
        case NameRecord():
            return name_view(record)
    return _plain(record)


def _plain(item: object) -> Any:
    """A record with its fields by name, bytes in hexadecimal."""
    if isinstance(item, Struct):
        return {field: _plain(getattr(item, field)) for field in item.__struct_fields__}
    if isinstance(item, bytes):
        return item.hex()
    if isinstance(item, tuple | list):
        return [_plain(part) for part in item]
    return msgspec.to_builtins(item)
