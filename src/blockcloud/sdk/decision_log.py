"""The log of a provider's decisions: JSON lines in files of bounded size, the newest few kept.

Each line carries the SHA-256 of the line before, across files, so that a line cannot be taken out unnoticed and the
digest of the last one can be anchored on the ledger for all of them. Nothing secret is in it: no grant, only its
verdict.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

LOG_FILE_BYTES: Final = 1024 * 1024
LOG_FILES: Final = 4
LAST_LINE_BYTES: Final = 8_192

log = structlog.get_logger(__name__)


class DecisionLog:
    """Appends to `path`; older lines are in `path`.1 to `path`.3. `counts` are the lines of this process by result."""

    def __init__(self, path: Path, *, file_bytes: int = LOG_FILE_BYTES, files: int = LOG_FILES) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self._file_bytes, self._files = file_bytes, files
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._size, self._last = self._resume()

    @property
    def digest(self) -> bytes:
        """SHA-256 of the last line: what an anchor would hold."""
        return self._last

    def add(self, entry: dict[str, Any]) -> None:
        """Append one decision. A disk that refuses is told in the program's log: it must not open or close a door."""
        self.counts["allowed" if entry.get("allowed") else "denied"] += 1
        line = msgspec.json.encode({**entry, "previous": self._last.hex()})
        try:
            if self._size + len(line) + 1 > self._file_bytes and self._size:
                self._rotate()
            with self.path.open("ab") as file:
                file.write(line + b"\n")
        except OSError as error:
            log.error("decision_log_failed", path=str(self.path), reason=error.strerror)
            return
        self._size += len(line) + 1
        self._last = hashlib.sha256(line).digest()

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _rotate(self) -> None:
        for number in range(self._files - 1, 1, -1):
            if self._older(number - 1).exists():
                self._older(number - 1).replace(self._older(number))
        self.path.replace(self._older(1))
        self._size = 0

    def _resume(self) -> tuple[int, bytes]:
        """Size and last digest of what an earlier process wrote."""
        if not self.path.exists():
            return 0, bytes(32)
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            file.seek(max(0, size - LAST_LINE_BYTES))
            lines = file.read().splitlines()
        return size, hashlib.sha256(lines[-1]).digest() if lines else bytes(32)
