"""Readings in plain JSON, for devices and scripts that know nothing of SenML.

    21.5                                                        a value; the series is the topic or path
    {"value": 21.5, "unit": "Cel", "time": 1767225600}          ... with unit and time (seconds of UTC)
    {"source": "porch", "sequence": 7, "readings": [{"series": "porch/t", "value": 3}]}

Unknown keys are refused: a mistyped `tiem` must not become a reading of now.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from blockcloud.service_access.edge.feed import senml
from blockcloud.service_access.edge.feed.errors import BadReading
from blockcloud.service_access.edge.feed.readings import (
    Batch,
    Reading,
    check_count,
    check_sequence,
    check_series,
    check_size,
    check_source,
    check_unit,
    check_value,
    finite,
    microseconds,
)

_READING: Final = frozenset(("series", "value", "unit", "time", "total"))
_NUMBERED: Final = frozenset(("source", "sequence"))
_CBOR_ARRAYS: Final = frozenset((*range(0x80, 0x9C), 0x9F))


def parse_plain(payload: bytes, now_us: int, source: str, series: str) -> Batch:
    """The readings of plain JSON; `series` and `source` where it names none. Raises BadReading."""
    check_size(payload)
    try:
        document = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadReading("not JSON") from None
    if not isinstance(document, dict):
        return Batch(source, (_reading({"value": document}, now_us, series),))
    if "readings" not in document:
        own = {key: value for key, value in document.items() if key not in _NUMBERED}
        return _batch(document, [own], now_us, source, series)
    if not document.keys() <= {"readings", *_NUMBERED} or not isinstance(document["readings"], list):
        raise BadReading("readings come as a list, beside source and sequence", keys=sorted(document)[:10])
    return _batch(document, document["readings"], now_us, source, series)


def _batch(document: dict[str, Any], readings: list[Any], now_us: int, source: str, series: str) -> Batch:
    check_count(len(readings))
    if not readings:
        raise BadReading("there is no reading in the message")
    return Batch(
        check_source(document.get("source", source)),
        tuple(_reading(each, now_us, series) for each in readings),
        check_sequence(document["sequence"]) if "sequence" in document else None,
    )


def _reading(fields: object, now_us: int, series: str) -> Reading:
    if not isinstance(fields, dict) or not fields.keys() <= _READING:
        unknown = sorted(fields.keys() - _READING)[:10] if isinstance(fields, dict) else []
        raise BadReading("a reading has series, value, unit, time and total, and nothing else", unknown=unknown)
    total = finite(fields["total"], "total") if "total" in fields else None
    if "value" not in fields and total is None:
        raise BadReading("a reading has a value or a total")
    return Reading(
        check_series(fields.get("series", series)),
        microseconds(finite(fields["time"], "time")) if "time" in fields else now_us,
        check_value(fields["value"]) if "value" in fields else None,
        check_unit(fields.get("unit", "")),
        total,
    )


def parse_any(payload: bytes, now_us: int, source: str, series: str) -> Batch:
    """Readings in whichever format they look like, for transports that do not say: a list is a SenML pack, everything
    else plain JSON. Raises BadReading, BadPack and its children."""
    if payload[:1] and payload[0] in _CBOR_ARRAYS:
        return senml.parse_cbor(payload, now_us, source)
    if payload.lstrip(b" \t\r\n").startswith(b"["):
        return senml.parse_json(payload, now_us, source)
    return parse_plain(payload, now_us, source, series)
