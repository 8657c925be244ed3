"""What a feed and its reader say to each other over a session: one JSON object, or one SenML pack, a line.

    feed     {"feed": "porch.home", "log": "5f0c...", "next": 812}
    reader   {"op": "follow", "log": "5f0c...", "after": 640, "series": "porch/", "format": "json"}
    feed     {"offset": 641, "series": "porch/t", "time": 1767225600.0, "value": 21.5, "unit": "Cel", ...}
             {"offset": 642, "window": {"series": "porch/t", "start": 1767225590.0, "seconds": 10, "count": 10, ...}}
             {"dropped": 17, "reached": 659}                  (entries that are no longer there)
    reader   {"acknowledged": 642}                            (whenever it has made durable what it has)

`newest`, `last` and `windows` are answered and end the stream; `live` gives the newest value of each series and then
each newer one, the newest only where the reader is slow; `follow` gives everything after an offset, in order, once. A
log is one outbox: offsets of another one mean nothing.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.service_access.edge.feed import senml
from blockcloud.service_access.edge.feed.core import Entry, Numbered, Sample, Window
from blockcloud.service_access.edge.feed.errors import BadReading, BadRequest
from blockcloud.service_access.edge.feed.readings import (
    MICROSECONDS,
    Batch,
    Data,
    Reading,
    Value,
    check_sequence,
    check_series,
    check_source,
    check_unit,
    check_value,
    finite,
    microseconds,
)
from blockcloud.service_access.edge.feed.series import WindowResult

REQUEST_BYTES: Final = 4 * 1024
LINE_BYTES: Final = 16 * 1024
ANSWER_ENTRIES: Final = 10_000
OFFSET: Final = "bcoff"
FIGURES: Final = ("sum", "min", "max")

Format = Literal["json", "senml"]


class Hello(Struct, frozen=True):
    """The first line of a feed: its name, which log it has, and the offset that comes next."""

    feed: str
    log: str
    next: int


class Request(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The first line of a reader. `series` is what the names begin with."""

    op: Literal["newest", "last", "windows", "live", "follow"]
    series: str = ""
    log: str = ""
    after: int = 0
    format: Format = "json"
    limit: int = 1_000


class Acknowledgement(Struct, frozen=True, forbid_unknown_fields=True):
    """Further lines of a reader that follows: it has everything up to here."""

    acknowledged: int


class Dropped(Struct, frozen=True):
    """So many entries are gone for good; the stream goes on after `reached`."""

    dropped: int
    reached: int


def parse_request(line: bytes) -> Request:
    """A reader's request. Raises BadRequest."""
    try:
        request = msgspec.json.decode(line, type=Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"not a request: {error}") from None
    if not (request.after >= 0 and 1 <= request.limit <= ANSWER_ENTRIES and len(request.series) <= REQUEST_BYTES):
        raise BadRequest("a number of the request is out of range")
    return request


def parse_acknowledgement(line: bytes, reached: int) -> int:
    """The offset that a reader has, who was given everything up to `reached`. Raises BadRequest."""
    try:
        offset = msgspec.json.decode(line, type=Acknowledgement).acknowledged
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadRequest("not an acknowledgement") from None
    if not 0 <= offset <= reached:
        raise BadRequest("acknowledges what was never sent", offset=offset, reached=reached)
    return offset


def encode(message: Struct) -> bytes:
    """The line of a message."""
    return msgspec.json.encode(message) + b"\n"


def error_line(error: BlockCloudError) -> bytes:
    """The last line of a feed that refuses."""
    return msgspec.json.encode({"error": error.code, "detail": str(error)}) + b"\n"


# --- entries --------------------------------------------------------------------------------------------------------


def render(numbered: Numbered, format: Format) -> bytes:
    """The line of an entry. Entries with offset 0 were never numbered."""
    offset, entry = numbered
    if format == "senml":
        pack = _pack(entry)
        pack[0][OFFSET] = offset
        return msgspec.json.encode(pack) + b"\n"
    head = {"offset": offset} if offset else {}
    return msgspec.json.encode(head | describe(entry)) + b"\n"


