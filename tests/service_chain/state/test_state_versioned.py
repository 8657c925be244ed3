"""The versioned state: history, proofs at older checkpoints, restarts, pruning, and what it writes."""

from __future__ import annotations

import random
from hashlib import sha256

import msgspec
import pytest

from blockcloud.primitives.limits import STATE_KEY_BYTES, STATE_VALUE_BYTES
from blockcloud.primitives.storage import Batch, MemoryStore
from blockcloud.service_chain.state import (
    STATE_TABLES,
    HeightOrder,
    InvalidChange,
    NotACheckpoint,
    Pruned,
    StateCorrupt,
    VersionedState,
    changes_digest,
    verify,
)
from blockcloud.service_chain.state.specification import ZERO
from blockcloud.service_chain.state.tables import CHANGES, LATEST, ROOTS, UNDO
from tests.service_chain.state.model import REAL, check_past, root_of


def commit(
    state: VersionedState,
    store: MemoryStore,
    height: int,
    changes: dict[bytes, bytes | None],
    *,
    checkpoint: bool = True,
) -> bytes | None:
    batch = Batch()
    state.apply(height, changes, batch)
    root = state.checkpoint(height, batch) if checkpoint else None
    store.write(batch, sync=True)
    return root


@pytest.mark.parametrize("size", [2, 12, 80, 500])
@pytest.mark.parametrize("seed", range(4))
def test_values_roots_and_proofs_at_every_height(seed: int, size: int) -> None:
    check_past(REAL, seed, size)


@pytest.mark.parametrize("stop", range(1, 12))
def test_a_restart_anywhere_gives_the_same_next_root(stop: int) -> None:
    """Commits after the last checkpoint are neither lost nor taken in too early."""
    rng = random.Random(3)
    values = [
        {b"%d" % rng.randrange(25): None if rng.random() < 0.3 else rng.randbytes(9) for _ in range(8)}
        for _ in range(12)
    ]
    ends = []
    for restart in (False, True):
        store = MemoryStore()
        state, digests = VersionedState(store), []
        for height, changes in enumerate(values):
            digests.append(commit(state, store, height, changes, checkpoint=height % 5 == 4 or height == 11))
            if restart and height == stop:
                state = VersionedState(store)
                assert state.height == height
                assert state.checkpoint_height == (height + 1) // 5 * 5 - 1 or height == 11
        ends.append((digests, [state.prove(b"%d" % number, 11) for number in range(25)]))
    assert ends[0] == ends[1]


def test_an_idle_ledger_writes_next_to_nothing() -> None:
    store = MemoryStore()
    state = VersionedState(store)
    commit(state, store, 0, {b"a": b"1"})
    batch = Batch()
    state.apply(1, {}, batch)
    assert len(batch) == 0
    root = state.checkpoint(1, batch)
    assert [(table, len(key) + len(value or b"")) for table, key, value in batch.writes] == [(ROOTS, 40)]
    store.write(batch, sync=True)
    assert root == state.root_at(0) == state.root_at(1)
    assert verify(root, b"a", b"1", state.prove(b"a", 0))
    assert verify(root, b"a", b"1", state.prove(b"a", 1))


def test_an_empty_state_has_a_root_and_proofs() -> None:
    store = MemoryStore()
    state = VersionedState(store)
    assert (state.height, state.checkpoint_height, state.get(b"a")) == (-1, -1, None)
    with pytest.raises(NotACheckpoint):
        state.prove(b"a", 0)
    assert commit(state, store, 0, {}) == ZERO
    assert verify(ZERO, b"a", None, state.prove(b"a", 0))
    assert VersionedState(store).root_at(0) == ZERO
    assert commit(state, store, 1, {b"a": b"1"}) == root_of({b"a": b"1"})
    assert verify(ZERO, b"a", None, state.prove(b"a", 0))
    assert commit(state, store, 2, {b"a": None}) == ZERO


