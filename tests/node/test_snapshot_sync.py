"""Fetching a snapshot from peers of which some lie, say nothing, or know nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from msgspec.structs import replace

from blockcloud.node import snapshot_sync
from blockcloud.node.snapshot_files import StoredSnapshot, stored_snapshots
from blockcloud.node.snapshot_sync import SnapshotSync
from blockcloud.primitives import codec
from blockcloud.primitives.errors import PeerFault
from blockcloud.service_chain.handover import Handover
from blockcloud.service_chain.snapshot import Manifest, manifest_digest, open_manifest
from blockcloud.service_chain.state import snapshot
from blockcloud.service_chain.state.snapshot import cut, entries_at
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.messages import (
    FetchHandovers,
    FetchSnapshot,
    Handovers,
    Message,
    SnapshotOffer,
    SnapshotPiece,
)
from tests.node.cluster import until
from tests.node.snapshot_world import SnapshotWorld

ERAS = 3
Peer = Callable[[Message], Handovers | SnapshotPiece | None]


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "CHUNK_BYTES", 1_024)
    monkeypatch.setattr(snapshot_sync, "ANSWER_S", 0.1)
    monkeypatch.setattr(snapshot_sync, "RETRY_S", 0.0)


class Node:
    """A node in era 0 whose peers are functions. A peer that is faulted is gone."""

    def __init__(self, world: SnapshotWorld, folder: Path, *peers: Peer) -> None:
        self.plan: EraPlan = world.ledger.plans[0]
        self.peers = dict(enumerate(peers))
        self.faulted: dict[int, str] = {}
        self.asked: Counter[int] = Counter()
        self.adopted: list[tuple[StoredSnapshot, list[Handover]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.sync = SnapshotSync(self, world.chain.chain_id, folder)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        task.result()

    def connected_peers(self) -> list[int]:
        return [peer for peer in self.peers if peer not in self.faulted]

    def send(self, peer: int | None, message: Message) -> None:
        assert peer is not None
        self.asked[peer] += 1
        answer = self.peers[peer](message)
        if answer is not None:
            asyncio.get_running_loop().call_soon(self.sync.answered, peer, answer)

    def fault(self, peer: int, error: PeerFault) -> None:
        self.faulted[peer] = error.code
        self.sync.lost(peer)

    async def adopt(self, snapshot: StoredSnapshot, handovers: list[Handover]) -> None:
        self.adopted.append((snapshot, handovers))
        self.plan = handovers[-1].plan

    async def attempt(self) -> None:
        """One attempt, to its end."""
        self.sync.position(next(iter(self.peers)), ERAS)
        await until(lambda: not self._tasks)


def honest(world: SnapshotWorld) -> Peer:
    def answer(message: Message) -> Handovers | SnapshotPiece | None:
        if isinstance(message, FetchHandovers):
            return world.snapshots.handovers(message.first)
        assert isinstance(message, FetchSnapshot)
        return SnapshotPiece(message.manifest, message.piece, world.snapshots.piece(message.manifest, message.piece))

    return answer


def changed(peer: Peer, change: Callable[[Handovers | SnapshotPiece], Handovers | SnapshotPiece | None]) -> Peer:
    """`peer`, whose answers are changed on the way."""

    def answer(message: Message) -> Handovers | SnapshotPiece | None:
        found = peer(message)
        return None if found is None else change(found)

    return answer


def wrong_byte(answer: Handovers | SnapshotPiece) -> Handovers | SnapshotPiece:
    if isinstance(answer, SnapshotPiece) and answer.piece and answer.data:
        middle = len(answer.data) // 2
        data = answer.data[:middle] + bytes((answer.data[middle] ^ 1,)) + answer.data[middle + 1 :]
        return SnapshotPiece(answer.manifest, answer.piece, data)
    return answer


def no_chunks(answer: Handovers | SnapshotPiece) -> Handovers | SnapshotPiece | None:
    return None if isinstance(answer, SnapshotPiece) and answer.piece else answer


def forged_handover(answer: Handovers | SnapshotPiece) -> Handovers | SnapshotPiece:
    if isinstance(answer, Handovers) and answer.raws:
        first = codec.decode(answer.raws[0], Handover, limit=2**20)
        signatures = first.certificate.signatures[:1]
        certificate = type(first.certificate)(first.certificate.statement, signatures)
        return Handovers(answer.first, (codec.encode(Handover(certificate, first.plan)),), answer.snapshots)
    return answer


def other_manifest(data: bytes) -> Callable[[Handovers | SnapshotPiece], Handovers | SnapshotPiece]:
    """A peer that offers a manifest of its own making."""
    digest = manifest_digest(data)

    def change(answer: Handovers | SnapshotPiece) -> Handovers | SnapshotPiece:
        if isinstance(answer, Handovers):
            return Handovers(answer.first, answer.raws, (SnapshotOffer(ERAS, digest),))
        return SnapshotPiece(digest, 0, data)

    return change


@pytest.fixture
def world(tmp_path: Path) -> SnapshotWorld:
    made = SnapshotWorld(tmp_path / "served", ERAS)
    made.make()
    return made


def assert_adopted(node: Node, world: SnapshotWorld) -> None:
    ((found, handovers),) = node.adopted
    (served,) = stored_snapshots(world.folder)
    assert found.manifest == served.manifest
    assert [found.chunk(number) for number in range(found.chunks)] == [
        served.chunk(number) for number in range(served.chunks)
    ]
    assert handovers == world.handovers


async def test_all_peers_that_have_it_are_asked(world: SnapshotWorld, tmp_path: Path) -> None:
    node = Node(world, tmp_path / "fetched", honest(world), honest(world), honest(world))
    await node.attempt()
    assert_adopted(node, world)
    assert not node.faulted
    assert len(node.asked) == 3
    await node.attempt()
    assert len(node.adopted) == 1, "it is not behind any more"


@pytest.mark.parametrize(
    ("liar", "code"),
    [(wrong_byte, "bad_snapshot"), (forged_handover, "below_quorum"), (no_chunks, None), (lambda _: None, None)],
)
async def test_liars_are_faulted_and_others_asked(
    world: SnapshotWorld,
    tmp_path: Path,
    liar: Callable[[Handovers | SnapshotPiece], Handovers | SnapshotPiece | None],
    code: str | None,
) -> None:
    lying = changed(honest(world), liar)
    node = Node(world, tmp_path / "fetched", lying, lying, honest(world))
    await node.attempt()
    assert_adopted(node, world)
    assert node.faulted == ({0: code, 1: code} if code else {})
    assert node.sync.faults == Counter(node.faulted.values())


@pytest.mark.parametrize("flip", [0, 40, -1])
async def test_a_manifest_that_most_offer_and_that_is_wrong_is_not_taken(
    world: SnapshotWorld, tmp_path: Path, flip: int
) -> None:
    data = bytearray(stored_snapshots(world.folder)[0].manifest)
    data[flip] ^= 1
    lying = changed(honest(world), other_manifest(bytes(data)))
    node = Node(world, tmp_path / "fetched", lying, lying, honest(world))
    await node.attempt()
    assert_adopted(node, world)
    assert node.faulted == {0: "bad_snapshot", 1: "bad_snapshot"}


async def test_another_cut_of_the_same_state_is_not_taken_for_the_one_that_was_asked_for(
    world: SnapshotWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else honest peers, whose chunks belong to their own cut, would be blamed."""
    (served,) = stored_snapshots(world.folder)
    monkeypatch.setattr(snapshot, "CHUNK_BYTES", 4_096)
    manifest = codec.decode(served.manifest, Manifest, limit=2**22)
    entries = entries_at(world.ledger.store, manifest.record.height)
    other = codec.encode(replace(manifest, parts=tuple(part for part, _ in cut(entries))))
    open_manifest(other, world.handovers[-1].certificate.statement)
    assert other != served.manifest

    def change(answer: Handovers | SnapshotPiece) -> Handovers | SnapshotPiece:
        if isinstance(answer, SnapshotPiece) and answer.piece == 0:
            return SnapshotPiece(answer.manifest, 0, other)
        return answer

    node = Node(world, tmp_path / "fetched", changed(honest(world), change), honest(world))
    await node.attempt()
    assert_adopted(node, world)
    assert node.faulted == {0: "bad_snapshot"}


async def test_if_nobody_has_a_whole_one_nothing_is_adopted_and_nothing_stays(
    world: SnapshotWorld, tmp_path: Path
) -> None:
    node = Node(world, tmp_path / "fetched", changed(honest(world), wrong_byte))
    await node.attempt()
    assert not node.adopted
    assert list((tmp_path / "fetched").iterdir()) == []
    node.peers[1] = honest(world)
    node.sync.position(1, ERAS)
    await until(lambda: node.adopted)
    assert_adopted(node, world)


async def test_who_is_only_an_era_behind_replays(world: SnapshotWorld, tmp_path: Path) -> None:
    node = Node(world, tmp_path / "fetched", honest(world))
    node.plan = world.ledger.plans[ERAS - 1]
    await node.attempt()
    assert not node.asked
