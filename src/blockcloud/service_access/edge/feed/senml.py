"""SenML (RFC 8428): packs of records in JSON (content format 110) and in CBOR (112).

A pack is a list of records. A record may set base fields (`bn`, `bt`, `bu`, `bv`, `bs`), which hold for it and for all
that follow until set again; *resolving* (section 4.6) works them into each record. Times below 2**28 seconds are
relative to now. Unknown fields are ignored, unless their name ends in "_": those must be understood (section 4.4).

Two fields of ours tell who sends and how it numbers: `bcsrc` and `bcseq`, in the first record. Whoever does not know
them ignores them.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from decimal import Decimal
from io import BytesIO
from typing import Any, Final

import cbor2
import msgspec

from blockcloud.service_access.edge.feed.errors import BadPack, BadReading, NotUnderstood, UnsupportedVersion
from blockcloud.service_access.edge.feed.readings import (
    MICROSECONDS,
    Batch,
    Data,
    Reading,
    Value,
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

VERSION: Final = 10
RELATIVE_SECONDS: Final = 2**28
SOURCE: Final = "bcsrc"
SEQUENCE: Final = "bcseq"

# RFC 8428 table 4: the integers that stand for labels in CBOR.
CBOR_LABELS: Final = {
    "bver": -1,
    "bn": -2,
    "bt": -3,
    "bu": -4,
    "bv": -5,
    "bs": -6,
    "n": 0,
    "u": 1,
    "v": 2,
    "vs": 3,
    "vb": 4,
    "s": 5,
    "t": 6,
    "ut": 7,
    "vd": 8,
}
_LABEL_OF: Final[dict[object, str]] = {number: label for label, number in CBOR_LABELS.items()}
_VALUES: Final = ("v", "vs", "vb", "vd")
_NUMBERS: Final = ("bt", "bv", "bs", "v", "s", "t", "ut")


def parse_json(payload: bytes, now_us: int, source: str) -> Batch:
    """The readings of a pack in JSON; `source` where it names none. Raises BadPack and its children, BadReading."""
    check_size(payload)
    try:
        pack = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadPack("not JSON") from None
    return resolve(pack, now_us, source)


def parse_cbor(payload: bytes, now_us: int, source: str) -> Batch:
    """As `parse_json`, of a pack in CBOR."""
    check_size(payload)
    stream = BytesIO(payload)
    try:
        pack = cbor2.load(stream)
    except (cbor2.CBORDecodeError, ValueError, TypeError, ArithmeticError, RecursionError):
        raise BadPack("not CBOR") from None
    if stream.read(1):
        raise BadPack("something follows the pack")
    if not isinstance(pack, list):
        raise BadPack("a pack is a list of records")
    return resolve([_named(record) for record in pack], now_us, source)


def _named(record: object) -> dict[str, Any]:
    """A record of CBOR with the labels of JSON."""
    if not isinstance(record, Mapping):
        raise BadPack("a record is a map")
    named: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(key, bool) or not isinstance(key, int | str):
            raise BadPack("a label is an integer or a text")
        label = _LABEL_OF.get(key, key if isinstance(key, str) else f"#{key}")
        if label in named:
            raise BadPack("a record has a field twice", field=label)
        named[label] = value
    return named


def resolve(pack: object, now_us: int, source: str) -> Batch:
    """The readings of a decoded pack, with base fields worked in. Raises BadPack and its children, BadReading."""
    if not isinstance(pack, list) or not pack:
        raise BadPack("a pack is a list of records, at least one")
    check_count(len(pack))
    base: dict[str, Any] = {}
    version: object = None
    readings: list[Reading] = []
    for record in pack:
        fields = _checked(record)
        stated = fields.get("bver", version)
        if readings and stated != version:
            raise BadPack("the records of a pack have one version")
        version = stated
        base.update({label: fields[label] for label in ("bn", "bt", "bu", "bv", "bs") if label in fields})
        readings.append(_reading(fields, base, now_us))
    first = pack[0]
    named = check_source(first[SOURCE]) if SOURCE in first else source
    return Batch(named, tuple(readings), check_sequence(first[SEQUENCE]) if SEQUENCE in first else None)


def _checked(record: object) -> dict[str, Any]:
    """The fields of a record, of the right types. Raises BadPack and its children, BadReading."""
    if not isinstance(record, dict):
        raise BadPack("a record is an object")
    fields: dict[str, Any] = {}
    for label, value in record.items():
        if label.endswith("_"):
            raise NotUnderstood(field=label[:40])
        if label in _NUMBERS:
            fields[label] = finite(_plain_number(value), label)
        elif label in ("bn", "n"):
            if not isinstance(value, str):
                raise BadReading("a name is a text", field=label)
            fields[label] = value
        elif label in ("bu", "u"):
            fields[label] = check_unit(value)
        elif label in CBOR_LABELS:
            fields[label] = value
    if "bver" in fields and (type(fields["bver"]) is not int or not 1 <= fields["bver"] <= VERSION):
        raise UnsupportedVersion(version=str(fields["bver"])[:20], newest=VERSION)
    return fields


def _plain_number(value: object) -> object:
    """CBOR's decimal fractions (RFC 8428 section 6) as floats; everything else as it is."""
    return float(value) if isinstance(value, Decimal) else value


