"""The routing table of one node: service files by hash, address records by (name, instance key).

Both are kept only for what the ledger announces; two questions to the ledger come in as functions. Highest sequence
wins. An expired record leaves a tombstone until no lease that could have been signed before it can still run, so that
replaying an older record with a longer lease does not bring an old place back. Everything is in the store, files are
durable when `put_file` returns; memory holds the records and an index.

The bytes of files may be in another store, with a bounded cache of them here (`node.file_storage`). Then the table
knows which files it has, and where; until the other store has taken one, its bytes stay here.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.hashes import sha256, tagged_hash
from blockcloud.primitives.limits import CLOCK_SKEW_SECONDS, LEASE_SECONDS
from blockcloud.primitives.storage import Batch, Store
from blockcloud.routing.address_record import AddressRecord, read_record, verify_record
from blockcloud.routing.errors import NotAnnounced, RoutingFull, StaleSequence
from blockcloud.routing.service_file import read_document

TABLE: Final = "routing"
FILES_MAX: Final = 100_000
RECORDS_MAX: Final = 100_000
PRUNED_PER_STEP: Final = 256
_FILE: Final = b"f"
_RECORD: Final = b"r"
_ELSEWHERE: Final = b"s"  # files whose bytes are in the other store: hash -> length
_END: Final = b"t"
_PLACED: Final = b"a"  # is there if this node no longer keeps everything

Announced = Callable[[bytes], bool]
InstanceKeys = Callable[[str], tuple[bytes, ...]]


class Entry(Struct, frozen=True):
    """What a node says about one thing it holds. `id` is the SHA-256 of its bytes.

    A record also has its slot (which instance of which name, hashed) and sequence; a file has an empty slot.
    """

    id: bytes
    slot: bytes = b""
    sequence: int = 0

    def place(self) -> bytes:
        """Where it stands in the order in which inventories are read."""
        return _RECORD + self.slot if self.slot else _FILE + self.id


@dataclass(frozen=True, slots=True)
class _Held:
    """A record in memory; a tombstone once `live` is false."""

    record: AddressRecord
    entry: Entry
    raw: bytes
    live: bool = True

    @property
    def forgotten_s(self) -> int:
        """From when on no older record of this instance can be valid any more."""
        return self.record.issued_s + LEASE_SECONDS + 2 * CLOCK_SKEW_SECONDS


def slot_of(name: str, instance_key: bytes) -> bytes:
    """The place of an instance's record, 32 bytes."""
    return tagged_hash("routing-slot/v1", name.encode("ascii") + b"\x00" + instance_key)


