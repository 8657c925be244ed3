"""Which agreements an account is a party of: an index that each node makes for itself, beside the state.

It is no part of the state, because nobody has to prove it: each agreement that it names can be proven by itself. It
is made from the state where it is missing, as after a snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.limits import STATE_VALUE_BYTES
from blockcloud.primitives.storage import Batch, Store
from blockcloud.service_chain.agreements.keys import agreement_key
from blockcloud.service_chain.agreements.records import Agreement
from blockcloud.service_chain.state.tables import LATEST
from blockcloud.service_chain.state.versioned import latest_entry

TABLE: Final = "parties"
# In the table of what a node knows about its own store: the index is complete.
COMPLETE_KEY: Final = b"parties"
BATCH_ROWS: Final = 10_000
_PREFIX: Final = agreement_key(b"")


def note(changes: Mapping[bytes, bytes | None], batch: Batch) -> None:
    """Add what a commit changed."""
    for key, value in changes.items():
        if value is not None and key.startswith(_PREFIX):
            _add(key, value, batch)


def make(store: Store, meta: str) -> None:
    """Make the index anew from the state; `meta` is the table with COMPLETE_KEY."""
    batch = Batch()
    batch.delete_range(TABLE, b"", b"\xff" * 65)
    for _, row in store.scan(LATEST, b""):
        _, key, value = latest_entry(row)
        if key.startswith(_PREFIX):
            _add(key, value, batch)
        if len(batch) >= BATCH_ROWS:
            store.write(batch, sync=False)
            batch = Batch()
    batch.put(meta, COMPLETE_KEY, b"1")
    store.write(batch, sync=True)


def agreements_of(store: Store, party: bytes, limit: int, after: bytes = b"") -> list[bytes]:
    """The ids of at most `limit` agreements of an account, ascending, behind the id `after` if given."""
    start = party + after + b"\x00" if after else party
    return [key[len(party) :] for key, _ in store.scan(TABLE, start, party + b"\xff" * 33, limit=limit)]


def _add(key: bytes, value: bytes, batch: Batch) -> None:
    record = codec.decode(value, Agreement, limit=STATE_VALUE_BYTES)
    for party in (record.client, record.provider):
        batch.put(TABLE, party + key[len(_PREFIX) :], b"")
