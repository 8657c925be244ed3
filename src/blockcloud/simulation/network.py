"""A whole committee of production cores over a virtual clock, network and disk, from one seed.

Discrete events: messages arrive late, twice, out of order or never; links part and heal; members pause, lose power in
the midst of their duties and come back with what their disk kept; disks are full for a while, clocks drift, and some
members lie. Committees hand over to the next where the era length says so, with the production ledger or a hash as
service machine. First safety is asked for under all this, then, once everything has healed, liveness (the method of
TigerBeetle's VOPR). What is checked is in `judge`, what is drawn in `options` and `faults`, a run is started by
`runner.run`. Times are virtual milliseconds since the start.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from functools import partial
from random import Random

from blockcloud.primitives.certificates import HANDOVER, Certificate, SignedStatement, quorum_weight
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.simulation.audit import Audit
from blockcloud.simulation.clock import SimulatedClock
from blockcloud.simulation.dag_builder import simulated_key
from blockcloud.simulation.faults import SLOW_AT_MOST_MS, Crash, CrashPoint, Spell
from blockcloud.simulation.judge import Judge
from blockcloud.simulation.ledger import Clients, Ledger
from blockcloud.simulation.liar import Liar
from blockcloud.simulation.options import BURST_MS, LOAD_INTERVAL_MS, Load, Options
from blockcloud.simulation.simulated_node import (
    FULL_DISK_RESTART_MS,
    HOUSEKEEPING_MS,
    MachineFactory,
    Setting,
    SimulatedNode,
    decoded,
)
from blockcloud.transaction_chain.block import Block
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.machine import Result

EVENTS_AT_MOST = 20_000_000
# How often a run of given levels looks whether it has come to its end.
LOOK_MS = 100

# The n-th payload that clients hand in: the service machine must accept it, and no two may be equal.
PayloadFactory = Callable[[int], bytes]
# Called with one line for each event.
Tracer = Callable[[str], None]


class Network:
    """The world of one run."""

    def __init__(
        self,
        random: Random,
        options: Options,
        machine: MachineFactory,
        payload: PayloadFactory,
        tracer: Tracer | None = None,
    ) -> None:
        self.random = random
        self.options = options
        self.faults = options.faults
        self.now_ms = 0
        self.is_over = False
        self.counts = dict.fromkeys(("events", "messages", "lost", "duplicated", "crashes", "halts", "payloads"), 0)
        self.trace = hashlib.sha256()
        genesis = options.genesis
        self.judge = Judge(options)
        setting = Setting(genesis, machine, options.nodes)
        self.clients = Clients(genesis.chain_id()) if setting.has_ledger else None
        self.audit = None if self.clients is None else Audit(options, self.clients)
        self._payload = payload
        self._tracer = tracer
        self._links = {(one, other): False for other in range(options.nodes) for one in range(other)}
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._scheduled = 0
        self._load_until_ms = options.run_ms
        self._reached = 0
        self.nodes = [self._make_node(member, setting) for member in range(options.nodes)]

    def _make_node(self, member: int, setting: Setting) -> SimulatedNode:
        faults, lies = self.faults, self.options.liars.get(member)
        skew_ms = faults.skew_ms[member] if faults.skew_ms else 0
        drift = faults.drift_ms_per_s[member] if faults.drift_ms_per_s else 0
        clock = SimulatedClock(skew_ms, drift)
        return SimulatedNode(member, setting, self, clock) if lies is None else Liar(member, setting, self, clock, lies)

    @property
    def level(self) -> int:
        """The lowest level of an honest node's DAG, counted over all eras; 0 while one is down. At the end of an era it
        falls by what was not committed, so what the run has once come to counts."""
        return max(self._reached, min(self._level_of(self.nodes[member]) for member in self.options.honest))

    def _level_of(self, node: SimulatedNode) -> int:
        if node.core is None:
            return 0
        past = sum(level for era, level in self.judge.era_levels.items() if era < node.era.plan.era)
        return past + node.core.highest_level

    # ---- events

    def at(self, time_ms: int, action: Callable[[], None]) -> None:
        """Do `action` at `time_ms`; of one time, what was asked for first."""
        self._scheduled += 1
        heapq.heappush(self._queue, (max(time_ms, self.now_ms), self._scheduled, action))

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do `action` after `delay_ms`."""
        self.at(self.now_ms + delay_ms, action)

    def play(self) -> None:
        """Run to the end. Raises SafetyBroken."""
        self._schedule()
        while not self.is_over and self._queue and self._queue[0][0] <= self.options.run_ms:
            self.now_ms, _, action = heapq.heappop(self._queue)
            self.counts["events"] += 1
            if self.counts["events"] > EVENTS_AT_MOST:
                raise BadConfiguration("the run has more events than its limit", limit=EVENTS_AT_MOST)
            action()
        for member in self.options.honest:
            node = self.nodes[member]
            if node.core is not None:
                seats = node.era.plan.seats
                self.judge.accused(member, [seats[one.author].node_key for one, _ in node.core.evidence])
            if self.audit is not None and isinstance(node.chain, Ledger):
                self.audit.at_the_end(member, node.chain)

    def complaint(self) -> str:
        """What liveness lacks at the end; empty if nothing."""
        return self.judge.complaint(self.now_ms, self.level) or self._lacking_handover()

    def _lacking_handover(self) -> str:
        """Which node cannot show how it came into an era that it has left again: it keeps every hand-over for those who
        follow it."""
        for node in (self.nodes[member] for member in self.options.honest):
            for era in range(1, node.era.plan.era):
                if node.tables.handover(era) is None:
                    return f"member {node.member} has no certificate of the hand-over into the past era {era}"
        return ""

    def _schedule(self) -> None:
        faults = self.faults
        for node in self.nodes:
            self.at(0, partial(self._start, node))
            self.at(HOUSEKEEPING_MS + node.member, partial(self._keep_house, node))
        for crash in faults.crashes:
            self.at(crash.at_ms, partial(self._arm_crash, crash))
        for parted in faults.partitions:
            self.at(parted.from_ms, self._relink)
            self.at(parted.until_ms, self._relink)
        for spell in faults.pauses:
            self.at(spell.from_ms, partial(self._pause, spell))
            self.at(spell.until_ms, partial(self._resume, spell))
        for spell in faults.full_disks:
            self.at(spell.from_ms, partial(self._fill, spell, is_full=True))
            self.at(spell.until_ms, partial(self._fill, spell, is_full=False))
        self.at(faults.heal_ms, self._heal)
        self.at(faults.heal_ms + self.options.liveness_ms, self._check_live)
        self.at(LOAD_INTERVAL_MS[self.options.load], self._load)
        self.at(max(faults.heal_ms, self.options.least_ms - self.options.commit_within_ms), self._look)

    def _start(self, node: SimulatedNode) -> None:
        if node.core is None:
            self._note("start", node.member)
            node.start(self.now_ms)
            self._rearm(node)
            self._relink()

    def _keep_house(self, node: SimulatedNode) -> None:
        self.later(HOUSEKEEPING_MS, partial(self._keep_house, node))
        if node.core is not None and not node.is_paused:
            node.housekeeping(self.now_ms)
            self._rearm(node)

    def _heal(self) -> None:
        """From here on nothing goes wrong. Who is still waiting to crash is spared, who is down starts at once."""
        self._note("heal", 0)
        self.judge.healed()
        for node in self.nodes:
            node.clock.heal(self.now_ms)
            node.pending_crash = None
            node.disk.is_full = False
            self._start(node)
        self._relink()

    def _check_live(self) -> None:
        """Who is not live by now will hardly be later: the verdict stands."""
        self.judge.check_live()
        self.is_over = bool(self.judge.not_live)

    def _look(self) -> None:
        """Has every honest member gone on, and come far enough? Then clients fall silent, and what they handed in has
        its time to pass."""
        if self.judge.is_live() and self.level >= self.options.levels and self.judge.has_crossed():
            self._load_until_ms = self.now_ms
            self._reached = self.level
            self._drain(max(self.now_ms, self.options.least_ms))
        else:
            self.later(LOOK_MS, self._look)

    def _drain(self, least_ms: int) -> None:
        lacking = self.judge.missing(self.now_ms) or self.judge.uncertified(self.now_ms)
        drained = self.now_ms >= least_ms and not lacking
        self.is_over = drained or self.now_ms >= self._load_until_ms + self.options.commit_within_ms
        if not self.is_over:
            self.later(LOOK_MS, partial(self._drain, least_ms))

    def _load(self) -> None:
        """Clients hand in payloads."""
        if self.now_ms > self._load_until_ms:
            return
        busy = self.options.load == Load.BUSY
        for node in self.nodes if busy else [self.nodes[self.random.randrange(len(self.nodes))]]:
            self._submit(node)
        interval_ms = LOAD_INTERVAL_MS[self.options.load]
        resting = self.options.load == Load.BURSTS and self.now_ms % (2 * BURST_MS) > BURST_MS
        self.later(BURST_MS if resting else interval_ms, self._load)

    def _submit(self, node: SimulatedNode) -> None:
        self.counts["payloads"] += 1
        number = self.counts["payloads"]
        payload = self._payload(number) if self.clients is None else self.clients.next_payload()
        self.handed_in(payload)
        if node.submit(payload, self.now_ms):
            self._rearm(node)
            if node.member not in self.options.liars:
                self.judge.accepted(node.member, payload, self.now_ms)

    def _rearm(self, node: SimulatedNode) -> None:
        """Have the node's next timer wake it, unless an event before moves it."""
        if node.timer_ms is not None and node.timer_ms != node.armed_ms:
            node.armed_ms = node.timer_ms
            self.at(node.timer_ms, partial(self._tick, node, node.timer_ms))

    def _tick(self, node: SimulatedNode, timer_ms: int) -> None:
        if node.armed_ms == timer_ms:
            node.armed_ms = None
        if node.core is not None and node.timer_ms == timer_ms and not node.is_paused:
            self._note("tick", node.member)
            node.tick(self.now_ms)
            self._rearm(node)

    # ---- faults of one member

    def _arm_crash(self, crash: Crash) -> None:
        node = self.nodes[crash.member]
        if node.core is None:
            return
        if crash.point is CrashPoint.AT_ONCE:
            node.fail(crash)
        else:
            node.pending_crash = crash

    def _pause(self, spell: Spell) -> None:
        self._note("pause", spell.member)
        self.nodes[spell.member].is_paused = True

    def _resume(self, spell: Spell) -> None:
        """The member goes on with what has arrived in the meantime, all at once."""
        node = self.nodes[spell.member]
        if not node.is_paused:
            return
        self._note("resume", spell.member)
        node.is_paused = False
        waiting, node.inbox = node.inbox, []
        for source, data in waiting:
            node.receive(source, data, self.now_ms)
        node.tick(self.now_ms)
        self._rearm(node)

    def _fill(self, spell: Spell, *, is_full: bool) -> None:
        self._note("disk full" if is_full else "disk has room", spell.member)
        self.nodes[spell.member].disk.is_full = is_full

    # ---- links

    def _relink(self) -> None:
        """Bring links up and down as crashes and partitions say, and tell both ends."""
        for (one, other), was_up in list(self._links.items()):
            ends = self.nodes[one], self.nodes[other]
            is_up = all(node.core is not None for node in ends) and not self._parted(one, other)
            self._links[(one, other)] = is_up
            if is_up == was_up:
                continue
            self._note("link up" if is_up else "link down", one, b"", other)
            for node, peer in zip(ends, reversed(ends), strict=True):
                if is_up:
                    node.connected(peer.member, self.now_ms)
                else:
                    node.lost(peer.member, self.now_ms)
                self._rearm(node)

    def _parted(self, one: int, other: int) -> bool:
        return any(
            parted.from_ms <= self.now_ms < parted.until_ms and (one in parted.side) != (other in parted.side)
            for parted in self.faults.partitions
        )

    def linked(self, member: int) -> list[int]:
        """Who has a link to the node."""
        return [other for other in range(self.options.nodes) if other != member and self._is_linked(member, other)]

    def _is_linked(self, one: int, other: int) -> bool:
        return self._links[(one, other) if one < other else (other, one)]

    def send(self, source: int, target: int, data: bytes) -> None:
        """Hand a message to the network, which may lose, double or delay it."""
        self.counts["messages"] += 1
        faults, faulty = self.faults, self.now_ms < self.faults.heal_ms
        if not self._is_linked(source, target) or (faulty and self._chance(faults.loss_percent)):
            self.counts["lost"] += 1
            return
        copies = 1
        if faulty and self._chance(faults.duplicate_percent):
            self.counts["duplicated"] += 1
            copies = 2
        for _ in range(copies):
            delay_ms = faults.latency_ms[source][target]
            if faults.jitter_ms:
                delay_ms += self.random.randint(0, faults.jitter_ms)
            if faulty and self._chance(faults.slow_percent):
                delay_ms += self.random.randint(0, SLOW_AT_MOST_MS)
            self.at(self.now_ms + delay_ms, partial(self._deliver, source, target, data))

    def _chance(self, percent: int) -> bool:
        return percent > 0 and self.random.randrange(100) < percent

    def _deliver(self, source: int, target: int, data: bytes) -> None:
        if not self._is_linked(source, target):
            self.counts["lost"] += 1
            return
        node = self.nodes[target]
        self._note("message", target, data, source)
        if node.is_paused:
            node.inbox.append((source, data))
            return
        node.receive(source, data, self.now_ms)
        self._rearm(node)

    # ---- what clients and nodes do

    def handed_in(self, payload: bytes) -> None:
        """A client hands in a payload, which its validator may refuse."""
        self._note("payload", 0, payload)

    def crashed(self, member: int, crash: Crash) -> None:
        """A node's power failed: its links break, and it starts again after a while."""
        self.counts["crashes"] += 1
        self._note("crash", member, crash.point.value.encode())
        self.judge.lost_memory(member)
        self.at(self.now_ms, self._relink)
        self.later(crash.down_ms, partial(self._start, self.nodes[member]))

    def halted(self, member: int) -> None:
        """A node has stopped because its disk takes nothing: it is started again and again until there is room."""
        self.counts["halts"] += 1
        self._note("halt", member)
        self.judge.lost_memory(member)
        self.at(self.now_ms, self._relink)
        self.later(FULL_DISK_RESTART_MS, partial(self._start, self.nodes[member]))

    def began(self, member: int, plan: EraPlan, *, proposing: bool) -> None:
        """A node is in an era."""
        self._note("era", member, plan.digest(), plan.era)
        self.judge.began(member, plan, self.now_ms, proposing=proposing)

    def may_lie(self, member: int, plan: EraPlan) -> bool:
        """Whether a liar is among those that the committee of `plan` must bear: less than a third of its weight, in the
        order of their seats."""
        numbers = {simulated_key(liar).public: liar for liar in self.options.liars}
        left = sum(seat.bond for seat in plan.seats)
        left -= quorum_weight(left)
        for seat in plan.seats:
            liar = numbers.get(seat.node_key)
            if liar is None or seat.bond > left:
                continue
            left -= seat.bond
            if liar == member:
                return True
        return False

    def signed(self, member: int, block: Block) -> None:
        """A node sends a block of its own."""
        self._note("block", member, block.reference.digest, block.level)
        self.judge.signed(member, block)

    def invalid(self, member: int, raw: bytes, rule: str) -> None:
        """A liar sends a block that breaks `rule`."""
        self._note(f"invalid block ({rule})", member)
        self.judge.invalid(raw, rule)

    def stated(self, member: int, statement: SignedStatement) -> None:
        """A node has signed a statement."""
        self.judge.stated(member, statement)

    def committed(self, member: int, commit: Commit, result: Result) -> None:
        """A node executed a commit."""
        self._note("commit", member, commit.digest, commit.height)
        self.judge.committed(member, commit, result, self.now_ms)
        chain = self.nodes[member].chain
        if self.audit is not None and isinstance(chain, Ledger) and member not in self.options.liars:
            self.audit.committed(chain, commit, result)

    def certified(self, member: int, certificate: Certificate) -> None:
        """A node collected a certificate."""
        kind = "hand-over" if certificate.statement.kind == HANDOVER else "certificate"
        self._note(kind, member, b"", certificate.statement.height)
        if member not in self.options.liars:
            self.judge.certified(member, certificate)

    def _note(self, kind: str, member: int, data: bytes = b"", number: int = 0) -> None:
        """Fold an event into the trace; `number` is what it is about: the sender, the other end, level or height."""
        self.trace.update(b"%d %b %d %d %b\n" % (self.now_ms, kind.encode(), member, number, data))
        if self._tracer is not None:
            self._tracer(f"{self.now_ms:>8} ms  {shown(kind, member, data, number)}")


def shown(kind: str, member: int, data: bytes, number: int) -> str:
    """An event as a person reads it; members are numbers of the committee."""
    if kind == "message":
        return f"member {member}  {type(decoded(data)).__name__} from {number}, {len(data)} bytes"
    about = {
        "link up": f"to {number}",
        "link down": f"to {number}",
        "block": f"of level {number} {data.hex()[:8]}",
        "commit": f"{number} {data.hex()[:8]}",
        "certificate": f"of height {number}",
        "hand-over": f"certified at height {number}",
        "era": f"{number} {data.hex()[:8]}",
        "crash": data.decode() if kind == "crash" else "",
        "heal": "everywhere",
        "payload": data[:32].decode(errors="replace") if kind == "payload" else "",
    }.get(kind, "")
    return f"member {member}  {kind} {about}".rstrip()
