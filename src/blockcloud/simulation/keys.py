"""The consensus keys of a simulated node: the production rules about which key may sign, over a folder in memory.

What a node writes into its folder is durable at once, as key files are; the mark that the key belongs to this data is
on the simulated disk. All keys follow from the node's number, so a run repeats.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from blockcloud.node.consensus_keys import ConsensusKeys
from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import SigningKey
from blockcloud.simulation.hash_machine import era_key


@dataclass
class KeyFolder:
    """What survives every crash: the key files of one node, and how many it has made."""

    node_key: SigningKey
    files: dict[bytes, SigningKey] = field(default_factory=dict)
    made: int = 0


class SimulatedKeys(ConsensusKeys):
    """`ConsensusKeys` with a folder in memory."""

    def __init__(self, folder: KeyFolder, tables: LedgerTables) -> None:
        super().__init__(Path(), folder.node_key, tables)
        self._files, self._marks = folder, tables

    def find(self, public: bytes) -> SigningKey | None:
        """The private key for `public`, if it is here and this data knows everything that it signed."""
        return self.held(public) if self._marks.may_sign(public) else None

    def held(self, public: bytes) -> SigningKey | None:
        """The private key for `public`, if it is here."""
        return self._files.node_key if public == self._files.node_key.public else self._files.files.get(public)

    def make(self) -> SigningKey:
        """A new key."""
        number = self._files.made.to_bytes(4, "big")
        key = SigningKey(tagged_hash("simulation/v1", b"made key" + self._files.node_key.public + number))
        self._files.made += 1
        self._keep(key)
        return key

    def make_for(self, era: int) -> None:
        """The key that the hash machine gives this node in `era`, unless it is here."""
        key = era_key(self._files.node_key.public, era)
        if key.public not in self._files.files or not self._marks.may_sign(key.public):
            self._keep(key)

    def erase(self, publics: Iterable[bytes]) -> None:
        """Erase the files of these keys, as far as they are here."""
        for public in publics:
            self._files.files.pop(public, None)

    def _keep(self, key: SigningKey) -> None:
        self._files.files[key.public] = key
        self._marks.add_signer(key.public)


class LyingKeys(SimulatedKeys):
    """Keeps the core from signing, but with the keys of eras in which the liar is honest: what it signs else it signs
    by itself."""

    honest: tuple[bytes, ...] = ()

    def find(self, public: bytes) -> SigningKey | None:
        """The key, if it is of an honest era."""
        return super().find(public) if public in self.honest else None
