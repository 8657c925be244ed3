"""The overlay of uncommitted writes against a plain model: copies of dictionaries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.service_chain.records import Account
from blockcloud.service_chain.working_state import WorkingState

KEYS = [bytes([number]) for number in range(5)]
# (key, balance or None to delete) writes; a transaction keeps or undoes them; a commit is a list of transactions.
WRITES = st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.integers(0, 3)), max_size=5)
COMMITS = st.lists(st.lists(st.tuples(WRITES, st.booleans()), max_size=5), max_size=6)


@given(COMMITS, st.sampled_from([2, 1_000]))
def test_reads_rollbacks_and_changes_are_those_of_a_dictionary(
    commits: list[list[tuple[list[tuple[bytes, int | None]], bool]]], cached_records: int
) -> None:
    stored: dict[bytes, bytes] = {}
    state = WorkingState(stored.get, cached_records)
    view: dict[bytes, Account] = {}
    for transactions in commits:
        before = dict(view)
        for writes, keeps in transactions:
            mark, saved = state.mark(), dict(view)
            for key, balance in writes:
                assert state.get(key, Account) == view.get(key)
                if balance is None:
                    state.delete(key)
                    view.pop(key, None)
                else:
                    state.put(key, Account(balance))
                    view[key] = Account(balance)
            if not keeps:
                state.roll_back(mark)
                view = saved
            assert {key: state.get(key, Account) for key in KEYS} == {key: view.get(key) for key in KEYS}
        changes = state.take_changes()
        assert changes == {
            key: codec.encode(view[key]) if key in view else None for key in KEYS if view.get(key) != before.get(key)
        }
        for key, value in changes.items():
            if value is None:
                del stored[key]
            else:
                stored[key] = value


def test_it_remembers_what_was_read_but_not_everything() -> None:
    reads: list[bytes] = []
    state = WorkingState(lambda key: reads.append(key), cached_records=100)
    keys = [number.to_bytes(2) for number in range(300)]
    for key in keys:
        state.get(key, Account)
    state.take_changes()
    assert reads == keys
    remembered = keys[-75:]
    for key in remembered:
        state.get(key, Account)
    assert reads == keys
    state.get(keys[0], Account)
    assert reads == [*keys, keys[0]]
