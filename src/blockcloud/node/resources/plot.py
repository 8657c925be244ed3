"""A plot: disk space that is really taken, and random reads from it that show so (CloudPoS phase 2, DESIGN 3.4).

**A chunk** is a slow deterministic function of (node key, seed, number). A buffer of the chunk's size is filled from
the three, then overwritten in several passes, 32 bytes a step, each with the SHA-256 of: the 32 bytes before it (just
made), the 32 bytes that it replaces, and a window of the buffer whose place the bytes before it decide.

**Why it must be stored.** (1) No parallel work: a step begins with the output of the step before, so the time of a
chunk is that of its steps one after another, on however many cores. (2) No small shortcut: a plain chain could be kept
as a few states from which parts are made in a fraction of the time. Here every step reads the buffer, whose whole
content is needed to go on, so what can be kept between is as large as the chunk. Who drops a part of the last pass must
redo the passes before it first: at the least (passes - 1) / passes of the work. That the windows lie where the content
says keeps him from knowing beforehand which parts he can do without. This is the argument of memory-hard functions
(scrypt, Argon2), not a proof, and it is about one function that anybody's SHA-256 can run: the parameters are for
processors with SHA instructions, of which the fastest are perhaps twice as fast as the usual ones.

**Who knows what.** The candidate puts a Merkle root over its plot on the chain before any question exists. A challenger
knows key, seed and root, and asks for random segments (a chunk's leaves, 1 KiB) by a nonce that it makes itself, so
nobody can prepare. A segment with its proof answers in microseconds where the chunk is on disk; where it is not, the
chunk must be made first, which takes at least twice the deadline. The proofs show that the bytes are those committed to
and cost the challenger a few hashes. That what was committed to *is* a plot, and not something quick that looks like
it, the challenger sees by making one of the asked chunks itself, after the answer and chosen in secret. Root, proof
and function are public, so a forged chunk convinces everybody, not only who found it.

The content depends on the node's key, so two nodes need two plots on one disk. That the disk is in the node's own
machine is not shown: resources tested from afar are evidence, not proof.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, StorageFault
from blockcloud.primitives.hashes import DIGEST_BYTES, tagged_hash
from blockcloud.primitives.merkle import leaf_hash, merkle_root, node_hash, verify_inclusion
from blockcloud.transaction_chain.cloudpos.parameters import SEGMENT_BYTES_LIMIT, WORD_BYTES, PlotParameters

CHUNK_DOMAIN = "plot-chunk/v1"
CHUNKS_LIMIT: Final = 2**24
PROOF_STEPS_LIMIT: Final = 32
HEADER_BYTES: Final = 4 * 1024
MAGIC: Final = "blockcloud plot 1"

Digest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]


class PlotDamaged(StorageFault):
    """A chunk of the plot is not what was written."""

    code = "plot_damaged"
    hint = "The disk changed or lost data. Make the plot again."


class SegmentProof(Struct, frozen=True):
    """One segment, and the way from it to the root of its chunk and from there to the root of the plot."""

    data: Annotated[bytes, Meta(max_length=SEGMENT_BYTES_LIMIT)]
    chunk_root: Digest
    in_chunk: Annotated[tuple[Digest, ...], Meta(max_length=PROOF_STEPS_LIMIT)]
    in_plot: Annotated[tuple[Digest, ...], Meta(max_length=PROOF_STEPS_LIMIT)]


class _Header(Struct, frozen=True):
    magic: str
    node_key: bytes
    seed: bytes
    parameters: PlotParameters
    chunks: int


def make_chunk(node_key: bytes, seed: bytes, number: int, parameters: PlotParameters) -> bytes:
    """Chunk `number` of the plot of (`node_key`, `seed`). Slow on purpose; releases the GIL most of the time."""
    size, window = parameters.chunk_bytes, parameters.window_bytes
    origin = tagged_hash(CHUNK_DOMAIN, codec.encode((node_key, seed, number, parameters)))
    buffer = bytearray(hashlib.shake_128(origin).digest(size))
    view = memoryview(buffer)
    places = (size - window) // WORD_BYTES + 1
    word = origin
    for turn in range(parameters.passes):
        counter = turn.to_bytes(4, "big")
        for at in range(0, size, WORD_BYTES):
            begin = int.from_bytes(word[:8], "big") % places * WORD_BYTES
            # The fresh word comes first: every block of the hash depends on it, so none can be done ahead.
            step = hashlib.sha256(b"".join((word, counter, buffer[at : at + WORD_BYTES])))
            step.update(view[begin : begin + window])
            word = step.digest()
            buffer[at : at + WORD_BYTES] = word
    view.release()
    return bytes(buffer)


def segments_of(chunk: bytes, parameters: PlotParameters) -> list[bytes]:
    """The leaves of a chunk's tree."""
    size = parameters.segment_bytes
    return [chunk[at : at + size] for at in range(0, parameters.chunk_bytes, size)]


