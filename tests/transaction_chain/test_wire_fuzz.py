"""Everything that comes over a wire, fuzzed: whatever the bytes, a decoder gives a value or raises a PeerFault.

Inputs are valid messages that are damaged as bytes; or changed in a few places as values, encoded and signed again with
good keys, so that they get past codec and signatures to the checks behind; and raw bytes. 50,000 in all by default. For
a million:

    BLOCKCLOUD_FUZZ_INPUTS=1000000 python3 dev.py test tests/transaction_chain/test_wire_fuzz.py

A failure names the decoder and shows the input in hexadecimal; `--hypothesis-seed` repeats the run.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.primitives.errors import PeerFault
from tests.transaction_chain.wire_samples import WIRES, Tree, Wire

INPUTS = int(os.environ.get("BLOCKCLOUD_FUZZ_INPUTS", "50000"))
BATCH = 250
RAW_SHARE = 25  # one input in so many is drawn by hypothesis byte by byte, which is slow and shrinks well

# Beginnings of msgpack, CBOR and JSON values that say more, deeper or larger than what follows.
HEADS = [
    bytes.fromhex(head)
    for head in (
        "dfffffffff ddffffffff deffff dcffff c6ffffffff c5ffff dbffffffff d9ff c9ffffffff00 c70cff d6ff00000000 "
        "cfffffffffffffffff d38000000000000000 cb7ff8000000000000 cbfff0000000000000 ca7f800000 c0 c1 c2 80 90 a0 "
        "9bffffffffffffffff bbffffffffffffffff 5bffffffffffffffff 9f bf 5f f97e00 c240 fb7ff0000000000000 "
        "7b22 5b5b5b5b 22 2d 31653939 ffff ed9fbf 00"
    ).split()
]
NUMBERS = [0, 1, -1, 2, 127, 128, 255, 256, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.5]
VALUES: list[Tree] = [
    *NUMBERS,
    *(
        None,
        True,
        False,
        b"",
        bytes(32),
        bytes(64),
        bytes(33),
        b"\xff" * 70_000,
        "",
        "a",
        "\u0000",
        "\U0001f600",
        "x" * 70_000,
    ),
    *([], [[]], {}, {"a": 1}, [0] * 2_000, [[[[[[[[]]]]]]]], float("inf"), float("nan"), "checkpoint", "handover"),
]


def damaged(random: Random, data: bytes, others: list[bytes]) -> bytes:
    """`data` with one to three pieces of it changed."""
    out = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(out) + 1)
        end = min(len(out), at + random.choice((1, 1, 2, 4, 32, 200)))
        match random.randrange(8):
            case 0 if at < len(out):
                out[at] ^= 1 << random.randrange(8)
            case 1 if at < len(out):
                out[at] = random.randrange(256)
            case 2:
                del out[at:end]
            case 3:
                out[at:at] = random.randbytes(random.randint(1, 40))
            case 4:
                out[at:end] = random.choice(HEADS)
            case 5:
                del out[at:]
            case 6:
                out[at:at] = out[at:end] * random.choice((1, 2, 300))
            case _:
                other = random.choice(others)
                out[at:] = other[random.randrange(len(other) + 1) :]
    return bytes(out)


def changed(random: Random, tree: Tree) -> Tree:
    """`tree` with one value in it changed: another value, another type, another length, another one's value."""
    tree = copy.deepcopy(tree)
    places: list[tuple[Tree, Tree]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (list, dict)):
                waiting.append(node[key])
    if not places or random.randrange(50) == 0:
        return random.choice(VALUES)
    node, key = random.choice(places)
    value = node[key]
    match random.randrange(7):
        case 0 if isinstance(value, int):
            node[key] = value + random.choice((-1, 1, -2, 1_000))
        case 0 | 1 if isinstance(value, (bytes, str, list)) and value:
            node[key] = random.choice((value[:-1], value + value[:1], value * 2, value[::-1], value[:1] * 101))
        case 2 if isinstance(node, list):
            del node[key]
        case 3 if isinstance(node, list):
            node.insert(key, random.choice(VALUES))
        case 4 if isinstance(node, list):
            other = random.randrange(len(node))
            node[key], node[other] = node[other], node[key]
        case 5:
            other_node, other_key = random.choice(places)
            node[key] = copy.deepcopy(other_node[other_key])
        case _:
            node[key] = random.choice(VALUES)
    return tree


def sealed(random: Random, wire: Wire) -> bytes | None:
    """A value changed in one to three places and signed again; None where no encoder can write it."""
    tree = random.choice(wire.trees)
    for _ in range(random.choice((1, 1, 2, 3))):
        if isinstance(tree, (list, dict)):
            tree = changed(random, tree)
    try:
        return wire.seal(tree)
    except (ValueError, TypeError, OverflowError, AttributeError, RecursionError, PeerFault):
        return None


def verdict(name: str, wire: Wire, data: bytes) -> str:
    """ "accepted", or the code of the refusal. Anything else fails, with the input."""
    try:
        wire.decode(data)
    except PeerFault as error:
        return error.code
    except Exception as error:
        error.add_note(f"decoder: {name}; input: {data[:4_000].hex()} ({len(data)} bytes)")
        raise
    return "accepted"


@pytest.mark.parametrize("name", WIRES)
def test_the_samples_are_valid(name: str) -> None:
    wire = WIRES[name]
    for data in wire.valid:
        if name != "proven value":  # its proof leads nowhere: what stands before that is what is fuzzed here
            assert verdict(name, wire, data) == "accepted"
    for tree in wire.trees:
        wire.seal(tree)


@pytest.mark.parametrize("name", WIRES)
@settings(max_examples=max(1, INPUTS // len(WIRES) // BATCH))
@given(seed=st.integers(0, 2**64 - 1))
def test_damaged_messages_raise_a_peer_fault_only(name: str, seed: int) -> None:
    random, wire = Random(seed), WIRES[name]
    seen: Counter[str] = Counter()
    others = [data for other in WIRES.values() for data in other.valid]
    for number in range(BATCH):
        data = sealed(random, wire) if number % 2 else None
        if data is None:
            data = damaged(random, random.choice(wire.valid), others)
        seen[verdict(name, wire, data)] += 1
    assert len(seen) > 1, "the inputs get no further than the first check"


@pytest.mark.parametrize("name", WIRES)
@settings(max_examples=max(10, INPUTS // len(WIRES) // RAW_SHARE))
@given(data=st.binary(max_size=400) | st.lists(st.sampled_from(HEADS), max_size=8).map(b"".join))
def test_raw_bytes_raise_a_peer_fault_only(name: str, data: bytes) -> None:
    verdict(name, WIRES[name], data)
