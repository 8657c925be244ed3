"""Merkle trees against the recursive definition of RFC 6962, and inclusion proofs against changes."""

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.merkle import (
    EMPTY_ROOT,
    inclusion_proof,
    leaf_hash,
    merkle_root,
    node_hash,
    verify_inclusion,
)

leaf_lists = st.lists(st.binary(max_size=8), min_size=1, max_size=40)


def specification(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1: split at the largest power of two below n."""
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + specification(leaves[:split]) + specification(leaves[split:])).digest()


@given(leaf_lists)
def test_root_is_the_one_of_the_definition(leaves: list[bytes]) -> None:
    assert merkle_root(leaves) == specification(leaves)


def test_known_vectors() -> None:
    assert (
        merkle_root([])
        == EMPTY_ROOT
        == bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    )
    assert merkle_root([b""]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


@given(leaf_lists, st.data())
def test_each_leaf_is_proven_and_nothing_else(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, proof = merkle_root(leaves), inclusion_proof(leaves, index)
    assert verify_inclusion(root, leaves[index], index, len(leaves), proof)
    assert not verify_inclusion(root, leaves[index] + b"x", index, len(leaves), proof)
    assert not verify_inclusion(root, leaves[index], index, len(leaves), [*proof, bytes(32)])
    assert not verify_inclusion(root, leaves[index], len(leaves), len(leaves), proof)
    if proof:
        assert not verify_inclusion(root, leaves[index], index, len(leaves), proof[:-1])
        bit = data.draw(st.integers(0, 255))
        step = data.draw(st.integers(0, len(proof) - 1))
        proof[step] = (int.from_bytes(proof[step], "big") ^ 1 << bit).to_bytes(32, "big")
        assert not verify_inclusion(root, leaves[index], index, len(leaves), proof)


def test_an_inner_node_cannot_pass_as_a_leaf() -> None:
    leaves = [b"a", b"b", b"c", b"d"]
    left, right = node_hash(leaf_hash(b"a"), leaf_hash(b"b")), node_hash(leaf_hash(b"c"), leaf_hash(b"d"))
    assert merkle_root([left, right]) != merkle_root(leaves)


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(max_size=9),
    st.integers(-3, 9),
    st.integers(-3, 9),
    st.lists(st.binary(max_size=33)),
)
def test_garbage_is_false(root: bytes, leaf: bytes, index: int, size: int, proof: list[bytes]) -> None:
    assert verify_inclusion(root, leaf, index, size, proof) is False