def _reading(fields: Mapping[str, Any], base: Mapping[str, Any], now_us: int) -> Reading:
    total = None
    if "s" in fields or "bs" in base:
        total = finite(fields.get("s", 0.0) + base.get("bs", 0.0), "s")
    seconds = fields.get("t", 0.0) + base.get("bt", 0.0)
    if seconds < RELATIVE_SECONDS:
        seconds += now_us / MICROSECONDS
    return Reading(
        check_series(base.get("bn", "") + fields.get("n", "")),
        microseconds(seconds),
        _value(fields, base, total is None),
        fields.get("u", base.get("bu", "")),
        total,
    )


def _value(fields: Mapping[str, Any], base: Mapping[str, Any], required: bool) -> Value | None:
    given = [label for label in _VALUES if label in fields]
    if len(given) > 1:
        raise BadReading("a record has one value", fields=given)
    match given:
        case ["vs"] if isinstance(fields["vs"], str):
            return check_value(fields["vs"])
        case ["vb"] if isinstance(fields["vb"], bool):
            return bool(fields["vb"])
        case ["vd"]:
            return check_value(_data(fields["vd"]))
        case ["v"]:
            return finite(fields["v"] + base.get("bv", 0.0), "v")
        case [] if "bv" in base:
            return float(base["bv"])
        case [] if not required:
            return None
        case []:
            raise BadReading("a record has a value or a sum")
    raise BadReading("the value is of another type than its field", field=given[0])


def _data(value: object) -> Data:
    """Data is bytes in CBOR, and base64 for URLs without padding in JSON."""
    if isinstance(value, bytes):
        return Data(value)
    if isinstance(value, str):
        return Data(data_of_text(value))
    raise BadReading("data is bytes, or base64 of them", field="vd")


def data_of_text(text: str) -> bytes:
    """The bytes that base64 for URLs says. Raises BadReading."""
    if not all(character.isascii() and (character.isalnum() or character in "-_") for character in text):
        raise BadReading("data is base64 with the alphabet for URLs", field="vd")
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise BadReading("data is base64 with the alphabet for URLs", field="vd") from None


def text_of_data(data: bytes) -> str:
    """Bytes as JSON carries them (RFC 8428 section 5)."""
    return urlsafe_b64encode(data).decode().rstrip("=")


def records(batch: Batch) -> list[dict[str, Any]]:
    """The resolved records of a batch, with data as bytes."""
    rendered = [_record(reading) for reading in batch.readings]
    if rendered:
        rendered[0] |= {SOURCE: batch.source} | ({SEQUENCE: batch.sequence} if batch.sequence is not None else {})
    return rendered


def _record(reading: Reading) -> dict[str, Any]:
    record: dict[str, Any] = {"n": reading.series, "t": reading.time_us / MICROSECONDS}
    if reading.unit:
        record["u"] = reading.unit
    match reading.value:
        case bool():
            record["vb"] = reading.value
        case str():
            record["vs"] = reading.value
        case Data(raw=raw):
            record["vd"] = raw
        case None:
            pass
        case _:
            record["v"] = reading.value
    if reading.total is not None:
        record["s"] = reading.total
    return record


def render_json(batch: Batch) -> bytes:
    """A pack in JSON that `parse_json` reads as the same batch."""
    return msgspec.json.encode(json_records(batch))


def json_records(batch: Batch) -> list[dict[str, Any]]:
    """The resolved records of a batch, as JSON has them."""
    return [_with_text(record) for record in records(batch)]


def _with_text(record: dict[str, Any]) -> dict[str, Any]:
    return record | ({"vd": text_of_data(record["vd"])} if "vd" in record else {})


def render_cbor(batch: Batch) -> bytes:
    """A pack in CBOR that `parse_cbor` reads as the same batch."""
    return cbor2.dumps([_numbered(record.items()) for record in records(batch)])


def _numbered(fields: Iterable[tuple[str, Any]]) -> dict[int | str, Any]:
    return {CBOR_LABELS.get(label, label): value for label, value in fields}
