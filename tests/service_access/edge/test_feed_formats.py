"""SenML and plain JSON: what is written reads back, base fields mean what RFC 8428 says, and garbage is refused."""

from __future__ import annotations

from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.errors import PeerFault
from blockcloud.service_access.edge.feed import plain, senml
from blockcloud.service_access.edge.feed.errors import BadPack, BadReading, NotUnderstood, UnsupportedVersion
from blockcloud.service_access.edge.feed.formats import parse
from blockcloud.service_access.edge.feed.readings import MESSAGE_BYTES, MESSAGE_READINGS, Batch, Data, Reading
from tests.service_access.edge.feed_samples import NAMES, NOW_US, batches


def pack(*records: dict[str, Any]) -> Batch:
    return senml.parse_json(msgspec.json.encode(records), NOW_US, "source")


# --- there and back -------------------------------------------------------------------------------------------------


@given(batches())
def test_a_pack_in_json_reads_back(batch: Batch) -> None:
    assert senml.parse_json(senml.render_json(batch), NOW_US, "other") == batch


@given(batches())
def test_a_pack_in_cbor_reads_back(batch: Batch) -> None:
    assert senml.parse_cbor(senml.render_cbor(batch), NOW_US, "other") == batch


# --- base fields ----------------------------------------------------------------------------------------------------

NUMBER = st.integers(-1_000, 1_000).map(float)
BASES = st.fixed_dictionaries(
    {},
    optional={"bn": NAMES, "bt": st.integers(300_000_000, 400_000_000), "bu": st.just("W"), "bv": NUMBER, "bs": NUMBER},
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={"n": NAMES, "t": st.integers(0, 1_000), "u": st.just("V"), "s": NUMBER},
)
VALUE = st.one_of(
    st.fixed_dictionaries({"v": NUMBER}),
    st.fixed_dictionaries({"vs": st.just("on")}),
    st.fixed_dictionaries({"vb": st.booleans()}),
    st.fixed_dictionaries({"vd": st.just("AQI")}),
    st.just({}),
)
RECORD = st.tuples(BASES, FIELDS, VALUE).map(lambda parts: parts[0] | parts[1] | parts[2])


def slow_resolution(records: list[dict[str, Any]]) -> list[Reading]:
    """Section 4 of RFC 8428, read slowly: for each field of each record, look back for the base field that holds.
    Raises ValueError for a record without name or value."""
    resolved = []
    for place, record in enumerate(records):

        def base(label: str, missing: Any, upto: list[dict[str, Any]] = records[: place + 1]) -> Any:
            return next((earlier[label] for earlier in reversed(upto) if label in earlier), missing)

        name = base("bn", "") + record.get("n", "")
        seconds = base("bt", 0) + record.get("t", 0)
        if seconds < 2**28:
            seconds += NOW_US / 1_000_000
        total = base("bs", 0.0) + record.get("s", 0.0) if "s" in record or base("bs", None) is not None else None
        value: Any = None
        if "vs" in record:
            value = record["vs"]
        elif "vb" in record:
            value = record["vb"]
        elif "vd" in record:
            value = Data(b"\x01\x02")
        elif "v" in record or base("bv", None) is not None:
            value = base("bv", 0.0) + record.get("v", 0.0)
        if not name or (value is None and total is None):
            raise ValueError(record)
        resolved.append(Reading(name, round(seconds * 1_000_000), value, record.get("u", base("bu", "")), total))
    return resolved


@given(st.lists(RECORD, min_size=1, max_size=5))
def test_base_fields_are_resolved_as_a_slow_reading_of_the_rfc_does(records: list[dict[str, Any]]) -> None:
    try:
        wanted = slow_resolution(records)
    except ValueError:
        with pytest.raises(BadReading):
            pack(*records)
        return
    assert list(pack(*records).readings) == wanted
    numbered = [{senml.CBOR_LABELS[label]: value for label, value in each.items()} for each in records]
    for each in numbered:
        if 8 in each:
            each[8] = b"\x01\x02"
    assert list(senml.parse_cbor(cbor2.dumps(numbered), NOW_US, "s").readings) == wanted


def test_the_example_of_the_rfc_is_read() -> None:
    """Section 5.1.3: a base time, and times relative to it."""
    batch = pack(
        {
            "bn": "urn:dev:ow:10e2073a01080063:",
            "bt": 1.276020076001e9,
            "bu": "A",
            "bver": 5,
            "n": "voltage",
            "u": "V",
            "v": 120.1,
        },
        {"n": "current", "t": -5, "v": 1.2},
        {"n": "current", "t": -4, "v": 1.3},
    )
    assert [(each.series[-7:], each.unit, each.time_us) for each in batch.readings] == [
        ("voltage", "V", 1_276_020_076_001_000),
        ("current", "A", 1_276_020_071_001_000),
        ("current", "A", 1_276_020_072_001_000),
    ]


def test_a_time_below_2_28_is_relative_to_now() -> None:
    assert pack({"n": "a", "v": 1, "t": -10}).readings[0].time_us == NOW_US - 10_000_000
    assert pack({"n": "a", "v": 1}).readings[0].time_us == NOW_US


