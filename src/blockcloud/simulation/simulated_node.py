"""One member of a simulated committee: the production core with a simulated disk and clock around it.

It does what a real node's adaptor does and no more: decode, check, feed the core, carry out its duties in their order,
and build a new core from the disk after a crash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Protocol

import msgspec

from blockcloud.primitives import codec
from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.storage import Batch, Store
from blockcloud.simulation.dag_builder import BEACON, CHAIN_ID, GENESIS, simulated_key
from blockcloud.simulation.disk import SimulatedDisk
from blockcloud.simulation.faults import Crash, CrashPoint, Lie
from blockcloud.transaction_chain.block import (
    Block,
    BlockReference,
    parse_block,
    parse_own,
    sign_block,
    verify_block_signature,
)
from blockcloud.transaction_chain.commit import COMMIT_BYTES, Commit, CommitRecord, genesis_record
from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.core import Core, Ready, Recovered
from blockcloud.transaction_chain.machine import Result, ServiceMachine
from blockcloud.transaction_chain.mempool import Mempool
from blockcloud.transaction_chain.messages import (
    BlockMessage,
    Blocks,
    FetchBlocks,
    FetchLevels,
    Message,
    Statement,
    decode_message,
    encode_message,
)
from blockcloud.transaction_chain.parameters import Parameters

EPOCH_MS = 1_000_000_000_000
PARSED_BLOCKS = 65_536

MachineFactory = Callable[[Store], ServiceMachine]


class World(Protocol):
    """What a node can reach, and who watches it."""

    random: Random

    def send(self, source: int, target: int, data: bytes) -> None:
        """Hand a message to the network."""

    def crashed(self, member: int, crash: Crash) -> None:
        """The node's power failed."""

    def signed(self, member: int, block: Block) -> None:
        """The node sends a block of its own."""

    def committed(self, member: int, commit: Commit, result: Result) -> None:
        """The node has executed a commit."""


class PowerFailure(Exception):
    """Unwinds whatever the node was doing."""


@dataclass(frozen=True)
class Setting:
    """What all members of a run share."""

    committee: Committee
    parameters: Parameters
    machine: MachineFactory


