"""The tables of the state, for whoever opens the store."""

from __future__ import annotations

from typing import Final

LATEST: Final = "latest"
HISTORY: Final = "history"
CHANGES: Final = "changes"
UNDO: Final = "undo"
ROOTS: Final = "roots"

STATE_TABLES: Final[tuple[str, ...]] = (LATEST, HISTORY, CHANGES, UNDO, ROOTS)
