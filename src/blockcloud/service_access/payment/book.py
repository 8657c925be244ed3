"""The book of vouchers: what this side has taken and what it has given, durable before it counts. SQLite.

A payee that forgets a voucher was not paid; a payer that forgets one gives two of one number. So both write first
(`synchronous=FULL`) and act then, and a crash at any moment costs a payee at most the credit that it had given, and a
payer nothing. What is served is written with the next voucher: what was served since is within the credit.

A process has its book alone (`locking_mode=EXCLUSIVE`, which also saves a third of the time): two would give one number
twice, and `BookConflict` says so if they do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.errors import LocalFault, PeerFault, StorageFault
from blockcloud.service_access.sqlite_file import faults, open_database, transaction
from blockcloud.service_chain.agreements.vouchers import Standing, Voucher

VERSION: Final = 1
ENTRY_BYTES: Final = 1_024
WAIT_SECONDS: Final = 1.0

_SCHEMA: Final = """
CREATE TABLE taken (agreement BLOB PRIMARY KEY, entry BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE given (agreement BLOB PRIMARY KEY, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, entry BLOB NOT NULL)
  WITHOUT ROWID;
"""


class BookConflict(LocalFault):
    """A voucher with this number, or a later one, has been given."""

    code = "book_conflict"
    hint = "Read the book again, and go on from its last voucher."


class VoucherBook:
    """One file. A thread may write while another reads, one call at a time each."""

    def __init__(self, path: Path, *, wait_s: float = WAIT_SECONDS) -> None:
        """Open or make the file; one that another process has must be free within `wait_s`. Raises StorageFault."""
        self.path = path
        with faults("book of vouchers", path):
            self._database = open_database(path, wait_s=wait_s)
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                raise StorageFault("the book of vouchers was made by another version", path=str(path), version=version)
            if version == 0:
                with transaction(self._database):
                    for statement in _SCHEMA.split(";"):
                        self._database.execute(statement)
                    self._database.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def without_waiting(self) -> None:
        """Write on without waiting for the medium: for measurements, never where a voucher must count."""
        self._database.execute("PRAGMA synchronous = OFF")

    # As a payee

    def take(self, agreement: bytes, standing: Standing) -> None:
        """Write how far the payee of `agreement` has come. Raises StorageFault: then it has not come there."""
        with faults("book of vouchers", self.path):
            self._database.execute("INSERT OR REPLACE INTO taken VALUES (?, ?)", (agreement, codec.encode(standing)))

    def standing(self, agreement: bytes) -> Standing:
        """How far the payee of `agreement` has come. Raises StorageFault."""
        with faults("book of vouchers", self.path):
            row = self._database.execute("SELECT entry FROM taken WHERE agreement = ?", (agreement,)).fetchone()
        return self._standing(row[0]) if row is not None else Standing()

    def all_taken(self) -> dict[bytes, Standing]:
        """The standing of every agreement that was not forgotten. Raises StorageFault."""
        with faults("book of vouchers", self.path):
            rows = self._database.execute("SELECT agreement, entry FROM taken ORDER BY agreement").fetchall()
        return {agreement: self._standing(entry) for agreement, entry in rows}

    def _standing(self, entry: bytes) -> Standing:
        try:
            return codec.decode(entry, Standing, limit=ENTRY_BYTES)
        except PeerFault as error:
            raise StorageFault(f"the book of vouchers is damaged: {error}", path=str(self.path)) from error

    # As a payer

    def give(self, agreement: bytes, voucher: Voucher) -> None:
        """Write the voucher that is about to be given. Raises BookConflict, StorageFault: then it must not be."""
        with faults("book of vouchers", self.path):
            written = self._database.execute(
                "INSERT INTO given VALUES (?, ?, ?, ?) ON CONFLICT (agreement) DO UPDATE"
                " SET epoch = excluded.epoch, sequence = excluded.sequence, entry = excluded.entry"
                " WHERE (excluded.epoch, excluded.sequence) > (given.epoch, given.sequence)",
                (agreement, voucher.epoch, voucher.sequence, codec.encode(voucher)),
            )
        if written.rowcount == 0:
            raise BookConflict(number=voucher.number)

    def given(self, agreement: bytes) -> Voucher | None:
        """The last voucher given for `agreement`. Raises StorageFault."""
        with faults("book of vouchers", self.path):
            row = self._database.execute("SELECT entry FROM given WHERE agreement = ?", (agreement,)).fetchone()
        if row is None:
            return None
        try:
            return codec.decode(row[0], Voucher, limit=ENTRY_BYTES)
        except PeerFault as error:
            raise StorageFault(f"the book of vouchers is damaged: {error}", path=str(self.path)) from error

    def forget(self, agreement: bytes) -> None:
        """Drop an agreement that is over. Raises StorageFault."""
        with faults("book of vouchers", self.path), transaction(self._database):
            self._database.execute("DELETE FROM taken WHERE agreement = ?", (agreement,))
            self._database.execute("DELETE FROM given WHERE agreement = ?", (agreement,))
