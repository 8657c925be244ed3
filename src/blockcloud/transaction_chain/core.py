"""The core of a validator: blocks, statements and time go in, duties come out.

It holds the DAG, decides when to propose, what to fetch and what is committed. It does no I/O and knows no clock:
`now_ms` is an argument (Unix time in milliseconds), and the same events at the same times give the same duties. `Ready`
is a batch of duties, which the caller carries out in the stated order before it answers any peer from memory:

1. store `persist`, durably if one of the blocks is our own: a block that was sent and then forgotten is a second block
   for its level after a restart;
2. send `broadcast` and `send`;
3. execute `commits` in order;
4. count `complaints`.

Levels and commits: DESIGN section 3.2; pace: `pacing`; what keeps it alive: DESIGN section 3.5. A restarted core gets
the blocks and the last commit from the store and finds the same commits again, since the rule is idempotent. A core
that does not know what it signed last (`own_level` None), or that meets a block of its own that it does not know,
observes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from blockcloud.primitives.certificates import SignedStatement
from blockcloud.primitives.errors import BadConfiguration, PeerFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import (
    BLOCK_OPERATIONS,
    BLOCK_PAYLOAD_BYTES,
    BLOCK_STATEMENTS,
    CLOCK_AHEAD_MS,
    COMMIT_RANGE,
    UNREFERENCED_BLOCKS_PER_SLOT,
)
from blockcloud.primitives.merkle import merkle_root
from blockcloud.transaction_chain.block import Block, BlockReference, Header, InvalidBlock, sign_block
from blockcloud.transaction_chain.catch_up import LAG_LEVELS, CatchUp
from blockcloud.transaction_chain.commit import Commit, CommitRecord, EraStart
from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.committer import Committer, Decision, SlotStatus
from blockcloud.transaction_chain.dag import Dag
from blockcloud.transaction_chain.leaders import LeaderSchedule
from blockcloud.transaction_chain.linearizer import Linearised, commit_time_ms, linearise
from blockcloud.transaction_chain.mempool import Mempool
from blockcloud.transaction_chain.messages import ANSWER_BYTES, BlockMessage, FetchBlocks, FetchLevels, Message
from blockcloud.transaction_chain.pacing import Pacing
from blockcloud.transaction_chain.parameters import Parameters
from blockcloud.transaction_chain.reputation import Reputation
from blockcloud.transaction_chain.suspension import HeldBack, Suspension
from blockcloud.transaction_chain.threshold_clock import ThresholdClock

# A leader from whom nothing came for so many levels is not waited for. It costs nobody's safety: whether its slot is
# skipped is for the commit rule to say, and it is waited for again as soon as a block of it arrives.
ABSENT_LEVELS = 10
# Our newest block is sent again when we made no other for so long: a message may have been lost.
REPEAT_MS = 1_000
# Own blocks that a newly connected peer is sent.
RECENT_OWN_BLOCKS = 8
# Complaints in one `Ready`, and pairs of evidence kept against one member.
COMPLAINTS = 256
EVIDENCE_PER_MEMBER = 4


class Equivocation(PeerFault):
    """A member signed two blocks for one level."""

    code = "equivocation"


@dataclass(slots=True)
class Ready:
    """Duties in the order in which they must be carried out (module docstring). Peers are committee numbers."""

    persist: list[Block] = field(default_factory=list)
    own: list[Block] = field(default_factory=list)  # those of `persist` that are our own new blocks
    broadcast: list[Block] = field(default_factory=list)
    send: list[tuple[int, Message]] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    complaints: list[tuple[int, PeerFault]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.persist or self.broadcast or self.send or self.commits or self.complaints)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the store knows after a restart. `blocks`: all above the collection level of the last commit, in any order;
    `linearised`: those of them that commits have brought; `own_level`: the highest level we ever signed, or None if
    that is not known; `records`: all commits of the era, in order, from which the leader table follows."""

    last_commit: CommitRecord
    linearised: Collection[BlockReference]
    blocks: Sequence[Block]
    own_level: int | None
    records: Iterable[CommitRecord] = ()


