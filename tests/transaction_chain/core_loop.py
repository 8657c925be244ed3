"""A deterministic loop around several cores for the tests.

It has a virtual clock, links that keep the order of messages, and a disk for each node that survives its restart. It
carries out the duties of `Ready` in their order and nothing else.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.transaction_chain.block import Block, BlockReference, parse_block, parse_own, verify_block_signature
from blockcloud.transaction_chain.commit import Commit, CommitRecord, EraStart, genesis_record
from blockcloud.transaction_chain.committee import Committee, Member
from blockcloud.transaction_chain.core import Core, Ready, Recovered
from blockcloud.transaction_chain.mempool import Mempool
from blockcloud.transaction_chain.messages import (
    BlockMessage,
    Blocks,
    FetchBlocks,
    FetchLevels,
    Message,
    decode_message,
    encode_message,
)
from blockcloud.transaction_chain.parameters import Parameters

CHAIN = bytes([7]) * 32
GENESIS = bytes([8]) * 32
BEACON = bytes([9]) * 32
START_MS = 1_000_000
PARAMETERS = Parameters(pacing_idle_ms=250)


def keys_of(members: int) -> list[SigningKey]:
    return [SigningKey(bytes([1 + index]) * 32) for index in range(members)]


def committee_of(keys: list[SigningKey]) -> Committee:
    return Committee(Member(key.public, 1) for key in keys)


def make_core(
    keys: list[SigningKey],
    own: int | None,
    *,
    mempool: Mempool | None = None,
    recovered: Recovered | None = None,
    parameters: Parameters = PARAMETERS,
    now_ms: int = START_MS,
    last_height: int | None = None,
) -> Core:
    return Core(
        chain_id=CHAIN,
        era=0,
        committee=committee_of(keys),
        parameters=parameters,
        start=EraStart.of_chain(GENESIS, START_MS),
        beacon=BEACON,
        own=own,
        key=None if own is None else keys[own],
        mempool=mempool if mempool is not None else Mempool(),
        recovered=recovered,
        now_ms=now_ms,
        last_height=last_height,
    )


@dataclass
class Node:
    """A core, its mempool and its disk."""

    index: int
    core: Core
    mempool: Mempool
    disk: dict[BlockReference, bytes] = field(default_factory=dict)
    records: list[CommitRecord] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    committed_ms: list[int] = field(default_factory=list)
    complaints: list[tuple[int, PeerFault]] = field(default_factory=list)
    up: bool = True

    def order(self) -> list[BlockReference]:
        return [reference for record in self.records for reference in record.blocks]


class Loop:
    """`delay_ms(sender, receiver, count)` is the delay of a message, or None to lose it; links are FIFO."""

    def __init__(
        self,
        members: int = 4,
        *,
        observers: int = 0,
        delay_ms: Callable[[int, int, int], int | None] = lambda sender, receiver, count: 2,
        parameters: Parameters = PARAMETERS,
        down: tuple[int, ...] = (),
        last_height: int | None = None,
    ) -> None:
        self.keys = keys_of(members)
        self.committee = committee_of(self.keys)
        self.parameters = parameters
        self.last_height = last_height
        self.now_ms = START_MS
        self.delay_ms = delay_ms
        self.signed: dict[tuple[int, int], BlockReference] = {}
        self.sent: list[tuple[int, Message]] = []
        self._events: list[tuple[int, int, int, int, bytes]] = []
        self._count = 0
        self._free_ms: dict[tuple[int, int], int] = {}
        self.nodes = []
        for index in range(members + observers):
            mempool = Mempool()
            own = index if index < members else None
            core = make_core(self.keys, own, mempool=mempool, parameters=parameters, last_height=last_height)
            self.nodes.append(Node(index, core, mempool, up=index not in down))
        for node in self.nodes:
            if node.up:
                self._connect(node)

    def _connect(self, node: Node) -> None:
        for other in self.nodes:
            if other is not node and other.up:
                node.core.peer_connected(other.index, self.now_ms)
                other.core.peer_connected(node.index, self.now_ms)
                self._work(other)
        self._work(node)

    def crash(self, index: int) -> None:
        node = self.nodes[index]
        node.up = False
        for other in self.nodes:
            other.core.peer_lost(index)

    def restart(self, index: int, *, forget_own_level: bool = False) -> None:
        """A new core from what the disk holds; the mempool is gone."""
        node = self.nodes[index]
        blocks = [parse_own(raw) for raw in node.disk.values()]
        last = node.records[-1] if node.records else genesis_record(0, GENESIS, START_MS)
        gc_level = last.level - self.parameters.gc_depth_levels
        own = [block.level for block in blocks if block.author == index]
        recovered = Recovered(
            last_commit=last,
            linearised=[reference for reference in node.order() if reference.level > gc_level],
            blocks=[block for block in blocks if block.level > gc_level],
            own_level=None if forget_own_level else max(own, default=0),
            records=node.records,
        )
        node.mempool = Mempool()
        node.core = make_core(
            self.keys,
            index,
            mempool=node.mempool,
            recovered=recovered,
            parameters=self.parameters,
            now_ms=self.now_ms,
            last_height=self.last_height,
        )
        node.up = True
        self._connect(node)

    def submit(self, index: int, payload: bytes) -> None:
        node = self.nodes[index]
        assert node.mempool.add(payload, 1)
        node.core.submitted(self.now_ms)
        self._work(node)

    def inject(self, receiver: int, source: int, block: Block) -> None:
        """`receiver` gets a block that the test made, as if `source` had sent it."""
        self.nodes[receiver].core.receive_block(block, source, self.now_ms)
        self._work(self.nodes[receiver])

    def run(self, duration_ms: int) -> None:
        end_ms = self.now_ms + duration_ms
        while True:
            timers = [(timer, node.index) for node in self.nodes if node.up and (timer := node.core.next_timer())]
            timer_ms, index = min(timers, default=(end_ms + 1, 0))
            event_ms = self._events[0][0] if self._events else end_ms + 1
            if min(timer_ms, event_ms) > end_ms:
                self.now_ms = end_ms
                return
            if event_ms <= timer_ms:
                self.now_ms, _, sender, receiver, frame = heapq.heappop(self._events)
                if self.nodes[receiver].up:
                    self._deliver(sender, self.nodes[receiver], decode_message(frame))
            else:
                self.now_ms = max(self.now_ms, timer_ms)
                self.nodes[index].core.tick(self.now_ms)
                self._work(self.nodes[index])

    def run_until(self, condition: Callable[[], bool], limit_ms: int = 20_000) -> None:
        deadline_ms = self.now_ms + limit_ms
        while not condition():
            assert self.now_ms < deadline_ms, "the condition did not come true"
            self.run(10)

    def _deliver(self, sender: int, node: Node, message: Message) -> None:
        match message:
            case BlockMessage(raw):
                node.core.receive_block(self._parse(raw), sender, self.now_ms)
            case Blocks(raws):
                node.core.receive_blocks([self._parse(raw) for raw in raws], sender, self.now_ms)
            case FetchBlocks() | FetchLevels():
                found = self._blocks_for(node, message)
                self._send(node, sender, Blocks(tuple(block.raw for block in found)))
        self._work(node)

    def _blocks_for(self, node: Node, request: FetchBlocks | FetchLevels) -> list[Block]:
        found = node.core.blocks_for(request)
        if found or isinstance(request, FetchBlocks):
            return found
        stored = [parse_own(raw) for raw in node.disk.values()]
        wanted = [block for block in stored if request.first <= block.level <= request.last]
        return sorted(wanted, key=lambda block: block.reference)

    def _parse(self, raw: bytes) -> Block:
        return parse_block(raw, CHAIN, 0, self.committee, GENESIS)

    def _send(self, node: Node, receiver: int, message: Message) -> None:
        self._count += 1
        if not isinstance(message, BlockMessage | Blocks):
            self.sent.append((node.index, message))
        delay_ms = self.delay_ms(node.index, receiver, self._count)
        if delay_ms is None:
            return
        link = (node.index, receiver)
        arrival_ms = max(self.now_ms + delay_ms, self._free_ms.get(link, 0))
        self._free_ms[link] = arrival_ms
        heapq.heappush(self._events, (arrival_ms, self._count, node.index, receiver, encode_message(message)))

    def _work(self, node: Node) -> None:
        ready: Ready = node.core.ready()
        for block in ready.persist:
            node.disk[block.reference] = block.raw
        for block in ready.own:
            verify_block_signature(block, self.committee)
            assert self.signed.setdefault((block.author, block.level), block.reference) == block.reference
        for block in ready.broadcast:
            for other in self.nodes:
                if other is not node and other.up:
                    self._send(node, other.index, BlockMessage(block.raw))
        for receiver, message in ready.send:
            self._send(node, receiver, message)
        for commit in ready.commits:
            node.records.append(commit.record)
            node.commits.append(commit)
            node.committed_ms.append(self.now_ms)
        node.complaints.extend(ready.complaints)

    def assert_agreement(self) -> None:
        """Every node's commits are a prefix of the longest."""
        longest = max((node.records for node in self.nodes), key=len)
        for node in self.nodes:
            assert node.records == longest[: len(node.records)]
