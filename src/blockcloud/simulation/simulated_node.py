"""One member of a simulated committee: the production core with a simulated disk and clock around it.

It does what a real node's adaptor does and no more: decode, check, feed the core, carry out its duties in their order,
sign and collect checkpoints, and build a new core from the disk after a crash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Protocol

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, DOMAIN, Certificate, SignedStatement, Statement
from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.storage import Batch, Store
from blockcloud.simulation.clock import EPOCH_MS, SimulatedClock
from blockcloud.simulation.dag_builder import BEACON, CHAIN_ID, GENESIS, simulated_key
from blockcloud.simulation.disk import DiskFull, SimulatedDisk
from blockcloud.simulation.faults import Crash, CrashPoint
from blockcloud.transaction_chain import messages
from blockcloud.transaction_chain.block import Block, BlockReference, parse_block, parse_own, verify_block_signature
from blockcloud.transaction_chain.checkpoints import CheckpointCollector
from blockcloud.transaction_chain.commit import COMMIT_BYTES, Commit, CommitRecord, EraStart, genesis_record
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
    decode_message,
    encode_message,
)
from blockcloud.transaction_chain.parameters import Parameters

PARSED_BLOCKS = 4_096
DECODED_MESSAGES = 4_096
# A process that its full disk has stopped is started again so often.
FULL_DISK_RESTART_MS = 200

MachineFactory = Callable[[Store], ServiceMachine]


class World(Protocol):
    """What a node can reach, and who watches it."""

    random: Random

    def send(self, source: int, target: int, data: bytes) -> None:
        """Hand a message to the network."""

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do `action` after `delay_ms`."""

    def crashed(self, member: int, crash: Crash) -> None:
        """The node's power failed."""

    def signed(self, member: int, block: Block) -> None:
        """The node sends a block of its own."""

    def invalid(self, member: int, raw: bytes, rule: str) -> None:
        """The node, a liar, sends a block that breaks `rule`."""

    def committed(self, member: int, commit: Commit, result: Result) -> None:
        """The node has executed a commit."""

    def certified(self, member: int, certificate: Certificate) -> None:
        """The node has collected a certificate."""


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

    def __init__(self, member: int, setting: Setting, world: World, clock: SimulatedClock) -> None:
        self.member = member
        self.core: Core | None = None
        self.mempool = Mempool()
        self.clock = clock
        self.disk = SimulatedDisk()
        self.complaints = 0
        self.pending_crash: Crash | None = None
        # When the core wants to be woken, and for when the world has last been asked to.
        self.timer_ms: int | None = None
        self.armed_ms: int | None = None
        self.is_paused = False
        # What arrives during a pause: (source, data).
        self.inbox: list[tuple[int, bytes]] = []
        self.setting = setting
        self.world = world
        self._collector = CheckpointCollector(setting.committee, CHAIN_ID, 0)
        self._machine = setting.machine(self.disk)

    # ---- life and death

    def start(self, now_ms: int) -> None:
        """Begin, or begin again, from what the disk holds."""
        self.mempool = Mempool()
        self._machine = self.setting.machine(self.disk)
        self._collector = CheckpointCollector(self.setting.committee, CHAIN_ID, 0)
        self.core = self.make_core(self.clock.read(now_ms))
        self._work(now_ms, lambda core, clock_ms: None)

    def make_core(self, clock_ms: int, *, as_observer: bool = False) -> Core:
        """The production core as it is at the start; `as_observer`: it makes no blocks."""
        return Core(
            chain_id=CHAIN_ID,
            era=0,
            committee=self.setting.committee,
            parameters=self.setting.parameters,
            start=EraStart.of_chain(GENESIS, EPOCH_MS),
            beacon=BEACON,
            own=None if as_observer else self.member,
            key=None if as_observer else simulated_key(self.member),
            mempool=self.mempool,
            recovered=recover(self.disk, self.member, self.setting.parameters),
            now_ms=clock_ms,
        )

    def fail(self, crash: Crash) -> None:
        """Power fails now."""
        self.core = None
        self.timer_ms = None
        self.pending_crash = None
        self.inbox.clear()
        self.disk.crash(self.world.random)
        self.world.crashed(self.member, crash)

    # ---- events

    def receive(self, source: int, data: bytes, now_ms: int) -> None:
        """A message from `source` arrives."""
        self._work(now_ms, lambda core, clock_ms: self._dispatch(core, source, decoded(data), clock_ms))

    def submit(self, payload: bytes, now_ms: int) -> bool:
        """A client hands in a payload; whether it was taken and is still held."""
        if self.core is None or self.is_paused or not self.mempool.add(payload, 1):
            return False
        self._work(now_ms, lambda core, clock_ms: core.submitted(clock_ms))
        return self.core is not None

    def tick(self, now_ms: int) -> None:
        """The timer is due."""
        self._work(now_ms, lambda core, clock_ms: core.tick(clock_ms))

    def connected(self, peer: int, now_ms: int) -> None:
        """A link to `peer` came up."""
        self._work(now_ms, lambda core, clock_ms: core.peer_connected(peer, clock_ms))

    def lost(self, peer: int, now_ms: int) -> None:
        """The link to `peer` broke."""
        self._work(now_ms, lambda core, clock_ms: core.peer_lost(peer))

    def _work(self, now_ms: int, event: Callable[[Core, int], None]) -> None:
        """Feed one event to the core, carry out the duties that follow, and note the next timer."""
        core = self.core
        if core is None:
            return
        try:
            event(core, self.clock.read(now_ms))
            self._carry_out(core.ready())
        except PowerFailure:
            return
        except DiskFull:
            self.fail(Crash(self.member, now_ms, FULL_DISK_RESTART_MS, CrashPoint.BEFORE_PERSIST))
            return
        timer_ms = core.next_timer()
        self.timer_ms = None if timer_ms is None else max(self.clock.virtual(timer_ms, now_ms), now_ms + 1)

    def _dispatch(self, core: Core, source: int, message: Message, clock_ms: int) -> None:
        if isinstance(message, BlockMessage):
            for block in self._parse((message.raw,)):
                core.receive_block(block, source, clock_ms)
        elif isinstance(message, Blocks):
            core.receive_blocks(self._parse(message.raws), source, clock_ms)
        elif isinstance(message, FetchBlocks | FetchLevels):
            self.answer(core, source, message)
        elif isinstance(message, messages.Statement):
            self._collect(message.signed)

    def _parse(self, raws: tuple[bytes, ...]) -> list[Block]:
        blocks = []
        for raw in raws:
            try:
                block = checked_block(raw, self.setting.committee)
                for payload in block.payload:
                    self._machine.check(payload)
            except PeerFault:
                self.complaints += 1
                continue
            blocks.append(block)
        return blocks

    def answer(self, core: Core, source: int, request: FetchBlocks | FetchLevels) -> None:
        """Send `source` what it asks for, from memory and disk."""
        raws = {block.reference: block.raw for block in core.blocks_for(request)}
        if isinstance(request, FetchBlocks):
            stored = ((reference, self.disk.get("blocks", block_key(reference))) for reference in request.references)
        else:
            rows = self.disk.scan("blocks", level_key(request.first), level_key(request.last + 1))
            stored = ((parse_own(raw).reference, raw) for _, raw in rows)
        for reference, raw in stored:
            if raw is not None:
                raws.setdefault(reference, raw)
        ordered = tuple(raws[reference] for reference in sorted(raws))
        self.world.send(self.member, source, encode_message(Blocks(ordered)))

    # ---- duties

    def _carry_out(self, ready: Ready) -> None:
        sends_own = any(block.author == self.member for block in ready.broadcast)
        crash = self.pending_crash if sends_own else None
        self._fail_at(crash, CrashPoint.BEFORE_PERSIST)
        if ready.persist:
            batch = Batch()
            for block in ready.persist:
                batch.put("blocks", block_key(block.reference), block.raw)
            self.disk.write(batch, sync=bool(ready.own))
        self._fail_at(crash, CrashPoint.BEFORE_SEND)
        for block in ready.broadcast:
            self._broadcast(block, crash)
        for target, message in ready.send:
            self.world.send(self.member, target, encode_message(message))
        self._fail_at(crash, CrashPoint.BEFORE_APPLY)
        for commit in ready.commits:
            self._apply(commit)
        for block in ready.persist:
            for signed in block.header.statements:
                self._collect(signed)
        self.complaints += len(ready.complaints)

    def _fail_at(self, crash: Crash | None, point: CrashPoint) -> None:
        if crash is not None and crash.point is point:
            self.fail(crash)
            raise PowerFailure

    def _broadcast(self, block: Block, crash: Crash | None) -> None:
        others = [member for member in range(len(self.setting.committee)) if member != self.member]
        self.world.random.shuffle(others)
        if block.author == self.member:
            self.world.signed(self.member, block)
        data = encode_message(BlockMessage(block.raw))
        half = len(others) // 2
        for index, target in enumerate(others):
            if index == half:
                self._fail_at(crash, CrashPoint.AMID_SEND)
            self.world.send(self.member, target, data)

    def _apply(self, commit: Commit) -> None:
        batch = Batch()
        result = self._machine.execute(commit, batch)
        batch.put("commits", commit.height.to_bytes(8, "big"), codec.encode(commit.record))
        self.disk.write(batch, sync=False)
        self.world.committed(self.member, commit, result)
        if result.state_root is not None and commit.height % self.setting.parameters.checkpoint_period == 0:
            self.at_checkpoint(commit, result.state_root)

    # ---- checkpoints

    def at_checkpoint(self, commit: Commit, root: bytes) -> None:
        """Sign what we computed; it rides in our next block."""
        assert self.core is not None
        signed = self.sign(commit.height, commit.digest, root)
        self.core.add_statement(signed)
        self._collect(signed)

    def sign(self, height: int, commit_digest: bytes, root: bytes) -> SignedStatement:
        """This member's statement about a checkpoint."""
        statement = Statement(CHECKPOINT, CHAIN_ID, 0, height, (commit_digest, root))
        key = simulated_key(self.member)
        return SignedStatement(statement, key.public, key.sign(DOMAIN, codec.encode(statement)))

    def _collect(self, signed: SignedStatement) -> None:
        try:
            certificate = self._collector.add(signed)
        except PeerFault:
            self.complaints += 1
            return
        if certificate is not None:
            self.world.certified(self.member, certificate)


@lru_cache(maxsize=DECODED_MESSAGES)
def decoded(data: bytes) -> Message:
    """Decode a message once for all who receive it."""
    return decode_message(data)


@lru_cache(maxsize=PARSED_BLOCKS)
def checked_block(raw: bytes, committee: Committee) -> Block:
    """Parse and verify a block once for all members. Raises PeerFault."""
    block = parse_block(raw, CHAIN_ID, 0, committee, GENESIS)
    verify_block_signature(block, committee)
    return block


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
    return Recovered(last_commit=last, linearised=linearised, blocks=above, own_level=own_level, records=records)
