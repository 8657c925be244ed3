"""The tree against the specification: roots, independence of order and grouping, growth, ground keys."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.service_chain.state import records, tree
from blockcloud.service_chain.state.specification import ZERO, key_hash, leaf_hash, specified_root, value_hash
from blockcloud.service_chain.state.tree import Tree, depth_for
from tests.service_chain.state.model import REAL, Leaves, check_tree, ground_key, random_changes, write

# Few keys, some of which share long prefixes, so that runs meet again and again in the same buckets.
POOL = [key_hash(b"%d" % number) for number in range(12)] + [
    ground_key(bits, number) for bits in (20, 60, 250) for number in range(8)
]
BATCH = st.dictionaries(st.sampled_from(POOL), st.one_of(st.none(), st.binary(min_size=32, max_size=32)), max_size=20)


@pytest.mark.parametrize("vector_nodes", [1, 48, 10**9])
@pytest.mark.parametrize("depth", [4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_root_is_the_specified_one_for_every_depth_and_threshold(seed: int, depth: int, vector_nodes: int) -> None:
    check_tree(REAL, seed, depth=depth, vector_nodes=vector_nodes)


@settings(max_examples=60, deadline=None)
@given(st.lists(BATCH, max_size=6))
def test_root_follows_the_final_map_only(batches: list[dict[bytes, bytes | None]]) -> None:
    """P1, P2: one by one, in halves, in any order: the same map has the same root."""
    stepwise, single, leaves = Tree(), Tree(), Leaves()
    for changes in batches:
        stepwise.update(changes)
        write(leaves, changes)
        for key in sorted(changes, reverse=True):
            single.update({key: changes[key]})
        assert stepwise.root() == single.root() == specified_root(leaves)
    at_once = Tree()
    at_once.update(leaves)
    assert at_once.root() == Tree.of(b"".join(key + leaves[key] for key in sorted(leaves))).root() == stepwise.root()


@settings(max_examples=30, deadline=None)
@given(st.lists(BATCH, min_size=1, max_size=6))
def test_what_an_update_replaced_undoes_it(batches: list[dict[bytes, bytes | None]]) -> None:
    state = Tree()
    undo = [(state.root(), state.update(changes)) for changes in batches]
    for root, replaced in reversed(undo):
        pairs = [(replaced[at : at + 32], replaced[at + 32 : at + 64]) for at in range(0, len(replaced), 64)]
        state.update({key: None if leaf == ZERO else leaf for key, leaf in pairs})
        assert state.root() == root
    assert state.count == 0


def test_it_grows_with_its_keys_and_keeps_its_root() -> None:
    rng = random.Random(5)
    state, fixed, leaves = Tree(), Tree(8), Leaves()
    for _ in range(6):
        changes = random_changes(rng, [rng.randbytes(32) for _ in range(600)], 600)
        state.update(changes)
        fixed.update(changes)
        write(leaves, changes)
    assert state.depth == depth_for(len(leaves)) > 4
    assert state.root() == fixed.root() == specified_root(leaves)
    deep = state.depth
    state.update(dict.fromkeys(leaves))
    assert (state.root(), state.depth) == (ZERO, deep)


def test_depth_follows_the_keys() -> None:
    assert [depth_for(keys) for keys in (0, 384, 385, 1_000_000, 1_572_864, 1_572_865)] == [4, 4, 5, 10, 10, 11]


@pytest.mark.parametrize("bits", [8, 20, 28, 60, 249, 250])
def test_ground_keys_have_the_specified_root(bits: int) -> None:
    """P14: the nested trees, filled, changed and emptied again, with other keys around them."""
    rng = random.Random(bits)
    ground = list(dict.fromkeys(ground_key(bits, number) for number in range(300)))
    keys = ground + [rng.randbytes(32) for _ in range(30)]
    state, leaves = Tree(), Leaves()
    for changes in (
        {key: rng.randbytes(32) for key in ground},
        random_changes(rng, keys, 100),
        random_changes(rng, keys, 400),
        dict.fromkeys(ground[20:]),
        {key: rng.randbytes(32) for key in keys},
        dict.fromkeys(keys[:-1]),
    ):
        state.update(changes)
        write(leaves, changes)
        assert state.root() == specified_root(leaves)
        assert state.count == len(leaves)
    assert Tree.of(keys[-1] + leaves[keys[-1]]).root() == state.root()


@pytest.mark.parametrize("bits", [20, 28, 60])
def test_ground_keys_cost_no_more_than_their_depth(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """P14: with 4,000 keys in one bucket an update still hashes one path, not the bucket."""
    calls = 0

    def counted(data: bytes = b"") -> object:
        nonlocal calls
        calls += 1
        return hashlib.sha256(data)

    keys = [ground_key(bits, number) for number in range(4_000)]
    state = Tree(10)
    for module in (tree, records):
        monkeypatch.setattr(module, "sha256", counted)
    state.update({key: key for key in keys})
    path = bits // 2 + 40
    assert calls <= path * len(keys)
    for key in keys[:20]:
        calls = 0
        state.update({key: b"n" * 32})
        assert calls <= path
    longest = max(len(piece) for piece in state.records())
    assert longest <= tree.BUCKET_RECORDS * records.RECORD_BYTES


def test_roots_of_record() -> None:
    """The consensus definition, pinned: a change here is a fork."""
    roots = {}
    for count in (0, 1, 2, 100):
        state = Tree()
        pairs = [(b"key %d" % number, b"value %d" % number) for number in range(count)]
        state.update({key_hash(key): leaf_hash(key_hash(key), value_hash(value)) for key, value in pairs})
        roots[count] = state.root().hex()
    assert roots == PINNED


PINNED = {
    0: "0000000000000000000000000000000000000000000000000000000000000000",
    1: "48b76f749e6ed1534974077b481de710ae582577d64033a48e447c00f6cc1889",
    2: "6e14c327c1ddd9bfe3077afa2319143fd206b629117d453a8c55bb6eb19fa954",
    100: "e10e9a014d4b1931f407188b60cfff652a3d35e8194318366e75c8a365602b20",
}
