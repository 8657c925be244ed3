"""Readings and batches for tests, made by hypothesis or by hand."""

from __future__ import annotations

from hypothesis import strategies as st

from blockcloud.service_access.edge.feed.readings import TIME_MIN_US, Batch, Data, Reading

NOW_US = 1_800_000_000_000_000
NAMES = st.builds("{}{}".format, st.sampled_from("aZ7"), st.text("aZ7:./_-", max_size=8))
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["Cc", "Cs"]), max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e290, max_value=1e290)
VALUES = st.one_of(NUMBERS, st.booleans(), TEXTS, st.binary(max_size=12).map(Data))
TIMES = st.integers(TIME_MIN_US, NOW_US)
UNITS = st.sampled_from(["", "Cel", "%RH", "/", "W"])


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    """Any reading that may be."""
    total = draw(st.none() | NUMBERS)
    value = draw(VALUES if total is None else st.none() | VALUES)
    return Reading(draw(NAMES), draw(TIMES), value, draw(UNITS), total)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Any batch that may be."""
    source = draw(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12))
    found = tuple(draw(st.lists(readings(), min_size=1, max_size=6)))
    return Batch(source, found, draw(st.none() | st.integers(0, 2**53 - 10)))


def reading(value: float, *, series: str = "porch/t", after_s: float = 0.0) -> Reading:
    """A number at NOW_US + `after_s`."""
    return Reading(series, NOW_US + round(after_s * 1_000_000), value)
