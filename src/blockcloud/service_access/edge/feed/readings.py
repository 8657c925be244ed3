"""What a feed carries: readings of series, in batches from sources.

A series is one quantity at one place (`kitchen/temperature`). A source is who sends: it numbers its readings where it
can, so that what comes twice counts once. Times are in microseconds of UTC and are those of the event, not of the
arrival. Whatever the wire format, a reading has passed `check` before anything else sees it.
"""

from __future__ import annotations

import math
import re
from typing import Final, TypeAlias

from msgspec import Struct

from blockcloud.service_access.edge.feed.errors import BadReading

MICROSECONDS: Final = 1_000_000
MESSAGE_BYTES: Final = 64 * 1024
MESSAGE_READINGS: Final = 1_000
SERIES_CHARACTERS: Final = 256
SOURCE_CHARACTERS: Final = 256
UNIT_CHARACTERS: Final = 64
VALUE_BYTES: Final = 1_024
# Sums are exact, and a sum of 1e18 such values is still a number.
VALUE_MAGNITUDE: Final = 1e290
SEQUENCE_MAX: Final = 2**53 - 1  # what JSON numbers carry exactly
# SenML reads smaller times as relative to now (RFC 8428 section 4.5.3), so no reading may have one.
TIME_MIN_US: Final = 2**28 * MICROSECONDS
TIME_MAX_US: Final = 2**33 * MICROSECONDS


class Data(Struct, frozen=True):
    """A value of bytes: a type of its own, so that encodings without bytes can carry it beside text."""

    raw: bytes


Value: TypeAlias = float | bool | str | Data

# RFC 8428 section 4.5.1: what may be a path of a URI as it is.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9:./_-]*", re.ASCII)


class Reading(Struct, frozen=True):
    """One value, or the total of a quantity over time, or both. `time_us` is when it was so."""

    series: str
    time_us: int
    value: Value | None
    unit: str = ""
    total: float | None = None


class Batch(Struct, frozen=True):
    """What came in one message. Its readings have the numbers `sequence`, `sequence` + 1, ... of the source.

    Without a sequence nothing tells a repetition from a second reading that happens to be equal: such a source is
    served at least once, one with a sequence exactly once.
    """

    source: str
    readings: tuple[Reading, ...]
    sequence: int | None = None


def check_series(name: object) -> str:
    """`name` if it may name a series. Raises BadReading."""
    if not isinstance(name, str) or len(name) > SERIES_CHARACTERS or _NAME.fullmatch(name) is None:
        raise BadReading("a series has a name of letters, digits and - : . / _ that begins with no sign", name=name)
    return name


def check_source(name: object) -> str:
    """`name` if it may name a source. Raises BadReading."""
    if not isinstance(name, str) or not 0 < len(name) <= SOURCE_CHARACTERS or not name.isprintable():
        raise BadReading("a source's name is printable text", name=name)
    return name


def check_sequence(number: object) -> int:
    """`number` if it may be a sequence number. Raises BadReading."""
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= SEQUENCE_MAX:
        raise BadReading("a sequence number is an integer from 0 on", number=number)
    return number


def finite(number: object, field: str) -> float:
    """`number` as a float. Raises BadReading where it is none, or too large to be added up."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise BadReading("not a number", field=field)
    try:
        result = float(number)
    except OverflowError:
        raise BadReading("the number is too large", field=field) from None
    if not math.isfinite(result) or abs(result) > VALUE_MAGNITUDE:
        raise BadReading("the number is too large", field=field)
    return result


def microseconds(seconds: float) -> int:
    """A time in seconds as readings have it. Raises BadReading."""
    if not TIME_MIN_US <= seconds * MICROSECONDS <= TIME_MAX_US:
        raise BadReading("the time is no time of a reading", seconds=seconds)
    return round(seconds * MICROSECONDS)


def check_value(value: object) -> Value:
    """`value` if a reading may have it. Raises BadReading."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str | Data):
        size = len(value.raw if isinstance(value, Data) else value.encode())
        if size > VALUE_BYTES:
            raise BadReading("the value is too long", bytes=size, limit=VALUE_BYTES)
        return value
    return finite(value, "value")


def check_unit(unit: object) -> str:
    """`unit` if a reading may have it. Raises BadReading."""
    if not isinstance(unit, str) or len(unit) > UNIT_CHARACTERS or not (unit.isprintable() or unit == ""):
        raise BadReading("a unit is a short printable text")
    return unit


def check_count(count: int) -> None:
    """Raises BadReading where a message has more readings than one may have."""
    if count > MESSAGE_READINGS:
        raise BadReading("the message has too many readings", readings=count, limit=MESSAGE_READINGS)


def check_size(payload: bytes) -> None:
    """Raises BadReading where a message is longer than one may be."""
    if len(payload) > MESSAGE_BYTES:
        raise BadReading("the message is too long", bytes=len(payload), limit=MESSAGE_BYTES)
