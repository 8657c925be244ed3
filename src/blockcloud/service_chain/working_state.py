"""The state while a commit is executed: decoded records, uncommitted writes over them, and a way back.

Rules read and put records (`records.py`), never bytes. The records of the last commits stay in memory, decoded, so that
a busy account is not read and decoded again each time. A journal notes what each write replaced: `roll_back` undoes the
writes since a `mark`, which is how a transaction fails, and `take_changes` ends the commit.

THE MEMORY IS AHEAD OF THE STORE until the commit's batch is written: if that fails, the process must stop.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from blockcloud.primitives import codec
from blockcloud.service_chain.records import Record

# Decoded records kept between commits. An account with its key takes about 300 bytes.
CACHED_RECORDS: Final = 131_072

R = TypeVar("R", bound=msgspec.Struct)


class WorkingState:
    """Records over `read`, which gives the committed bytes of a state key. Used by one thread."""

    def __init__(self, read: Callable[[bytes], bytes | None], cached_records: int = CACHED_RECORDS) -> None:
        self._read = read
        self._cached_records = cached_records
        # The newest view, uncommitted writes included; None: known to be absent.
        self._records: dict[bytes, Any] = {}
        # (key, what it held before) of each write of this commit, in order.
        self._journal: list[tuple[bytes, Any]] = []
        self._decoders: dict[type[msgspec.Struct], msgspec.msgpack.Decoder[Any]] = {}

    def get(self, key: bytes, shape: type[R]) -> R | None:
        """The record of `key`, or None. `shape` is the only kind of record that ever stands there."""
        try:
            record: R | None = self._records[key]
        except KeyError:
            value = self._read(key)
            record = None if value is None else self._decoder(shape).decode(value)
            self._records[key] = record
        return record

    def peek(self, key: bytes) -> Record | None:
        """The record of `key` if it is in memory, perhaps from a commit that is under way. For any thread."""
        record: Record | None = self._records.get(key)
        return record

    def put(self, key: bytes, record: Record) -> None:
        """Set the record of `key`, which was read before."""
        records = self._records
        self._journal.append((key, records[key]))
        records[key] = record

    def delete(self, key: bytes) -> None:
        """Remove the record of `key`, which was read before."""
        self._journal.append((key, self._records[key]))
        self._records[key] = None

    def mark(self) -> int:
        """The point that `roll_back` can return to."""
        return len(self._journal)

    def roll_back(self, mark: int) -> None:
        """Undo the writes since `mark`."""
        records, journal = self._records, self._journal
        while len(journal) > mark:
            key, record = journal.pop()
            records[key] = record

    def take_changes(self) -> dict[bytes, bytes | None]:
        """End the commit: what it changed, encoded, None for a removed key. A record that is as before is no change."""
        records, encode = self._records, codec.encode
        before = dict(reversed(self._journal))
        self._journal.clear()
        changes = {
            key: None if (record := records[key]) is None else encode(record)
            for key, earlier in before.items()
            if records[key] != earlier
        }
        self._evict()
        return changes

    def _decoder(self, shape: type[msgspec.Struct]) -> msgspec.msgpack.Decoder[Any]:
        """The decoder of one kind of record. What the state holds was encoded here, so it is canonical."""
        decoder = self._decoders.get(shape)
        if decoder is None:
            decoder = self._decoders[shape] = msgspec.msgpack.Decoder(shape)
        return decoder

    def _evict(self) -> None:
        """Forget the records that came first when there are too many, a quarter at a time."""
        if len(self._records) > self._cached_records:
            excess = len(self._records) - self._cached_records
            for key in list(islice(self._records, excess + self._cached_records // 4)):
                del self._records[key]
