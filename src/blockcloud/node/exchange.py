"""What passes between a node and its peers: messages of every kind, each to where it belongs.

Blocks go through the verification pool and then to the core of their era; what belongs to an earlier era than ours
tells us that the peer is behind, what belongs to a later one that we are. Fetches are answered from memory or from the
store, of any era, at most so many bytes a second. The core knows its peers by their place in the committee (`eras`),
the network by the number of their link; the two meet here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Final, Protocol

from blockcloud.node.clock import unix_ms
from blockcloud.node.eras import GUEST_NUMBERS
from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.node.network import Network
from blockcloud.node.outbox import Outbox
from blockcloud.node.routing_role import RoutingRole
from blockcloud.node.snapshot_files import StoredSnapshot
from blockcloud.node.snapshot_sync import SnapshotSync
from blockcloud.node.snapshots import Snapshots
from blockcloud.node.succession import Succession
from blockcloud.node.verification import Verification
from blockcloud.primitives.certificates import SignedStatement
from blockcloud.primitives.errors import Busy, NotTakingPart, PeerFault, StorageFault
from blockcloud.primitives.limits import PEER_QUEUE_BYTES
from blockcloud.service_chain.handover import Handover
from blockcloud.transaction_chain import messages
from blockcloud.transaction_chain.block import Block, BlockRules, era_of
from blockcloud.transaction_chain.core import Core
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.messages import encode_message

SERVED_BYTES_PER_SECOND: Final = 32 * 1024 * 1024  # of blocks and snapshots, to one peer
SERVING_PER_PEER: Final = 8  # answers about snapshots under way
SERVING_PAUSE_S: Final = 0.1
SERVING_TRIES: Final = 40


class Owner(Protocol):
    """What the exchange asks of the node that it works for."""

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Let `work` go on by itself until the node stops."""

    def submit(self, payloads: Sequence[bytes], *, client: str) -> Awaitable[object]:
        """Take transactions into the ledger."""

    def statement(self, signed: SignedStatement) -> None:
        """A member's statement came in."""

    def pump_soon(self) -> None:
        """The core may have duties."""

    async def adopt(self, snapshot: StoredSnapshot, handovers: list[Handover]) -> None:
        """Replace the state by a whole snapshot, to which the hand-overs lead."""


