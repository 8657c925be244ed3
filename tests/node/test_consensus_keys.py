"""Consensus keys: made durably, found by the data that saw them made, erased when their era is over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blockcloud.node.consensus_keys import ConsensusKeys
from blockcloud.node.ledger_tables import LedgerTables, initialise_data
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.storage import Batch, MemoryStore
from tests.node.cluster import KEYS, make_genesis

GENESIS = make_genesis(2)
NODE_KEY = KEYS[0]
STRANGER = SigningKey(b"x" * 32)


def make(folder: Path, *, initialise: bool = True, key: SigningKey = NODE_KEY) -> ConsensusKeys:
    store = MemoryStore()
    if initialise:
        initialise_data(store, GENESIS)
    return ConsensusKeys(folder / "keys", key, LedgerTables(store, GENESIS))


def test_in_the_committee_of_the_genesis_a_node_signs_with_its_node_key(tmp_path: Path) -> None:
    keys = make(tmp_path)
    assert keys.find(NODE_KEY.public) is NODE_KEY
    assert keys.find(KEYS[1].public) is None, "another validator's"
    assert keys.find(STRANGER.public) is None
    assert make(tmp_path, initialise=False).find(NODE_KEY.public) is None, "data that was lost does not sign again"
    newcomer = make(tmp_path, key=STRANGER)
    assert newcomer.find(STRANGER.public) is None, "a newcomer's node key signs no blocks"


def test_a_key_is_found_again_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    keys = make(tmp_path)
    made = [keys.make() for _ in range(3)]
    assert len({key.public for key in made} | {NODE_KEY.public}) == 4
    for key in made:
        found = keys.find(key.public)
        assert found is not None
        assert found.public == key.public
        assert found.sign("test/v1", b"same") == key.sign("test/v1", b"same")
    files = sorted((tmp_path / "keys").iterdir())
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_a_key_of_data_that_was_lost_signs_no_more(tmp_path: Path) -> None:
    key = make(tmp_path).make()
    later = make(tmp_path)  # the same folder of keys, another store
    assert later.find(key.public) is None
    new = later.make()
    assert later.find(new.public) is not None
    assert later.find(key.public) is None


def test_the_file_is_there_before_the_key_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in between leaves a file that nobody uses; the other order would leave a key that is named and gone."""
    store = MemoryStore()
    initialise_data(store, GENESIS)
    keys = ConsensusKeys(tmp_path / "keys", NODE_KEY, LedgerTables(store, GENESIS))
    seen: list[int] = []
    write = store.write

    def spy(batch: Batch, *, sync: bool) -> None:
        seen.append(len(list((tmp_path / "keys").iterdir())))
        assert sync
        write(batch, sync=sync)

    monkeypatch.setattr(store, "write", spy)
    keys.make()
    assert seen == [1]


def test_keys_are_erased_and_those_that_are_not_here_do_no_harm(tmp_path: Path) -> None:
    keys = make(tmp_path)
    first, second = keys.make(), keys.make()
    NODE_KEY.save(tmp_path / "keys" / "validator.pem")
    keys.erase([first.public, STRANGER.public, NODE_KEY.public])
    keys.erase([first.public])
    assert keys.find(first.public) is None
    assert keys.find(second.public) is not None
    assert keys.find(NODE_KEY.public) is NODE_KEY, "the node key is for life"
    assert sorted(os.listdir(tmp_path / "keys")) == [f"consensus-{second.public[:8].hex()}.pem", "validator.pem"]


def test_a_key_file_that_cannot_be_read_is_an_error_and_no_other_key(tmp_path: Path) -> None:
    keys = make(tmp_path)
    key = keys.make()
    (file,) = (tmp_path / "keys").iterdir()
    file.write_bytes(b"not a key")
    with pytest.raises(BadConfiguration):
        keys.find(key.public)
