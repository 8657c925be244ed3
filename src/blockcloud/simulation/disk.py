"""A disk that forgets: a store in memory over a write-ahead log whose unsynced end a crash may tear off.

The log is bytes, a record for each batch: length, checksum, contents. A crash cuts it anywhere behind the last synced
record, also in the midst of one, and may leave rubbish there; recovery replays the records up to the first that is not
whole. So a crash keeps a prefix of the batches, and never a part of one. A full disk refuses every write, after it has
taken the beginning of its record.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from zlib import crc32

from blockcloud.primitives import codec
from blockcloud.primitives.errors import StorageFault
from blockcloud.primitives.storage import Batch, MemoryStore

_HEAD_BYTES = 8
_RECORD_BYTES = 64 * 1024 * 1024
_RUBBISH_BYTES = 16


class _Record(codec.Struct, frozen=True):
    """A batch in the log."""

    writes: tuple[tuple[str, bytes, bytes | None], ...]
    range_deletes: tuple[tuple[str, bytes, bytes], ...]


class DiskFull(StorageFault):
    """There is no room for the write."""

    code = "disk_full"


class SimulatedDisk:
    """A `Store`; `crash` is what power loss does to it."""

    def __init__(self) -> None:
        self.is_full = False
        self._store = MemoryStore()
        self._log = bytearray()
        self._synced_bytes = 0

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._store.get(table, key)

    def scan(
        self, table: str, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._store.scan(table, start, stop, reverse=reverse, limit=limit)

    def write(self, batch: Batch, *, sync: bool) -> None:
        record = _record(batch)
        if self.is_full:
            self._log += record[: len(record) // 2]
            raise DiskFull
        self._log += record
        self._store.write(batch, sync=sync)
        if sync:
            self._synced_bytes = len(self._log)

    def sync(self) -> None:
        """What was written is on the medium when this returns."""
        self._synced_bytes = len(self._log)

    def reopen(self) -> None:
        """The process ended, the machine did not: every whole record is there, the part of one that a full disk took
        is cut off."""
        self._recover()
        self._synced_bytes = min(self._synced_bytes, len(self._log))

    def crash(self, random: Random) -> int:
        """Tear off a random number of the unsynced bytes, and recover. Returns how many bytes of records are gone."""
        before = len(self._log)
        kept = random.randint(self._synced_bytes, before)
        if kept < before:
            del self._log[kept:]
            if random.random() < 0.5:
                self._log += random.randbytes(_RUBBISH_BYTES)
            self._recover()
        self._synced_bytes = len(self._log)
        return before - len(self._log)

    def _recover(self) -> None:
        self._store = MemoryStore()
        start = 0
        while (batch := _whole_record(self._log, start)) is not None:
            self._store.write(batch[0], sync=True)
            start = batch[1]
        del self._log[start:]


def _record(batch: Batch) -> bytes:
    body = codec.encode(_Record(tuple(batch.writes), tuple(batch.range_deletes)))
    return len(body).to_bytes(4, "big") + crc32(body).to_bytes(4, "big") + body


def _whole_record(log: bytearray, start: int) -> tuple[Batch, int] | None:
    """The batch whose record begins at `start`, and where the next begins; None if it is torn."""
    body_start = start + _HEAD_BYTES
    stop = body_start + int.from_bytes(log[start : start + 4], "big")
    body = bytes(log[body_start:stop])
    if len(log) < body_start or len(log) < stop or crc32(body) != int.from_bytes(log[start + 4 : body_start], "big"):
        return None
    record = codec.decode(body, _Record, limit=_RECORD_BYTES)
    batch = Batch()
    batch.writes.extend(record.writes)
    batch.range_deletes.extend(record.range_deletes)
    return batch, stop