class Exchange:
    """The messages of one node. Belongs to the event loop's thread. Raises a PeerFault for what a peer did wrong."""

    def __init__(
        self,
        owner: Owner,
        *,
        eras: Succession,
        tables: LedgerTables,
        routing: RoutingRole,
        network: Network,
        verification: Verification,
        outbox: Outbox,
        snapshots: Snapshots,
    ) -> None:
        self._owner, self._eras, self._tables, self._routing = owner, eras, tables, routing
        self._network, self._verification, self._outbox = network, verification, outbox
        self._snapshots, self.sync = snapshots, SnapshotSync(self, snapshots.chain_id, snapshots.folder)
        self._loop = asyncio.get_running_loop()
        self.throttled = False  # nothing is read while too much waits to be applied
        self._served: dict[int, tuple[int, int]] = {}
        self._told: dict[int, int] = {}
        self._serving: Counter[int] = Counter()  # answers about snapshots under way, by peer
        self._submitting: set[int] = set()  # linked nodes with a submission under way
        # By how much the newest block of each member that came in this second was ahead of our clock.
        self._clocks: dict[int, int] = {}

    @property
    def _core(self) -> Core:
        return self._eras.current.core

    # Who is who

    def number_of(self, peer: int) -> int:
        """The core's number for a linked peer."""
        known = self._network.peers.get(peer)
        return self._eras.current.number_of(known.key if known is not None else b"", peer)

    def peer_of(self, number: int) -> int | None:
        """The link's number of the core's peer `number`; None if it is not known."""
        if number >= GUEST_NUMBERS:
            return number - GUEST_NUMBERS
        return self._network.index_of(self._eras.current.plan.seats[number].node_key)

    def member_numbers(self, peers: Iterable[int]) -> list[int]:
        """The places in the committee of those of `peers` that are in it."""
        numbers = (self.number_of(peer) for peer in peers)
        return [number for number in numbers if number < len(self._eras.current.committee)]

    # For the synchronisation by snapshot

    @property
    def plan(self) -> EraPlan:
        """The plan of the present era."""
        return self._eras.current.plan

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Let `work` go on by itself until the node stops."""
        self._owner.spawn(work)

    def connected_peers(self) -> list[int]:
        """Who is linked."""
        return self._network.connected()

    def fault(self, peer: int, error: PeerFault) -> None:
        """A peer broke a rule."""
        self._network.fault(peer, error)

    async def adopt(self, snapshot: StoredSnapshot, handovers: list[Handover]) -> None:
        """A whole snapshot is here."""
        await self._owner.adopt(snapshot, handovers)

    # Links

    def connected(self, peer: int) -> None:
        """A link is up."""
        self._core.peer_connected(self.number_of(peer), unix_ms())
        self._eras.linked(peer)
        known = self._network.peers.get(peer)
        self._routing.connected(peer, known.key if known is not None else b"")

    def lost(self, peer: int) -> None:
        """A link is gone."""
        self._verification.forget(peer)
        self._core.peer_lost(self.number_of(peer))
        self._routing.lost(peer)
        self.sync.lost(peer)
        self._verification.vouching.lost(peer)
        for of_peers in (self._served, self._told):
            of_peers.pop(peer, None)

    def throttle(self, on: bool) -> None:
        """Stop, or go on, reading from everybody."""
        self.throttled = on
        for peer in self._network.connected():
            if on:
                self._network.pause(peer)
            else:
                self._network.resume(peer)

    def take_clock_skew_ms(self) -> int:
        """How far the clocks of other members are ahead of ours, at the median, since the last call."""
        ahead = sorted(self._clocks.values())
        self._clocks.clear()
        return ahead[len(ahead) // 2] if ahead else 0

    # What goes out

    def send(self, peer: int | None, message: messages.Message) -> None:
        """To one peer, or to all that are linked."""
        if peer is None:
            self._network.broadcast(encode_message(message))
        else:
            self._network.send(peer, encode_message(message))

    def addressed(self, sends: Iterable[tuple[int, messages.Message]]) -> list[tuple[int | None, messages.Message]]:
        """What the core wants to send, with the numbers of links and the present era. Before levels come the commits
        by which their blocks need less verification."""
        era = self._eras.current.plan.era
        found: list[tuple[int | None, messages.Message]] = []
        for number, message in sends:
            peer = self.peer_of(number)
            if peer is not None and isinstance(message, messages.FetchLevels):
                decided = self._core.last_commit.height
                commits = self._verification.vouching.ask(peer, self._eras.current.rules, decided, unix_ms())
                if commits is not None:
                    found.append((peer, commits))
            found.append((peer, messages.of_era(message, era)))
        return found

    def send_routing(self) -> None:
        """What layer 3 has to say."""
        for peer, data in self._routing.core.outgoing():
            self.send(peer, messages.Routing(data))

    def submit_own(self, payload: bytes) -> None:
        """A transaction of this node: into its own mempool, or to the members that are linked."""
        if self._core.proposing:
            self._owner.spawn(self._submit_quietly((payload,), "own"))
        else:
            self.send(None, messages.Submit((payload,)))

    # What comes in

    def receive(self, peer: int, message: messages.Message) -> None:
        """A message of a linked peer."""
        match message:
            case messages.BlockMessage():
                self._block(peer, message.raw)
            case messages.Blocks():
                if message.era == self._eras.current.plan.era:
                    self._verify(peer, message.raws, fetched=True)
            case messages.FetchBlocks() | messages.FetchLevels():
                self._serve(peer, message)
            case messages.FetchCommits():
                self._serve_commits(peer, message)
            case messages.Commits():
                self._verification.vouching.answered(peer, message)
            case messages.Statement():
                self._owner.statement(message.signed)
            case messages.Position():
                if self._eras.position(peer, message):
                    self._fetch_rest(peer)
                self.sync.position(peer, message.era)
            case messages.Certified():
                self._eras.certificate(message.certificate)
                self._owner.pump_soon()
            case messages.Submit():
                self._submit_for(peer, message.payloads)
            case messages.FetchHandovers():
                self._serve_later(peer, partial(self._snapshots.handovers, message.first))
            case messages.FetchSnapshot():
                self._serve_later(peer, partial(self._piece, message))
            case messages.Handovers() | messages.SnapshotPiece():
                self.sync.answered(peer, message)
            case messages.Routing():
                self._routing.receive(peer, message.data)

    def verified(
        self, peer: int, blocks: Sequence[Block], fault: PeerFault | None, fetched: bool, rules: BlockRules
    ) -> None:
        """The verification pool has looked at what a peer sent."""
        if fault is not None:
            self._network.fault(peer, fault)
        if rules.era != self._eras.current.plan.era:  # the era ended meanwhile
            return
        now_ms, number = unix_ms(), self.number_of(peer)
        if fetched:
            self._verification.vouching.passed(self._core.last_commit.height)
            self._core.receive_blocks(blocks, number, now_ms)
        else:
            for block in blocks:
                self._core.receive_block(block, number, now_ms)
                ahead_ms = block.header.timestamp_ms - now_ms
                self._clocks[block.author] = max(ahead_ms, self._clocks.get(block.author, ahead_ms))
        for block in blocks:
            for statement in block.header.statements:
                self._owner.statement(statement)
        self._owner.pump_soon()

    def _block(self, peer: int, raw: bytes) -> None:
        era, present = era_of(raw), self._eras.current.plan.era
        if era == present:
            self._verify(peer, (raw,), fetched=False)
        elif era > present:
            self._fetch_rest(peer)
        elif self._may_tell(peer):
            self._eras.tell_position(peer)

    def _fetch_rest(self, peer: int) -> None:
        """A peer is in a later era: it has all that decides ours."""
        self._core.peer_is_beyond(self.number_of(peer), unix_ms())
        self._owner.pump_soon()

    def _may_tell(self, peer: int) -> bool:
        """Once a second."""
        second = int(self._loop.time())
        told, self._told[peer] = self._told.get(peer), second
        return told != second

    def _verify(self, peer: int, raws: Sequence[bytes], *, fetched: bool) -> None:
        if not self._verification.add_blocks(peer, raws, self._eras.current.rules, fetched=fetched):
            self._network.pause(peer)
            self._owner.spawn(self._resume(peer))

    async def _resume(self, peer: int) -> None:
        await self._verification.drained(peer)
        if not self.throttled:
            self._network.resume(peer)

    def _may_serve(self, peer: int) -> bool:
        """Whether the peer has not had what it may have this second, and takes what it gets."""
        second = int(self._loop.time())
        start, served = self._served.get(peer, (second, 0))
        if start != second:
            served = 0
        self._served[peer] = (second, served)
        return served <= SERVED_BYTES_PER_SECOND and self._network.queued(peer) <= PEER_QUEUE_BYTES // 2

    def _note_served(self, peer: int, size: int) -> None:
        second, served = self._served.get(peer, (0, 0))
        self._served[peer] = (second, served + size)

    def _serve(self, peer: int, request: messages.FetchBlocks | messages.FetchLevels) -> None:
        """Answer a fetch, from memory or else from the store; at most so many bytes a second to one peer."""
        if not self._may_serve(peer):
            return
        present = self._eras.current.plan.era
        raws = [block.raw for block in self._core.blocks_for(request)] if request.era == present else []
        raws = raws or self._tables.blocks_for(request)
        self._note_served(peer, sum(map(len, raws)))
        # It may hold a block of our own that is not yet synced, so it waits its turn behind that.
        answer = messages.Blocks(tuple(raws), request.era)
        self._outbox.put(partial(self.send, peer, answer), durable=False)

    def _serve_commits(self, peer: int, request: messages.FetchCommits) -> None:
        """Answer a fetch of commit records; they count like blocks."""
        if not self._may_serve(peer):
            return
        raws, certificate = self._tables.certified_commits(request)
        self._note_served(peer, sum(map(len, raws)))
        answer = messages.Commits(request.era, tuple(raws), certificate)
        self._outbox.put(partial(self.send, peer, answer), durable=False)  # in turn with the blocks

    def _piece(self, request: messages.FetchSnapshot) -> messages.SnapshotPiece:
        data = self._snapshots.piece(request.manifest, request.piece)
        return messages.SnapshotPiece(request.manifest, request.piece, data)

    def _serve_later(self, peer: int, answer: Callable[[], messages.Message]) -> None:
        """Make an answer in a thread, and send it when the peer may have it. Who asks for too much at once waits."""
        if self._serving[peer] < SERVING_PER_PEER:
            self._serving[peer] += 1
            self._owner.spawn(self._serve_quietly(peer, answer))

    async def _serve_quietly(self, peer: int, answer: Callable[[], messages.Message]) -> None:
        try:
            for _ in range(SERVING_TRIES):
                if self._may_serve(peer):
                    break
                await asyncio.sleep(SERVING_PAUSE_S)
            else:
                return
            # While a snapshot takes the place of the state, or the node stops, there is nothing to say.
            with contextlib.suppress(Busy, StorageFault):
                data = encode_message(await asyncio.to_thread(answer))
                if self._network.send(peer, data):
                    self._note_served(peer, len(data))
        finally:
            self._serving[peer] -= 1
            if not self._serving[peer]:
                del self._serving[peer]

    def _submit_for(self, peer: int, payloads: Sequence[bytes]) -> None:
        """A linked node that makes no blocks wants something committed: it waits its turn like any client."""
        if peer not in self._submitting and self._core.proposing:
            self._submitting.add(peer)
            self._owner.spawn(self._submit_quietly(payloads, f"node {peer}", peer))

    async def _submit_quietly(self, payloads: Sequence[bytes], client: str, peer: int = -1) -> None:
        try:
            with contextlib.suppress(NotTakingPart):
                await self._owner.submit(payloads, client=client)
        finally:
            self._submitting.discard(peer)
