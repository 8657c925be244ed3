"""The tree as it was: paths through undo records equal those of a tree built from the old leaves."""

from __future__ import annotations

import random

import pytest

from blockcloud.service_chain.state.paths import Past, live_path
from blockcloud.service_chain.state.tree import Tree
from blockcloud.service_chain.state.undo import UndoRecords, encode_undo, tops_of
from tests.service_chain.state.model import Leaves, ground_key, write


def tree_of(leaves: Leaves) -> Tree:
    return Tree.of(b"".join(key + leaves[key] for key in sorted(leaves)))


@pytest.mark.parametrize("bits", [0, 4, 8, 20, 60, 250])
@pytest.mark.parametrize("seed", range(3))
def test_old_paths_equal_those_of_the_old_tree(bits: int, seed: int) -> None:
    """Trees that grow from nothing or a single leaf, nest, and shrink again; every older step is read at each step."""
    rng = random.Random(f"{bits} {seed}")
    keys = list(dict.fromkeys(ground_key(bits, number) for number in range(60))) if bits else []
    keys += [rng.randbytes(32) for _ in range(20 if bits else 500)]
    state, leaves = Tree(), Leaves()
    steps: list[Leaves] = []
    rows: list[bytes] = []
    sizes = [0, 1, 1, len(keys), 5, 40, len(keys), 1]
    for number, size in enumerate(sizes):
        deleting = 0.9 if number == len(sizes) - 2 else 0.3
        changes = {key: None if rng.random() < deleting else rng.randbytes(32) for key in rng.sample(keys, size)}
        tops = tops_of(state, changes)
        rows.append(encode_undo(tops, state.update(changes)))
        write(leaves, changes)
        steps.append(dict(leaves))
        for step, old in enumerate(steps):
            records, expected = UndoRecords(rows[step + 1 :]), tree_of(old)
            past = Past(state, records.tops(), records.leaves)
            assert past.root() == expected.root()
            for key in rng.sample(keys, 15):
                assert past.path(key) == live_path(expected, key)


def test_a_path_below_a_nested_tree_has_every_sibling() -> None:
    """The proof of a ground key goes through all trees that hold it."""
    keys = [ground_key(60, number) for number in range(200)]
    state = tree_of({key: key for key in keys})
    path = live_path(state, keys[0])
    assert path.hashed_key == keys[0]
    assert len(path.siblings) // 3 > 30
