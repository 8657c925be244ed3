"""The keys that sign blocks: one for each era, made here, kept in files, erased when their era is over.

Whoever breaks into a node later finds no key of an era that is past, so nobody can write that era's history anew
(DESIGN section 3.3). A key is of use to the data that was there when it was made and to no other: data that was lost,
and what it had signed with it, is not replaced by what other nodes remember.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.primitives.keys import SigningKey

PREFIX: Final = "consensus-"
NAME_BYTES: Final = 8


class ConsensusKeys:
    """The consensus keys in `folder`. In the genesis' committee a node signs with its node key."""

    def __init__(self, folder: Path, node_key: SigningKey, tables: LedgerTables) -> None:
        self._folder, self._node_key, self._tables = folder, node_key, tables

    def find(self, public: bytes) -> SigningKey | None:
        """The private key for `public`, if it is here and this data knows everything that it signed."""
        if not self._tables.may_sign(public):
            return None
        if public == self._node_key.public:
            return self._node_key
        path = self._path(public)
        key = SigningKey.load(path) if path.exists() else None
        return key if key is not None and key.public == public else None

    def make(self) -> SigningKey:
        """A new key, durable before it is given away."""
        key = SigningKey.generate()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key.save(self._path(key.public))
        self._tables.add_signer(key.public)
        return key

    def erase(self, publics: Iterable[bytes]) -> None:
        """Erase the files of these keys, as far as they are here."""
        for public in publics:
            self._path(public).unlink(missing_ok=True)

    def _path(self, public: bytes) -> Path:
        return self._folder / f"{PREFIX}{public[:NAME_BYTES].hex()}.pem"