class SimulatedNode:
    """`core` is None while the node is down."""

    def __init__(self, member: int, setting: Setting, world: World, skew_ms: int, lie: Lie) -> None:
        self.member = member
        self.lie = lie
        self.core: Core | None = None
        self.mempool = Mempool()
        self.complaints = 0
        self.pending_crash: Crash | None = None
        self.timer_ms: int | None = None
        self._setting = setting
        self._world = world
        self._skew_ms = skew_ms
        self._disk = SimulatedDisk()
        self._machine = setting.machine(self._disk)

    # ---- life and death

    def start(self, now_ms: int) -> None:
        """Begin, or begin again, from what the disk holds."""
        self.mempool = Mempool()
        self._machine = self._setting.machine(self._disk)
        self.core = Core(
            chain_id=CHAIN_ID,
            era=0,
            committee=self._setting.committee,
            parameters=self._setting.parameters,
            genesis=GENESIS,
            genesis_time_ms=EPOCH_MS,
            beacon=BEACON,
            own=self.member,
            key=simulated_key(self.member),
            mempool=self.mempool,
            recovered=recover(self._disk, self.member, self._setting.parameters),
            now_ms=self._clock(now_ms),
        )
        self._work(now_ms, lambda core, clock_ms: None)

    def fail(self, crash: Crash) -> None:
        """Power fails now."""
        self.core = None
        self.timer_ms = None
        self.pending_crash = None
        self._disk.crash(self._world.random)
        self._world.crashed(self.member, crash)

    # ---- events

    def receive(self, source: int, data: bytes, now_ms: int) -> None:
        """A message from `source` arrives."""
        self._work(now_ms, lambda core, clock_ms: self._dispatch(core, source, decode_message(data), clock_ms))

    def submit(self, payload: bytes, now_ms: int) -> bool:
        """A client hands in a payload; whether it was taken."""
        if self.core is None or not self.mempool.add(payload, 1):
            return False
        self._work(now_ms, lambda core, clock_ms: core.submitted(clock_ms))
        return True

    def tick(self, now_ms: int) -> None:
        """The timer is due."""
        self._work(now_ms, lambda core, clock_ms: core.tick(clock_ms))

    def connected(self, peer: int, now_ms: int) -> None:
        """A link to `peer` came up."""
        self._work(now_ms, lambda core, clock_ms: core.peer_connected(peer, clock_ms))

    def lost(self, peer: int, now_ms: int) -> None:
        """The link to `peer` broke."""
        self._work(now_ms, lambda core, clock_ms: core.peer_lost(peer))

    def _clock(self, now_ms: int) -> int:
        return EPOCH_MS + now_ms + self._skew_ms

    def _work(self, now_ms: int, event: Callable[[Core, int], None]) -> None:
        """Feed one event to the core, carry out the duties that follow, and note the next timer."""
        core = self.core
        if core is None:
            return
        try:
            event(core, self._clock(now_ms))
            self._carry_out(core.ready(), now_ms)
        except PowerFailure:
            return
        timer_ms = core.next_timer()
        self.timer_ms = None if timer_ms is None else max(timer_ms - EPOCH_MS - self._skew_ms, now_ms + 1)

    def _dispatch(self, core: Core, source: int, message: Message, clock_ms: int) -> None:
        if isinstance(message, BlockMessage):
            for block in self._parse((message.raw,)):
                core.receive_block(block, source, clock_ms)
        elif isinstance(message, Blocks):
            core.receive_blocks(self._parse(message.raws), source, clock_ms)
        elif isinstance(message, FetchBlocks | FetchLevels):
            self._answer(core, source, message)
        elif isinstance(message, Statement):
            core.add_statement(message.signed)

    def _parse(self, raws: tuple[bytes, ...]) -> list[Block]:
        blocks = []
        for raw in raws:
            try:
                block = checked_block(raw, self._setting.committee)
                for payload in block.payload:
                    self._machine.check(payload)
            except PeerFault:
                self.complaints += 1
                continue
            blocks.append(block)
        return blocks

    def _answer(self, core: Core, source: int, request: FetchBlocks | FetchLevels) -> None:
        raws = {block.reference: block.raw for block in core.blocks_for(request)}
        if isinstance(request, FetchBlocks):
            stored = ((reference, self._disk.get("blocks", block_key(reference))) for reference in request.references)
        else:
            rows = self._disk.scan("blocks", level_key(request.first), level_key(request.last + 1))
            stored = ((parse_own(raw).reference, raw) for _, raw in rows)
        for reference, raw in stored:
            if raw is not None:
                raws.setdefault(reference, raw)
        ordered = tuple(raws[reference] for reference in sorted(raws))
        self._world.send(self.member, source, encode_message(Blocks(ordered)))

    # ---- duties

    def _carry_out(self, ready: Ready, now_ms: int) -> None:
        sends_own = any(block.author == self.member for block in ready.broadcast)
        crash = self.pending_crash if sends_own else None
        self._fail_at(crash, CrashPoint.BEFORE_PERSIST)
        if ready.persist:
            batch = Batch()
            for block in ready.persist:
                batch.put("blocks", block_key(block.reference), block.raw)
            self._disk.write(batch, sync=bool(ready.own))
        self._fail_at(crash, CrashPoint.BEFORE_SEND)
        for block in ready.broadcast:
            self._broadcast(block, crash)
        for target, message in ready.send:
            self._world.send(self.member, target, encode_message(message))
        self._fail_at(crash, CrashPoint.BEFORE_APPLY)
        for commit in ready.commits:
            self._apply(commit)
        self.complaints += len(ready.complaints)

    def _fail_at(self, crash: Crash | None, point: CrashPoint) -> None:
        if crash is not None and crash.point is point:
            self.fail(crash)
            raise PowerFailure

    def _broadcast(self, block: Block, crash: Crash | None) -> None:
        others = [member for member in range(len(self._setting.committee)) if member != self.member]
        self._world.random.shuffle(others)
        if block.author == self.member:
            self._world.signed(self.member, block)
        copies: dict[int, Block | None] = dict.fromkeys(others, block)
        if self.lie is not Lie.NONE:
            lied_to = others[: self._world.random.randint(0, len(others))]
            copies |= dict.fromkeys(lied_to, twin_of(block) if self.lie is Lie.EQUIVOCATE else None)
        half = len(others) // 2
        for index, target in enumerate(others):
            if index == half:
                self._fail_at(crash, CrashPoint.AMID_SEND)
            copy = copies[target]
            if copy is not None:
                self._world.send(self.member, target, encode_message(BlockMessage(copy.raw)))

    def _apply(self, commit: Commit) -> None:
        batch = Batch()
        result = self._machine.execute(commit, batch)
        batch.put("commits", commit.height.to_bytes(8, "big"), codec.encode(commit.record))
        self._disk.write(batch, sync=False)
        self._world.committed(self.member, commit, result)


@lru_cache(maxsize=PARSED_BLOCKS)
def checked_block(raw: bytes, committee: Committee) -> Block:
    """Parse and verify a block once for all members. Raises PeerFault."""
    block = parse_block(raw, CHAIN_ID, 0, committee, GENESIS)
    verify_block_signature(block, committee)
    return block


def twin_of(block: Block) -> Block:
    """Another block of the same author and level: an equivocation."""
    header = msgspec.structs.replace(block.header, timestamp_ms=block.header.timestamp_ms + 1)
    return sign_block(header, block.payload, simulated_key(block.author))


def level_key(level: int) -> bytes:
    """Where the blocks of a level begin in the table "blocks"."""
    return level.to_bytes(8, "big")


def block_key(reference: BlockReference) -> bytes:
    """The key of a block in the table "blocks"."""
    return level_key(reference.level) + reference.author.to_bytes(2, "big") + reference.digest


def recover(store: Store, member: int, parameters: Parameters) -> Recovered:
    """What a member finds on its disk: the newest commit, what is linearised, the blocks, its own highest level."""
    records = [codec.decode(value, CommitRecord, limit=COMMIT_BYTES) for _, value in store.scan("commits", b"")]
    last = records[-1] if records else genesis_record(0, GENESIS, EPOCH_MS)
    gc_level = max(0, last.level - parameters.gc_depth_levels)
    linearised = [reference for record in records for reference in record.blocks if reference.level > gc_level]
    blocks = [parse_own(value) for _, value in store.scan("blocks", b"")]
    own_level = max((block.level for block in blocks if block.author == member), default=0)
    above = [block for block in blocks if block.level > gc_level]
    return Recovered(last_commit=last, linearised=linearised, blocks=above, own_level=own_level)
