"""SQLite files whose commits last over a loss of power: what an outbox or a book promises, it has."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from blockcloud.primitives.errors import StorageFault

JOURNAL_BYTES: Final = 16 * 1024 * 1024


def open_database(path: Path, *, wait_s: float = 5.0) -> sqlite3.Connection:
    """The database in the file `path`, made for its owner alone if there is none. One that is locked is waited for.
    Raises sqlite3.Error."""
    new = not path.exists()
    database = sqlite3.connect(path, wait_s, isolation_level=None, check_same_thread=False)
    if new:
        path.chmod(0o600)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
    return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing of what is written in the block."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


@contextmanager
def faults(what: str, path: Path) -> Iterator[None]:
    """Turns what goes wrong with the file, or with what is in it, into StorageFault."""
    try:
        yield
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise StorageFault(f"the {what} cannot be used: {error}", path=str(path)) from error
