"""Blocks and cores that the tests of the core are made of."""

from __future__ import annotations

from blockcloud.primitives.merkle import merkle_root
from blockcloud.transaction_chain.block import Block, BlockReference, Header, genesis_reference, sign_block
from blockcloud.transaction_chain.core import Core
from tests.transaction_chain.core_loop import (
    CHAIN,
    GENESIS,
    START_MS,
    Loop,
    keys_of,
    make_core,
)

KEYS = keys_of(4)
NOWHERE = bytes([0xEE]) * 32


def make_block(
    author: int,
    level: int,
    parents: list[BlockReference],
    timestamp_ms: int = START_MS,
    payload: tuple[bytes, ...] = (),
) -> Block:
    ordered = sorted(parents, key=lambda parent: (parent.author != author, parent.author))
    header = Header(CHAIN, 0, author, level, tuple(ordered), timestamp_ms, merkle_root(payload))
    return sign_block(header, payload, KEYS[author])


def genesis_parents() -> list[BlockReference]:
    return [genesis_reference(author, GENESIS) for author in range(4)]


def full_levels(levels: int, authors: tuple[int, ...] = (0, 1, 2, 3)) -> list[list[Block]]:
    below = genesis_parents()
    rows = []
    for level in range(1, levels + 1):
        rows.append([make_block(author, level, below) for author in authors])
        below = [block.reference for block in rows[-1]]
    return rows


def observer() -> Core:
    return make_core(KEYS, None)


def carried(loop: Loop, index: int) -> list[bytes]:
    return [item for commit in loop.nodes[index].commits for block in commit.blocks for item in block.payload]


def run_until_committed(loop: Loop, index: int, payload: bytes) -> None:
    loop.run_until(lambda: payload in carried(loop, index))