def test_only_checkpoints_have_roots_and_old_ones_are_refused_cleanly() -> None:
    """P12: what is retained still proves, the rest says why not; undo records do not pile up."""
    store = MemoryStore()
    state = VersionedState(store, retained_checkpoints=3)
    roots = {}
    for height in range(20):
        root = commit(state, store, height, {b"%d" % (height % 4): b"at %d" % height}, checkpoint=height % 2 == 1)
        if root is not None:
            roots[height] = root
    for again in (state, VersionedState(store, retained_checkpoints=3), VersionedState(store, retained_checkpoints=9)):
        for height in (0, 2, 18, 20, 10**9):
            with pytest.raises(NotACheckpoint) as refused:
                again.prove(b"1", height)
            assert refused.value.code == "not_a_checkpoint"
        for height, root in roots.items():
            assert again.root_at(height) == root
            if height < 15:
                with pytest.raises(Pruned):
                    again.prove(b"1", height)
            else:
                value = again.get_at(b"1", height)
                assert value == b"at %d" % ((height - 1) // 4 * 4 + 1)
                assert verify(root, b"1", value, again.prove(b"1", height))
    assert len(list(store.scan(UNDO, b""))) == 2


def test_genesis_writes_no_undo_record_and_later_ones_are_as_large_as_the_change() -> None:
    store = MemoryStore()
    state = VersionedState(store)
    commit(state, store, 0, {b"%d" % number: b"v" for number in range(5_000)})
    assert list(store.scan(UNDO, b"")) == []
    commit(state, store, 1, {b"1": b"w", b"2": b"v"})
    ((_, undo),) = store.scan(UNDO, b"")
    assert len(undo) == 2 + 38 + 64


def test_the_change_digest_is_the_documented_one() -> None:
    changes: dict[bytes, bytes | None] = {b"b": b"2", b"a": b"1", b"c": None}
    store, batch = MemoryStore(), Batch()
    digest = VersionedState(store).apply(7, changes, batch)
    encoded = msgspec.msgpack.encode([[b"a", b"1"], [b"b", b"2"], [b"c", None]])
    assert digest == sha256(b"blockcloud/state-changes\0" + (7).to_bytes(8, "big") + encoded).digest()
    assert digest == changes_digest(7, dict(reversed(changes.items())))
    assert len({digest, changes_digest(8, changes), changes_digest(7, {**changes, b"c": b"3"})}) == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"", b"1"),
        (b"a", b""),
        (b"a" * (STATE_KEY_BYTES + 1), b"1"),
        (b"a", b"1" * (STATE_VALUE_BYTES + 1)),
        (b"", None),
    ],
)
def test_an_invalid_change_changes_nothing(key: bytes, value: bytes | None) -> None:
    store, batch = MemoryStore(), Batch()
    state = VersionedState(store)
    with pytest.raises(InvalidChange):
        state.apply(0, {b"good": b"1", key: value}, batch)
    assert (len(batch), state.get(b"good"), state.height) == (0, None, -1)
    assert state.checkpoint(0, batch) == ZERO


def test_heights_only_grow() -> None:
    store = MemoryStore()
    state = VersionedState(store)
    commit(state, store, 4, {b"a": b"1"})
    for height in (3, 4):
        with pytest.raises(HeightOrder):
            state.apply(height, {b"a": b"2"}, Batch())
        with pytest.raises(HeightOrder):
            state.checkpoint(height, Batch())
    commit(state, store, 6, {b"a": b"2"}, checkpoint=False)
    with pytest.raises(HeightOrder):
        state.checkpoint(5, Batch())
    assert state.get_at(b"a", 5) == b"1"
    with pytest.raises(HeightOrder):
        VersionedState(store).apply(6, {b"a": b"3"}, Batch())


def test_damaged_rows_are_noticed_at_start() -> None:
    store = MemoryStore()
    commit(VersionedState(store), store, 0, {b"%d" % number: b"v" for number in range(20)})
    key, row = next(store.scan(LATEST, b""))
    batch = Batch()
    batch.put(LATEST, key, row[:-1] + b"w")
    store.write(batch, sync=True)
    with pytest.raises(StateCorrupt):
        VersionedState(store)


def test_an_applied_value_is_seen_before_its_batch_is_written_however_small_the_cache() -> None:
    store = MemoryStore()
    state = VersionedState(store, cached_keys=1)
    waiting = [Batch(), Batch()]
    for height, batch in enumerate(waiting):
        state.apply(height, {b"%d %d" % (height, number): b"v" for number in range(50)}, batch)
    for height in range(2):
        assert all(state.get(b"%d %d" % (height, number)) == b"v" for number in range(50))
    for batch in waiting:
        store.write(batch, sync=True)
    state.apply(2, {b"0 0": None, b"x": b"y"}, Batch())
    assert (state.get(b"0 0"), state.get(b"x"), state.get(b"0 1")) == (None, b"y", b"v")


def test_only_the_named_tables_are_used() -> None:
    store, batch = MemoryStore(), Batch()
    state = VersionedState(store, retained_checkpoints=1)
    for height in range(3):
        state.apply(height, {b"a": b"%d" % height}, batch)
        state.checkpoint(height, batch)
    assert {table for table, _, _ in batch.writes} == set(STATE_TABLES)
    assert CHANGES in STATE_TABLES