class RoutingTable:
    """What one routing node holds. Methods that take `now_s` want Unix time in seconds."""

    def __init__(self, store: Store, table: str = TABLE) -> None:
        self._store = store
        self._table = table
        self._records: dict[bytes, _Held] = {}  # by slot
        self._names: dict[str, dict[bytes, None]] = {}  # name -> slots, in order of arrival
        self._slots: dict[bytes, bytes] = {}  # record id -> slot
        self._places: list[bytes] = []  # of everything live, ascending
        self._files: dict[bytes, int] = {}  # hash -> length of all files, wherever their bytes are
        self._local: dict[bytes, None] = {}  # whose bytes are here, the ones used longest ago first
        self._elsewhere: dict[bytes, None] = {}  # whose bytes are in the other store
        self._record_bytes = self._file_bytes = self._local_bytes = 0
        self._changed: dict[bytes, None] | None = None
        self._local_bytes_max: int | None = None
        self.placed = False
        self._to_examine: list[bytes] = []
        self._due: list[tuple[int, bytes, bytes]] = []  # heap of (when, slot, record id): expiry, then forgetting
        self.digest = 0  # exclusive or of the ids of everything live: equal tables have equal digests
        self._load()

    def put_file(self, data: bytes, announced: Announced) -> Entry | None:
        """Keep a service file; None if it is held already. Durable on return.

        Raises NotAnnounced, RoutingFull, or what `read_document` raises.
        """
        entry = Entry(sha256(data))
        if entry.id in self._files:
            return None
        if not announced(entry.id):
            raise NotAnnounced("no name on the ledger announces this service file", hash=entry.id.hex())
        read_document(data)
        if len(self._files) >= FILES_MAX:
            raise RoutingFull(files=len(self._files))
        self._make_room(len(data))
        batch = Batch()
        batch.put(self._table, _FILE + entry.id, data)
        self._store.write(batch, sync=True)
        self._add_file(entry.id, len(data))
        self._add_local(entry.id, len(data))
        self._note(entry.id)
        return entry

    def put_record(self, data: bytes, now_s: int, instance_keys: InstanceKeys) -> Entry | None:
        """Keep an address record; None if it is held already.

        Raises NotAnnounced, StaleSequence, RoutingFull, or what `verify_record` raises.
        """
        identifier = sha256(data)
        if identifier in self._slots:
            return None
        record = verify_record(data, now_s)
        if record.instance_key not in instance_keys(record.name):
            raise NotAnnounced(
                "the ledger does not list this instance key for the name",
                name=record.name,
                key=record.instance_key.hex()[:16],
            )
        slot = slot_of(record.name, record.instance_key)
        entry = Entry(identifier, slot, record.sequence)
        held = self._records.get(slot)
        if held is not None and not _beats(entry, held.entry):
            raise StaleSequence(name=record.name, sequence=record.sequence, known=held.record.sequence)
        if held is None and len(self._records) >= RECORDS_MAX:
            raise RoutingFull(records=len(self._records))
        batch = Batch()
        batch.put(self._table, _RECORD + slot, data)
        self._store.write(batch, sync=False)
        self._hold(_Held(record, entry, data))
        return entry

    def file(self, file_hash: bytes) -> bytes | None:
        """The service file of this hash, or None if its bytes are not here."""
        if file_hash not in self._local:
            return None
        self._local[file_hash] = self._local.pop(file_hash)
        return self._store.get(self._table, _FILE + file_hash)

    def records(self, name: str, now_s: int) -> list[bytes]:
        """The records of `name` whose lease runs, newest sequence first."""
        held = [self._records[slot] for slot in self._names.get(name, ())]
        running = [item for item in held if item.live and item.record.expires_s + CLOCK_SKEW_SECONDS > now_s]
        return [item.raw for item in sorted(running, key=lambda item: -item.record.sequence)]

    def get(self, identifier: bytes) -> bytes | None:
        """The bytes of a live thing by its id: what another node fetches."""
        slot = self._slots.get(identifier)
        if slot is not None:
            return self._records[slot].raw
        return self.file(identifier)

    def is_file(self, identifier: bytes) -> bool:
        """Whether a service file of this hash is held."""
        return identifier in self._files

    def wants(self, entry: Entry) -> bool:
        """Whether what `entry` says would be news here."""
        if not entry.slot:
            return entry.id not in self._files
        held = self._records.get(entry.slot)
        return held is None or _beats(entry, held.entry)

    def page(self, after: bytes, limit: int) -> list[Entry]:
        """At most `limit` entries in the order of their places, from behind `after`."""
        start = bisect_right(self._places, after)
        return [self._entry_at(place) for place in self._places[start : start + limit]]

    def __len__(self) -> int:
        return len(self._places)

    @property
    def files(self) -> int:
        """How many service files are held."""
        return len(self._files)

    @property
    def live_records(self) -> int:
        """How many address records are held whose lease was not over when that was last looked at."""
        return len(self._places) - len(self._files)

    @property
    def held_bytes(self) -> int:
        """The bytes of all files and records, wherever they are."""
        return self._file_bytes + self._record_bytes

    def drop(self, entry: Entry) -> bool:
        """Hold this no longer; whether it was held. A newer record in the same slot stays."""
        if not entry.slot:
            if entry.id in self._files:
                self._drop_file(entry.id)
                return True
            return False
        held = self._records.get(entry.slot)
        if held is None or held.entry.id != entry.id:
            return False
        self._forget(held)
        return True

    def set_placed(self, placed: bool) -> None:
        """Remember, over restarts too, whether this node keeps its share only."""
        batch = Batch()
        if placed:
            batch.put(self._table, _PLACED, b"")
        else:
            batch.delete(self._table, _PLACED)
        self._store.write(batch, sync=False)
        self.placed = placed

    # Bytes in another store

    def use_other_store(self, local_bytes_max: int | None) -> None:
        """There is another store, and at most so many bytes of files are to be here; or, with None, there is not: then
        what is only there is not held. Call once, before anything else."""
        if local_bytes_max is None:
            for file_hash in [item for item in self._elsewhere if item not in self._local]:
                self._drop_file(file_hash)
            return
        self._changed = dict.fromkeys(item for item in self._local if item not in self._elsewhere)
        self._local_bytes_max = local_bytes_max
        self._evict(0)

    def changed(self, limit: int) -> list[bytes]:
        """At most `limit` files that came or went since the other store was last told; takes them."""
        taken = list(self._changed or ())[:limit]
        for file_hash in taken:
            self._note_done(file_hash)
        return taken

    def note_again(self, file_hash: bytes) -> None:
        """The other store could not be told of this one: later."""
        self._note(file_hash)

    def is_elsewhere(self, file_hash: bytes) -> bool:
        """Whether the other store has the bytes of a file that is held."""
        return file_hash in self._elsewhere

    def now_elsewhere(self, file_hash: bytes) -> bool:
        """The other store has the bytes now, so that they may go from here; whether the file is still held."""
        if file_hash not in self._files:
            return False
        batch = Batch()
        batch.put(self._table, _ELSEWHERE + file_hash, self._files[file_hash].to_bytes(4))
        self._store.write(batch, sync=False)
        self._elsewhere[file_hash] = None
        self._evict(0)
        return True

    def cache(self, data: bytes) -> None:
        """Bytes that came from the other store, verified: have them here too, in place of others."""
        file_hash = sha256(data)
        if file_hash not in self._elsewhere or file_hash in self._local:
            return
        batch = Batch()
        batch.put(self._table, _FILE + file_hash, data)
        self._store.write(batch, sync=False)
        self._add_local(file_hash, len(data))
        self._evict(0)

    @property
    def local_bytes(self) -> int:
        """The bytes of the files that are here."""
        return self._local_bytes

    @property
    def waiting_files(self) -> int:
        """How many files the other store has not been told of."""
        return len(self._changed or ())

    def expire(self, now_s: int) -> int:
        """Turn records whose lease has ended into tombstones, forget old tombstones; how many ended."""
        ended = 0
        while self._due and self._due[0][0] <= now_s:
            _, slot, identifier = heappop(self._due)
            held = self._records.get(slot)
            if held is None or held.entry.id != identifier:
                continue  # replaced or dropped since
            if held.live:
                ended += 1
                self._unindex(held.entry)
                self._records[slot] = _Held(held.record, held.entry, held.raw, live=False)
                heappush(self._due, (held.forgotten_s, slot, identifier))
            else:
                self._forget(held)
        return ended

    def prune(self, announced: Announced, instance_keys: InstanceKeys) -> None:
        """Examine the next few things and drop what the ledger no longer lists. Call now and then."""
        if not self._to_examine:
            self._to_examine = list(reversed(self._places))
        for _ in range(min(PRUNED_PER_STEP, len(self._to_examine))):
            place = self._to_examine.pop()
            kind, identifier = place[:1], place[1:]
            if kind == _FILE and identifier in self._files and not announced(identifier):
                self._drop_file(identifier)
            held = self._records.get(identifier) if kind == _RECORD else None
            if held is not None and held.record.instance_key not in instance_keys(held.record.name):
                self._forget(held)

    def _load(self) -> None:
        self.placed = self._store.get(self._table, _PLACED) is not None
        for key, data in self._store.scan(self._table, _FILE, _RECORD):
            self._add_file(key[1:], len(data))
            self._add_local(key[1:], len(data))
        for key, length in self._store.scan(self._table, _ELSEWHERE, _END):
            self._elsewhere[key[1:]] = None
            if key[1:] not in self._files:
                self._add_file(key[1:], int.from_bytes(length))
        damaged = Batch()
        for key, raw in self._store.scan(self._table, _RECORD, _ELSEWHERE):
            try:
                record = read_record(raw)
            except PeerFault:
                # Written by an older version, or torn: the instance sends it again within its lease.
                damaged.delete(self._table, key)
                continue
            self._hold(_Held(record, Entry(sha256(raw), key[1:], record.sequence), raw))
        if len(damaged):
            self._store.write(damaged, sync=False)

    def _hold(self, held: _Held) -> None:
        """Put a live record into its slot, in place of what was there."""
        before = self._records.get(held.entry.slot)
        if before is not None:
            self._record_bytes -= len(before.raw)
            if before.live:
                self._unindex(before.entry)
        self._record_bytes += len(held.raw)
        self._records[held.entry.slot] = held
        self._names.setdefault(held.record.name, {})[held.entry.slot] = None
        self._index(held.entry)
        heappush(self._due, (held.record.expires_s + CLOCK_SKEW_SECONDS, held.entry.slot, held.entry.id))

    def _forget(self, held: _Held) -> None:
        """Remove a record, live or not, from memory and store."""
        slot, name = held.entry.slot, held.record.name
        if held.live:
            self._unindex(held.entry)
        del self._records[slot]
        self._record_bytes -= len(held.raw)
        del self._names[name][slot]
        if not self._names[name]:
            del self._names[name]
        batch = Batch()
        batch.delete(self._table, _RECORD + slot)
        self._store.write(batch, sync=False)

    def _drop_file(self, file_hash: bytes) -> None:
        self._unindex(Entry(file_hash))
        batch = Batch()
        batch.delete(self._table, _FILE + file_hash)
        batch.delete(self._table, _ELSEWHERE + file_hash)
        self._store.write(batch, sync=False)
        length = self._files.pop(file_hash)
        self._file_bytes -= length
        if file_hash in self._local:
            del self._local[file_hash]
            self._local_bytes -= length
        if file_hash in self._elsewhere:
            del self._elsewhere[file_hash]
            self._note(file_hash)

    def _add_file(self, file_hash: bytes, length: int) -> None:
        self._files[file_hash] = length
        self._file_bytes += length
        self._index(Entry(file_hash))

    def _add_local(self, file_hash: bytes, length: int) -> None:
        self._local[file_hash] = None
        self._local_bytes += length

    def _note(self, file_hash: bytes) -> None:
        """Tell the other store, if there is one, that this file has come or gone."""
        if self._changed is not None:
            self._changed[file_hash] = None

    def _note_done(self, file_hash: bytes) -> None:
        if self._changed is not None:
            self._changed.pop(file_hash, None)

    def _make_room(self, size: int) -> None:
        """Raises RoutingFull if too many bytes are here that the other store has not taken."""
        if self._local_bytes_max is not None:
            self._evict(size)
            if self._local_bytes + size > self._local_bytes_max:
                raise RoutingFull(
                    "the store for service files takes none, and what may wait here is full",
                    bytes=self._local_bytes,
                    waiting=self.waiting_files,
                )

    def _evict(self, size: int) -> None:
        """Have no more bytes here than may be, `size` more included, as far as the other store has them."""
        if self._local_bytes_max is None or self._local_bytes + size <= self._local_bytes_max:
            return
        batch = Batch()
        for file_hash in self._local:
            if self._local_bytes + size <= self._local_bytes_max:
                break
            if file_hash in self._elsewhere:
                batch.delete(self._table, _FILE + file_hash)
                self._local_bytes -= self._files[file_hash]
        for _, key, _ in batch.writes:
            del self._local[key[1:]]
        self._store.write(batch, sync=False)

    def _index(self, entry: Entry) -> None:
        insort(self._places, entry.place())
        if entry.slot:
            self._slots[entry.id] = entry.slot
        self.digest ^= int.from_bytes(entry.id)

    def _unindex(self, entry: Entry) -> None:
        place = entry.place()
        del self._places[bisect_right(self._places, place) - 1]
        self._slots.pop(entry.id, None)
        self.digest ^= int.from_bytes(entry.id)

    def _entry_at(self, place: bytes) -> Entry:
        return Entry(place[1:]) if place[:1] == _FILE else self._records[place[1:]].entry


def _beats(new: Entry, old: Entry) -> bool:
    """Higher sequence wins; of two records that one instance signed for one sequence, the same one at every node."""
    return (new.sequence, new.id) > (old.sequence, old.id)
