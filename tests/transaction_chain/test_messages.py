"""Messages between validators: they survive the codec, and each bound is enforced with a typed error."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, Certificate, SignedStatement
from blockcloud.primitives.certificates import Statement as Claim
from blockcloud.primitives.errors import Malformed, NonCanonical, Oversized, PeerFault
from blockcloud.primitives.limits import BLOCK_BYTES, COMMIT_RANGE, FETCH_REFERENCES, FRAME_BYTES
from blockcloud.transaction_chain.block import BlockReference
from blockcloud.transaction_chain.commit import COMMIT_BYTES
from blockcloud.transaction_chain.messages import (
    ANSWER_BLOCKS,
    ANSWER_HANDOVERS,
    COMMITS_ASKED,
    RAW_HANDOVER_BYTES,
    SNAPSHOT_OFFERS,
    SNAPSHOT_PIECE_BYTES,
    SNAPSHOT_PIECES,
    BlockMessage,
    Blocks,
    Commits,
    FetchBlocks,
    FetchCommits,
    FetchHandovers,
    FetchLevels,
    FetchSnapshot,
    Handovers,
    Message,
    Position,
    Routing,
    SnapshotOffer,
    SnapshotPiece,
    Statement,
    decode_message,
    encode_message,
)

REFERENCES = tuple(BlockReference(1 + number, number % 100, b"d" * 32) for number in range(FETCH_REFERENCES))
SIGNED = SignedStatement(Claim(CHECKPOINT, bytes(32), 0, 10, (bytes(32), bytes(32))), bytes(32), bytes(64))
MESSAGES: list[Message] = [
    BlockMessage(b"raw"),
    FetchBlocks(REFERENCES),
    FetchLevels(1, COMMIT_RANGE),
    FetchLevels(7, 7),
    Blocks(()),
    Blocks((b"one", b"two")),
    Statement(SIGNED),
    Routing(b""),
    Position(3, True),
    FetchHandovers(1),
    Handovers(1, (b"one",), (SnapshotOffer(3, bytes(32)),)),
    FetchSnapshot(bytes(32), 0),
    SnapshotPiece(bytes(32), SNAPSHOT_PIECES - 1, b""),
    FetchCommits(2, 5, 4 + COMMITS_ASKED),
    Commits(2, ()),
    Commits(2, (b"one",), Certificate(SIGNED.statement, ((bytes(32), bytes(64)),))),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


def test_tags_are_the_protocol() -> None:
    tags = [encode_message(message)[1] for message in MESSAGES]
    assert tags == [1, 2, 3, 3, 4, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 15]


@pytest.mark.parametrize(
    "message",
    [
        BlockMessage(b""),
        BlockMessage(bytes(BLOCK_BYTES + 1)),
        FetchBlocks(()),
        FetchBlocks((*REFERENCES, REFERENCES[0])),
        FetchLevels(0, 1),
        FetchLevels(2, 1),
        FetchLevels(1, COMMIT_RANGE + 1),
        Blocks((b"one", b"")),
        Blocks((b"x",) * (ANSWER_BLOCKS + 1)),
        FetchHandovers(-1),
        Handovers(1, (b"one",) * (ANSWER_HANDOVERS + 1), ()),
        Handovers(1, (bytes(RAW_HANDOVER_BYTES + 1),), ()),
        Handovers(1, (), (SnapshotOffer(3, bytes(32)),) * (SNAPSHOT_OFFERS + 1)),
        FetchSnapshot(bytes(31), 0),
        FetchSnapshot(bytes(32), SNAPSHOT_PIECES),
        SnapshotPiece(bytes(32), 0, bytes(SNAPSHOT_PIECE_BYTES + 1)),
        FetchCommits(0, 0, 1),
        FetchCommits(0, 2, 1),
        FetchCommits(0, 1, COMMITS_ASKED + 1),
        Commits(0, (b"",)),
        Commits(0, (b"x",) * (COMMITS_ASKED + 1)),
        Commits(0, (bytes(COMMIT_BYTES + 1),)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_bounds(message: Message) -> None:
    with pytest.raises(Malformed):
        decode_message(codec.encode(message))


def test_a_frame_is_bounded() -> None:
    with pytest.raises(Oversized):
        decode_message(bytes(FRAME_BYTES + 1))


def test_an_unknown_tag() -> None:
    with pytest.raises(Malformed):
        decode_message(codec.encode([99]))


def test_a_longer_form_of_the_same_message() -> None:
    assert encode_message(Position(5, True)) == b"\x93\x07\x05\xc3"
    with pytest.raises(NonCanonical):
        decode_message(b"\x93\x07\xcc\x05\xc3")


def damaged(raw: bytes, at: int, byte: int) -> bytes:
    at %= len(raw)
    return raw[:at] + bytes([byte]) + raw[at + 1 :]


FRAMES = st.sampled_from(MESSAGES).map(encode_message)


@given(st.binary(max_size=200) | st.builds(damaged, FRAMES, st.integers(0, 10_000), st.integers(0, 255)))
def test_anything_else_is_a_typed_error(data: bytes) -> None:
    # Any other exception than PeerFault fails the test.
    with contextlib.suppress(PeerFault):
        assert encode_message(decode_message(data)) == data


@pytest.mark.parametrize(
    "message",
    [
        [3, 1, 2, 2**32],
        [3, 1, 2, -1],
        [3, 0, 2, 0],
        [3, 2**63 - 1, 2**63 - 1, 0],
        [2, [[1, 70_000, b"d" * 32]], 0],
        [2, [[-1, 0, b"d" * 32]], 0],
        [2, [[2**63, 0, b"d" * 32]], 0],
        [2, [[1, 0, b"short"]], 0],
        [2, [[1, 0, b"d" * 32]], 2**32],
        [4, [], 2**32],
        [7, 2**32, True],
    ],
)
def test_a_place_that_no_block_can_have(message: list[object]) -> None:
    """Stores make keys of eras, levels and authors: what does not fit is refused before."""
    with pytest.raises(Malformed):
        decode_message(codec.encode(message))
