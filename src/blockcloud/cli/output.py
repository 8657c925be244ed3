"""One report, two views: every command builds a plain object and this module shows it as JSON or for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from blockcloud.primitives.errors import (
    BlockCloudError,
    Busy,
    Rejected,
    TimedOut,
    Unreachable,
)

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_REJECTED = 4
EXIT_TIMED_OUT = 5

_EXIT: tuple[tuple[type[BlockCloudError], int], ...] = (
    (Unreachable, EXIT_UNREACHABLE),
    (Busy, EXIT_UNREACHABLE),
    (Rejected, EXIT_REJECTED),
    (TimedOut, EXIT_TIMED_OUT),
)


def exit_code(error: BlockCloudError) -> int:
    """The process's exit code for an error."""
    return next((code for kind, code in _EXIT if isinstance(error, kind)), EXIT_FAILURE)


def show(report: object, *, as_json: bool) -> None:
    """Print `report` on stdout: one JSON object, or aligned lines that hold the same values."""
    text = msgspec.json.encode(report).decode() if as_json else "\n".join(_lines(report, 0))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say(message: str) -> None:
    """A message for the person, on stderr."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def show_error(error: BlockCloudError) -> None:
    """What happened, why, and what to do."""
    say(f"error: {error} [{error.code}]")
    if error.hint:
        say(f"  hint: {error.hint}")


def _lines(value: object, indent: int) -> list[str]:
    pad = "  " * indent
    if isinstance(value, Mapping):
        width = max((len(str(key)) for key in value), default=0)
        lines = []
        for key, item in value.items():
            if _is_leaf(item):
                lines.append(f"{pad}{key!s:<{width}}  {_leaf(item)}")
            else:
                lines += [f"{pad}{key}", *_lines(item, indent + 1)]
        return lines
    if isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(isinstance(item, Mapping) for item in value):
            return _table(value, pad)
        return [line for item in value for line in _lines(item, indent)]
    return [pad + _leaf(value)]


def _table(rows: Sequence[Mapping[str, Any]], pad: str) -> list[str]:
    """Rows of equal keys as a table; a nested value is shown in one cell."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_leaf(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(column), *(len(row[i]) for row in cells)) for i, column in enumerate(columns)]
    lines = [pad + "  ".join(f"{column:<{width}}" for column, width in zip(columns, widths, strict=True)).rstrip()]
    lines += [pad + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return lines


def _is_leaf(value: object) -> bool:
    return isinstance(value, str) or not isinstance(value, Mapping | Sequence) or not value


def _leaf(value: object) -> str:
    if value is None or value in ((), []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_leaf(item)}" for key, item in value.items()) or "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_leaf(item) for item in value)
    return str(value)
