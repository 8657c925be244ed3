"""One report, two views: every command builds a plain object and this module shows it as JSON or for people.

The view for people is regular: a line for each value, behind its key; what is nested is indented; a list of objects is
a table. So both views hold the same values, and a test reads both to see that they do.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from blockcloud.primitives.errors import (
    BlockCloudError,
    Busy,
    InvalidAddress,
    InvalidAmount,
    InvalidName,
    Rejected,
    TimedOut,
    Unreachable,
)
from blockcloud.routing.errors import InvalidPrice

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_REJECTED: Final = 4
EXIT_TIMED_OUT: Final = 5

# What a person typed is wrong, nobody was reached, the ledger says no, or time was up; everything else is a failure.
_EXIT: Final[tuple[tuple[type[BlockCloudError], int], ...]] = (
    (InvalidName, EXIT_USAGE),
    (InvalidAddress, EXIT_USAGE),
    (InvalidAmount, EXIT_USAGE),
    (InvalidPrice, EXIT_USAGE),
    (Unreachable, EXIT_UNREACHABLE),
    (Busy, EXIT_UNREACHABLE),
    (Rejected, EXIT_REJECTED),
    (TimedOut, EXIT_TIMED_OUT),
)


def exit_code(error: BlockCloudError) -> int:
    """The process's exit code for an error."""
    return next((code for kind, code in _EXIT if isinstance(error, kind)), EXIT_FAILURE)


def show(report: object, *, as_json: bool) -> None:
    """Print `report` on stdout: one JSON object, or lines that hold the same values."""
    text = msgspec.json.encode(report).decode() if as_json else "\n".join(_lines(report, 0))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say(message: str) -> None:
    """A message for the person, on stderr."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def show_error(error: BlockCloudError) -> None:
    """What happened, why, and what to do."""
    say(f"error: {_printable(str(error))} [{error.code}]")
    if error.hint:
        say(f"  hint: {_printable(error.hint)}")
    _show_trace(error)


def show_system_error(error: OSError) -> None:
    """What the operating system refused."""
    where = f" ({error.filename!r})" if error.filename is not None else ""
    say(f"error: {error.strerror or error}{where} [system_error]")
    _show_trace(error)


def show_bug(error: Exception) -> None:
    """An error that nobody foresaw: a line, and how to see more."""
    first = _printable(str(error).partition("\n")[0])
    say(f"error: {type(error).__name__}: {first} [internal_error]")
    say("  hint: this is a fault of BlockCloud itself; BLOCKCLOUD_LOG=debug shows where it happened")
    _show_trace(error)


def _show_trace(error: Exception) -> None:
    if os.environ.get("BLOCKCLOUD_LOG", "").lower() == "debug":
        traceback.print_exception(error)


def _lines(value: object, indent: int) -> list[str]:
    pad = "  " * indent
    if isinstance(value, Mapping) and value:
        width = max(len(str(key)) for key in value)
        lines = []
        for key, item in value.items():
            if _is_leaf(item):
                lines.append(f"{pad}{key!s:<{width}}  {_leaf(item)}")
            else:
                lines += [f"{pad}{key}", *_lines(item, indent + 1)]
        return lines
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        if all(isinstance(item, Mapping) for item in value):
            return _table(value, pad)
        return [pad + _leaf(item) for item in value]
    return [pad + _leaf(value)]


def _table(rows: Sequence[Mapping[str, Any]], pad: str) -> list[str]:
    """Rows of equal keys as a table; a nested value is shown in one cell."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_leaf(row[column]) if column in row else "" for column in columns] for row in rows]
    widths = [max(len(column), *(len(row[i]) for row in cells)) for i, column in enumerate(columns)]
    lines = [pad + "  ".join(f"{column:<{width}}" for column, width in zip(columns, widths, strict=True)).rstrip()]
    lines += [pad + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return lines


def _is_leaf(value: object) -> bool:
    return isinstance(value, str) or not isinstance(value, Mapping | Sequence) or not value


def _leaf(value: object) -> str:
    if isinstance(value, str):
        return _printable(value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_leaf(item)}" for key, item in value.items()) or "-"
    if isinstance(value, Sequence):
        return ", ".join(_leaf(item) for item in value) or "-"
    return "-" if value is None else str(value)


def _printable(text: str) -> str:
    """Text from elsewhere cannot move the cursor, forge lines or hide what follows."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
