"""Commits without end over the database named on the command line, until killed (test_state_crash)."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from blockcloud.node.storage import RocksStore
from blockcloud.primitives.storage import Batch
from blockcloud.service_chain.state import VersionedState

CHECKPOINT_EVERY = 3


def changes_of(height: int) -> dict[bytes, bytes | None]:
    """What the commit at `height` changes: the same in every process."""
    rng = random.Random(height)
    return {b"%d" % rng.randrange(300): None if rng.random() < 0.3 else b"at %d" % height for _ in range(40)}


def commit(state: VersionedState, store: RocksStore, height: int) -> None:
    batch = Batch()
    state.apply(height, changes_of(height), batch)
    if height % CHECKPOINT_EVERY == 0:
        state.checkpoint(height, batch)
    store.write(batch, sync=True)


def main() -> None:
    store = RocksStore(Path(sys.argv[1]))
    state = VersionedState(store)
    height = state.height + 1
    while True:
        commit(state, store, height)
        print(height, flush=True)
        height += 1


if __name__ == "__main__":
    main()
