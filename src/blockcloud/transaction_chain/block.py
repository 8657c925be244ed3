"""Blocks: one validator's block of one level.

On the wire a block is (header bytes, payload, signature). The header holds the Merkle root of the payload, so two
signed headers of one author and level prove an equivocation without their payloads. The digest of a block is the
tagged hash of the received header bytes. Validity that needs no other block is checked here (`parse_block`); what
needs the DAG (parents' timestamps) is checked by the core.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import SignedStatement
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import Malformed, Oversized, PeerFault, WrongChain
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import SigningKey, verify
from blockcloud.primitives.limits import (
    BLOCK_BYTES,
    BLOCK_OPERATIONS,
    BLOCK_PAYLOAD_BYTES,
    BLOCK_STATEMENTS,
    TRANSACTION_BYTES,
)
from blockcloud.primitives.merkle import merkle_root
from blockcloud.transaction_chain.committee import Committee

DIGEST_DOMAIN = "block/v1"
SIGNATURE_DOMAIN = "block-signature/v1"


class InvalidBlock(PeerFault):
    """The block breaks a validity rule."""

    code = "invalid_block"


class BlockReference(Struct, frozen=True):
    """Names one block. Ordered by (level, author, digest)."""

    level: int
    author: int
    digest: bytes

    def __lt__(self, other: BlockReference) -> bool:
        return (self.level, self.author, self.digest) < (other.level, other.author, other.digest)


class Header(Struct, frozen=True):
    """The signed part. `timestamp_ms` is the author's clock; `onion_reveal` is empty or 32 bytes."""

    chain_id: bytes
    era: int
    author: int
    level: int
    parents: tuple[BlockReference, ...]
    timestamp_ms: int
    payload_root: bytes
    statements: tuple[SignedStatement, ...] = ()
    onion_reveal: bytes = b""


class WireBlock(Struct, frozen=True):
    """A block as it travels and is stored."""

    header: bytes
    payload: tuple[bytes, ...]
    signature: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A parsed block. Equality is identity of the digest: compare `reference`."""

    header: Header
    payload: tuple[bytes, ...]
    reference: BlockReference
    signature: bytes
    raw: bytes = field(repr=False)

    @property
    def level(self) -> int:
        return self.header.level

    @property
    def author(self) -> int:
        return self.header.author

    @property
    def parents(self) -> tuple[BlockReference, ...]:
        return self.header.parents


def genesis_reference(author: int, genesis: bytes) -> BlockReference:
    """The level-0 parent of `author`: it stands for the genesis digest of the era's DAG and has no block."""
    return BlockReference(0, author, genesis)


def sign_block(header: Header, payload: tuple[bytes, ...], key: SigningKey) -> Block:
    """The author's block of `header`, whose `payload_root` must be that of `payload`."""
    header_bytes = codec.encode(header)
    digest = tagged_hash(DIGEST_DOMAIN, header_bytes)
    signature = key.sign(SIGNATURE_DOMAIN, digest)
    raw = codec.encode(WireBlock(header_bytes, payload, signature))
    return Block(header, payload, BlockReference(header.level, header.author, digest), signature, raw)


class _WirePeek(msgspec.Struct, array_like=True, frozen=True):
    header: bytes


class _HeaderPeek(msgspec.Struct, array_like=True, frozen=True):
    chain_id: bytes
    era: int


_wire_peek = msgspec.msgpack.Decoder(_WirePeek)
_header_peek = msgspec.msgpack.Decoder(_HeaderPeek)


def era_of(raw: bytes) -> int:
    """The era that a raw block says it is of; nothing else of it is checked. Raises Malformed."""
    try:
        return _header_peek.decode(_wire_peek.decode(raw).header).era
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Malformed(f"not a block: {error}") from None


@dataclass(frozen=True, slots=True)
class BlockRules:
    """What a block must fit: the committee of its era and the genesis (32 bytes) of the era's DAG."""

    chain_id: bytes
    era: int
    committee: Committee
    genesis: bytes

    def parse(self, raw: bytes) -> Block:
        """`parse_block` under these rules."""
        return parse_block(raw, self.chain_id, self.era, self.committee, self.genesis)

    def verify(self, block: Block) -> None:
        """`verify_block_signature` under these rules."""
        verify_block_signature(block, self.committee)

    def verify_author(self, block: Block) -> None:
        """`verify_author_signature` under these rules."""
        verify_author_signature(block, self.committee)


