"""What the demo shows: lines for a person on stderr or stdout, verdicts for everybody."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO


@dataclass
class Report:
    """Verdicts and figures as they come; `quiet` keeps stdout for the JSON object."""

    quiet: bool
    verdicts: dict[str, bool] = field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def passed(self) -> bool:
        """Whether there are verdicts and all of them hold."""
        return bool(self.verdicts) and all(self.verdicts.values())

    def line(self, text: str) -> None:
        """A line for a person, with the seconds since the start."""
        stream = self._stream()
        stream.write(f"{time.monotonic() - self.started:6.1f}s  {text}\n")
        stream.flush()

    def verdict(self, name: str, holds: bool, text: str) -> None:
        """Record a claim and show whether it holds."""
        self.verdicts[name] = holds
        self.line(f"{_mark(holds, self._stream())} {text}")

    def figures(self, section: str, **values: object) -> None:
        """Add values to a section of the JSON object."""
        self.sections.setdefault(section, {}).update(values)

    def as_object(self) -> dict[str, Any]:
        """The JSON object of `blockcloud demo --json`."""
        return {
            "verdicts": self.verdicts,
            **self.sections,
            "seconds": round(time.monotonic() - self.started, 1),
        }

    def _stream(self) -> TextIO:
        return sys.stderr if self.quiet else sys.stdout


def _mark(holds: bool, stream: TextIO) -> str:
    word = "PASS" if holds else "FAIL"
    if not stream.isatty():
        return word
    return f"\x1b[{'32' if holds else '31'};1m{word}\x1b[0m"
