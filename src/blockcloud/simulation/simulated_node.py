"""One node of a simulated chain: the production cores with a simulated disk and clock around them.

It does what the runtime of a real node does and no more: decode, check, feed the core of the present era, carry out
duties in their order, sign and collect, and begin anew from the disk after a crash. Which era it is in, how that is
handed over, what it certifies, what it keeps, and what it does on the ledger for itself is the production code:
`Succession`, `Certification`, `LedgerTables` and `Membership`.

Eras here are some tens of commits long and not hundreds, so what a real node looks at once a second is looked at every
`HOUSEKEEPING_MS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Protocol, cast

from blockcloud.node.applying import SharedChain
from blockcloud.node.eras import GUEST_NUMBERS, Era
from blockcloud.node.ledger_tables import LedgerTables, initialise_data
from blockcloud.node.membership import Membership
from blockcloud.node.succession import Succession
from blockcloud.primitives.certificates import HANDOVER, Certificate, SignedStatement
from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.storage import Batch
from blockcloud.service_chain.eras import SUPPORTED_VERSION
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.operations import Bond, Operation, Unjail
from blockcloud.simulation.clock import SimulatedClock
from blockcloud.simulation.dag_builder import simulated_key
from blockcloud.simulation.disk import DiskFull, SimulatedDisk
from blockcloud.simulation.faults import Crash, CrashPoint, Lie
from blockcloud.simulation.hash_machine import REFUSED_PAYLOAD, Chain
from blockcloud.simulation.keys import KeyFolder, SimulatedKeys
from blockcloud.simulation.ledger import API_URL, BOND_UNIT, LINK_ADDRESS, Ledger, onion_of, refused_payloads, signed
from blockcloud.transaction_chain import messages
from blockcloud.transaction_chain.block import Block, BlockRules, era_of
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.core import Core, Ready
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.machine import Result
from blockcloud.transaction_chain.mempool import Mempool
from blockcloud.transaction_chain.messages import Message, decode_message, encode_message

PARSED_BLOCKS = 4_096
DECODED_MESSAGES = 4_096
RULES = 256
# A process that its full disk has stopped is started again so often.
FULL_DISK_RESTART_MS = 200
HOUSEKEEPING_MS = 100
# What passes for a second in `Membership`, which waits some seconds for a transaction of its own.
MEMBERSHIP_SECOND_MS = 50
# When the operator of a candidate sends a transaction again.
OPERATOR_PATIENCE_MS = 500

MachineFactory = Callable[[Genesis, SimulatedDisk], Chain]


class World(Protocol):
    """What a node can reach, and who watches it."""

    random: Random

    def send(self, source: int, target: int, data: bytes) -> None:
        """Hand a message to the network."""

    def linked(self, member: int) -> list[int]:
        """Who has a link to the node."""

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do `action` after `delay_ms`."""

    def crashed(self, member: int, crash: Crash) -> None:
        """The node's power failed."""

    def halted(self, member: int) -> None:
        """The node has stopped, because its disk takes nothing."""

    def may_lie(self, member: int, plan: EraPlan) -> bool:
        """Whether a liar is among those that a committee must bear."""

    def signed(self, member: int, block: Block) -> None:
        """The node sends a block of its own."""

    def stated(self, member: int, statement: SignedStatement) -> None:
        """The node has signed a statement."""

    def invalid(self, member: int, raw: bytes, rule: str) -> None:
        """The node, a liar, sends a block that breaks `rule`."""

    def committed(self, member: int, commit: Commit, result: Result) -> None:
        """The node has executed a commit."""

    def certified(self, member: int, certificate: Certificate) -> None:
        """The node has collected a certificate."""

    def began(self, member: int, plan: EraPlan, *, proposing: bool) -> None:
        """The node is in an era."""


class PowerFailure(Exception):
    """Unwinds whatever the node was doing."""


