"""Blocks that break one validity rule each, made from a valid one: what a lying member may send (DESIGN 3.1).

Each is signed by its author, so that only the rule stands between it and the DAG.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from blockcloud.primitives import codec
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import SigningKey
from blockcloud.transaction_chain.block import (
    DIGEST_DOMAIN,
    SIGNATURE_DOMAIN,
    Block,
    BlockReference,
    Header,
    WireBlock,
)
from blockcloud.transaction_chain.committee import Committee

_OTHER_DIGEST = tagged_hash("simulation/v1", b"no such block")


def invalid_versions(block: Block, committee: Committee, key: SigningKey) -> Iterator[tuple[str, bytes]]:
    """(the rule that is broken, the block's bytes), for every rule that `block` can be made to break."""
    header = block.header
    parents = header.parents
    for rule, wrong in _wrong_parents(header, committee):
        yield rule, _sign(msgspec.structs.replace(header, parents=wrong), block.payload, key)
    yield "of another era", _sign(msgspec.structs.replace(header, era=header.era + 1), block.payload, key)
    yield "of another chain", _sign(msgspec.structs.replace(header, chain_id=_OTHER_DIGEST), block.payload, key)
    yield (
        "author outside the committee",
        _sign(msgspec.structs.replace(header, author=len(committee), parents=parents), block.payload, key),
    )
    yield "payload that is not the root's", _sign(header, (*block.payload, b"more"), key)
    yield "negative time", _sign(msgspec.structs.replace(header, timestamp_ms=-1), block.payload, key)
    yield "cut short", block.raw[:-1]
    yield "signature of another length", codec.encode(WireBlock(codec.encode(header), block.payload, b"short"))


def _wrong_parents(header: Header, committee: Committee) -> Iterator[tuple[str, tuple[BlockReference, ...]]]:
    parents = header.parents
    own, others = parents[0], parents[1:]
    yield "no parents", ()
    if others:
        fork = BlockReference(others[0].level, others[0].author, _OTHER_DIGEST)
        last = others[-1]
        # In the place of the last parent where the list is full already: the number of parents is another rule.
        kept = others if len(parents) < len(committee) else others[:-1]
        yield "two parents of one author", (own, *kept, fork)
        yield "own previous block not first", (others[0], own, *others[1:])
        yield "own previous block missing", others
        yield "parent at the block's level", (own, *others[:-1], msgspec.structs.replace(last, level=header.level))
        yield "parent from outside", (own, *others[:-1], msgspec.structs.replace(last, author=len(committee)))
    yield "another genesis", (BlockReference(0, own.author, _OTHER_DIGEST), *others)
    yield "less than a quorum below", _too_few(header, committee)


def _too_few(header: Header, committee: Committee) -> tuple[BlockReference, ...]:
    """As many of the parents, own first, as are still short of a quorum of the level before."""
    kept: list[BlockReference] = [header.parents[0]]
    for parent in header.parents[1:]:
        below = [p.author for p in (*kept, parent) if p.level == header.level - 1]
        if committee.weight_of(below) < committee.quorum:
            kept.append(parent)
    return tuple(kept)


def _sign(header: Header, payload: tuple[bytes, ...], key: SigningKey) -> bytes:
    header_bytes = codec.encode(header)
    signature = key.sign(SIGNATURE_DOMAIN, tagged_hash(DIGEST_DOMAIN, header_bytes))
    return codec.encode(WireBlock(header_bytes, payload, signature))
