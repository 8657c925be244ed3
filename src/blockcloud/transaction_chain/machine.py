"""The seam between layer 1 and layer 2: a machine with two functions. Layer 1 knows nothing else of what it orders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from blockcloud.primitives.storage import Batch
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.era import EraPlan


@dataclass(frozen=True, slots=True)
class Result:
    """What executing one commit gave. `state_root` is set at checkpoints only; `change_digest` at every commit.

    `outcomes` has one entry for each payload item in order: (id, code); `events` are (kind, data) for subscribers.
    `next_era` is set at the last commit of an era, where there is always a state root.
    """

    height: int
    change_digest: bytes
    state_root: bytes | None
    outcomes: tuple[tuple[bytes, str], ...] = ()
    events: tuple[tuple[str, bytes], ...] = ()
    next_era: EraPlan | None = None


class ServiceMachine(Protocol):
    """Layer 2 as layer 1 sees it."""

    def check(self, payload: bytes) -> int:
        """Number of operations in `payload`; raises a PeerFault unless it is valid in itself (decodes, right chain,
        signatures). Pure: the same verdict at every node of a protocol version. May run in several threads."""

    def execute(self, commit: Commit, batch: Batch) -> Result:
        """Apply `commit`, whose height is one above the last, adding every write to `batch`."""
