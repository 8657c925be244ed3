"""What validators send one another: a tagged union of canonical msgpack arrays.

Each bound is part of the type, so it holds before memory is taken for what it bounds. A message says nothing about who
sent it: that is the link's business. Blocks travel as raw bytes, because their digests are over the received bytes.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias, cast

from msgspec import Meta
from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import Certificate, SignedStatement
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import Malformed
from blockcloud.primitives.hashes import DIGEST_BYTES
from blockcloud.primitives.limits import (
    BLOCK_BYTES,
    COMMIT_RANGE,
    COMMITTEE_MEMBERS,
    FETCH_REFERENCES,
    FRAME_BYTES,
    TRANSACTION_BYTES,
)
from blockcloud.transaction_chain.block import BlockReference
from blockcloud.transaction_chain.commit import COMMIT_BYTES

ANSWER_BLOCKS = COMMIT_RANGE * COMMITTEE_MEMBERS
# Blocks in one answer, leaving room for the array around them.
ANSWER_BYTES = FRAME_BYTES - 64 * 1024

# Commit records in one answer.
COMMITS_ASKED = 4 * COMMIT_RANGE

SUBMITTED_PAYLOADS = 4

# Hand-overs in one answer; the sender also keeps to HANDOVERS_BYTES.
ANSWER_HANDOVERS = 64
HANDOVERS_BYTES = 1024 * 1024
RAW_HANDOVER_BYTES = 256 * 1024
SNAPSHOT_OFFERS = 4
SNAPSHOT_PIECES = 65_537
SNAPSHOT_PIECE_BYTES = 4 * 1024 * 1024

Payload: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=TRANSACTION_BYTES)]
Era: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Level: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 2)]
Height: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 2)]
Digest: TypeAlias = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Piece: TypeAlias = Annotated[int, Meta(ge=0, lt=SNAPSHOT_PIECES)]
RawHandover: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=RAW_HANDOVER_BYTES)]
RawCommit: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=COMMIT_BYTES)]
RawBlock: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=BLOCK_BYTES)]


class BlockMessage(Struct, frozen=True, tag=1):
    """A new block of the sender."""

    raw: RawBlock


class FetchBlocks(Struct, frozen=True, tag=2):
    """Please send these blocks; answered by `Blocks` with those that are known, parents' order not promised."""

    references: Annotated[tuple[BlockReference, ...], Meta(min_length=1, max_length=FETCH_REFERENCES)]
    era: Era = 0


class FetchLevels(Struct, frozen=True, tag=3):
    """Please send the blocks of levels `first` to `last`, both included; answered by `Blocks`, lowest level first.

    An answer may stop early to fit into a frame; the asker goes on from where it stopped.
    """

    first: Level
    last: Level
    era: Era = 0


class Blocks(Struct, frozen=True, tag=4):
    """The answer to a fetch; empty if nothing of it is known."""

    raws: Annotated[tuple[RawBlock, ...], Meta(max_length=ANSWER_BLOCKS)]
    era: Era = 0


class Statement(Struct, frozen=True, tag=5):
    """A signed statement that travels alone, when no block would carry it soon."""

    signed: SignedStatement


class Routing(Struct, frozen=True, tag=6):
    """Layer 3 between validators; opaque here."""

    data: Annotated[bytes, Meta(max_length=FRAME_BYTES)]


class Position(Struct, frozen=True, tag=7):
    """Where the sender is: its era, and whether it holds the certificate of the hand-over into that era."""

    era: Era
    certified: bool


class Certified(Struct, frozen=True, tag=8):
    """The certificate of a hand-over, for somebody who lacks it."""

    certificate: Certificate


class Submit(Struct, frozen=True, tag=9):
    """Payloads of a node that makes no blocks, for a member to propose. Nobody answers: the ledger does."""

    payloads: Annotated[tuple[Payload, ...], Meta(min_length=1, max_length=SUBMITTED_PAYLOADS)]


class FetchHandovers(Struct, frozen=True, tag=10):
    """Please send the hand-overs into the eras from `first` on, and say which snapshots you have."""

    first: Era


class SnapshotOffer(Struct, frozen=True):
    """The snapshot with which `era` begins, and the digest of its manifest."""

    era: Era
    manifest: Digest


class Handovers(Struct, frozen=True, tag=11):
    """The answer: hand-overs one after another, opaque here, as many as fit; empty if none are known."""

    first: Era
    raws: Annotated[tuple[RawHandover, ...], Meta(max_length=ANSWER_HANDOVERS)]
    snapshots: Annotated[tuple[SnapshotOffer, ...], Meta(max_length=SNAPSHOT_OFFERS)]


class FetchSnapshot(Struct, frozen=True, tag=12):
    """Please send a piece of the snapshot with this manifest: 0 is the manifest itself, chunks count from 1."""

    manifest: Digest
    piece: Piece


class SnapshotPiece(Struct, frozen=True, tag=13):
    """The answer; `data` is empty if the sender does not have it."""

    manifest: Digest
    piece: Piece
    data: Annotated[bytes, Meta(max_length=SNAPSHOT_PIECE_BYTES)]


class FetchCommits(Struct, frozen=True, tag=14):
    """Please send the commit records of heights `first` to `last`, as far as they are certified; answered by
    `Commits`."""

    era: Era
    first: Height
    last: Height


class Commits(Struct, frozen=True, tag=15):
    """The answer: records from the first one asked for to the one that `certificate` is about; empty, without a
    certificate, if there is none in the range."""

    era: Era
    raws: Annotated[tuple[RawCommit, ...], Meta(max_length=COMMITS_ASKED)]
    certificate: Certificate | None = None


Message: TypeAlias = (
    BlockMessage
    | FetchBlocks
    | FetchLevels
    | Blocks
    | Statement
    | Routing
    | Position
    | Certified
    | Submit
    | FetchHandovers
    | Handovers
    | FetchSnapshot
    | SnapshotPiece
    | FetchCommits
    | Commits
)


def of_era(message: Message, era: int) -> Message:
    """`message` of a core, which knows only its own era, marked as belonging to `era`."""
    return replace(message, era=era) if isinstance(message, FetchBlocks | FetchLevels) else message


def encode_message(message: Message) -> bytes:
    """The bytes of one frame."""
    return codec.encode(message)


def decode_message(data: bytes) -> Message:
    """The message in a frame. Raises Oversized, Malformed or NonCanonical."""
    message = codec.decode(data, cast("type[Message]", Message), limit=FRAME_BYTES)
    if isinstance(message, FetchBlocks) and not all(_is_place(reference) for reference in message.references):
        raise Malformed("a reference to a block has a level, an author and a digest")
    if isinstance(message, FetchLevels) and not 0 < message.first <= message.last < message.first + COMMIT_RANGE:
        raise Malformed("a range of levels is ascending and not longer than the limit", limit=COMMIT_RANGE)
    if isinstance(message, FetchCommits) and not message.first <= message.last < message.first + COMMITS_ASKED:
        raise Malformed("a range of commits is ascending and not longer than the limit", limit=COMMITS_ASKED)
    return message


def _is_place(reference: BlockReference) -> bool:
    """Whether a block can have this reference at all: stores make keys of it."""
    return (
        0 < reference.level < 2**63
        and 0 <= reference.author < COMMITTEE_MEMBERS
        and len(reference.digest) == DIGEST_BYTES
    )
