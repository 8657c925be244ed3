"""P11: kill -9 at any moment. What was acknowledged is there, nothing is half there, and the root is the old one."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from blockcloud.node.storage import RocksStore
from blockcloud.service_chain.state import VersionedState, verify
from tests.service_chain.state import crashing
from tests.service_chain.state.model import root_of, write


def run_until_killed(database: Path, heights: int) -> int:
    """Commit in another process, kill it after so many acknowledgements; returns the last height it acknowledged."""
    acknowledged = -1
    with subprocess.Popen(
        [sys.executable, crashing.__file__, str(database)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(heights):
            acknowledged = int(process.stdout.readline())
        process.kill()
        for line in process.stdout.read().splitlines(keepends=True):
            if line.endswith("\n"):
                acknowledged = int(line)
    return acknowledged


def test_a_killed_process_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(11)
    for _ in range(4):
        acknowledged = run_until_killed(tmp_path / "db", rng.randrange(1, 25))
        store = RocksStore(tmp_path / "db")
        state = VersionedState(store)
        assert state.height in (acknowledged, acknowledged + 1)
        values: dict[bytes, bytes] = {}
        at_checkpoint: dict[bytes, bytes] = {}
        for height in range(state.height + 1):
            write(values, crashing.changes_of(height))
            assert state.changes_at(height) == sorted(crashing.changes_of(height))
            if height == state.checkpoint_height:
                at_checkpoint = dict(values)
        root = state.root_at(state.checkpoint_height)
        assert root == root_of(at_checkpoint)
        for number in range(0, 300, 7):
            key = b"%d" % number
            assert state.get(key) == state.get_at(key, state.height) == values.get(key)
            assert verify(root, key, at_checkpoint.get(key), state.prove(key, state.checkpoint_height))
        del state
        store.close()