@dataclass(frozen=True)
class Setting:
    """What all nodes of a run share. `nodes`: the committee of the genesis first, then who may become a member."""

    genesis: Genesis
    machine: MachineFactory
    nodes: int

    @property
    def has_ledger(self) -> bool:
        """Whether the machine is the production ledger."""
        return isinstance(self.machine, type) and issubclass(self.machine, Ledger)

    @property
    def refused(self) -> tuple[bytes, ...]:
        """Payloads that the machine refuses."""
        return refused_payloads(self.genesis.chain_id()) if self.has_ledger else (REFUSED_PAYLOAD,)


class SimulatedNode:
    """`eras` is None while the node is down. `member` is its number among all nodes, whatever its place in a committee
    is."""

    keys_of: Callable[[KeyFolder, LedgerTables], SimulatedKeys] = SimulatedKeys

    def __init__(
        self,
        member: int,
        setting: Setting,
        world: World,
        clock: SimulatedClock,
        lies: frozenset[Lie] = frozenset(),
    ) -> None:
        self.member = member
        self.setting, self.world, self.clock = setting, world, clock
        self.lies = lies
        self.eras: Succession | None = None
        self.mempool = Mempool()
        self.disk = SimulatedDisk()
        initialise_data(self.disk, setting.genesis)
        self.folder = KeyFolder(simulated_key(member))
        self.chain = setting.machine(setting.genesis, self.disk)
        self.complaints = 0
        self.pending_crash: Crash | None = None
        # When the core wants to be woken, and for when the world has last been asked to.
        self.timer_ms: int | None = None
        self.armed_ms: int | None = None
        self.is_paused = False
        # What arrives during a pause: (source, data).
        self.inbox: list[tuple[int, bytes]] = []
        self._now_ms = 0
        self._told: dict[int, int] = {}
        self._operated_ms: int | None = None
        self._seen: tuple[Certificate | None, Certificate | None] = (None, None)

    @property
    def core(self) -> Core | None:
        """The core of the present era; None while the node is down."""
        return None if self.eras is None else self.eras.current.core

    @property
    def era(self) -> Era:
        """The present era. Only while the node is up."""
        assert self.eras is not None, "a node that is down has no era"
        return self.eras.current

    @property
    def takes_payloads(self) -> bool:
        """Whether it can get something committed by itself."""
        return self.era.core.proposing

    # ---- life and death

    def start(self, now_ms: int) -> None:
        """Begin, or begin again, from what the disk holds."""
        self._now_ms = now_ms
        self.mempool = Mempool()
        self._told.clear()
        self._operated_ms = None
        self._seen = (None, None)
        try:
            self._open(self.clock.read(now_ms))
        except DiskFull:
            self.halt()
            return
        self._work(now_ms, lambda clock_ms: None)

    def _open(self, clock_ms: int) -> None:
        genesis = self.setting.genesis
        self.tables = LedgerTables(self.disk, genesis)
        self.chain = self.setting.machine(genesis, self.disk)
        self.keys = self.keys_of(self.folder, self.tables)
        # The runtime asks no more of its chain than what a `Chain` has.
        chain = cast("SharedChain", self.chain)
        node_key = self.folder.node_key
        self._prepare(self.chain.plan)
        self.eras = Succession(
            chain,
            self.tables,
            self.keys,
            node_key.public,
            self.mempool,
            version=SUPPORTED_VERSION,
            send=self._send,
            now_ms=clock_ms,
        )
        onion = None if Lie.ONION in self.lies else onion_of(self.member)
        self.membership = Membership(
            chain, self.keys, node_key, onion, version=SUPPORTED_VERSION, submit=self._submit_own
        )
        self._entered()

    def fail(self, crash: Crash) -> None:
        """Power fails now."""
        self._down()
        self.disk.crash(self.world.random)
        self.world.crashed(self.member, crash)

    def halt(self) -> None:
        """The disk takes nothing: stop before anything leaves that it does not hold. What it took before stays."""
        self._down()
        self.disk.reopen()
        self.world.halted(self.member)

    def _down(self) -> None:
        self.eras = None
        self.timer_ms = None
        self.pending_crash = None
        self.inbox.clear()

    # ---- events

    def receive(self, source: int, data: bytes, now_ms: int) -> None:
        """A message from `source` arrives."""
        self._work(now_ms, lambda clock_ms: self._dispatch(source, decoded(data), clock_ms))

    def submit(self, payload: bytes, now_ms: int) -> bool:
        """A client hands in a payload; whether it was taken and is still held."""
        if self.core is None or self.is_paused or not self.takes_payloads or not self.mempool.add(payload, 1):
            return False
        self._work(now_ms, lambda clock_ms: self.era.core.submitted(clock_ms))
        return self.core is not None

    def tick(self, now_ms: int) -> None:
        """The timer is due."""
        self._work(now_ms, lambda clock_ms: self.era.core.tick(clock_ms))

    def connected(self, peer: int, now_ms: int) -> None:
        """A link to `peer` came up."""
        self._work(now_ms, lambda clock_ms: self._link_up(peer, clock_ms))

    def lost(self, peer: int, now_ms: int) -> None:
        """The link to `peer` broke."""
        self._work(now_ms, lambda clock_ms: self.era.core.peer_lost(self.number_of(peer)))

    def housekeeping(self, now_ms: int) -> None:
        """What a node does once a second."""
        self._work(now_ms, lambda clock_ms: self._each_second())

    def _work(self, now_ms: int, event: Callable[[int], None]) -> None:
        """Feed one event, carry out the duties that follow, and note the next timer."""
        if self.eras is None:
            return
        self._now_ms = now_ms
        try:
            event(self.clock.read(now_ms))
            while ready := self.era.core.ready():
                self._carry_out(ready)
            self._tell_certificates()
        except PowerFailure:
            return
        except DiskFull:
            self.halt()
            return
        timer_ms = self.era.core.next_timer()
        self.timer_ms = None if timer_ms is None else max(self.clock.virtual(timer_ms, now_ms), now_ms + 1)

    def _link_up(self, peer: int, clock_ms: int) -> None:
        assert self.eras is not None
        self.era.core.peer_connected(self.number_of(peer), clock_ms)
        self.eras.linked(peer)

    def _dispatch(self, source: int, message: Message, clock_ms: int) -> None:
        assert self.eras is not None
        try:
            match message:
                case messages.BlockMessage():
                    self._block(source, message.raw, clock_ms)
                case messages.Blocks():
                    if message.era == self.era.plan.era:
                        self._blocks(source, message.raws, clock_ms, fetched=True)
                case messages.FetchBlocks() | messages.FetchLevels():
                    self.answer(source, message)
                case messages.Statement():
                    self.statement(message.signed)
                case messages.Position():
                    if self.eras.position(source, message):
                        self.era.core.peer_is_beyond(self.number_of(source), clock_ms)
                case messages.Certified():
                    self.eras.certificate(message.certificate)
                case messages.Submit():
                    if self.takes_payloads:
                        for payload in message.payloads:
                            self.mempool.add(payload, self.chain.check(payload))
                        self.era.core.submitted(clock_ms)
        except PeerFault:
            self.complaints += 1

    def _block(self, source: int, raw: bytes, clock_ms: int) -> None:
        era, present = era_of(raw), self.era.plan.era
        if era == present:
            self._blocks(source, (raw,), clock_ms, fetched=False)
        elif era > present:
            self.era.core.peer_is_beyond(self.number_of(source), clock_ms)
        elif self._told.get(source, -HOUSEKEEPING_MS) + HOUSEKEEPING_MS <= self._now_ms:
            self._told[source] = self._now_ms
            assert self.eras is not None
            self.eras.tell_position(source)

    def _blocks(self, source: int, raws: Sequence[bytes], clock_ms: int, *, fetched: bool) -> None:
        blocks = self._parse(raws)
        core, number = self.era.core, self.number_of(source)
        if fetched:
            core.receive_blocks(blocks, number, clock_ms)
        else:
            for block in blocks:
                core.receive_block(block, number, clock_ms)
        for block in blocks:
            for statement in block.header.statements:
                self.statement(statement)

    def _parse(self, raws: Sequence[bytes]) -> list[Block]:
        blocks = []
        for raw in raws:
            try:
                block = checked_block(raw, shared_rules(self.era.rules))
                for payload in block.payload:
                    self.chain.check(payload)
            except PeerFault:
                self.complaints += 1
                continue
            blocks.append(block)
        return blocks

    def answer(self, source: int, request: messages.FetchBlocks | messages.FetchLevels) -> None:
        """Send `source` what it asks for, from memory or else from the disk, of any era."""
        era = self.era
        raws = [block.raw for block in era.core.blocks_for(request)] if request.era == era.plan.era else []
        raws = raws or self.tables.blocks_for(request)
        self._send(source, messages.Blocks(tuple(raws), request.era))

    # ---- duties

    def _carry_out(self, ready: Ready) -> None:
        era = self.era.plan.era
        crash = self.pending_crash if ready.own else None
        self._fail_at(crash, CrashPoint.BEFORE_PERSIST)
        if ready.persist:
            self.tables.put_blocks(era, ready.persist, ready.own)
        if ready.own:
            self.disk.sync()
        sends = [(self.peer_of(number), messages.of_era(message, era)) for number, message in ready.send]
        self._fail_at(crash, CrashPoint.BEFORE_SEND)
        for block in ready.broadcast:
            self._broadcast(block, crash)
        for target, message in sends:
            self._send(target, message)
        self._fail_at(crash, CrashPoint.BEFORE_APPLY)
        for commit in ready.commits:
            self._apply(commit)
        self.complaints += len(ready.complaints)

    def _fail_at(self, crash: Crash | None, point: CrashPoint) -> None:
        if crash is not None and crash.point is point:
            self.fail(crash)
            raise PowerFailure

    def _broadcast(self, block: Block, crash: Crash | None) -> None:
        others = self.others()
        self.world.random.shuffle(others)
        if block.author == self.era.own:
            self.world.signed(self.member, block)
        data = encode_message(messages.BlockMessage(block.raw))
        half = len(others) // 2
        for index, target in enumerate(others):
            if index == half:
                self._fail_at(crash, CrashPoint.AMID_SEND)
            self.world.send(self.member, target, data)

    def _apply(self, commit: Commit) -> None:
        batch = Batch()
        result = self.chain.execute(commit, batch)
        self.tables.put_commit(commit.record, batch)
        self.disk.write(batch, sync=False)
        self.chain.applied_height = commit.height
        self.world.committed(self.member, commit, result)
        if result.next_era is not None:
            self._fail_at(self.pending_crash, CrashPoint.ERA_END)
            self._begin_era(result.next_era)
        elif result.state_root is not None:
            self.at_checkpoint(commit, result.state_root)

    # ---- eras

    def _prepare(self, plan: EraPlan) -> None:
        """Where the machine names the keys, have the next one before the era that it is for."""
        if not self.setting.has_ledger:
            self.keys.make_for(plan.era + 1)

    def _begin_era(self, plan: EraPlan) -> None:
        assert self.eras is not None
        clock_ms = self.clock.read(self._now_ms)
        self._prepare(plan)
        self.eras.begin(plan, clock_ms)
        for peer in self.world.linked(self.member):
            self.era.core.peer_connected(self.number_of(peer), clock_ms)
        self._entered()
        self._look()

    def _entered(self) -> None:
        self.world.began(self.member, self.era.plan, proposing=self.era.core.proposing)

    def number_of(self, peer: int) -> int:
        """The core's number for a node."""
        return self.era.number_of(simulated_key(peer).public, peer)

    def peer_of(self, number: int) -> int:
        """The node that the core calls `number`."""
        if number >= GUEST_NUMBERS:
            return number - GUEST_NUMBERS
        return node_numbers(self.setting.nodes)[self.era.plan.seats[number].node_key]

    # ---- statements

    def statement(self, signed: SignedStatement) -> None:
        """A member's statement, or one of our own. Raises a PeerFault, or Diverged."""
        assert self.eras is not None
        if signed.statement.kind == HANDOVER:
            self.eras.statement(signed)
        elif signed.statement.era == self.era.plan.era:
            self.era.certification.add(signed)

    def at_checkpoint(self, commit: Commit, root: bytes) -> None:
        """Compare with what is certified, and sign what we computed; it rides in our next block."""
        era = self.era
        era.certification.reached(commit.height, commit.digest, root)
        if era.core.proposing and era.key is not None:
            signed = era.certification.sign(commit.height, commit.digest, root, era.key)
            self.world.stated(self.member, signed)
            era.core.add_statement(signed)
            self.statement(signed)

    def _tell_certificates(self) -> None:
        era = self.era
        present = (era.certification.collector.newest, None if era.arrival is None else era.arrival.certificate)
        for known, certificate in zip(self._seen, present, strict=True):
            if certificate is not None and certificate is not known:
                self.world.certified(self.member, certificate)
        self._seen = present

    # ---- what a node does on the ledger

    def _each_second(self) -> None:
        assert self.eras is not None
        self.eras.each_second()
        self._look()

    def _look(self) -> None:
        if self.setting.has_ledger:
            self.membership.look(self.era, self._now_ms / MEMBERSHIP_SECOND_MS)
            self._operate()

    def _operate(self) -> None:
        """What a person does for the node: bond, and ask back in after a silence."""
        since_ms = self._operated_ms
        if since_ms is not None and self._now_ms < since_ms + OPERATOR_PATIENCE_MS:
            return
        operation: Operation
        candidate = self.chain.candidate(self.folder.node_key.public)
        if candidate is None:
            operation = Bond(BOND_UNIT, LINK_ADDRESS, API_URL, onion_of(self.member).tip)
        elif candidate.jailed and not candidate.offences and candidate.jailed_era < self.era.plan.era:
            operation = Unjail()
        else:
            return
        self._operated_ms = self._now_ms
        assert isinstance(self.chain, Ledger)
        account = self.chain.account(self.folder.node_key.public)
        assert account is not None, "every node has an account in the genesis"
        self._submit_own(signed(self.chain.chain_id, self.folder.node_key, account.sequence, operation))

    def _submit_own(self, payload: bytes) -> None:
        """A transaction of this node: into its own mempool, or to the members that are linked."""
        if self.takes_payloads:
            self.mempool.add(payload, self.chain.check(payload))
            self.era.core.submitted(self.clock.read(self._now_ms))
        else:
            self._send(None, messages.Submit((payload,)))

    # ---- messages

    def others(self) -> list[int]:
        """All nodes but this one."""
        return [node for node in range(self.setting.nodes) if node != self.member]

    def _send(self, target: int | None, message: Message) -> None:
        """To one node, or to all that are linked."""
        if isinstance(message, messages.Statement):
            self.world.stated(self.member, message.signed)
        data = encode_message(message)
        for one in self.world.linked(self.member) if target is None else (target,):
            self.world.send(self.member, one, data)


@lru_cache(maxsize=DECODED_MESSAGES)
def decoded(data: bytes) -> Message:
    """Decode a message once for all who receive it."""
    return decode_message(data)


@lru_cache(maxsize=PARSED_BLOCKS)
def checked_block(raw: bytes, rules: BlockRules) -> Block:
    """Parse and verify a block once for all nodes. Raises PeerFault."""
    block = rules.parse(raw)
    rules.verify(block)
    return block


_rules: dict[object, BlockRules] = {}


def shared_rules(rules: BlockRules) -> BlockRules:
    """One object for equal rules, so that a block is checked once under them."""
    place = (rules.chain_id, rules.era, rules.genesis, rules.committee.members)
    if len(_rules) >= RULES and place not in _rules:
        _rules.clear()
    return _rules.setdefault(place, rules)


@lru_cache(maxsize=4)
def node_numbers(nodes: int) -> dict[bytes, int]:
    """Node key -> number of the node."""
    return {simulated_key(node).public: node for node in range(nodes)}
