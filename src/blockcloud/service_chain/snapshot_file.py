"""A snapshot in one file: the certificates that lead to it, its manifest and its chunks, one after another.

    magic, head (chain, era), the hand-overs into the eras 1 to `era`, the manifest, the chunks in the manifest's order

Each piece stands behind its length (4 bytes, big-endian), and is the canonical bytes that nodes serve to each other:
this is a way to carry a snapshot, not another form of it. Whoever has the genesis verifies piece after piece while
reading, holding one at a time: each hand-over by the committee before it, the manifest by the last hand-over, each
chunk by its part of the manifest, and behind the last one nothing. So every wrong byte is found, and the piece named.

How far that goes: a quorum of a committee of long ago could have signed another history (DESIGN 3.3). `trusted`, the
hand-overs that somebody trusted has vouched for, rules that out from them on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Final, Protocol

from msgspec import Meta

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import Statement
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BlockCloudError, PeerFault, WrongChain
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.handover import HANDOVER_BYTES, Handover
from blockcloud.service_chain.snapshot import MANIFEST_BYTES, Manifest, open_manifest
from blockcloud.service_chain.state.snapshot import CHUNK_BYTES, CHUNK_HEAD_BYTES, BadSnapshot, open_chunk

MAGIC: Final = b"BlockCloud snapshot 1\n"
HEAD_BYTES: Final = 64
LENGTH_BYTES: Final = 4


class NoSnapshot(BlockCloudError):
    """There is no certified snapshot yet."""

    code = "no_snapshot"
    hint = "A node writes one at the beginning of each era, from the first hand-over on, and has it moments later."


class UntrustedSnapshot(BadSnapshot):
    """A snapshot is valid by its own hand-overs, but not in line with what is trusted."""

    code = "untrusted_snapshot"


class Head(Struct, frozen=True):
    """Of which chain, and with which era its node goes on."""

    chain_id: bytes
    era: Annotated[int, Meta(ge=1)]


class Readable(Protocol):
    """A binary file, read from the beginning to the end."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; fewer only at the end."""


class SnapshotWriter:
    """Writes the pieces in their order; the caller has checked them."""

    def __init__(self, write: Callable[[bytes], object], chain_id: bytes, era: int) -> None:
        self._write = write
        write(MAGIC)
        self.add(codec.encode(Head(chain_id, era)))

    def add(self, piece: bytes) -> None:
        """The next piece."""
        self._write(len(piece).to_bytes(LENGTH_BYTES) + piece)


class SnapshotReader:
    """Reads and verifies a snapshot in `file`, piece after piece: `handovers`, `manifest`, `chunks`, in this order.

    Methods raise BadSnapshot (with the piece that is wrong), or UntrustedSnapshot; the constructor WrongChain too.
    """

    def __init__(self, file: Readable, genesis: Genesis, trusted: Mapping[int, Statement] | None = None) -> None:
        self._file, self._genesis = file, genesis
        self._trusted = dict(trusted or {})
        self._statement: Statement | None = None
        self._chain_id = genesis.chain_id()
        if file.read(len(MAGIC)) != MAGIC:
            raise BadSnapshot("this is no snapshot", piece="head")
        raw = self._piece("head", HEAD_BYTES)
        try:
            head = codec.decode(raw, Head, limit=HEAD_BYTES)
        except PeerFault as fault:
            raise BadSnapshot(f"the head does not decode: {fault.message}", piece="head") from None
        if head.chain_id != self._chain_id:
            raise WrongChain("snapshot of another chain", chain=head.chain_id.hex()[:16])
        self.era = head.era
        if self._trusted and self.era < min(self._trusted):
            raise UntrustedSnapshot("older than what is trusted", era=self.era, trusted=min(self._trusted))

    def handovers(self) -> Iterator[Handover]:
        """The hand-overs from the genesis to the snapshot's era, each verified by the committee before it."""
        weights = self._genesis.committee().weights_by_key
        height = 0
        for era in range(1, self.era + 1):
            name = f"hand-over {era}"
            raw = self._piece(name, HANDOVER_BYTES)
            try:
                found = codec.decode(raw, Handover, limit=HANDOVER_BYTES)
                weights = found.verify(self._chain_id, weights).weights_by_key
            except PeerFault as fault:
                raise BadSnapshot(f"a hand-over does not hold: {fault}", piece=name, reason=fault.code) from None
            statement = found.certificate.statement
            if found.plan.era != era or statement.height <= height:
                raise BadSnapshot("a hand-over is not the next one", piece=name, era=found.plan.era)
            if era in self._trusted and self._trusted[era] != statement:
                raise UntrustedSnapshot("another hand-over is trusted", piece=name)
            height = statement.height
            self._statement = statement
            yield found

    def manifest(self) -> tuple[Manifest, bytes]:
        """The manifest, verified by the last hand-over, and its bytes."""
        assert self._statement is not None, "the hand-overs are read first"
        raw = self._piece("manifest", MANIFEST_BYTES)
        try:
            manifest = open_manifest(raw, self._statement)
        except BadSnapshot as fault:
            raise BadSnapshot(fault.message, **{**fault.values, "piece": "manifest"}) from None
        return manifest, raw

    def chunks(self, manifest: Manifest) -> Iterator[bytes]:
        """The chunks in the order of the manifest's parts, each verified, and that nothing comes behind the last."""
        for number, part in enumerate(manifest.parts, start=1):
            name = f"chunk {number} of {len(manifest.parts)}"
            raw = self._piece(name, CHUNK_BYTES + CHUNK_HEAD_BYTES)
            try:
                open_chunk(part, raw)
            except BadSnapshot as fault:
                raise BadSnapshot(fault.message, **{**fault.values, "piece": name}) from None
            yield raw
        if self._file.read(1):
            raise BadSnapshot("something comes behind the last chunk", piece="end")

    def check(self) -> Manifest:
        """Verify all of it, keeping nothing but one piece at a time."""
        for _ in self.handovers():
            pass
        manifest, _ = self.manifest()
        for _ in self.chunks(manifest):
            pass
        return manifest

    def _piece(self, name: str, limit: int) -> bytes:
        head = self._file.read(LENGTH_BYTES)
        length = int.from_bytes(head)
        if len(head) < LENGTH_BYTES:
            raise BadSnapshot("the file ends too early", piece=name)
        if length > limit:
            raise BadSnapshot("a piece is larger than its limit", piece=name, bytes=length, limit=limit)
        data = self._file.read(length)
        if len(data) < length:
            raise BadSnapshot("the file ends too early", piece=name)
        return data