def test_source_and_sequence_are_of_the_first_record() -> None:
    batch = pack({"n": "a", "v": 1, "bcsrc": "porch-7", "bcseq": 41}, {"n": "a", "v": 2})
    assert (batch.source, batch.sequence) == ("porch-7", 41)
    assert pack({"n": "a", "v": 1}).source == "source"


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "error"),
    [
        ({"n": "a", "v": 1, "future_": 1}, NotUnderstood),
        ({"n": "a", "v": 1, "bver": 11}, UnsupportedVersion),
        ({"n": "a", "v": 1, "bver": True}, UnsupportedVersion),
        ({"n": "a"}, BadReading),
        ({"v": 1}, BadReading),
        ({"n": "-a", "v": 1}, BadReading),
        ({"n": "a b", "v": 1}, BadReading),
        ({"n": "a" * 257, "v": 1}, BadReading),
        ({"n": "a", "v": True}, BadReading),
        ({"n": "a", "v": "1"}, BadReading),
        ({"n": "a", "v": 1e300}, BadReading),
        ({"n": "a", "vb": 1}, BadReading),
        ({"n": "a", "vs": 1}, BadReading),
        ({"n": "a", "vs": "x" * 1_025}, BadReading),
        ({"n": "a", "vd": "=!"}, BadReading),
        ({"n": "a", "v": 1, "vb": True}, BadReading),
        ({"n": "a", "v": 1, "t": 1e12}, BadReading),
        ({"n": "a", "v": 1, "u": 3}, BadReading),
        ({"n": "a", "v": 1, "bcseq": -1}, BadReading),
        ({"n": "a", "v": 1, "bcseq": 2**53}, BadReading),
        ({"n": "a", "v": 1, "bcsrc": ""}, BadReading),
    ],
)
def test_a_bad_record_has_its_reason(record: dict[str, Any], error: type[PeerFault]) -> None:
    with pytest.raises(error):
        pack(record)


def test_an_unknown_field_is_ignored() -> None:
    assert pack({"n": "a", "v": 1, "future": {"x": 1}}).readings[0].value == 1


def test_versions_within_a_pack_do_not_differ() -> None:
    with pytest.raises(BadPack):
        pack({"n": "a", "v": 1, "bver": 5}, {"n": "a", "v": 1, "bver": 6})


def test_limits_of_a_message() -> None:
    with pytest.raises(BadReading, match="too many"):
        pack(*[{"n": "a", "v": 1}] * (MESSAGE_READINGS + 1))
    with pytest.raises(BadReading, match="too long"):
        senml.parse_json(b" " * (MESSAGE_BYTES + 1), NOW_US, "s")
    with pytest.raises(BadReading, match="too many"):
        plain.parse_plain(b'{"readings":[' + b"1," * 2_000 + b"1]}", NOW_US, "s", "a")


def test_a_field_given_by_number_and_by_name_is_refused() -> None:
    with pytest.raises(BadPack, match="twice"):
        senml.parse_cbor(cbor2.dumps([{0: "a", "n": "b", 2: 1}]), NOW_US, "s")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_cbor_may_not_smuggle_numbers_that_are_none(number: float) -> None:
    with pytest.raises(BadReading):
        senml.parse_cbor(cbor2.dumps([{0: "a", 2: number}]), NOW_US, "s")


def test_decimal_fractions_of_cbor_are_numbers() -> None:
    assert senml.parse_cbor(bytes.fromhex("81a2006161" + "02c48220190ceb"), NOW_US, "s").readings[0].value == 330.7


@given(st.binary(max_size=200), st.sampled_from([None, 0, 50, 110, 112]))
def test_garbage_has_a_typed_end(payload: bytes, content_format: int | None) -> None:
    try:
        parse(payload, content_format, NOW_US, "s", "a")
    except PeerFault:
        return


@given(batches(), st.data())
def test_a_damaged_pack_has_a_typed_end(batch: Batch, data: st.DataObject) -> None:
    payload = bytearray(data.draw(st.sampled_from([senml.render_cbor, senml.render_json]))(batch))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        plain.parse_any(bytes(payload), NOW_US, "s", "a")
    except PeerFault:
        return


# --- plain JSON -----------------------------------------------------------------------------------------------------


def plainly(text: str) -> Batch:
    return plain.parse_any(text.encode(), NOW_US, "topic", "porch/t")


def test_plain_values() -> None:
    assert plainly("21.5").readings == (Reading("porch/t", NOW_US, 21.5),)
    assert plainly("true").readings == (Reading("porch/t", NOW_US, True),)
    assert plainly('{"value": 3, "unit": "W", "time": 1700000000.5, "sequence": 4, "source": "meter"}') == Batch(
        "meter", (Reading("porch/t", 1_700_000_000_500_000, 3.0, "W"),), 4
    )
    assert plainly('{"sequence": 4, "readings": [{"series": "a", "value": 1}, {"series": "b", "total": 2}]}') == Batch(
        "topic", (Reading("a", NOW_US, 1.0), Reading("b", NOW_US, None, "", 2.0)), 4
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        '{"tiem": 1, "value": 2}',
        '{"value": null}',
        '{"value": [1]}',
        '{"readings": []}',
        '{"readings": 3}',
        '{"readings": [{"value": 1, "source": "x"}]}',
        '{"readings": [{"value": 1}], "unit": "W"}',
        '{"value": 1, "time": "now"}',
        "1e999",
    ],
)
def test_plain_mistakes_are_refused(text: str) -> None:
    with pytest.raises(BadReading):
        plainly(text)


def test_a_list_is_a_pack() -> None:
    assert plainly(' [{"n":"a","v":1}]').readings[0].series == "a"
    assert plain.parse_any(cbor2.dumps([{0: "b", 2: 1}]), NOW_US, "s", "x").readings[0].series == "b"
