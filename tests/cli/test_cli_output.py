"""The two views of a report hold the same values, whatever the report; errors have their exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.cli.output import exit_code, show_bug, show_error
from blockcloud.primitives.errors import (
    BadConfiguration,
    BadProof,
    BlockCloudError,
    Busy,
    InvalidAddress,
    InvalidName,
    TimedOut,
    Unreachable,
    WrongKey,
)
from blockcloud.service_chain.rejections import StaleSequence
from tests.cli.cli_world import read_view, shown_by, texts

keys = st.text("abcdefgh_", min_size=1, max_size=12)
words = st.text("abc XYZ019:./=-", max_size=20).map(lambda text: " ".join(text.split()))
leaves = st.none() | st.booleans() | st.integers() | words | st.floats(allow_nan=False, allow_infinity=False)
cells = leaves | st.lists(words, max_size=3) | st.dictionaries(keys, leaves, max_size=3)
values = st.recursive(
    leaves | st.lists(leaves, max_size=4) | st.lists(st.dictionaries(keys, cells, min_size=1, max_size=4), max_size=3),
    lambda inner: st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(report=st.dictionaries(keys, values, min_size=1, max_size=6))
def test_both_views_hold_the_same_values(report: dict[str, Any]) -> None:
    as_json = json.loads(shown_by(report, as_json=True))
    view = shown_by(report, as_json=False).splitlines()
    assert read_view(view, as_json) == texts(as_json)


def test_text_from_elsewhere_cannot_forge_lines_or_move_the_cursor() -> None:
    report = {"title": "good\nverified  yes\x1b[2J", "rows": [{"a": "x\r\u202ey"}]}
    view = shown_by(report, as_json=False)
    assert len(view.splitlines()) == 4
    assert all(line.isprintable() for line in view.splitlines())
    assert json.loads(shown_by(report, as_json=True)) == report


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadConfiguration("x"), 1),
        (BadProof("x"), 1),
        (WrongKey("x"), 1),
        (InvalidName("x"), 2),
        (InvalidAddress("x"), 2),
        (Unreachable("x"), 3),
        (Busy("x", retry_after_ms=5), 3),
        (StaleSequence("x"), 4),
        (TimedOut("x"), 5),
    ],
)
def test_exit_codes(error: BlockCloudError, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_says_what_why_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(WrongKey("the peer\nlies", name="thermo"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == r"error: the peer\nlies (name='thermo') [wrong_key]"
    assert err.splitlines()[1].startswith("  hint: ")


def test_a_bug_is_one_line_and_its_place_is_shown_only_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show_bug(ValueError("first\nsecond"))
    err = capsys.readouterr().err
    assert err.splitlines()[0] == "error: ValueError: first [internal_error]"
    assert "Traceback" not in err
    monkeypatch.setenv("BLOCKCLOUD_LOG", "debug")
    try:
        raise ValueError("again")
    except ValueError as error:
        show_bug(error)
    assert "Traceback" in capsys.readouterr().err