def parse_block(raw: bytes, chain_id: bytes, era: int, committee: Committee, genesis: bytes) -> Block:
    """Decode a block and check all that needs neither its signature, nor its payload's, nor another block.

    Raises Oversized, Malformed, NonCanonical, WrongChain or InvalidBlock.
    """
    wire = codec.decode(raw, WireBlock, limit=BLOCK_BYTES)
    header = codec.decode(wire.header, Header, limit=BLOCK_BYTES)
    _check_header(header, chain_id, era, committee, genesis)
    _check_payload(wire.payload, header.payload_root)
    reference = BlockReference(header.level, header.author, tagged_hash(DIGEST_DOMAIN, wire.header))
    return Block(header, wire.payload, reference, wire.signature, raw)


def parse_own(raw: bytes) -> Block:
    """Decode a block that this node stored after it had checked it."""
    wire = codec.decode(raw, WireBlock, limit=BLOCK_BYTES)
    header = codec.decode(wire.header, Header, limit=BLOCK_BYTES)
    reference = BlockReference(header.level, header.author, tagged_hash(DIGEST_DOMAIN, wire.header))
    return Block(header, wire.payload, reference, wire.signature, raw)


def verify_block_signature(block: Block, committee: Committee) -> None:
    """Raise BadSignature unless the author, and each statement's signer, signed. Costs Ed25519 verifications."""
    verify_author_signature(block, committee)
    for statement in block.header.statements:
        statement.verify()


def verify_author_signature(block: Block, committee: Committee) -> None:
    """Raise BadSignature unless the author signed. It is the one part of a block that the digest does not cover."""
    verify(committee.members[block.author].key, SIGNATURE_DOMAIN, block.reference.digest, block.signature)


def _check_header(header: Header, chain_id: bytes, era: int, committee: Committee, genesis: bytes) -> None:
    if header.chain_id != chain_id:
        raise WrongChain("block of another chain", chain=header.chain_id.hex()[:16])
    if header.era != era:
        raise InvalidBlock("block of another era", era=header.era, expected=era)
    if not 0 <= header.author < len(committee):
        raise InvalidBlock("author is not in the committee", author=header.author)
    if header.level < 1 or header.timestamp_ms < 0:
        raise InvalidBlock("level starts at 1, time at 0", level=header.level)
    if len(header.statements) > BLOCK_STATEMENTS or len(header.onion_reveal) not in (0, 32):
        raise InvalidBlock("too many statements, or a reveal that is not 32 bytes")
    if any(statement.signer not in committee.weights_by_key for statement in header.statements):
        raise InvalidBlock("a statement is signed by a stranger")
    _check_parents(header, committee, genesis)


def _check_parents(header: Header, committee: Committee, genesis: bytes) -> None:
    parents = header.parents
    if not 1 <= len(parents) <= len(committee):
        raise InvalidBlock("a block has one to n parents", parents=len(parents))
    if parents[0].author != header.author:
        raise InvalidBlock("the author's own previous block comes first among the parents")
    authors = [parent.author for parent in parents]
    if len(set(authors)) != len(authors) or not all(0 <= author < len(committee) for author in authors):
        raise InvalidBlock("at most one parent for each committee member")
    if any(not 0 <= parent.level < header.level or len(parent.digest) != 32 for parent in parents):
        raise InvalidBlock("a parent is not below the block")
    if any(parent.level == 0 and parent.digest != genesis for parent in parents):
        raise InvalidBlock("a level-0 parent is not the genesis")
    if committee.weight_of(p.author for p in parents if p.level == header.level - 1) < committee.quorum:
        raise InvalidBlock("the parents of the level before have less weight than a quorum", level=header.level)


def _check_payload(payload: tuple[bytes, ...], payload_root: bytes) -> None:
    if len(payload) > BLOCK_OPERATIONS or sum(map(len, payload)) > BLOCK_PAYLOAD_BYTES:
        raise Oversized("payload is larger than a block may carry", items=len(payload))
    if any(not 0 < len(item) <= TRANSACTION_BYTES for item in payload):
        raise Malformed("a payload item is empty or larger than a transaction")
    if merkle_root(payload) != payload_root:
        raise InvalidBlock("the payload is not the one of the header's Merkle root")
