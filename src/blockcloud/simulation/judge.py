"""What a simulated run must keep to, watched from outside by one who sees all members at once.

Safety, at every moment and whatever fails:

- *agreement*: whatever height two honest members commit, they commit the same and have the same state root;
- *no double signature*: an honest member never sends two blocks for one level, crashes or not;
- *validity*: no commit of an honest member contains a block that breaks a rule, or comes before or without a parent
  above the collection level, or is earlier than one;
- *time*: a commit is not later than honest clocks and the tolerance for blocks say;
- *certificates* verify, never conflict, and say what honest members computed;
- *evidence*: nobody honest is ever accused.

Liveness, once all has healed: every honest member passes what the foremost had reached, within `Options.liveness_ms`,
and goes on; what an honest member has accepted, and what anyone has acknowledged, is committed everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from blockcloud.primitives.certificates import Certificate, Statement
from blockcloud.primitives.errors import BlockCloudError, PeerFault
from blockcloud.primitives.limits import CLOCK_AHEAD_MS
from blockcloud.simulation.clock import EPOCH_MS
from blockcloud.simulation.faults import SKEW_MS
from blockcloud.simulation.options import PROGRESS_COMMITS, Options
from blockcloud.transaction_chain.block import Block, BlockReference
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.machine import Result

# How late the time of a commit may be against true time: a liar's block is as late as honest clocks let it pass, and
# honest blocks that have it as parent take its time.
COMMIT_AHEAD_MS = SKEW_MS + CLOCK_AHEAD_MS


class SafetyBroken(BlockCloudError):
    """Members disagree, an honest one signed twice, or something invalid was committed or certified."""

    code = "safety_broken"


class Judge:
    """Raises SafetyBroken at once; what liveness lacks, `complaint` says at the end."""

    def __init__(self, options: Options, committee: Committee) -> None:
        self._options = options
        self._committee = committee
        self._honest = frozenset(options.honest)
        self.heights = [0] * options.members
        # Height -> (commit digest, state root, change digest) of whoever got there first.
        self.agreed: dict[int, tuple[bytes, bytes | None, bytes]] = {}
        self.certificates: dict[int, Statement] = {}
        self.foremost_at_heal = 0
        # Why an honest member is not live at the time when it has to be; empty if all are.
        self.not_live = ""
        self._signed: dict[tuple[int, int], BlockReference] = {}
        self._invalid: dict[bytes, str] = {}
        # Every committed block with its timestamp, and the level of the newest commit that is agreed.
        self._stamps_ms: dict[BlockReference, int] = {}
        self._agreed_level = 0
        # Payload -> (member that accepted it, when), until that member loses its memory.
        self._accepted: dict[bytes, tuple[int, int]] = {}
        self._acknowledged: dict[bytes, int] = {}
        self._committed: list[dict[bytes, None]] = [{} for _ in range(options.members)]

    # ---- safety

    def invalid(self, raw: bytes, rule: str) -> None:
        """A liar sends a block that breaks `rule`."""
        self._invalid[raw] = rule

    def signed(self, member: int, block: Block) -> None:
        """A member sends a block of its own."""
        first = self._signed.setdefault((member, block.level), block.reference)
        if first != block.reference and member in self._honest:
            raise SafetyBroken(
                "double signature: an honest member sent two blocks for one level", member=member, level=block.level
            )

    def committed(self, member: int, commit: Commit, result: Result, now_ms: int) -> None:
        """A member executed a commit: it must be what every other has, or will have, at that height."""
        if member not in self._honest:
            return
        self.heights[member] = commit.height
        for block in commit.blocks:
            self._committed[member].update(dict.fromkeys(block.payload))
            self._acknowledged.update(dict.fromkeys(block.payload, now_ms))
            if (rule := self._invalid.get(block.raw)) is not None:
                raise SafetyBroken("an invalid block is committed", member=member, height=commit.height, rule=rule)
        one = (commit.digest, result.state_root, result.change_digest)
        if commit.height not in self.agreed:
            self._check_order(commit)
        other = self.agreed.setdefault(commit.height, one)
        if one != other:
            what = "commits differ" if one[0] != other[0] else "states differ"
            raise SafetyBroken(what, member=member, height=commit.height, level=commit.record.level)
        if commit.record.time_ms > EPOCH_MS + now_ms + COMMIT_AHEAD_MS:
            raise SafetyBroken("a commit is later than honest clocks allow", member=member, height=commit.height)

    def _check_order(self, commit: Commit) -> None:
        """Every parent of a block that is not collected yet comes before it and is not later."""
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
        if self.certificates.get(statement.height) == statement:
            return
        try:
            certificate.verify(self._committee.weights_by_key)
        except PeerFault as fault:
            raise SafetyBroken("a certificate does not verify", member=member, fault=str(fault)) from fault
        if statement.height in self.certificates:
            raise SafetyBroken("certificates conflict", member=member, height=statement.height)
        self.certificates[statement.height] = statement
        if statement.digests != self.agreed.get(statement.height, ())[:2]:
            raise SafetyBroken("a certificate says what no honest member computed", height=statement.height)

    def accused(self, member: int, authors: Iterable[int]) -> None:
        """An honest member holds evidence of equivocation against `authors`."""
        for author in authors:
            if author in self._honest:
                raise SafetyBroken("an honest member is accused of equivocation", by=member, author=author)

    # ---- liveness

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
        return self.missing(end_ms - self._options.commit_within_ms)
