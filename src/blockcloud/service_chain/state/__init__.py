"""Authenticated, versioned state: a map of bytes with a root to sign, history at any height, and proofs.

`specification` is the protocol's definition of the root, `proof` what a light client needs (standard library only);
both stand alone. `tree` computes the root fast, `paths` and `undo` read it as it was, `versioned` keeps it in a store.
What needs numpy is loaded when it is first asked for, so that a verifier does not pay for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockcloud.service_chain.state.errors import (
    FutureHeight,
    HeightOrder,
    InvalidChange,
    NotACheckpoint,
    Pruned,
    StateCorrupt,
)
from blockcloud.service_chain.state.proof import verify
from blockcloud.service_chain.state.tables import STATE_TABLES

if TYPE_CHECKING:
    from blockcloud.service_chain.state.versioned import VersionedState, changes_digest

__all__ = [
    "STATE_TABLES",
    "FutureHeight",
    "HeightOrder",
    "InvalidChange",
    "NotACheckpoint",
    "Pruned",
    "StateCorrupt",
    "VersionedState",
    "changes_digest",
    "verify",
]


def __getattr__(name: str) -> object:
    if name in {"VersionedState", "changes_digest"}:
        from blockcloud.service_chain.state import versioned

        return getattr(versioned, name)
    raise AttributeError(name)
