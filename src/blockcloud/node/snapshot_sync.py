"""Getting a snapshot from others: for a node that is eras behind, and for whom replaying is long or not possible.

The hand-overs are followed from the era that this node is in, each verified against the committee before it. The newest
era whose snapshot somebody offers decides what is fetched: the manifest, which must fold to the root that the hand-over
certifies, then the chunks from all who offer the same one, each verified before it is kept. Whoever sends a wrong byte
is faulted, and another is asked. Meanwhile the node goes on as it is; only a whole snapshot is handed to it.
DESIGN 3.5.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import structlog

from blockcloud.node.snapshot_files import SnapshotWriter, StoredSnapshot
from blockcloud.primitives import codec
from blockcloud.primitives.errors import PeerFault, StorageFault
from blockcloud.service_chain.handover import HANDOVER_BYTES, Handover, WrongEra
from blockcloud.service_chain.snapshot import Manifest, manifest_digest, open_manifest
from blockcloud.service_chain.state.snapshot import BadSnapshot, open_chunk
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.messages import (
    FetchHandovers,
    FetchSnapshot,
    Handovers,
    Message,
    SnapshotPiece,
)

SNAPSHOT_ERAS_BEHIND: Final = 2
ANSWER_S: Final = 5.0
RETRY_S: Final = 2.0  # between two attempts
ASKS_PER_PEER: Final = 2  # chunks asked of one peer at a time
MISSES: Final = 3  # a peer that so often has no answer is not asked again in this attempt

log = structlog.get_logger()

Answer: TypeAlias = Handovers | SnapshotPiece
# What was asked: the first era of hand-overs, or manifest and piece.
Asked: TypeAlias = int | tuple[bytes, int]


class Host(Protocol):
    """What the synchronisation asks of its node."""

    @property
    def plan(self) -> EraPlan:
        """The plan of the era that the node is in."""

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Let `work` go on by itself until the node stops."""

    def connected_peers(self) -> list[int]:
        """Who is linked."""

    def send(self, peer: int | None, message: Message) -> None:
        """Send to one peer."""

    def fault(self, peer: int, error: PeerFault) -> None:
        """A peer broke a rule."""

    async def adopt(self, snapshot: StoredSnapshot, handovers: list[Handover]) -> None:
        """A whole snapshot is here; the hand-overs lead to it."""


