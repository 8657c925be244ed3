"""The in-memory store against a plain dictionary."""

from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.storage import Batch, MemoryStore

keys = st.binary(max_size=2)
writes = st.lists(st.tuples(keys, st.none() | st.binary(max_size=3)), max_size=30)


@given(writes, keys, st.none() | keys, st.booleans(), st.none() | st.integers(0, 5))
def test_scan(
    entries: list[tuple[bytes, bytes | None]], start: bytes, stop: bytes | None, reverse: bool, limit: int | None
) -> None:
    store, model = MemoryStore(), {}
    for key, value in entries:
        batch = Batch()
        if value is None:
            batch.delete("t", key)
            model.pop(key, None)
        else:
            batch.put("t", key, value)
            model[key] = value
        store.write(batch, sync=False)
    if reverse:
        expected = sorted((k for k in model if k <= start and (stop is None or k > stop)), reverse=True)
    else:
        expected = sorted(k for k in model if k >= start and (stop is None or k < stop))
    found = list(store.scan("t", start, stop, reverse=reverse, limit=limit))
    assert found == [(k, model[k]) for k in expected][:limit]
    assert all(store.get("t", key) == model.get(key) for key, _ in entries)


def test_delete_range_takes_effect_before_the_writes_of_its_batch() -> None:
    store, batch = MemoryStore(), Batch()
    for key in (b"a", b"b", b"c"):
        batch.put("t", key, b"1")
    store.write(batch, sync=True)
    batch = Batch()
    batch.put("t", b"b", b"2")
    batch.delete_range("t", b"a", b"c")
    store.write(batch, sync=True)
    assert list(store.scan("t", b"")) == [(b"b", b"2"), (b"c", b"1")]
