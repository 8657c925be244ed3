"""A member that lies: the production core as an observer, and a builder of whatever blocks would hurt.

The core follows the others and answers them; the blocks are made here, by the rules where a rule is not what the lie is
about, since what is invalid is refused at once and hurts nobody. The lies are those of `faults.Lie`, and a liar uses
some of its own at each level. All randomness is the world's, so a run repeats.
"""

from __future__ import annotations

from functools import partial

import msgspec

from blockcloud.primitives.certificates import SignedStatement
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.limits import BLOCK_STATEMENTS, CLOCK_AHEAD_MS
from blockcloud.primitives.merkle import merkle_root
from blockcloud.simulation.clock import SimulatedClock
from blockcloud.simulation.dag_builder import CHAIN_ID, simulated_key
from blockcloud.simulation.faults import Lie
from blockcloud.simulation.hash_machine import REFUSED_PAYLOAD
from blockcloud.simulation.invalid_blocks import invalid_versions
from blockcloud.simulation.simulated_node import Setting, SimulatedNode, World
from blockcloud.transaction_chain.block import Block, BlockReference, Header, sign_block
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.core import Core
from blockcloud.transaction_chain.messages import (
    BlockMessage,
    FetchBlocks,
    FetchLevels,
    Statement,
    encode_message,
)

BLOCKS_A_LEVEL_AT_MOST = 3
PAYLOADS_A_BLOCK = 5
LATE_AT_MOST_MS = 1_500
# How far below the current level the tips that a liar builds on, and the stale parents it takes, may be.
STALE_LEVELS = 6


