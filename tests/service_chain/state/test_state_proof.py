"""Proofs: complete, sound, strict, never raising; and a second verifier that agrees on every one of them."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.primitives.storage import Batch, MemoryStore
from blockcloud.service_chain.state import VersionedState, verify
from blockcloud.service_chain.state.proof import PROOF_BYTES_MAX
from tests.service_chain.state.model import REAL, check_proofs

KEYS = [b"key %d" % number for number in range(60)]
ABSENT = [b"absent %d" % number for number in range(20)]


def state_of(values: dict[bytes, bytes]) -> tuple[VersionedState, bytes]:
    store, batch = MemoryStore(), Batch()
    state = VersionedState(store)
    state.apply(0, values, batch)
    root = state.checkpoint(0, batch)
    store.write(batch, sync=True)
    return state, root


VALUES = {key: b"value of " + key for key in KEYS}
STATE, ROOT = state_of(VALUES)
PROOFS = {key: STATE.prove(key, 0) for key in KEYS + ABSENT}


def second_verifier(root: bytes, key: bytes, value: bytes | None, proof: bytes) -> bool:
    """The format read again by other means: a cursor over bytes, and digits as text."""

    def take(count: int) -> bytes:
        nonlocal proof
        if len(proof) < count:
            raise ValueError
        taken, proof = proof[:count], proof[count:]
        return taken

    def digits(key_hash: bytes) -> str:
        bits = f"{int.from_bytes(key_hash, 'big'):0256b}"
        return "".join(str(int(bits[at : at + 2], 2)) for at in range(0, 256, 2))

    try:
        wanted = sha256(b"K" + key).digest()
        kind, node = take(1)[0], bytes(32)
        owner = take(32) if kind == 2 else wanted
        if kind in (1, 2):
            hashed = take(32)
            node = sha256(b"L" + owner + hashed).digest()
            if kind == 1 and (not value or sha256(b"V" + value).digest() != hashed):
                return False
        if kind > 2 or (kind != 1 and value is not None) or (kind == 2 and owner == wanted):
            return False
        depth = take(1)[0]
        flags = "".join(f"{byte:08b}"[::-1] for byte in take(-(-3 * depth // 8)))
        if depth > 128 or "1" in flags[3 * depth :] or digits(owner)[:depth] != digits(wanted)[:depth]:
            return False
        siblings = [take(32) if flag == "1" else bytes(32) for flag in flags[: 3 * depth]]
        for level in reversed(range(depth)):
            place = int(digits(wanted)[level])
            three = siblings[3 * level : 3 * level + 3]
            node = sha256(b"N" + b"".join([*three[:place], node, *three[place:]])).digest()
    except ValueError:
        return False
    return not proof and node == root


@pytest.mark.parametrize("size", [0, 1, 2, 5, 60, 700])
def test_every_key_can_be_proved_present_or_absent_and_nothing_else(size: int) -> None:
    check_proofs(REAL, seed=size, size=size)


def test_every_bit_counts() -> None:
    """P6: no proof survives the flip of any one bit."""
    kinds = {proof[0]: key for key, proof in PROOFS.items()}
    assert sorted(kinds) == [0, 1, 2]
    for key in kinds.values():
        proof = PROOFS[key]
        assert verify(ROOT, key, VALUES.get(key), proof)
        for bit in range(8 * len(proof)):
            flipped = bytearray(proof)
            flipped[bit // 8] ^= 1 << bit % 8
            assert not verify(ROOT, key, VALUES.get(key), bytes(flipped)), bit


def test_every_cut_is_refused() -> None:
    for key, proof in list(PROOFS.items())[::7]:
        for length in range(len(proof)):
            assert not verify(ROOT, key, VALUES.get(key), proof[:length])
        assert not verify(ROOT, key, VALUES.get(key), proof + bytes(32))


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300), st.builds(lambda head, rest: bytes([head]) + rest, st.integers(0, 3), st.binary())
    ),
    st.sampled_from([None, b"", b"value"]),
    st.sampled_from(KEYS + ABSENT),
)
def test_garbage_is_refused_and_never_raises(garbage: bytes, value: bytes | None, key: bytes) -> None:
    assert not verify(ROOT, key, value, garbage)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(KEYS + ABSENT))
def test_spoilt_proofs_are_refused_by_both_verifiers(data: st.DataObject, key: bytes) -> None:
    """Cut and joined pieces of real proofs, which get further than garbage does."""
    proof, other = PROOFS[key], PROOFS[data.draw(st.sampled_from(KEYS + ABSENT))]
    cut, start = data.draw(st.integers(0, len(proof))), data.draw(st.integers(0, len(other)))
    mixed = proof[:cut] + other[start:]
    value = data.draw(st.sampled_from([VALUES.get(key), None, b"another"]))
    accepted = verify(ROOT, key, value, mixed)
    assert accepted == second_verifier(ROOT, key, value, mixed)
    assert accepted == (mixed == proof and value == VALUES.get(key))


def test_a_second_verifier_agrees() -> None:
    """P16."""
    for key, proof in PROOFS.items():
        for value in (VALUES.get(key), None, b"another"):
            accepted = second_verifier(ROOT, key, value, proof)
            assert accepted == verify(ROOT, key, value, proof) == (value == VALUES.get(key))


def test_oversized_input_is_refused_before_it_is_read() -> None:
    assert not verify(ROOT, KEYS[0], VALUES[KEYS[0]], PROOFS[KEYS[0]] + bytes(PROOF_BYTES_MAX))


def test_a_proof_cannot_be_replayed() -> None:
    """P15: not for another key, not under another root."""
    _, other_root = state_of({**VALUES, b"one more": b"value"})
    for key, proof in PROOFS.items():
        assert not verify(other_root, key, VALUES.get(key), proof)
        for other in KEYS[:10]:
            if other != key:
                assert not any(verify(ROOT, other, value, proof) for value in (None, VALUES.get(key), VALUES[other]))
        if key in VALUES:
            assert not any(verify(ROOT, other, value, proof) for other in ABSENT for value in (None, VALUES[key]))


def test_a_light_client_needs_neither_numpy_nor_the_tree() -> None:
    program = (
        "import sys; from blockcloud.service_chain.state import verify; "
        "print(sorted({'numpy', 'msgspec', 'blockcloud.service_chain.state.tree'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
