"""The store of a node: RocksDB through `rocksdict`, one column family for each table.

All column families share one write-ahead log, so a batch over several tables is atomic, and a synced batch makes every
batch before it durable too. A torn tail of the log (kill -9, power cut) is cut off at the last whole batch.

Facts that shaped this file (measured on rocksdict 0.3.29):
- a live iterator keeps the database locked after `close`, so no iterator outlives the call that made it: `scan` reads
  a chunk, drops its iterator, and only then yields;
- the index and the filter of a file come into the block cache as one piece each, and a piece that is larger than one of
  the cache's shards (0.75 MB of 24) never stays: each read makes it anew, which was half of a node's processor time
  once a file of `latest` had grown to 64 MB. So files of tables that are read key by key stay small; where most is
  scanned, there is no filter, and the index is cut into partitions of a few KB, of which a read needs one;
- `write` holds the GIL, also while it syncs: on a slow or busy disk for 10 ms and more, in which nothing else in the
  process moves. `sync` makes earlier writes durable without that: RocksDB hands every write to the operating system
  before it returns, so it is enough to sync the files of the write-ahead log, which lets go of the GIL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Final

from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    ColumnFamily,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from blockcloud.primitives.errors import BadConfiguration, StorageFault
from blockcloud.primitives.storage import Batch
from blockcloud.service_chain.state import STATE_TABLES
from blockcloud.service_chain.state.tables import LATEST

RECEIPTS: Final = "receipts"
PARTIES: Final = "parties"
COMMITS: Final = "commits"
BLOCKS: Final = "blocks"
META: Final = "meta"
ROUTING: Final = "routing"
ALL_TABLES: Final = (*STATE_TABLES, RECEIPTS, PARTIES, COMMITS, BLOCKS, META, ROUTING)
# Read key by key, `latest` nearly always for keys that it has; the others are scanned, or read at known places.
READ_BY_KEY: Final = (LATEST, RECEIPTS)

# Memory: four validators with a million keys each share one machine.
BLOCK_CACHE_BYTES: Final = 24 * 1024 * 1024
WRITE_BUFFERS_BYTES: Final = 32 * 1024 * 1024  # of all tables together
WRITE_BUFFER_BYTES: Final = 8 * 1024 * 1024  # of one table
LOG_BYTES: Final = 64 * 1024 * 1024  # write-ahead log: the oldest tables are flushed beyond it
BLOOM_BITS_PER_KEY: Final = 10
PARTITION_BYTES: Final = 4 * 1024  # of the indices of large files
SMALL_FILE_BYTES: Final = 16 * 1024 * 1024
OPEN_FILES: Final = 256
SCAN_CHUNK: Final = 512  # entries held in memory by one scan


class RocksStore:
    """A `primitives.storage.Store` on disk. Safe to use from several threads; one process at a time.

    Methods raise StorageFault when RocksDB fails or the store is closed, BadConfiguration for an unknown table.
    A long `scan` is not a snapshot: it sees what is written between its chunks.
    """

    def __init__(self, path: Path, tables: tuple[str, ...] = ALL_TABLES) -> None:
        self.path = path
        self._tables: dict[str, Rdict] = {}
        self._handles: dict[str, ColumnFamily] = {}
        self._synced, self._unsynced = WriteOptions(), WriteOptions()
        self._synced.sync = True
        self._synced_logs: list[str] = []
        cache = Cache(BLOCK_CACHE_BYTES)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            families = {table: _table_options(table, cache) for table in tables}
            self._database = Rdict(str(path), _database_options(), column_families=families)
            for table in tables:
                self._tables[table] = self._database.get_column_family(table)
                self._handles[table] = self._database.get_column_family_handle(table)
        except Exception as error:
            raise StorageFault(f"cannot open the database: {error}", path=str(path)) from error

    def get(self, table: str, key: bytes) -> bytes | None:
        family = self._family(table)
        try:
            value: bytes | None = family.get(key)
        except Exception as error:
            raise StorageFault(f"cannot read: {error}", table=table) from error
        return value

    def scan(
        self, table: str, start: bytes, stop: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        family, left = self._family(table), limit
        while left is None or left > 0:
            wanted = SCAN_CHUNK if left is None else min(left, SCAN_CHUNK)
            # One more than wanted says where the next chunk starts.
            chunk = _chunk(family, start, stop, reverse, wanted + (wanted != left))
            yield from islice(chunk, wanted)
            if len(chunk) <= wanted:
                return
            start = chunk[wanted][0]
            left = None if left is None else left - wanted

    def write(self, batch: Batch, *, sync: bool) -> None:
        handles = self._handles
        try:
            native = WriteBatch(raw_mode=True)
            for table, start, stop in batch.range_deletes:
                if start < stop:
                    native.delete_range(start, stop, handles[table])
            put, delete = native.put, native.delete
            for table, key, value in batch.writes:
                if value is None:
                    delete(key, handles[table])
                else:
                    put(key, value, handles[table])
            self._database.write(native, self._synced if sync else self._unsynced)
        except KeyError as error:
            raise self._unknown(str(error.args[0])) from None
        except Exception as error:
            raise StorageFault(f"cannot write: {error}", entries=len(batch)) from error

    def sync(self) -> None:
        """Make durable what was written before this call. Meant for a thread of its own; lets go of the GIL.

        A log file that vanishes meanwhile is not missed: RocksDB removes one after its tables are on the medium.
        """
        try:
            names = sorted(path.name for path in self.path.iterdir() if path.suffix == ".log")
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    _sync_file(self.path / name)
            if names != self._synced_logs:
                _sync_file(self.path)  # the directory: a new file's entry
                self._synced_logs = names
        except OSError as error:
            raise StorageFault(f"cannot sync: {error.strerror}", path=str(self.path)) from error

    def close(self) -> None:
        """Flush the log and release the lock. Idempotent; every later call raises StorageFault."""
        if not self._tables:
            return
        families, self._tables, self._handles = list(self._tables.values()), {}, {}
        try:
            with contextlib.suppress(KeyError):
                self._database.flush_wal(sync=True)
            for family in families:
                family.close()
            self._database.close()
        except Exception as error:
            raise StorageFault(f"cannot close: {error}", path=str(self.path)) from error

    def _family(self, table: str) -> Rdict:
        family = self._tables.get(table)
        if family is None:
            raise self._unknown(table)
        return family

    def _unknown(self, table: str) -> BadConfiguration | StorageFault:
        if not self._tables:
            return StorageFault("the store is closed", path=str(self.path))
        return BadConfiguration("no such table", table=table)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _chunk(family: Rdict, start: bytes, stop: bytes | None, reverse: bool, wanted: int) -> list[tuple[bytes, bytes]]:
    try:
        entries: Iterator[tuple[bytes, bytes]] = family.items(backwards=reverse, from_key=start)  # type: ignore[assignment]
        if stop is not None:
            inside = (lambda entry: entry[0] > stop) if reverse else (lambda entry: entry[0] < stop)
            entries = takewhile(inside, entries)
        return list(islice(entries, wanted))
    except Exception as error:
        raise StorageFault(f"cannot scan: {error}") from error


def _database_options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES)
    options.set_max_total_wal_size(LOG_BYTES)
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    options.set_max_open_files(OPEN_FILES)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    # RocksDB's own statistics would write to the disk of an idle node every ten minutes.
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def _table_options(table: str, cache: Cache) -> Options:
    blocks = BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options = Options(raw_mode=True)
    if table in READ_BY_KEY:
        blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, False)
        options.set_target_file_size_base(SMALL_FILE_BYTES)
        options.set_optimize_filters_for_hits(table == LATEST)
    else:
        blocks.set_index_type(BlockBasedIndexType.two_level_index_search())
        blocks.set_metadata_block_size(PARTITION_BYTES)
    options.set_block_based_table_factory(blocks)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_compression_type(DBCompressionType.lz4())
    return options