class Liar(SimulatedNode):
    """`lies` is what it does. It makes its blocks as soon as a level is possible."""

    def __init__(
        self, member: int, setting: Setting, world: World, clock: SimulatedClock, lies: frozenset[Lie]
    ) -> None:
        super().__init__(member, setting, world, clock)
        self.lies = lies
        # Its own newest blocks: several after an equivocation.
        self._tips: list[Block] = []
        self._level = 0
        self._statements: list[Statement] = []

    # ---- around the core

    def start(self, now_ms: int) -> None:
        super().start(now_ms)
        self.act(now_ms)

    def make_core(self, clock_ms: int, *, as_observer: bool = False) -> Core:
        return super().make_core(clock_ms, as_observer=True)

    def receive(self, source: int, data: bytes, now_ms: int) -> None:
        super().receive(source, data, now_ms)
        self.act(now_ms)

    def answer(self, core: Core, source: int, request: FetchBlocks | FetchLevels) -> None:
        if Lie.WITHHOLD not in self.lies or self._chance(60):
            super().answer(core, source, request)

    def at_checkpoint(self, commit: Commit, root: bytes) -> None:
        """Say the truth, a lie that all liars share, or both to different members."""
        truth = Statement(self.sign(commit.height, commit.digest, root))
        if Lie.ROOT not in self.lies:
            self._statements.append(truth)
            return
        wrong_root = tagged_hash("simulation/v1", b"wrong" + root)
        wrong_commit = tagged_hash("simulation/v1", b"wrong" + commit.digest)
        lies = [
            Statement(self.sign(commit.height, commit.digest, wrong_root)),
            Statement(self.sign(commit.height, wrong_commit, root)),
            truth,
        ]
        self._statements.append(self.world.random.choice(lies))
        for target in self._others():
            self.world.send(self.member, target, encode_message(self.world.random.choice(lies)))
        self._forge(lies[0].signed)

    def _forge(self, lie: SignedStatement) -> None:
        """Tell one member the same lie in everybody's name: it would be a certificate if signatures did not count."""
        if not self._chance(50):
            return
        target = self.world.random.choice(self._others())
        for named in self.setting.committee.members:
            forged = Statement(msgspec.structs.replace(lie, signer=named.key))
            self.world.send(self.member, target, encode_message(forged))

    # ---- its blocks

    def act(self, now_ms: int) -> None:
        """Make blocks for the newest possible level, once."""
        core = self.core
        if core is None or self.is_paused:
            return
        level = self._possible_level(core)
        if level <= self._level or core.is_lagging:
            return
        self._level = level
        clock_ms = self.clock.read(now_ms)
        several = Lie.EQUIVOCATE in self.lies and self._chance(60)
        count = self.world.random.randint(2, BLOCKS_A_LEVEL_AT_MOST) if several else 1
        blocks = [block for fork in range(count) if (block := self._build(core, level, clock_ms, fork)) is not None]
        self._statements.clear()
        # What the others must refuse never becomes a tip.
        for block in blocks:
            if REFUSED_PAYLOAD not in block.payload:
                core.receive_block(block, self.member, clock_ms)
        accepted = [block for block in blocks if block.reference in core.dag]
        self._tips = accepted or self._tips
        self._send(blocks)
        self.tick(now_ms)

    def _possible_level(self, core: Core) -> int:
        """One above the highest level with blocks of a quorum."""
        committee = self.setting.committee
        for level in range(core.dag.highest_level, self._level, -1):
            if committee.weight_of(core.dag.authors_at(level)) >= committee.quorum:
                return level + 1
        return 1 if self._level == 0 else self._level

    def _build(self, core: Core, level: int, clock_ms: int, fork: int) -> Block | None:
        """A block of `level`, as the lies say; None if none is possible. Those of one level differ in time at least."""
        few = (Lie.PARENTS in self.lies or fork > 0) and self._chance(70)
        parents = self._parents(core, level, few=few)
        if parents is None:
            return None
        stamps = [block.header.timestamp_ms for block in map(core.dag.get, parents) if block is not None]
        timestamp_ms = self._timestamp(stamps, clock_ms, fork)
        payload = self._payload(core)
        header = Header(
            chain_id=CHAIN_ID,
            era=0,
            author=self.member,
            level=level,
            parents=parents,
            timestamp_ms=timestamp_ms,
            payload_root=merkle_root(payload),
            statements=tuple(statement.signed for statement in self._statements[-BLOCK_STATEMENTS:]),
        )
        block = sign_block(header, payload, simulated_key(self.member))
        if REFUSED_PAYLOAD in payload:
            self.world.invalid(self.member, block.raw, "payload that the machine refuses")
        return block

    def _parents(self, core: Core, level: int, *, few: bool) -> tuple[BlockReference, ...] | None:
        """Own tip first. `few`: a quorum at random and no more, of equivocators any block, and stale ones beside it."""
        random, dag = self.world.random, core.dag
        if level == 1:
            others = [dag.genesis_references[author] for author in self._others()]
            return (dag.genesis_references[self.member], *others)
        tips = [tip.reference for tip in self._tips if tip.level < level and tip.reference in dag]
        if not tips:
            # Its chain fell below what is kept: the last reference is still a valid parent, for nobody looks it up.
            tips = [tip.reference for tip in self._tips if tip.level <= dag.gc_level]
            tips = tips or ([dag.genesis_references[self.member]] if not self._tips else [])
        if not tips:
            return None
        own = random.choice(tips)
        votes = {own.author: own} if own.level == level - 1 else {}
        rest: list[int] = []
        weight = self.setting.committee.weight_of(votes)
        for author in random.sample(self._others(), len(self._others())) if few else self._others():
            slot = dag.slot(level - 1, author)
            if not slot or (few and weight >= self.setting.committee.quorum):
                rest.append(author)
                continue
            votes[author] = (random.choice(slot) if few else slot[0]).reference
            weight += self.setting.committee.weights[author]
        if weight < self.setting.committee.quorum:
            return None
        stale = [self._stale(core, author, level) for author in rest] if few else []
        voters = [reference for author, reference in sorted(votes.items()) if author != self.member]
        return (own, *voters, *[reference for reference in stale if reference is not None])

    def _stale(self, core: Core, author: int, level: int) -> BlockReference | None:
        """An old block of `author`, or none."""
        old = self.world.random.randint(max(1, level - STALE_LEVELS), level)
        slot = core.dag.slot(old, author)
        return slot[-1].reference if slot and old < level - 1 else None

    def _timestamp(self, stamps: list[int], clock_ms: int, fork: int) -> int:
        """The timestamp beside those of the parents; earlier than one of them is against the rules."""
        latest = max(stamps, default=0)
        if Lie.TIME not in self.lies or self._chance(20):
            return max(latest, clock_ms) + fork
        kind = self.world.random.choice(("least", "most", "far", "early"))
        if kind == "early" and latest > 0:
            return latest - self.world.random.choice((1, latest))
        ahead = {"most": CLOCK_AHEAD_MS - 50, "far": 10 * CLOCK_AHEAD_MS}.get(kind, -clock_ms)
        return max(latest, clock_ms + ahead) + fork

    def _payload(self, core: Core) -> tuple[bytes, ...]:
        """Some of its own, sometimes what another's block carries already, sometimes what is refused."""
        taken = self.mempool.take(1_000, PAYLOADS_A_BLOCK)
        if Lie.PAYLOAD in self.lies and self._chance(40):
            return (*taken, REFUSED_PAYLOAD)
        if self.lies and self._chance(20):
            newest = core.dag.blocks_at(core.dag.highest_level)
            copied = newest[0].payload[:PAYLOADS_A_BLOCK] if newest else ()
            return (*taken, *(payload for payload in copied if payload not in taken))
        return taken

    def _send(self, blocks: list[Block]) -> None:
        """Each member gets one of `blocks`; if withheld, some get nothing, or late; liars also send garbage."""
        random = self.world.random
        if not blocks:
            return
        messages = [encode_message(BlockMessage(block.raw)) for block in blocks]
        garbage = self._garbage(blocks[0])
        for target in self._others():
            send = partial(self.world.send, self.member, target, random.choice(messages))
            if garbage and self._chance(70):
                self.world.send(self.member, target, random.choice(garbage))
            if Lie.WITHHOLD not in self.lies or self._chance(50):
                send()
            elif self._chance(50):
                self.world.later(random.randint(1, LATE_AT_MOST_MS), send)

    def _garbage(self, block: Block) -> list[bytes]:
        if Lie.INVALID not in self.lies or self._chance(60):
            return []
        messages = []
        for rule, raw in invalid_versions(block, self.setting.committee, simulated_key(self.member)):
            self.world.invalid(self.member, raw, rule)
            messages.append(encode_message(BlockMessage(raw)))
        return messages

    def _others(self) -> list[int]:
        return [member for member in range(len(self.setting.committee)) if member != self.member]

    def _chance(self, percent: int) -> bool:
        return self.world.random.randrange(100) < percent
