"""A member that lies: the production core as an observer, and a builder of whatever blocks would hurt.

The core follows the others and answers them; the blocks are made here, by the rules where a rule is not what the lie is
about, since what is invalid is refused at once and hurts nobody. The lies are those of `faults.Lie`, and a liar uses
some of its own at each level. All randomness is the world's, so a run repeats.
"""

from __future__ import annotations

from functools import partial

import msgspec

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, DOMAIN, SignedStatement
from blockcloud.primitives.certificates import Statement as Claim
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import BLOCK_STATEMENTS, CLOCK_AHEAD_MS
from blockcloud.primitives.merkle import merkle_root
from blockcloud.simulation.clock import SimulatedClock
from blockcloud.simulation.faults import Lie
from blockcloud.simulation.invalid_blocks import invalid_versions
from blockcloud.simulation.keys import LyingKeys
from blockcloud.simulation.simulated_node import Setting, SimulatedNode, World
from blockcloud.transaction_chain.block import Block, BlockReference, Header, sign_block
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.core import Core
from blockcloud.transaction_chain.era import EraPlan
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
    """`lies` is what it does. It makes its blocks as soon as a level is possible.

    A committee bears liars of less than a third of its weight. In an era in which there would be more, because honest
    members fell out, some of them are honest (`World.may_lie`): the core has the key then, and makes the blocks.
    """

    keys_of = LyingKeys

    def __init__(
        self, member: int, setting: Setting, world: World, clock: SimulatedClock, lies: frozenset[Lie]
    ) -> None:
        super().__init__(member, setting, world, clock, lies)
        # The lies of the present era, and the key of its seat; no key: it is not a member, or an honest one.
        self._lies = lies
        self._key: SigningKey | None = None
        self._honest_now = False
        # Its own newest blocks: several after an equivocation.
        self._tips: list[Block] = []
        self._level = 0
        self._statements: list[Statement] = []

    # ---- around the core

    def start(self, now_ms: int) -> None:
        super().start(now_ms)
        self.act(now_ms)

    def _prepare(self, plan: EraPlan) -> None:
        super()._prepare(plan)
        assert isinstance(self.keys, LyingKeys)
        plans = (plan, self.chain.plan_of(plan.era - 1) if plan.era else None)
        self._honest_now = not self.world.may_lie(self.member, plan)
        # Who may not lie about the end of an era says the truth about it, and again, also if it lies in the next.
        self.keys.honest = tuple(
            seat.consensus_key
            for one in plans
            if one is not None and not self.world.may_lie(self.member, one)
            for seat in one.seats
        )

    def _entered(self) -> None:
        super()._entered()
        era, old = self.era, self._key
        assert isinstance(self.keys, LyingKeys)
        self._lies = frozenset() if self._honest_now else self.lies
        has_seat = era.own is not None and not self._honest_now
        self._key = self.keys.held(era.plan.seats[era.own or 0].consensus_key) if has_seat else None
        self._tips, self._level, self._statements = [], 0, []
        if era.arrival is not None and not self._honest_now:
            self._hand_over(era.arrival.statement)
            if Lie.INVALID in self._lies and old is not None and old is not self._key:
                self._usurp(era.plan, old)

    @property
    def takes_payloads(self) -> bool:
        return self._key is not None or super().takes_payloads

    def receive(self, source: int, data: bytes, now_ms: int) -> None:
        super().receive(source, data, now_ms)
        self.act(now_ms)

    def answer(self, source: int, request: FetchBlocks | FetchLevels) -> None:
        if Lie.WITHHOLD not in self._lies or self._chance(60):
            super().answer(source, request)

    # ---- statements

    def at_checkpoint(self, commit: Commit, root: bytes) -> None:
        """Say the truth, a lie that all liars share, or both to different members."""
        if self._key is None:
            super().at_checkpoint(commit, root)
            return
        digests = (commit.digest, root)
        claim = Claim(CHECKPOINT, self.chain.chain_id, self.era.plan.era, commit.height, digests)
        said = self._claims(claim, self._key)
        self._statements.append(self.world.random.choice(said))
        if len(said) > 1:
            for target in self.others():
                self.world.send(self.member, target, encode_message(self.world.random.choice(said)))
            self._forge(said[1].signed, self.era.committee.weights_by_key)

    def _hand_over(self, truth: Claim) -> None:
        """The end of an era: the same, and as an old member if it was one."""
        old = self.chain.plan_of(truth.era)
        assert old is not None, "plans are never removed"
        own = next((seat for seat in old.seats if seat.node_key == self.folder.node_key.public), None)
        may_lie = own is not None and self.world.may_lie(self.member, old)
        key = self.keys.held(own.consensus_key) if own is not None and may_lie else None
        if key is None or (Lie.WITHHOLD in self._lies and self._chance(50)):
            return
        said = self._claims(truth, key)
        for target in self.others():
            self.world.send(self.member, target, encode_message(self.world.random.choice(said)))
        if len(said) > 1:
            self._forge(said[1].signed, {seat.consensus_key: seat.bond for seat in old.seats})

    def _claims(self, truth: Claim, key: SigningKey) -> list[Statement]:
        """`truth`, signed; for a liar about states also the truth with each of its digests wrong."""
        claims = [truth]
        for place, digest in enumerate(truth.digests if Lie.ROOT in self._lies else ()):
            digests = list(truth.digests)
            digests[place] = tagged_hash("simulation/v1", b"wrong" + digest)
            claims.append(msgspec.structs.replace(truth, digests=tuple(digests)))
        return [
            Statement(SignedStatement(claim, key.public, key.sign(DOMAIN, codec.encode(claim)))) for claim in claims
        ]

    def _forge(self, lie: SignedStatement, names: dict[bytes, int]) -> None:
        """Tell one member the same lie in everybody's name: it would be a certificate if signatures did not count."""
        if not self._chance(50):
            return
        target = self.world.random.choice(self.others())
        for name in names:
            forged = Statement(msgspec.structs.replace(lie, signer=name))
            self.world.send(self.member, target, encode_message(forged))

    def _usurp(self, plan: EraPlan, old: SigningKey) -> None:
        """A first block of the new era for each seat, signed with the key of the era before."""
        genesis = self.era.core.dag.genesis_references
        for author in range(len(plan.seats)):
            parents = (genesis[author], *(genesis[other] for other in range(len(plan.seats)) if other != author))
            clock_ms = self.clock.read(self._now_ms)
            header = Header(self.chain.chain_id, plan.era, author, 1, parents, clock_ms, merkle_root(()))
            block = sign_block(header, (), old)
            self.world.invalid(self.member, block.raw, "signed with the key of an era that is over")
            for target in self.others():
                self.world.send(self.member, target, encode_message(BlockMessage(block.raw)))

    # ---- its blocks

    def act(self, now_ms: int) -> None:
        """Make blocks for the newest possible level, once."""
        core = self.core
        if core is None or self._key is None or self.is_paused:
            return
        level = self._possible_level(core)
        if level <= self._level or core.is_lagging:
            return
        self._level = level
        clock_ms = self.clock.read(now_ms)
        several = Lie.EQUIVOCATE in self._lies and self._chance(60)
        count = self.world.random.randint(2, BLOCKS_A_LEVEL_AT_MOST) if several else 1
        blocks = [block for fork in range(count) if (block := self._build(core, level, clock_ms, fork)) is not None]
        self._statements.clear()
        # What the others must refuse never becomes a tip.
        for block in blocks:
            if not self._is_refused(block.payload):
                core.receive_block(block, self.era.own or 0, clock_ms)
        accepted = [block for block in blocks if block.reference in core.dag]
        self._tips = accepted or self._tips
        self._show(blocks)
        self.tick(now_ms)

    def _possible_level(self, core: Core) -> int:
        """One above the highest level with blocks of a quorum."""
        committee = self.era.committee
        for level in range(core.dag.highest_level, self._level, -1):
            if committee.weight_of(core.dag.authors_at(level)) >= committee.quorum:
                return level + 1
        return 1 if self._level == 0 else self._level

    def _build(self, core: Core, level: int, clock_ms: int, fork: int) -> Block | None:
        """A block of `level`, as the lies say; None if none is possible. Those of one level differ in time at least."""
        own, key = self.era.own, self._key
        if own is None or key is None:
            return None
        few = (Lie.PARENTS in self._lies or fork > 0) and self._chance(70)
        parents = self._parents(core, own, level, few=few)
        if parents is None:
            return None
        stamps = [block.header.timestamp_ms for block in map(core.dag.get, parents) if block is not None]
        timestamp_ms = self._timestamp(stamps, clock_ms, fork)
        payload = self._payload(core)
        header = Header(
            chain_id=self.chain.chain_id,
            era=self.era.plan.era,
            author=own,
            level=level,
            parents=parents,
            timestamp_ms=timestamp_ms,
            payload_root=merkle_root(payload),
            statements=tuple(statement.signed for statement in self._statements[-BLOCK_STATEMENTS:]),
        )
        block = sign_block(header, payload, key)
        if self._is_refused(payload):
            self.world.invalid(self.member, block.raw, "payload that the machine refuses")
        return block

    def _parents(self, core: Core, member: int, level: int, *, few: bool) -> tuple[BlockReference, ...] | None:
        """Own tip first. `few`: a quorum at random and no more, of equivocators any block, and stale ones beside it."""
        random, dag = self.world.random, core.dag
        others = [author for author in range(len(self.era.committee)) if author != member]
        if level == 1:
            return (dag.genesis_references[member], *(dag.genesis_references[author] for author in others))
        tips = [tip.reference for tip in self._tips if tip.level < level and tip.reference in dag]
        if not tips:
            # Its chain fell below what is kept: the last reference is still a valid parent, for nobody looks it up.
            tips = [tip.reference for tip in self._tips if tip.level <= dag.gc_level]
            tips = tips or ([dag.genesis_references[member]] if not self._tips else [])
        if not tips:
            return None
        own = random.choice(tips)
        votes = {own.author: own} if own.level == level - 1 else {}
        rest: list[int] = []
        weight = self.era.committee.weight_of(votes)
        for author in random.sample(others, len(others)) if few else others:
            slot = dag.slot(level - 1, author)
            if not slot or (few and weight >= self.era.committee.quorum):
                rest.append(author)
                continue
            votes[author] = (random.choice(slot) if few else slot[0]).reference
            weight += self.era.committee.weights[author]
        if weight < self.era.committee.quorum:
            return None
        stale = [self._stale(core, author, level) for author in rest] if few else []
        voters = [reference for author, reference in sorted(votes.items()) if author != member]
        return (own, *voters, *[reference for reference in stale if reference is not None])

    def _stale(self, core: Core, author: int, level: int) -> BlockReference | None:
        """An old block of `author`, or none."""
        old = self.world.random.randint(max(1, level - STALE_LEVELS), level)
        slot = core.dag.slot(old, author)
        return slot[-1].reference if slot and old < level - 1 else None

    def _timestamp(self, stamps: list[int], clock_ms: int, fork: int) -> int:
        """The timestamp beside those of the parents; earlier than one of them is against the rules."""
        latest = max(stamps, default=0)
        if Lie.TIME not in self._lies or self._chance(20):
            return max(latest, clock_ms) + fork
        kind = self.world.random.choice(("least", "most", "far", "early"))
        if kind == "early" and latest > 0:
            return latest - self.world.random.choice((1, latest))
        ahead = {"most": CLOCK_AHEAD_MS - 50, "far": 10 * CLOCK_AHEAD_MS}.get(kind, -clock_ms)
        return max(latest, clock_ms + ahead) + fork

    def _payload(self, core: Core) -> tuple[bytes, ...]:
        """Some of its own, sometimes what another's block carries already, sometimes what is refused."""
        taken = self.mempool.take(1_000, PAYLOADS_A_BLOCK)
        if Lie.PAYLOAD in self._lies and self._chance(40):
            return (*taken, self.world.random.choice(self.setting.refused))
        if self._lies and self._chance(20):
            newest = core.dag.blocks_at(core.dag.highest_level)
            copied = newest[0].payload[:PAYLOADS_A_BLOCK] if newest else ()
            return (*taken, *(payload for payload in copied if payload not in taken))
        return taken

    def _show(self, blocks: list[Block]) -> None:
        """Each member gets one of `blocks`; if withheld, some get nothing, or late; liars also send garbage."""
        random = self.world.random
        if not blocks:
            return
        messages = [encode_message(BlockMessage(block.raw)) for block in blocks]
        garbage = self._garbage(blocks[0])
        for target in self.others():
            send = partial(self.world.send, self.member, target, random.choice(messages))
            if garbage and self._chance(70):
                self.world.send(self.member, target, random.choice(garbage))
            if Lie.WITHHOLD not in self._lies or self._chance(50):
                send()
            elif self._chance(50):
                self.world.later(random.randint(1, LATE_AT_MOST_MS), send)

    def _garbage(self, block: Block) -> list[bytes]:
        if self._key is None or Lie.INVALID not in self._lies or self._chance(60):
            return []
        messages = []
        for rule, raw in invalid_versions(block, self.era.committee, self._key):
            self.world.invalid(self.member, raw, rule)
            messages.append(encode_message(BlockMessage(raw)))
        return messages

    def _is_refused(self, payload: tuple[bytes, ...]) -> bool:
        return any(item in self.setting.refused for item in payload)

    def _chance(self, percent: int) -> bool:
        return self.world.random.randrange(100) < percent