def describe(entry: Entry) -> dict[str, Any]:
    """An entry as people and scripts see it."""
    if isinstance(entry, Window):
        return {"window": _window(entry.result)}
    reading = entry.reading
    shown: dict[str, Any] = {"series": reading.series, "time": reading.time_us / MICROSECONDS}
    if reading.value is not None:
        shown["value"] = _shown(reading.value)
    if reading.total is not None:
        shown["total"] = reading.total
    if reading.unit:
        shown["unit"] = reading.unit
    if entry.source:
        shown["source"] = entry.source
    if entry.sequence is not None:
        shown["sequence"] = entry.sequence
    return shown


def _window(result: WindowResult) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "series": result.series,
        "start": result.start_us / MICROSECONDS,
        "seconds": result.width_us // MICROSECONDS,
        "count": result.count,
        "last": None if result.last is None else _shown(result.last),
        "last_time": result.last_us / MICROSECONDS,
    }
    if result.total is not None:
        shown |= {"sum": result.total, "min": result.minimum, "max": result.maximum}
    return shown | ({"unit": result.unit} if result.unit else {})


def _shown(value: Value) -> Any:
    return {"data": senml.text_of_data(value.raw)} if isinstance(value, Data) else value


def _pack(entry: Entry) -> list[dict[str, Any]]:
    """An entry as a SenML pack: a window as one record for each of its figures, `series:count` and so on."""
    if isinstance(entry, Sample):
        return senml.json_records(Batch(entry.source or "-", (entry.reading,), entry.sequence))
    result = entry.result
    figures: list[dict[str, Any]] = [{"n": "count", "v": result.count}]
    if result.total is not None:
        figures += [
            {"n": label, "v": figure, **({"u": result.unit} if result.unit else {})}
            for label, figure in zip(FIGURES, (result.total, result.minimum, result.maximum), strict=True)
        ]
    figures[0] |= {"bn": f"{result.series}:", "bt": result.start_us / MICROSECONDS}
    return figures


def parse_entry(line: bytes) -> Numbered | Dropped:
    """What a feed says after its hello, in JSON. Raises BadRequest; the feed's own error as BadRequest too."""
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("the feed's line is not JSON") from None
    if not isinstance(fields, dict):
        raise BadRequest("the feed's line is not an object")
    if "error" in fields:
        raise BadRequest(f"the feed refuses: {fields.get('detail')}"[:500], error=str(fields["error"])[:80])
    try:
        if "dropped" in fields:
            return Dropped(check_sequence(fields["dropped"]), check_sequence(fields.get("reached")))
        offset = check_sequence(fields.get("offset", 0))
        return offset, Window(_read_window(fields["window"])) if "window" in fields else _read_sample(fields)
    except (BadReading, KeyError, TypeError) as error:
        raise BadRequest(f"the feed's line is no entry: {error}") from None


def _read_sample(fields: dict[str, Any]) -> Sample:
    reading = Reading(
        check_series(fields["series"]),
        microseconds(finite(fields["time"], "time")),
        _read_value(fields["value"]) if "value" in fields else None,
        check_unit(fields.get("unit", "")),
        finite(fields["total"], "total") if "total" in fields else None,
    )
    sequence = check_sequence(fields["sequence"]) if "sequence" in fields else None
    return Sample(reading, check_source(fields["source"]) if "source" in fields else "", sequence)


def _read_window(fields: dict[str, Any]) -> WindowResult:
    total, minimum, maximum = (finite(fields[label], label) if label in fields else None for label in FIGURES)
    return WindowResult(
        check_series(fields["series"]),
        microseconds(finite(fields["start"], "start")),
        check_sequence(fields["seconds"]) * MICROSECONDS,
        check_sequence(fields["count"]),
        total,
        minimum,
        maximum,
        None if fields["last"] is None else _read_value(fields["last"]),
        microseconds(finite(fields["last_time"], "last_time")),
        check_unit(fields.get("unit", "")),
    )


def _read_value(value: Any) -> Value:
    if isinstance(value, dict) and isinstance(value.get("data"), str):
        return check_value(Data(senml.data_of_text(value["data"])))
    return check_value(value)
