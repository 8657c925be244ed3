"""The least service machine: its state is a hash over everything executed so far.

Two members have the same state only if they executed the same payloads in the same order, which is all that a
simulation of layer 1 asks. `runner.run` takes the production service chain in its place.
"""

from __future__ import annotations

from blockcloud.primitives.errors import Malformed
from blockcloud.primitives.hashes import ZERO_DIGEST, tagged_hash
from blockcloud.primitives.storage import Batch, Store
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.machine import Result

_STATE_KEY = b"hash"
# What every machine must refuse: liars put it into their blocks.
REFUSED_PAYLOAD = b"\xffno machine takes this"


class HashMachine:
    """A `ServiceMachine` that recovers from its store."""

    def __init__(self, store: Store) -> None:
        stored = store.get("state", _STATE_KEY)
        self.height = int.from_bytes(stored[:8], "big") if stored else 0
        self._state = stored[8:] if stored else ZERO_DIGEST

    def check(self, payload: bytes) -> int:
        """Every payload but one is valid and one operation. Raises Malformed."""
        if payload == REFUSED_PAYLOAD:
            raise Malformed("a payload that is refused")
        return 1

    def execute(self, commit: Commit, batch: Batch) -> Result:
        """Hash the commit's payloads in order."""
        assert commit.height == self.height + 1, "commits are executed one after another"
        for block in commit.blocks:
            for payload in block.payload:
                self._state = tagged_hash("simulation/v1", self._state + payload)
        self._state = tagged_hash("simulation/v1", self._state + commit.digest)
        self.height = commit.height
        batch.put("state", _STATE_KEY, self.height.to_bytes(8, "big") + self._state)
        return Result(self.height, self._state, self._state)
