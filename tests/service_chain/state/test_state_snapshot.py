"""Snapshots of the state: exported at an older height, imported chunk by chunk, and every wrong byte refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.primitives.storage import Batch, MemoryStore
from blockcloud.service_chain.state import Pruned, StateCorrupt, VersionedState, snapshot
from blockcloud.service_chain.state.snapshot import (
    BadSnapshot,
    Entry,
    Part,
    cut,
    entries_at,
    fold_parts,
    open_chunk,
    put_entries,
    put_root,
)
from blockcloud.service_chain.state.specification import key_hash

CHUNK_BYTES = 512
KEYS = st.integers(0, 60).map(lambda number: b"key %d" % number)
CHANGES = st.dictionaries(KEYS, st.none() | st.binary(min_size=1, max_size=120), max_size=25)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "CHUNK_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(snapshot, "SLICE_ROWS", 7)


def commit(store: MemoryStore, state: VersionedState, height: int, changes: Mapping[bytes, bytes | None]) -> bytes:
    batch = Batch()
    state.apply(height, changes, batch)
    root = state.checkpoint(height, batch)
    store.write(batch, sync=False)
    return root


def ledger(commits: list[dict[bytes, bytes | None]]) -> tuple[MemoryStore, list[bytes], list[dict[bytes, bytes]]]:
    """A store after these commits, and the root and the values after each of them."""
    store = MemoryStore()
    state = VersionedState(store)
    values: dict[bytes, bytes] = {}
    roots, maps = [], []
    for height, changes in enumerate(commits):
        roots.append(commit(store, state, height, changes))
        values = {key: value for key, value in {**values, **changes}.items() if value is not None}
        maps.append(values)
    return store, roots, maps


def many(count: int, seed: int = 1) -> dict[bytes, bytes | None]:
    random = Random(seed)
    return {b"%d" % number: random.randbytes(random.randrange(1, 100)) for number in range(count)}


def imported(height: int, root: bytes, chunks: list[tuple[Part, bytes]]) -> tuple[MemoryStore, VersionedState]:
    store = MemoryStore()
    for part, data in chunks:
        batch = Batch()
        put_entries(height, open_chunk(part, data), batch)
        store.write(batch, sync=False)
    batch = Batch()
    put_root(height, root, batch)
    store.write(batch, sync=False)
    return store, VersionedState(store)


@settings(max_examples=60, deadline=None)
@given(st.lists(CHANGES, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_what_was_exported_at_any_height_is_what_is_imported(
    commits: list[dict[bytes, bytes | None]], random: Random
) -> None:
    store, roots, maps = ledger(commits)
    height = random.randrange(len(commits))
    chunks = list(cut(entries_at(store, height)))
    assert fold_parts([part for part, _ in chunks]) == roots[height]
    assert all(len(data) <= CHUNK_BYTES + snapshot.CHUNK_HEAD_BYTES for _, data in chunks)
    random.shuffle(chunks)  # any order will do
    copy, state = imported(height, roots[height], chunks)
    assert {key: state.get(key) for key in maps[height]} == maps[height]
    assert state.keys_at_checkpoint == len(maps[height])
    assert (state.height, state.checkpoint_height) == (height, height)
    for later in range(height + 1, len(commits)):
        assert commit(copy, state, later, commits[later]) == roots[later]
        assert all(state.get_at(key, later) == value for key, value in maps[later].items())
    if height:
        with pytest.raises(Pruned):
            state.get_at(b"key 1", height - 1)
        with pytest.raises(Pruned):
            state.root_at(height - 1)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_wrong_byte_in_a_chunk_is_refused(data: st.DataObject) -> None:
    store, _, _ = ledger([many(40)])
    chunks = list(cut(entries_at(store, 0)))
    part, chunk = data.draw(st.sampled_from(chunks))
    at = data.draw(st.integers(0, len(chunk) - 1))
    wrong = bytearray(chunk)
    wrong[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadSnapshot):
        open_chunk(part, bytes(wrong))
    with pytest.raises(BadSnapshot):
        open_chunk(part, chunk[:at])
    other, other_chunk = next(pair for pair in chunks if pair[0] != part)
    for one, bytes_of_another in ((part, other_chunk), (other, chunk), (part, chunk + b"\0")):
        with pytest.raises(BadSnapshot):
            open_chunk(one, bytes_of_another)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(BadSnapshot):
        open_chunk(Part(0, b"", b"r" * 32), data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_parts_that_were_changed_left_out_or_moved_do_not_fold_to_the_root(data: st.DataObject) -> None:
    store, (root,), _ = ledger([many(40)])
    parts = [part for part, _ in cut(entries_at(store, 0))]
    at = data.draw(st.integers(0, len(parts) - 1))
    part = parts[at]
    changed = bytearray(part.root)
    changed[data.draw(st.integers(0, 31))] ^= data.draw(st.integers(1, 255))
    for wrong in (
        [*parts[:at], *parts[at + 1 :]],
        [*parts[:at], part, *parts[at:]],
        [*parts[:at], Part(part.depth, part.prefix, bytes(changed)), *parts[at + 1 :]],
        [
            *parts[:at],
            Part(part.depth + 1, part.prefix.ljust((part.depth + 4) // 4, b"\0"), part.root),
            *parts[at + 1 :],
        ],
        parts[::-1],
        [*parts, parts[0]],
        [Part(0, b"", root), *parts],
    ):
        try:
            assert fold_parts(wrong) != root
        except BadSnapshot:
            continue


def test_a_chunk_that_is_missing_is_noticed_when_the_state_is_opened() -> None:
    store, (root,), _ = ledger([many(40)])
    chunks = list(cut(entries_at(store, 0)))
    with pytest.raises(StateCorrupt):
        imported(0, root, chunks[1:])


def test_the_export_of_a_height_goes_on_while_keys_are_changed_deleted_and_made() -> None:
    first = many(200)
    store, (root,), (values,) = ledger([first])
    state = VersionedState(store)
    random, height = Random(2), 1
    found: list[Entry] = []

    def watched() -> Iterator[Entry]:
        nonlocal height
        for entry in entries_at(store, 0):
            found.append(entry)
            changes: dict[bytes, bytes | None] = {
                b"%d" % random.randrange(250): random.choice([None, b"new"]) for _ in range(3)
            }
            commit(store, state, height, changes)
            height += 1
            yield entry

    parts = [part for part, _ in cut(watched())]
    assert fold_parts(parts) == root
    assert {key: value for _, key, value in found} == values


@pytest.mark.parametrize("count", [1, 2, 5])
def test_ground_keys_that_share_many_digits_are_cut_deeply(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of 300 bytes, two of which never fit together, under keys whose hashes share a byte."""
    alike = [key for number in range(20_000) if key_hash(key := b"%d" % number)[0] == 7][:count]
    store, (root,), _ = ledger([{key: b"v" * 300 for key in alike}])
    chunks = list(cut(entries_at(store, 0)))
    assert len(chunks) == len(alike)
    assert fold_parts([part for part, _ in chunks]) == root
    assert all(len(open_chunk(part, data)) == 1 for part, data in chunks)
