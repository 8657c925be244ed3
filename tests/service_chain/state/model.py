"""What must hold of the state, said against a plain dictionary: used on the real package and on spoilt copies of it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from types import SimpleNamespace

from blockcloud.primitives.storage import Batch, MemoryStore
from blockcloud.service_chain.state import paths, proof, records, tree, versioned
from blockcloud.service_chain.state.specification import (
    ZERO,
    key_hash,
    leaf_hash,
    node_hash,
    specified_root,
    value_hash,
)

# The package under test; a mutant offers the same names.
REAL = SimpleNamespace(
    Tree=tree.Tree,
    Past=paths.Past,
    VersionedState=versioned.VersionedState,
    encode_proof=proof.encode_proof,
    fold=records.fold,
    live_path=paths.live_path,
    verify=proof.verify,
)

Leaves = dict[bytes, bytes]


def leaf_of(key: bytes, value: bytes) -> bytes:
    return leaf_hash(key_hash(key), value_hash(value))


def root_of(values: Mapping[bytes, bytes]) -> bytes:
    """The root by the letter of the specification."""
    return specified_root({key_hash(key): leaf_of(key, value) for key, value in values.items()})


def write(leaves: Leaves, changes: Mapping[bytes, bytes | None]) -> None:
    for key, leaf in changes.items():
        if leaf is None:
            leaves.pop(key, None)
        else:
            leaves[key] = leaf


def ground_key(prefix_bits: int, number: int) -> bytes:
    """A key hash whose first `prefix_bits` are the same for every number."""
    shared = int.from_bytes(hashlib.sha256(b"prefix").digest()) >> (256 - prefix_bits)
    rest = int.from_bytes(hashlib.sha256(b"%d" % number).digest()) & ((1 << (256 - prefix_bits)) - 1)
    return (shared << (256 - prefix_bits) | rest).to_bytes(32)


def random_changes(rng: random.Random, keys: list[bytes], size: int) -> dict[bytes, bytes | None]:
    return {key: None if rng.random() < 0.4 else rng.randbytes(32) for key in rng.choices(keys, k=size)}


def check_tree(package: SimpleNamespace, seed: int, *, depth: int = 4, vector_nodes: int = 48) -> None:
    """P1, P7: after every batch the root and the count are those of the specification; undoing restores them."""
    rng = random.Random(seed)
    keys = [rng.randbytes(32) for _ in range(150)]
    keys += [ground_key(bits, number) for bits in (20, 28, 60) for number in range(40)]
    state, leaves = package.Tree(depth, vector_nodes=vector_nodes), Leaves()
    assert state.root() == ZERO
    for _ in range(14):
        changes = random_changes(rng, keys, rng.choice([0, 1, 3, 20, 120]))
        before = dict(leaves)
        replaced = state.update(changes)
        write(leaves, changes)
        assert state.root() == specified_root(leaves)
        assert state.count == len(leaves)
        assert b"".join(state.records()) == b"".join(key + leaves[key] for key in sorted(leaves))
        old = {replaced[at : at + 32]: replaced[at + 32 : at + 64] for at in range(0, len(replaced), 64)}
        assert old == {key: before.get(key, ZERO) for key in changes if before.get(key) != leaves.get(key)}
    grown = {key: key for key in [rng.randbytes(32) for _ in range(500)]}
    state.update(grown)
    assert state.root() == specified_root({**leaves, **grown})
    state.update(dict.fromkeys([*keys, *grown]))
    assert (state.root(), state.count) == (ZERO, 0)
    state.update({keys[0]: b"l" * 32})
    assert state.root() == b"l" * 32


def check_proofs(package: SimpleNamespace, seed: int, size: int) -> None:
    """P4, P5: every present key can be proved to have its value, every absent one to be absent, and nothing else."""
    rng = random.Random(seed)
    values = {b"key %d" % number: b"value %d" % rng.randrange(1000) for number in range(size)}
    state = package.Tree()
    state.update({key_hash(key): leaf_of(key, value) for key, value in values.items()})
    hashed_values = {key_hash(key): value_hash(value) for key, value in values.items()}
    root = root_of(values)
    for key in [*list(values)[:30], *(b"absent %d" % number for number in range(30))]:
        path = package.live_path(state, key_hash(key))
        made = package.encode_proof(key_hash(key), path, hashed_values.get(path.hashed_key or b"", b""))
        assert package.verify(root, key, values.get(key), made)
        assert not package.verify(root, key, b"another", made)
        if key in values:
            assert not package.verify(root, key, None, made)
        for changed in spoilt(made):
            assert not package.verify(root, key, values.get(key), changed)
    check_forgeries(package, state, values, root)


def check_forgeries(package: SimpleNamespace, state: tree.Tree, values: Mapping[bytes, bytes], root: bytes) -> None:
    """P5: a present key cannot be shown absent with its own leaf or with that of another; nor is a leaf believed that
    stands off its path, which only a root that nobody computed honestly can hold."""
    astray = next(key for key in (b"%d" % number for number in range(99)) if key_hash(key)[0] >> 6 == 3)
    claim = bytes([proof.OTHER]) + key_hash(astray) + value_hash(b"value")
    misplaced = next(key for key in (b"%d" % number for number in range(99)) if key_hash(key)[0] >> 6 == 0)
    dishonest = node_hash(leaf_of(astray, b"value") + bytes(96))
    assert not package.verify(dishonest, misplaced, None, claim + b"\x01\x00")
    for key in list(values)[:10]:
        honest = proof.encode_proof(key_hash(key), paths.live_path(state, key_hash(key)), value_hash(values[key]))
        assert not package.verify(root, key, None, bytes([proof.OTHER]) + key_hash(key) + honest[1:])
        for other in list(values)[10:20]:
            leads = proof.encode_proof(
                key_hash(other), paths.live_path(state, key_hash(other)), value_hash(values[other])
            )
            assert not package.verify(root, key, None, bytes([proof.OTHER]) + key_hash(other) + leads[1:])


def spoilt(made: bytes) -> list[bytes]:
    """Proofs a little unlike this one: spare bits of the bitmap, a byte more or less."""
    head = {proof.EMPTY: 1, proof.PRESENT: 33, proof.OTHER: 65}[made[0]]
    depth = made[head]
    changed = [made + b"\0", made[:-1], made + bytes(32)]
    for bit in range(3 * depth, (3 * depth + 7) // 8 * 8):
        at = head + 1 + bit // 8
        changed.append(made[:at] + bytes([made[at] | 1 << bit % 8]) + made[at + 1 :])
        sibling = head + 1 + (3 * depth + 7) // 8
        changed += [changed[-1] + bytes(32), changed[-1][:sibling] + bytes(32) + changed[-1][sibling:]]
    return changed


def check_past(package: SimpleNamespace, seed: int, size: int) -> None:
    """P8, P9, P10: values, roots and proofs at every height, over restarts at any height."""
    rng = random.Random(seed)
    store = MemoryStore()
    state = package.VersionedState(store, retained_checkpoints=6, cached_keys=8)
    values: dict[bytes, bytes] = {}
    history: list[dict[bytes, bytes]] = []
    roots: dict[int, bytes] = {}
    keys = [b"key %d" % number for number in range(size)]
    for height in range(36):
        changes: dict[bytes, bytes | None] = {
            key: None if rng.random() < 0.4 else b"value %d" % rng.randrange(10**6)
            for key in rng.choices(keys, k=rng.choice([0, 1, 2, size // 4, size]))
        }
        batch = Batch()
        state.apply(height, changes, batch)
        write(values, changes)
        history.append(dict(values))
        if rng.random() < 0.4:
            roots[height] = state.checkpoint(height, batch)
            assert roots[height] == root_of(values)
        store.write(batch, sync=True)
        if rng.random() < 0.25:
            state = package.VersionedState(store, retained_checkpoints=6, cached_keys=8)
        assert state.changes_at(height) == sorted(changes)
        for key in rng.choices([*keys, b"never"], k=12):
            at = rng.randrange(height + 1)
            assert state.get(key) == values.get(key)
            assert state.get_at(key, at) == history[at].get(key)
        for at in list(roots)[-6:]:
            assert state.root_at(at) == roots[at]
            for key in rng.choices([*keys, b"never"], k=4):
                made = state.prove(key, at)
                assert package.verify(roots[at], key, history[at].get(key), made)
                assert not package.verify(roots[at], key, b"another", made)
