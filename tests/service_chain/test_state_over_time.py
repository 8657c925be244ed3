"""The ledger at any height against what it was then: values, what a commit changed, names by their links, proofs."""

from __future__ import annotations

import inspect
import random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.service_chain import records, state_keys
from blockcloud.service_chain.kinds import KINDS, UNKNOWN, kind_of, record_in, subject_of
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.records import NameRecord
from blockcloud.service_chain.state import Pruned, verify
from blockcloud.service_chain.state.tables import LATEST
from blockcloud.service_chain.state.versioned import latest_entry
from blockcloud.service_chain.state_keys import name_key
from tests.service_chain.ledger_in_memory import USERS, Ledger
from tests.service_chain.random_history import NAMES, RandomHistory

COMMITS = 24
PERIOD = 4


def contents(ledger: Ledger) -> dict[bytes, bytes]:
    """All that the state holds now, by a way of its own."""
    rows = ledger.store.scan(LATEST, b"")
    return {key: value for _, key, value in (latest_entry(row) for _, row in rows)}


def lived(seed: int) -> tuple[Ledger, list[dict[bytes, bytes]]]:
    """A ledger with a random history, and what its state was after each height."""
    ledger = Ledger()
    history, model = RandomHistory(ledger, random.Random(seed)), [contents(ledger)]
    for _ in range(COMMITS):
        history.step()
        model.append(contents(ledger))
    return ledger, model


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_every_value_is_what_it_was_at_each_height(seed: int) -> None:
    ledger, model = lived(seed)
    keys = dict.fromkeys(key for state in model for key in state)
    for height, state in enumerate(model):
        assert {key: value for key in keys if (value := ledger.chain.get(key, height)) is not None} == state


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_what_a_commit_changed_leads_from_one_state_to_the_next(seed: int) -> None:
    ledger, model = lived(seed)
    state: dict[bytes, bytes] = {}
    for height, expected in enumerate(model):
        changed = ledger.chain.changes_at(height)
        assert changed == sorted(set(changed))
        for key in changed:
            value = ledger.chain.get(key, height)
            state.pop(key, None)
            if value is not None:
                state[key] = value
                assert record_in(key, value) is not None, key
        assert state == expected


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_the_history_of_a_name_reaches_its_first_operation_page_by_page(seed: int, limit: int) -> None:
    ledger, model = lived(seed)
    for name in NAMES:
        expected: list[NameRecord] = []
        for state in model:
            value = state.get(name_key(name))
            record = None if value is None else codec.decode(value, NameRecord, limit=10_000)
            if record is not None and (not expected or expected[-1] != record):
                expected.append(record)
        found: list[tuple[int, NameRecord]] = []
        before = None
        while page := ledger.chain.history(name, limit, before):
            assert len(page) <= limit
            assert before is None or page[-1][0] < before
            found = page + found
            before = page[0][0]
        assert found == [(record.changed_height, record) for record in expected]
        links = [0, *(height for height, _ in found)]
        assert [record.previous_height for _, record in found] == links[:-1]


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.data())
def test_a_past_proof_holds_for_its_key_height_and_value_only(seed: int, data: st.DataObject) -> None:
    ledger, model = lived(seed)
    chain = ledger.chain
    heights = chain.proof_heights()
    assert heights == tuple(range(0, COMMITS + 1, PERIOD))
    height, other = data.draw(st.sampled_from(heights)), data.draw(st.sampled_from(heights))
    key = data.draw(st.sampled_from(sorted({key for state in model for key in state} | {b"nobody", b"a" + bytes(32)})))
    value, proof, root = model[height].get(key), chain.prove(key, height), chain.root_at(height)
    assert verify(root, key, value, proof)
    assert not verify(root, key, b"something else", proof)
    assert verify(root, key, None, proof) == (value is None)
    if chain.root_at(other) != root:
        assert not verify(chain.root_at(other), key, value, proof)
    bit = data.draw(st.integers(0, 8 * len(proof) - 1))
    flipped = bytearray(proof)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not verify(root, key, value, bytes(flipped))
    if value is not None:
        assert not verify(root, key + b"x", value, proof)


def test_nothing_is_known_from_before_the_first_height() -> None:
    chain = Ledger().chain
    assert chain.get(name_key(NAMES[0]), -1) is None
    assert chain.history(NAMES[0], before=1) == []
    assert chain.oldest_height == 0


def test_after_a_snapshot_what_was_before_is_refused_by_name() -> None:
    ledger = Ledger()
    ledger.advance(PERIOD)
    chain: ServiceChain = ledger.chain
    chain._state.oldest = PERIOD
    with pytest.raises(Pruned):
        chain.changes_at(PERIOD)
    with pytest.raises(Pruned):
        chain.get(name_key(NAMES[0]), PERIOD - 1)
    with pytest.raises(Pruned):
        chain.history(NAMES[0], before=PERIOD)


def test_every_kind_of_key_and_record_can_be_shown() -> None:
    samples = {bytes: b"k" * 32, str: "a.test", int: 1}
    for name, made in inspect.getmembers(state_keys):
        if name.endswith("_KEY"):
            assert kind_of(made) != UNKNOWN, name
        elif inspect.isfunction(made):
            hints = inspect.get_annotations(made, eval_str=True)
            key = made(*(samples[kind] for parameter, kind in hints.items() if parameter != "return"))
            assert kind_of(key) != UNKNOWN, name
            assert subject_of(key)[1] in (b"", b"k" * 32, b"a.test", (1).to_bytes(8)), name
    assert {kind.shape for kind in KINDS.values()} == set(get_args(records.Record))
    assert record_in(b"?", b"") is None
    assert record_in(b"a" + USERS[0].public, b"\xff") is None
