"""What a simulated run must keep to, watched from outside by one who sees all members at once.

Safety, at every moment and whatever fails:

- *agreement*: whatever height two honest members commit, they commit the same, with the same outcomes, state root and,
  at the end of an era, plan of the next; each commit follows the one before, across eras too, and belongs to the era
  that its height says;
- *no double signature*: an honest member never signs two blocks for one level of an era with one key, nor two different
  statements about one height, crashes or not;
- *validity*: no commit of an honest member contains a block that breaks a rule, or comes before or without a parent
  above the collection level, or is earlier than one;
- *time*: a commit is not later than honest clocks and the tolerance for blocks say;
- *certificates*, of checkpoints and of hand-overs, verify against the committee of their era, never conflict, and say
  what honest members computed;
- *evidence*: nobody honest is ever accused.

Liveness, once all has healed: every honest member passes what the foremost had reached, within `Options.liveness_ms`,
and goes on, over the end of an era if eras are short; the hand-over into every honest member's era is certified for it;
what an honest member has accepted, and what anyone has acknowledged, is committed everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from blockcloud.primitives.certificates import HANDOVER, Certificate, SignedStatement, Statement
from blockcloud.primitives.errors import BlockCloudError, PeerFault
from blockcloud.primitives.limits import CLOCK_AHEAD_MS
from blockcloud.simulation.clock import EPOCH_MS
from blockcloud.simulation.dag_builder import simulated_key
from blockcloud.simulation.faults import SKEW_MS
from blockcloud.simulation.options import PROGRESS_COMMITS, Options
from blockcloud.transaction_chain.block import Block, BlockReference
from blockcloud.transaction_chain.commit import Commit, EraStart
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.machine import Result

# How late the time of a commit may be against true time: a liar's block is as late as honest clocks let it pass, and
# honest blocks that have it as parent take its time.
COMMIT_AHEAD_MS = SKEW_MS + CLOCK_AHEAD_MS


class SafetyBroken(BlockCloudError):
    """Members disagree, an honest one signed twice, or something invalid was committed or certified."""

    code = "safety_broken"


class Judge:
    """Raises SafetyBroken at once; what liveness lacks, `complaint` says at the end."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._honest = frozenset(options.honest)
        genesis = options.genesis
        self._era_length = genesis.parameters.era_length
        self._start = EraStart.of_chain(genesis.chain_id(), genesis.time_ms)
        self.plans = {0: genesis.plan()}
        # Era -> the level of its last commit.
        self.era_levels: dict[int, int] = {}
        self.heights = [0] * options.nodes
        # Height -> (commit digest, state root, change digest, outcomes, next plan) of whoever got there first.
        self.agreed: dict[int, tuple[bytes, bytes | None, bytes, object, EraPlan | None]] = {}
        self.certificates: dict[tuple[str, int], Statement] = {}
        self.foremost_at_heal = 0
        # Why an honest member is not live at the time when it has to be; empty if all are.
        self.not_live = ""
        # Member -> the era it is in, since when, and the newest era whose hand-over it holds a certificate of.
        self._present: dict[int, tuple[EraPlan, int]] = {}
        self._certified_era: dict[int, int] = {}
        self._signed: dict[tuple[int, bytes, int], BlockReference] = {}
        self._stated: dict[tuple[bytes, str, int, int], Statement] = {}
        self._invalid: dict[bytes, str] = {}
        # Every committed block with its timestamp, and the level of the newest commit that is agreed.
        self._stamps_ms: dict[BlockReference, int] = {}
        self._agreed_level = 0
        # Payload -> (member that accepted it, when), until that member loses its memory.
        self._accepted: dict[bytes, tuple[int, int]] = {}
        self._acknowledged: dict[bytes, int] = {}
        self._committed: list[dict[bytes, None]] = [{} for _ in range(options.nodes)]

    # ---- safety

    def invalid(self, raw: bytes, rule: str) -> None:
        """A liar sends a block that breaks `rule`."""
        self._invalid[raw] = rule

    def signed(self, member: int, block: Block) -> None:
        """A member sends a block of its own."""
        if member not in self._honest:
            return
        era, level = block.header.era, block.level
        seat = self.plans[era].seats[block.author]
        if seat.node_key != simulated_key(member).public:
            raise SafetyBroken("an honest member signs for the seat of another", member=member, level=level)
        if self._signed.setdefault((era, seat.consensus_key, level), block.reference) != block.reference:
            raise SafetyBroken(
                "double signature: an honest member sent two blocks for one level", member=member, era=era, level=level
            )

    def stated(self, member: int, signed: SignedStatement) -> None:
        """A member has signed a statement."""
        statement = signed.statement
        if member not in self._honest:
            return
        place = (signed.signer, statement.kind, statement.era, statement.height)
        if self._stated.setdefault(place, statement) != statement:
            raise SafetyBroken(
                "double signature: an honest member made two statements about one height",
                member=member,
                kind=statement.kind,
                height=statement.height,
            )

    def committed(self, member: int, commit: Commit, result: Result, now_ms: int) -> None:
        """A member executed a commit: it must be what every other has, or will have, at that height."""
        if member not in self._honest:
            return
        self._check_place(member, commit)
        self.heights[member] = commit.height
        for block in commit.blocks:
            self._committed[member].update(dict.fromkeys(block.payload))
            self._acknowledged.update(dict.fromkeys(block.payload, now_ms))
            if (rule := self._invalid.get(block.raw)) is not None:
                raise SafetyBroken("an invalid block is committed", member=member, height=commit.height, rule=rule)
        one = (commit.digest, result.state_root, result.change_digest, result.outcomes, result.next_era)
        if commit.height not in self.agreed:
            self._check_order(commit)
        other = self.agreed.setdefault(commit.height, one)
        if one != other:
            what = "commits differ" if one[0] != other[0] else "states differ"
            raise SafetyBroken(what, member=member, height=commit.height, level=commit.record.level)
        if commit.record.time_ms > EPOCH_MS + now_ms + COMMIT_AHEAD_MS:
            raise SafetyBroken("a commit is later than honest clocks allow", member=member, height=commit.height)
        if (commit.height % self._era_length == 0) != (result.next_era is not None):
            raise SafetyBroken("an era ends elsewhere than at its last height", member=member, height=commit.height)
        if result.next_era is not None:
            self.plans[result.next_era.era] = result.next_era
            self.era_levels[commit.record.era] = commit.record.level

    def _check_place(self, member: int, commit: Commit) -> None:
        """A commit follows the one before and belongs to the era of its height."""
        record = commit.record
        # A disk may have lost the end of what was applied, and then it comes again; nobody leaves out a height.
        if record.height > self.heights[member] + 1:
            raise SafetyBroken("a height is left out", member=member, height=record.height)
        before = self.agreed.get(record.height - 1)
        expected = before[0] if before is not None else self._start.digest
        if record.previous != expected:
            raise SafetyBroken("a commit does not follow the one before", member=member, height=record.height)
        if record.era != (record.height - 1) // self._era_length:
            raise SafetyBroken("a commit is of another era than its height", member=member, height=record.height)

    def _check_order(self, commit: Commit) -> None:
        """Every parent of a block that is not collected yet comes before it and is not later."""
        if commit.height % self._era_length == 1:
            self._agreed_level = 0
        gc_level = self._agreed_level - self._options.parameters.gc_depth_levels
        for block in commit.blocks:
            stamp_ms = self._stamps_ms[block.reference] = block.header.timestamp_ms
            for parent in block.parents:
                if parent.level > max(0, gc_level) and self._stamps_ms.get(parent, stamp_ms + 1) > stamp_ms:
                    what = "is earlier than a parent" if parent in self._stamps_ms else "comes before a parent"
                    raise SafetyBroken(f"a committed block {what}", height=commit.height, level=block.level)
        self._agreed_level = commit.record.level

    def certified(self, member: int, certificate: Certificate) -> None:
        """An honest member collected a certificate."""
        statement = certificate.statement
        place = (statement.kind, statement.height)
        if self.certificates.get(place) != statement:
            self._check_certificate(member, certificate, place)
        if statement.kind == HANDOVER:
            self._certified_era[member] = statement.era + 1

    def _check_certificate(self, member: int, certificate: Certificate, place: tuple[str, int]) -> None:
        statement = certificate.statement
        plan = self.plans.get(statement.era)
        try:
            certificate.verify({} if plan is None else plan.committee().weights_by_key)
        except PeerFault as fault:
            raise SafetyBroken("a certificate does not verify", member=member, fault=str(fault)) from fault
        if place in self.certificates:
            raise SafetyBroken("certificates conflict", member=member, height=statement.height)
        self.certificates[place] = statement
        known = self.agreed.get(statement.height)
        digests = () if known is None else known[:2]
        if statement.kind == HANDOVER and known is not None:
            digests = (*digests, b"" if known[4] is None else known[4].digest())
        if statement.digests != digests:
            raise SafetyBroken("a certificate says what no honest member computed", height=statement.height)

    def accused(self, member: int, node_keys: Iterable[bytes]) -> None:
        """An honest member holds evidence of equivocation against these nodes."""
        honest = {simulated_key(one).public: one for one in self._honest}
        for key in node_keys:
            if key in honest:
                raise SafetyBroken("an honest member is accused of equivocation", by=member, author=honest[key])

    # ---- liveness

    def began(self, member: int, plan: EraPlan, now_ms: int, *, proposing: bool) -> None:
        """A member is in an era. Who has no seat in it gets nothing committed: what it accepted is its client's."""
        self._present[member] = (plan, now_ms)
        if not proposing:
            self.lost_memory(member)
        seats = [seat.node_key for seat in plan.seats]
        if member in self._honest and simulated_key(member).public in seats and not proposing:
            raise SafetyBroken("an honest member is not able to sign for its seat", member=member, era=plan.era)

    def accepted(self, member: int, payload: bytes, now_ms: int) -> None:
        """An honest member took a payload into its mempool."""
        self._accepted[payload] = (member, now_ms)

    def lost_memory(self, member: int) -> None:
        """A member crashed: what it accepted and nobody committed is its client's to submit again."""
        for payload in [payload for payload, (holder, _) in self._accepted.items() if holder == member]:
            del self._accepted[payload]

    def healed(self) -> None:
        """From here on nothing goes wrong."""
        self.foremost_at_heal = max(self.heights)

    def is_live(self) -> bool:
        """Whether every honest member has caught up since healing, and gone on."""
        return not self._behind()

    def check_live(self) -> None:
        """Every honest member must have caught up and gone on by now."""
        behind = self._behind()
        if behind:
            reached, needed = [self.heights[member] for member in behind], self.foremost_at_heal + PROGRESS_COMMITS
            self.not_live = f"members {behind} reached heights {reached}, needed {needed} after healing"

    def has_crossed(self) -> bool:
        """Where eras are short: whether every honest member is in an era that began after healing."""
        length = self._options.era_commits_after_healing
        if not length:
            return True
        boundary = -(-max(1, self.foremost_at_heal) // length) * length
        return all(self.heights[member] > boundary for member in self._options.honest)

    def uncertified(self, before_ms: int) -> str:
        """Who has been in its era since `before_ms` without the certificate of the hand-over into it, if anybody."""
        for member in self._options.honest:
            plan, since_ms = self._present.get(member, (self.plans[0], 0))
            if plan.era > self._certified_era.get(member, 0) and since_ms <= before_ms:
                return f"member {member} has no certificate of the hand-over into era {plan.era}"
        return ""

    def _behind(self) -> list[int]:
        needed = self.foremost_at_heal + PROGRESS_COMMITS
        return [member for member in self._options.honest if self.heights[member] < needed]

    def missing(self, before_ms: int) -> str:
        """What of that accepted or acknowledged until `before_ms` some honest member has not committed, if anything."""
        due = [payload for payload, since_ms in self._acknowledged.items() if since_ms <= before_ms]
        due += [payload for payload, (_, since_ms) in self._accepted.items() if since_ms <= before_ms]
        for member in self._options.honest:
            missing = [payload for payload in due if payload not in self._committed[member]]
            if missing:
                return f"member {member} never committed {len(missing)} payloads, first {missing[0][:32]!r}"
        return ""

    def complaint(self, end_ms: int, level: int) -> str:
        """What liveness lacks at the end, with the lowest level of an honest member; empty if nothing."""
        if self.not_live or self._behind():
            return self.not_live or f"members {self._behind()} are behind at the end"
        if level < self._options.levels:
            return f"an honest member is at level {level} of {self._options.levels} at the end"
        if not self.has_crossed():
            return "an honest member is in no era that began after healing"
        due_ms = end_ms - self._options.commit_within_ms
        return self.uncertified(due_ms) or self.missing(due_ms)