class Core:
    """One member of a committee in one era, or an observer (`own` None)."""

    def __init__(
        self,
        *,
        chain_id: bytes,
        era: int,
        committee: Committee,
        parameters: Parameters,
        start: EraStart,
        beacon: bytes,
        own: int | None,
        key: SigningKey | None,
        mempool: Mempool,
        recovered: Recovered | None,
        now_ms: int,
        last_height: int | None = None,
    ) -> None:
        parameters.check(len(committee))
        if own is not None and (key is None or committee.members[own].key != key.public):
            raise BadConfiguration("the key is not that of the committee member", member=own)
        self.committee = committee
        self.parameters = parameters
        self.own = own
        self.dag = Dag(committee, start.genesis)
        self.proposal_operations = BLOCK_OPERATIONS
        # False: an observer, which receives and commits but makes no blocks.
        self.proposing = own is not None and (recovered is None or recovered.own_level is not None)
        # False: our blocks are empty, because the hand-over into this era is not certified yet.
        self.carrying = True
        # Whether the era's last commit came out. What is decided after it is discarded, and we make no more blocks.
        self.ended = False
        # The highest level we have signed.
        self.level = 0
        self.last_commit = start.record(era)
        self.leaders_committed = 0
        self.leaders_skipped = 0
        # Pairs of blocks of one author and level, without payload, at most `EVIDENCE_PER_MEMBER` of each author.
        self.evidence: list[tuple[Block, Block]] = []
        self._chain_id = chain_id
        self._era = era
        self._beacon = beacon
        self._key = key
        self._mempool = mempool
        self._schedule = LeaderSchedule(committee, parameters.leader_slots, beacon)
        self._reputation = Reputation(committee, self._schedule, parameters.leader_table_period)
        self._committer = Committer(committee, self._schedule)
        self._clock = ThresholdClock(committee, now_ms)
        self._pacing = Pacing(committee, parameters, 0, now_ms)
        self._suspension = Suspension(len(committee))
        self._held_back = HeldBack(len(committee))
        self._catch_up = CatchUp(committee)
        self._linearised = Linearised()
        self._newest: dict[int, Block] = {}
        self._own_recent: deque[Block] = deque(maxlen=RECENT_OWN_BLOCKS)
        self._statements: deque[SignedStatement] = deque(maxlen=BLOCK_STATEMENTS)
        self._peers: dict[int, None] = {}
        self._with_payload = 0
        self._decided_level = 0
        self._may_decide = False
        self._quiet_until_ms = now_ms
        # After a restart: who has sent us something since. None once that is a quorum (`_hear`).
        self._heard: dict[int, None] | None = None
        self._repeat_due_ms = now_ms + REPEAT_MS
        self._ready = Ready()
        self._last_height = last_height
        self._last_digest = start.digest
        if recovered is not None:
            self._recover(recovered, now_ms)
        self._advance(now_ms)

    # What goes in

    def receive_block(self, block: Block, source: int, now_ms: int) -> None:
        """A new block from the peer `source`; the caller parsed it and checked signature and payload."""
        self._take(block, source, now_ms)
        self._hear(source)
        self._advance(now_ms)

    def receive_blocks(self, blocks: Sequence[Block], source: int, now_ms: int) -> None:
        """The answer of `source` to a fetch, checked as for `receive_block`; empty if it knew none of them."""
        for block in blocks:
            self._take(block, source, now_ms, fetched=True)
        self._catch_up.answered(source, blocks)
        self._hear(source)
        self._advance(now_ms)

    def add_statement(self, statement: SignedStatement) -> None:
        """Let `statement` of our own ride in our next block. Of more than a block can carry the newest ride."""
        self._statements.append(statement)

    def submitted(self, now_ms: int) -> None:
        """The mempool got something: the pace may be another."""
        self._advance(now_ms)

    def peer_connected(self, peer: int, now_ms: int) -> None:
        """A link is up: the peer gets the newest block that we know of it, in case its disk lost it, and then our own
        newest ones, from which it sees whether it lags."""
        self._peers = dict.fromkeys(sorted([*self._peers, peer]))
        if (theirs := self._newest.get(peer)) is not None:
            self._ready.send.append((peer, BlockMessage(theirs.raw)))
        undecided = [block for block in self._own_recent if block.level > self.committed_level]
        for block in undecided or list(self._own_recent)[-1:]:
            self._ready.send.append((peer, BlockMessage(block.raw)))
        self._advance(now_ms)

    def peer_lost(self, peer: int) -> None:
        """The link is down."""
        self._peers.pop(peer, None)
        self._catch_up.lost(peer)

    def peer_is_beyond(self, peer: int, now_ms: int) -> None:
        """`peer` is in a later era: it has everything that decides the rest of this one."""
        if not self.ended:
            self._catch_up.claim_all(peer, self.dag.highest_level, self._decided_level)
            self._advance(now_ms)

    def tick(self, now_ms: int) -> None:
        """Do what has become due."""
        self._advance(now_ms)

    # What comes out

    def ready(self) -> Ready:
        """The duties since the last call."""
        ready, self._ready = self._ready, Ready()
        return ready

    def next_timer(self) -> int | None:
        """When `tick` is next needed, in ms; None: not before the next event. Perhaps too early, never too late."""
        timers = (
            self._proposal_due_ms(),
            self._suspension.next_timer(),
            self._held_back.next_timer(),
            self._catch_up.next_timer(),
            self._repeat_due_ms if self._own_recent else None,
        )
        return min((timer for timer in timers if timer is not None), default=None)

    def blocks_for(self, request: FetchBlocks | FetchLevels) -> list[Block]:
        """What we know of the request in memory, lowest level first, as much as fits into one answer.

        Empty for levels that were collected: the caller then looks into its store.
        """
        found: list[Block] = []
        if isinstance(request, FetchBlocks):
            known = (self.dag.get(reference) for reference in request.references)
            found = sorted((block for block in known if block is not None), key=lambda block: block.level)
        elif request.first > self.dag.gc_level:
            last = min(request.last, self.dag.highest_level, request.first + COMMIT_RANGE - 1)
            found = [block for level in range(request.first, last + 1) for block in self.dag.blocks_at(level)]
        room = ANSWER_BYTES
        answer = []
        for block in found:
            room -= len(block.raw) + 8
            if room < 0:
                break
            answer.append(block)
        return answer

    @property
    def committed_level(self) -> int:
        """The level of the last commit."""
        return self.last_commit.level

    @property
    def is_lagging(self) -> bool:
        """Whether we are far behind the others; we make no blocks then."""
        return self._catch_up.is_lagging(self.dag.highest_level)

    @property
    def is_busy(self) -> bool:
        """Whether there is something to commit: it sets the pace."""
        return bool(self._mempool) or self._with_payload > 0

    @property
    def highest_level(self) -> int:
        """The highest level of which we know a block."""
        return self.dag.highest_level

    # Blocks that come in

    def _take(self, block: Block, source: int, now_ms: int, *, fetched: bool = False) -> None:
        reference = block.reference
        known = reference in self.dag or reference in self._suspension or reference in self._held_back
        if known or block.level <= self.dag.gc_level:
            return
        if block.author == self.own and block.level > self.level:
            # We signed it and do not know it: our store is not the one we had. Nobody can say what else we signed.
            self.proposing = False
            self.level = block.level
        if block.header.timestamp_ms > now_ms + CLOCK_AHEAD_MS:
            self._held_back.hold(block, source)
            return
        wanted = self._suspension.is_wanted(reference)
        if block.level > self.dag.highest_level + LAG_LEVELS and not (wanted or fetched):
            self._catch_up.claim(block, source)
            return
        if not wanted and self._slot_is_full(block):
            return
        missing = self.dag.missing_parents(block)
        if missing:
            self._suspension.suspend(block, source, missing, now_ms, at_once=fetched)
        else:
            self._accept([(block, source)], now_ms)

    def _slot_is_full(self, block: Block) -> bool:
        return len(self.dag.slot(block.level, block.author)) >= UNREFERENCED_BLOCKS_PER_SLOT

    def _accept(self, blocks: Iterable[tuple[Block, int]], now_ms: int) -> None:
        """Add blocks whose parents are known, and then those that waited for them."""
        waiting = deque(blocks)
        while waiting:
            block, source = waiting.popleft()
            reference = block.reference
            # What another block links stands: its author could tell no better, having collected what we still have.
            if not self._suspension.is_wanted(reference):
                if self._slot_is_full(block):
                    continue
                if not self._is_later_than_parents(block):
                    if source == block.author:
                        fault = InvalidBlock("a parent has a later timestamp", level=block.level)
                        self._complain(source, fault)
                    continue
            self._insert(block, now_ms)
            self._ready.persist.append(block)
            waiting.extend(self._suspension.accepted(reference))

    def _is_later_than_parents(self, block: Block) -> bool:
        """Parents that were collected cannot be asked; they are more than `gc_depth_levels` older."""
        parents = (self.dag.get(parent) for parent in block.parents)
        return all(parent is None or parent.header.timestamp_ms <= block.header.timestamp_ms for parent in parents)

    def _insert(self, block: Block, now_ms: int) -> None:
        others = self.dag.slot(block.level, block.author)
        if others:
            self._note_equivocation(others[0], block)
        self.dag.add(block)
        newest = self._newest.get(block.author)
        if newest is None or newest.level < block.level:
            self._newest[block.author] = block
        self._clock.add(block.author, block.level, now_ms)
        # Votes and certificates of a level decide nothing before authors of quorum weight have blocks there.
        self._may_decide |= block.level < self._clock.level
        if block.payload:
            self._with_payload += block.reference not in self._linearised
            if block.author != self.own:
                self._mempool.seen_in_block(block.payload)

    def _note_equivocation(self, first: Block, second: Block) -> None:
        if second.author == self.own:
            self.proposing = False
        if sum(pair[0].author == first.author for pair in self.evidence) < EVIDENCE_PER_MEMBER:
            self.evidence.append((replace(first, payload=(), raw=b""), replace(second, payload=(), raw=b"")))
        self._complain(second.author, Equivocation(author=second.author, level=second.level))

    def _complain(self, peer: int, fault: PeerFault) -> None:
        if len(self._ready.complaints) < COMPLAINTS:
            self._ready.complaints.append((peer, fault))

    # What follows from an event

    def _advance(self, now_ms: int) -> None:
        for block, source in self._held_back.due(now_ms):
            self._take(block, source, now_ms)
        self._commit(now_ms)
        while self._propose(now_ms):
            self._commit(now_ms)
        self._ready.send.extend(self._suspension.requests(self._peers, now_ms))
        chunk = self._catch_up.request(self.dag.highest_level, self.dag.gc_level, list(self._peers), now_ms)
        if chunk is not None:
            self._ready.send.append(chunk)
        if self._own_recent and now_ms >= self._repeat_due_ms:
            self._repeat_due_ms = now_ms + REPEAT_MS
            self._ready.broadcast.append(self._own_recent[-1])

    def _commit(self, now_ms: int) -> None:
        """Output what is decided. Collecting may let suspended blocks go, which may decide more."""
        while self._may_decide and not self.ended:
            self._may_decide = False
            decisions = self._committer.decide(self.dag, self._decided_level)
            for level, slots in groupby(decisions, key=lambda decision: decision.level):
                if self._close_level(level, list(slots)):
                    break
            if decisions:
                self._accept(self._suspension.collect(self.dag.gc_level), now_ms)

    def _close_level(self, level: int, slots: list[Decision]) -> bool:
        """Output a decided level. True: what was decided about higher ones does not hold any more."""
        leaders = [slot.block for slot in slots if slot.block is not None]
        self.leaders_committed += len(leaders)
        self.leaders_skipped += sum(slot.status is SlotStatus.SKIP for slot in slots)
        self._decided_level = level
        if not leaders:
            return False
        blocks = linearise(self.dag, leaders, self._linearised, self.dag.gc_level, self._beacon)
        record = CommitRecord(
            era=self._era,
            height=self.last_commit.height + 1,
            level=level,
            previous=self._last_digest,
            leaders=tuple(leader.reference for leader in leaders),
            blocks=tuple(block.reference for block in blocks),
            time_ms=commit_time_ms(self.dag, leaders[0], self.committee, self.last_commit.time_ms),
        )
        self.last_commit = record
        self._last_digest = record.digest()
        self._ready.commits.append(Commit(record, self._last_digest, tuple(blocks)))
        self._linearised.add(record.blocks)
        for block in blocks:
            self._with_payload -= bool(block.payload)
            self._mempool.committed(block.payload)
        self._collect(level)
        if record.height == self._last_height:
            self.ended = True
            self._mempool.era_ended()
            return True
        return self._changes_table(record)

    def _changes_table(self, record: CommitRecord) -> bool:
        """Count a commit for the leader table. True: other members lead from the next level on, so decide anew."""
        weights = self._reputation.committed(record)
        if weights is None:
            return False
        self._schedule.use_weights(record.level + 1, weights)
        self._may_decide = True
        return True

    def _collect(self, level: int) -> None:
        """Drop what the next commit can no longer bring. A function of the commit alone, never of local time."""
        gc_level = max(0, level - self.parameters.gc_depth_levels)
        for block in self.dag.collect(gc_level):
            if block.payload and block.reference not in self._linearised:
                self._with_payload -= 1
                self._mempool.put_back(block.payload)
        self._linearised.collect(gc_level)

    # Our own blocks

    def _proposal_due_ms(self) -> int | None:
        """When our next block is due; None if none is possible now."""
        level = self._clock.level
        if not self.proposing or self.ended or self._heard is not None or level <= self.level or self.is_lagging:
            return None
        leads = self.own in self._schedule.leaders(level)
        due_ms = self._pacing.due_ms(level, self._clock.since_ms, busy=self.is_busy, leads=leads)
        due_ms = max(due_ms, self._quiet_until_ms)
        if level > 1 and any(self._is_awaited(leader, level - 1) for leader in self._schedule.leaders(level - 1)):
            due_ms = max(due_ms, self._clock.since_ms + self.parameters.leader_timeout_ms)
        return due_ms

    def _is_awaited(self, leader: int, level: int) -> bool:
        if self.dag.slot(level, leader) or leader == self.own:
            return False
        newest = self._newest.get(leader)
        return level - (newest.level if newest is not None else 0) <= ABSENT_LEVELS

    def _propose(self, now_ms: int) -> bool:
        """Make our block of the clock's level if it is due."""
        due_ms = self._proposal_due_ms()
        if due_ms is None or now_ms < due_ms or self.own is None or self._key is None:
            return False
        level = self._clock.level
        parents = self._parents(self.own, level)
        stamps = [block.header.timestamp_ms for block in map(self.dag.get, parents) if block is not None]
        if self._own_recent:
            stamps.append(self._own_recent[-1].header.timestamp_ms + 1)
        operations = min(BLOCK_OPERATIONS, self.proposal_operations)
        payload = self._mempool.take(BLOCK_PAYLOAD_BYTES, operations) if self.carrying else ()
        header = Header(
            chain_id=self._chain_id,
            era=self._era,
            author=self.own,
            level=level,
            parents=parents,
            timestamp_ms=max([now_ms, *stamps]),
            payload_root=merkle_root(payload),
            statements=tuple(self._statements),
        )
        self._statements.clear()
        self._pacing.proposed(level, self._clock.since_ms, now_ms, busy=self.is_busy or bool(payload))
        block = sign_block(header, payload, self._key)
        self.level = level
        self._own_recent.append(block)
        self._insert(block, now_ms)
        self._ready.persist.append(block)
        self._ready.own.append(block)
        self._ready.broadcast.append(block)
        self._repeat_due_ms = now_ms + REPEAT_MS
        return True

    def _parents(self, own: int, level: int) -> tuple[BlockReference, ...]:
        """Our previous block, every other author's of the level before, and late blocks that nobody has linked yet."""
        parents = [self._own_recent[-1].reference if self._own_recent else self.dag.genesis_references[own]]
        absent = []
        for author in range(len(self.committee)):
            if author == own:
                continue
            if level == 1:
                parents.append(self.dag.genesis_references[author])
            elif blocks := self.dag.slot(level - 1, author):
                parents.append(blocks[0].reference)
            else:
                absent.append(author)
        for author in absent:
            late = self._newest.get(author)
            if late is not None and late.level < level - 1 and self._is_unlinked(late.reference, parents):
                parents.append(late.reference)
        return tuple(parents)

    def _is_unlinked(self, reference: BlockReference, parents: Sequence[BlockReference]) -> bool:
        """Whether a block can still be committed and none of `parents` descends from it."""
        if reference.level <= self.dag.gc_level or reference in self._linearised:
            return False
        seen: set[BlockReference] = set()
        waiting = list(parents)
        while waiting:
            ancestor = waiting.pop()
            if ancestor == reference:
                return False
            block = self.dag.get(ancestor)
            if block is None or ancestor.level <= reference.level or ancestor in seen:
                continue
            seen.add(ancestor)
            waiting.extend(block.parents)
        return True

    # After a restart

    def _recover(self, recovered: Recovered, now_ms: int) -> None:
        """Take up where the store ends: the same DAG gives the same commits, and our own blocks keep their levels."""
        self.last_commit = recovered.last_commit
        for record in recovered.records:
            self._changes_table(record)
        if recovered.last_commit.level:
            self._last_digest = recovered.last_commit.digest()
        self._decided_level = recovered.last_commit.level
        gc_level = max(0, recovered.last_commit.level - self.parameters.gc_depth_levels)
        self.dag.collect(gc_level)
        self._linearised.add(reference for reference in recovered.linearised if reference.level > gc_level)
        for block in sorted(recovered.blocks, key=lambda block: block.reference):
            if block.author == self.own:
                self._own_recent.append(block)
            # A write that the crash cut off may have left a gap. What is above it is fetched again.
            if block.level > gc_level and block.reference not in self.dag and not self.dag.missing_parents(block):
                self._insert(block, now_ms)
                if block.author == self.own and block.reference not in self._linearised:
                    self._mempool.recovered(block.payload)
        own_levels = [block.level for block in self._own_recent]
        self.level = max([recovered.own_level or 0, *own_levels])
        # Hear first where the others are: a block for a level that they left long ago helps nobody.
        self._quiet_until_ms = now_ms + self.parameters.pacing_idle_ms
        if self.level or recovered.blocks:
            self._heard = {}
            self._hear(self.own)
        self._ready.complaints.clear()

    def _hear(self, source: int | None) -> None:
        """`source` has sent something. A restarted member signs nothing before a quorum has, itself included: what a
        peer sends first is our newest block that it knows, and a disk may have forgotten what it said was written."""
        if self._heard is not None and source is not None and source < len(self.committee):
            self._heard[source] = None
            if self.committee.weight_of(self._heard) >= self.committee.quorum:
                self._heard = None
