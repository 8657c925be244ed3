"""The routing table of one node: only what the ledger announces, highest sequence wins, leases end, files survive."""

from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.errors import BadSignature, NonCanonical, Oversized
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.storage import Batch, MemoryStore
from blockcloud.routing.address_record import AddressRecord, Endpoint, sign_record
from blockcloud.routing.errors import LeaseExpired, NotAnnounced, StaleSequence
from blockcloud.routing.service_file import build_service_file
from blockcloud.routing.store import RoutingTable

NOW = 1_800_000_000
NAME = "thermo.kitchen.acme"
KEYS = [SigningKey(bytes([number]) * 32) for number in range(4)]
FILES = [build_service_file(NAME, f"Version {number}") for number in range(8)]


@dataclass
class Ledger:
    """What the ledger lists, as routing asks it."""

    files: set[bytes] = field(default_factory=lambda: {sha256(data) for data in FILES})
    keys: dict[str, tuple[bytes, ...]] = field(default_factory=lambda: {NAME: (KEYS[0].public, KEYS[1].public)})

    def announced(self, file_hash: bytes) -> bool:
        return file_hash in self.files

    def instance_keys(self, name: str) -> tuple[bytes, ...]:
        return self.keys.get(name, ())


LEDGER = Ledger()


def record(sequence: int, key: SigningKey = KEYS[0], issued_s: int = NOW, lease_s: int = 120, port: int = 1) -> bytes:
    endpoints = (Endpoint("tls", "127.0.0.1", port),)
    return sign_record(
        AddressRecord(NAME, key.public, sequence, issued_s, issued_s + lease_s, bytes(32), endpoints), key
    )


def put(table: RoutingTable, data: bytes, now_s: int = NOW) -> bool:
    return table.put_record(data, now_s, LEDGER.instance_keys) is not None


def test_an_announced_file_is_kept_and_survives_a_restart() -> None:
    store = MemoryStore()
    table = RoutingTable(store)
    assert table.put_file(FILES[0], LEDGER.announced)
    assert table.put_file(FILES[0], LEDGER.announced) is None
    again = RoutingTable(store)
    assert again.file(sha256(FILES[0])) == FILES[0]
    assert again.digest == table.digest != 0


def test_files_that_are_not_announced_or_not_files_are_refused() -> None:
    table = RoutingTable(MemoryStore())
    with pytest.raises(NotAnnounced):
        table.put_file(FILES[0], lambda _: False)
    with pytest.raises(NonCanonical):
        table.put_file(FILES[0] + b" ", lambda _: True)
    with pytest.raises(Oversized):
        table.put_file(bytes(16 * 1024 + 1), lambda _: True)
    assert len(table) == 0


def test_the_highest_sequence_wins_for_each_instance() -> None:
    table = RoutingTable(MemoryStore())
    old, new, other = record(1), record(2, port=2), record(1, KEYS[1])
    assert put(table, old)
    assert put(table, new)
    assert not put(table, new)
    assert put(table, other)
    with pytest.raises(StaleSequence):
        put(table, old)
    assert table.records(NAME, NOW) == [new, other]


def test_records_of_keys_that_the_ledger_does_not_list_are_refused() -> None:
    table = RoutingTable(MemoryStore())
    with pytest.raises(NotAnnounced):
        put(table, record(1, KEYS[2]))
    with pytest.raises(NotAnnounced):
        table.put_record(record(1), NOW, lambda name: ())
    tampered = bytearray(record(1))
    tampered[-1] ^= 1
    with pytest.raises(BadSignature):
        put(table, bytes(tampered))


def test_leases_end_and_an_older_record_cannot_come_back() -> None:
    store = MemoryStore()
    table = RoutingTable(store)
    old_with_long_lease, new = record(1, lease_s=3_600), record(2, lease_s=60, issued_s=NOW + 1)
    put(table, new, NOW + 1)
    assert table.expire(NOW + 90) == 0
    assert table.records(NAME, NOW + 90) == [new]
    assert table.records(NAME, NOW + 91) == []  # also before the sweep
    assert table.expire(NOW + 91) == 1
    assert len(table) == 0 == table.digest
    for restarted in (table, RoutingTable(store)):
        restarted.expire(NOW + 200)
        with pytest.raises(StaleSequence):
            put(restarted, old_with_long_lease, NOW + 200)
    with pytest.raises(LeaseExpired):
        put(table, new, NOW + 200)
    table.expire(NOW + 4_000)
    assert list(store.scan("routing", b"")) == []


def test_two_records_of_one_sequence_end_the_same_everywhere() -> None:
    pair = [record(5, port=1), record(5, port=2)]
    tables = [RoutingTable(MemoryStore()) for _ in range(2)]
    for table, order in zip(tables, (pair, pair[::-1]), strict=True):
        for data in order:
            with suppress(StaleSequence):
                put(table, data)
    assert tables[0].records(NAME, NOW) == tables[1].records(NAME, NOW)


def test_what_the_ledger_drops_is_dropped() -> None:
    store = MemoryStore()
    table = RoutingTable(store)
    for data in FILES:
        table.put_file(data, LEDGER.announced)
    put(table, record(1))
    put(table, record(1, KEYS[1]))
    now = replace(LEDGER, files={sha256(FILES[3])}, keys={NAME: (KEYS[1].public,)})
    table.prune(now.announced, now.instance_keys)
    assert [table.file(sha256(data)) for data in FILES] == [None] * 3 + [FILES[3]] + [None] * 4
    assert table.records(NAME, NOW) == [record(1, KEYS[1])]
    assert len(list(store.scan("routing", b""))) == 2 == len(table)


def test_a_damaged_record_in_the_store_does_not_stop_the_start() -> None:
    store = MemoryStore()
    table = RoutingTable(store)
    put(table, record(1))
    batch = Batch()
    batch.put("routing", b"r" + bytes(32), b"torn")
    store.write(batch, sync=False)
    again = RoutingTable(store)
    assert again.records(NAME, NOW) == [record(1)]
    assert len(list(store.scan("routing", b""))) == 1


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 4), st.integers(1, 2)), max_size=20), st.integers(1, 5))
def test_index_and_digest_follow_the_content(puts: list[tuple[int, int, int]], page: int) -> None:
    table = RoutingTable(MemoryStore())
    table.put_file(FILES[0], LEDGER.announced)
    for key, sequence, port in puts:
        with suppress(StaleSequence):
            put(table, record(sequence, KEYS[key], port=port))
    held = [FILES[0], *table.records(NAME, NOW)]
    expected = 0
    for data in held:
        expected ^= int.from_bytes(sha256(data))
    entries, after = [], b""
    while entries_page := table.page(after, page):
        entries += entries_page
        after = entries_page[-1].place()
    assert table.digest == expected
    assert sorted(table.get(entry.id) or b"" for entry in entries) == sorted(held)
    assert not any(table.wants(entry) for entry in entries)