def verify_segment(
    root: bytes, chunks: int, number: int, segment: int, proof: SegmentProof, parameters: PlotParameters
) -> bool:
    """Whether `proof` shows `segment` of chunk `number` of the plot of `chunks` under `root`. Never raises."""
    return (
        len(proof.data) == parameters.segment_bytes
        and verify_inclusion(proof.chunk_root, proof.data, segment, parameters.segments, proof.in_chunk)
        and verify_inclusion(root, proof.chunk_root, number, chunks, proof.in_plot)
    )


def make_plot(
    path: Path,
    node_key: bytes,
    seed: bytes,
    chunks: int,
    parameters: PlotParameters,
    progress: Callable[[int], None] = lambda made: None,
) -> bytes:
    """Write a plot and return its root; it appears under `path` when it is whole. `progress` is told how many chunks
    are made, and may raise to stop. Takes minutes: run it in a process of its own. Raises StorageFault."""
    parameters.check()
    if not 1 <= chunks <= CHUNKS_LIMIT:
        raise BadConfiguration("a plot has at least one chunk, and not more than the limit", chunks=chunks)
    partial = path.with_name(path.name + ".partial")
    header = codec.encode(_Header(MAGIC, node_key, seed, parameters, chunks))
    roots = []
    try:
        with partial.open("wb") as file:
            file.write((len(header).to_bytes(4, "big") + header).ljust(HEADER_BYTES, b"\x00"))
            file.seek(HEADER_BYTES + chunks * DIGEST_BYTES)
            for number in range(chunks):
                chunk = make_chunk(node_key, seed, number, parameters)
                file.write(chunk)
                roots.append(merkle_root(segments_of(chunk, parameters)))
                progress(number + 1)
            file.seek(HEADER_BYTES)
            file.write(b"".join(roots))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise StorageFault(f"cannot write the plot: {error.strerror}", path=str(path)) from None
    return merkle_root(roots)


class PlotFile:
    """A plot on disk, to be read from. Any thread may read."""

    def __init__(self, path: Path) -> None:
        """Raises StorageFault if there is no whole plot under `path`."""
        with contextlib.ExitStack() as on_error:
            try:
                self._file = on_error.enter_context(path.open("rb", buffering=0))
                header = self._file.read(HEADER_BYTES)
                found = codec.decode(header[4 : 4 + int.from_bytes(header[:4], "big")], _Header, limit=HEADER_BYTES)
                found.parameters.check()
                table = self._file.read(found.chunks * DIGEST_BYTES) if 0 < found.chunks <= CHUNKS_LIMIT else b""
            except (OSError, BlockCloudError) as error:
                raise StorageFault(f"cannot read the plot: {error}", path=str(path)) from None
            expected = HEADER_BYTES + found.chunks * (DIGEST_BYTES + found.parameters.chunk_bytes)
            if found.magic != MAGIC or not table or path.stat().st_size != expected:
                raise PlotDamaged("not a whole plot", path=str(path))
            on_error.pop_all()
        self.node_key, self.seed = found.node_key, found.seed
        self.parameters, self.chunks = found.parameters, found.chunks
        self._path = path
        self._roots = [table[at : at + DIGEST_BYTES] for at in range(0, len(table), DIGEST_BYTES)]
        self._tree = _Tree(self._roots)
        self.root = self._tree.root

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, number: int, segment: int) -> SegmentProof:
        """A segment with its proof: one read of a chunk. Raises PlotDamaged, StorageFault."""
        size = self.parameters.chunk_bytes
        try:
            chunk = os.pread(self._file.fileno(), size, HEADER_BYTES + self.chunks * DIGEST_BYTES + number * size)
        except OSError as error:
            raise StorageFault(f"cannot read the plot: {error.strerror}", path=str(self._path)) from None
        segments = segments_of(chunk, self.parameters)
        tree = _Tree(segments)
        if len(chunk) != size or tree.root != self._roots[number]:
            raise PlotDamaged(path=str(self._path), chunk=number)
        return SegmentProof(segments[segment], tree.root, tree.proof(segment), self._tree.proof(number))


class _Tree:
    """A Merkle tree that is kept, because several proofs are asked of it; the same tree as `primitives.merkle`."""

    def __init__(self, leaves: list[bytes]) -> None:
        level = [leaf_hash(leaf) for leaf in leaves]
        self._levels = [level]
        while len(level) > 1:
            above = [node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
            level = above + level[len(above) * 2 :]
            self._levels.append(level)
        self.root = level[0]

    def proof(self, index: int) -> tuple[bytes, ...]:
        """Sibling hashes from leaf `index` up."""
        siblings = []
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                siblings.append(level[index ^ 1])
            index >>= 1
        return tuple(siblings)