class SnapshotSync:
    """Belongs to the event loop's thread. `faults` counts, by code, what peers did wrong in it."""

    def __init__(self, host: Host, chain_id: bytes, folder: Path) -> None:
        self._host, self._chain_id, self._folder = host, chain_id, folder
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[tuple[int, Asked], asyncio.Future[Answer]] = {}
        self._eras: dict[int, int] = {}  # what peers say of themselves
        self._busy = False
        self._next_attempt_s = 0.0
        self.faults: Counter[str] = Counter()

    def position(self, peer: int, era: int) -> None:
        """A peer says in which era it is."""
        self._eras[peer] = era
        self.look()

    def lost(self, peer: int) -> None:
        """A link is gone."""
        self._eras.pop(peer, None)
        for (asked, _), future in self._waiting.items():
            if asked == peer and not future.done():
                future.cancel()

    def look(self) -> None:
        """Begin if this node is far behind, and it is time. Called each second."""
        ahead = max(self._eras.values(), default=0) - self._host.plan.era
        if ahead >= SNAPSHOT_ERAS_BEHIND and not self._busy and self._loop.time() >= self._next_attempt_s:
            self._busy = True
            self._host.spawn(self._attempt())

    def answered(self, peer: int, message: Answer) -> None:
        """An answer came. Nobody waits for it any more, or did: it is dropped."""
        asked: Asked = message.first if isinstance(message, Handovers) else (message.manifest, message.piece)
        future = self._waiting.get((peer, asked))
        if future is not None and not future.done():
            future.set_result(message)

    async def _attempt(self) -> None:
        try:
            trail, offers = await self._follow()
            eras = {era for of_peer in offers.values() for era, _ in of_peer}
            for era in sorted(eras & trail.keys(), reverse=True):
                if era - self._host.plan.era < SNAPSHOT_ERAS_BEHIND:
                    break
                if await self._fetch_era(era, trail, offers):
                    break
        except StorageFault as fault:
            log.error("snapshot_not_kept", error=fault)
        finally:
            self._busy = False
            self._next_attempt_s = self._loop.time() + RETRY_S

    async def _ask(self, peer: int, request: FetchHandovers | FetchSnapshot) -> Answer | None:
        """The answer of a peer; None if none came."""
        if peer not in self._host.connected_peers():
            return None
        asked: Asked = request.first if isinstance(request, FetchHandovers) else (request.manifest, request.piece)
        future = self._waiting[peer, asked] = self._loop.create_future()
        self._host.send(peer, request)
        done, _ = await asyncio.wait((future,), timeout=ANSWER_S)
        del self._waiting[peer, asked]
        return future.result() if done and not future.cancelled() else None

    def _fault(self, peer: int, fault: PeerFault) -> None:
        self.faults[fault.code] += 1
        self._host.fault(peer, fault)

    # The hand-overs

    async def _follow(self) -> tuple[dict[int, Handover], dict[int, set[tuple[int, bytes]]]]:
        """The hand-overs from the present era on, by era, and who offers which snapshots (era, digest)."""
        trail: dict[int, Handover] = {}
        offers: dict[int, set[tuple[int, bytes]]] = {}
        plan = self._host.plan
        for peer in self._host.connected_peers():
            while True:
                answer = await self._ask(peer, FetchHandovers(plan.era + 1))
                if not isinstance(answer, Handovers):
                    break
                offers[peer] = {(offer.era, offer.manifest) for offer in answer.snapshots}
                if not answer.raws:
                    break
                try:
                    for raw in answer.raws:
                        found = await asyncio.to_thread(_next_handover, raw, self._chain_id, plan)
                        plan = found.plan
                        trail[plan.era] = found
                except PeerFault as fault:
                    self._fault(peer, fault)
                    offers.pop(peer)
                    break
        return trail, offers

    # The snapshot

    async def _fetch_era(
        self, era: int, trail: Mapping[int, Handover], offers: Mapping[int, set[tuple[int, bytes]]]
    ) -> bool:
        """Fetch a snapshot at the beginning of `era`, of whichever manifest; whether one is whole."""
        peers_of: dict[bytes, list[int]] = defaultdict(list)
        for peer, of_peer in offers.items():
            for offered, digest in of_peer:
                if offered == era:
                    peers_of[digest].append(peer)
        for digest in sorted(peers_of, key=lambda one: -len(peers_of[one])):
            found = await self._manifest(digest, peers_of[digest], trail[era])
            snapshot = None if found is None else await self._chunks(digest, *found, peers_of[digest])
            if snapshot is not None:
                handovers = [trail[number] for number in sorted(trail) if number <= era]
                await self._host.adopt(snapshot, handovers)
                return True
        return False

    async def _manifest(self, digest: bytes, peers: list[int], handover: Handover) -> tuple[Manifest, bytes] | None:
        for peer in peers:
            answer = await self._ask(peer, FetchSnapshot(digest, 0))
            if not isinstance(answer, SnapshotPiece) or not answer.data:
                continue
            try:
                if manifest_digest(answer.data) != digest:
                    raise BadSnapshot("not the manifest that was asked for")
                statement = handover.certificate.statement
                return await asyncio.to_thread(open_manifest, answer.data, statement), answer.data
            except BadSnapshot as fault:
                self._fault(peer, fault)
        return None

    async def _chunks(self, digest: bytes, manifest: Manifest, raw: bytes, peers: list[int]) -> StoredSnapshot | None:
        """All chunks of a snapshot, from several peers at once; None if nobody has the rest."""
        log.info("snapshot_fetch", era=manifest.era, chunks=len(manifest.parts), peers=len(peers))
        download = _Download(manifest, SnapshotWriter(self._folder, "fetch"), deque(range(len(manifest.parts))))
        try:
            while download.left and (usable := [peer for peer in peers if peer not in download.dropped]):
                workers = [self._work(peer, digest, download) for peer in usable for _ in range(ASKS_PER_PEER)]
                await asyncio.gather(*workers)
            if download.left:
                log.warning("snapshot_incomplete", era=manifest.era, missing=len(download.left))
                return None
            return await asyncio.to_thread(download.writer.finish, manifest.era, raw)
        finally:
            download.writer.abort()

    async def _work(self, peer: int, digest: bytes, download: _Download) -> None:
        """Ask one peer for chunks until all are asked for, or it has none or sends a bad one."""
        misses = 0
        while download.left and peer not in download.dropped:
            number = download.left.popleft()
            answer = await self._ask(peer, FetchSnapshot(digest, number + 1))
            try:
                if isinstance(answer, SnapshotPiece) and answer.data:
                    await asyncio.to_thread(open_chunk, download.manifest.parts[number], answer.data)
                    download.writer.add(number, answer.data)
                    continue
                misses += 1
            except BadSnapshot as fault:
                if peer not in download.dropped:  # another chunk that it was asked for may be as bad
                    download.dropped.add(peer)
                    self._fault(peer, fault)
            download.left.append(number)
            if misses >= MISSES:
                download.dropped.add(peer)


@dataclass(slots=True)
class _Download:
    """A snapshot under way: chunks that nobody is asked for yet, and peers that are not asked any more."""

    manifest: Manifest
    writer: SnapshotWriter
    left: deque[int]
    dropped: set[int] = field(default_factory=set)


def _next_handover(raw: bytes, chain_id: bytes, plan: EraPlan) -> Handover:
    """The hand-over in `raw` out of the era of `plan`. Raises a PeerFault unless its committee signed it."""
    found = codec.decode(raw, Handover, limit=HANDOVER_BYTES)
    if found.plan.era != plan.era + 1:
        raise WrongEra("a hand-over of another era than was asked for", era=found.plan.era, expected=plan.era + 1)
    found.verify(chain_id, plan.committee().weights_by_key)
    return found
