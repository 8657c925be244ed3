"""The rules of staked resources once more, slow and obvious: the part of `era_model` about rounds of tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from blockcloud.service_chain.operations import ReportChallenges, StakeResources
from blockcloud.transaction_chain.cloudpos.sortition import draw_round
from blockcloud.transaction_chain.cloudpos.stake import StakeClaim
from blockcloud.transaction_chain.cloudpos.verdicts import Report, Verdict
from tests.service_chain.era_world import ERA_LENGTH
from tests.service_chain.resource_rounds import CHALLENGERS

HALF = Fraction(1, 2)
EQUAL = 1_000_000
STORAGE = 1


@dataclass
class Stake:
    """`found`: what is confirmed of compute, storage and data rate."""

    claim: StakeClaim
    address: str
    found: list[int] = field(default_factory=lambda: [0, 0, 0])

    def reclaim(self, claim: StakeClaim) -> None:
        self._cut(claim)
        self.claim = claim

    def judged(self, claim: StakeClaim, found: list[int]) -> None:
        """A round found this of `claim`, which may be an older one."""
        now, self.claim, self.found = self.claim, claim, found
        self.reclaim(now)

    def _cut(self, claim: StakeClaim) -> None:
        for dimension, most in enumerate(claim.resources.dimensions()):
            self.found[dimension] = min(self.found[dimension], most)
        if claim.plot_root != self.claim.plot_root:
            self.found[STORAGE] = 0


@dataclass
class Round:
    era: int
    first: int  # height of the era's first commit
    challengers: tuple[bytes, ...]
    claims: dict[bytes, StakeClaim]  # of the candidates, in ascending order
    drawn_ms: int
    reports: dict[bytes, Report] = field(default_factory=dict)


class Rounds:
    """Stakes, and one round in each era that has any."""

    def __init__(self, report_ms: int) -> None:
        self.report_ms = report_ms
        self.stakes: dict[bytes, Stake] = {}
        self.open: Round | None = None
        self.silent: set[bytes] = set()

    def begin_commit(
        self,
        height: int,
        time_ms: int,
        era: int,
        first: int,
        beacon: bytes,
        members: list[bytes],
        coming: list[bytes],
    ) -> None:
        """`members` sit in `era`, `coming` may sit in the next."""
        if height == first + ERA_LENGTH * 45 // 100:
            tested = sorted(key for key in set(members) | set(coming) if key in self.stakes)
            if tested:
                drawn = draw_round(
                    beacon=beacon,
                    era=era,
                    number=0,
                    height=height + 4,
                    members=tuple(members),
                    candidates=tuple(tested),
                    challengers=CHALLENGERS,
                )
                claims = {key: self.stakes[key].claim for key in tested}
                self.open = Round(era, first, drawn.challengers, claims, time_ms)
        if height == first + ERA_LENGTH * 85 // 100 and self.open is not None:
            self._settle(self.open)
            if time_ms >= self.open.drawn_ms + self.report_ms:
                self.silent = {key for key in self.open.challengers if key not in self.open.reports}
            self.open = None

    def stake(self, sender: bytes, operation: StakeResources) -> str:
        stake, claim = self.stakes.get(sender), operation.claim
        if not any(claim.resources.dimensions()):
            return "nothing_staked" if self.stakes.pop(sender, None) is None else "ok"
        if stake is None:
            if not operation.address:
                return "stake_address_missing"
            self.stakes[sender] = Stake(claim, operation.address)
            return "ok"
        stake.reclaim(claim)
        stake.address = operation.address or stake.address
        return "ok"

    def report(self, sender: bytes, operation: ReportChallenges, height: int) -> str:
        opened, report = self.open, operation.report
        if opened is None:
            return "no_open_round"
        if height < opened.first + ERA_LENGTH * 45 // 100 + 4:
            return "round_not_begun"
        if sender not in opened.challengers:
            return "not_a_challenger"
        if (report.era, report.round_number) != (opened.era, 0):
            return "report_of_another_round"
        if len(report.rows) != len(opened.claims):
            return "wrong_report_rows"
        if sender in opened.reports:
            return "reported_already"
        opened.reports[sender] = report
        return "ok"

    def _settle(self, opened: Round) -> None:
        for row, (candidate, claim) in enumerate(opened.claims.items()):
            stake = self.stakes.get(candidate)
            judges = [key for key in opened.challengers if key != candidate]
            if stake is None or not judges:
                continue
            found = []
            for dimension, amount in enumerate(claim.resources.dimensions()):
                said = [opened.reports[judge].rows[row][dimension] for judge in judges if judge in opened.reports]
                passed = said.count(Verdict.PASSED)
                if Fraction(passed, len(judges)) > HALF:
                    found.append(amount)
                elif Fraction(len(said) - passed, len(judges)) > HALF:
                    found.append(0)
                else:
                    found.append(min(amount, stake.found[dimension]))
            stake.judged(claim, found)

    def weights(self, keys: list[bytes]) -> list[int]:
        """The resource weights of a committee of these members."""
        found = [self.stakes[key].found if key in self.stakes else [0, 0, 0] for key in keys]
        used = [column for column in zip(*found, strict=True) if any(column)]
        if not used:
            return [EQUAL] * len(keys)
        rest = EQUAL - len(keys)
        exact = [
            sum((Fraction(column[member] * rest, sum(column) * len(used)) for column in used), Fraction(0))
            for member in range(len(keys))
        ]
        weights = [1 + int(share) for share in exact]
        while sum(weights) < EQUAL:
            gets = max(range(len(keys)), key=lambda member: (exact[member] - weights[member] + 1, -member))
            weights[gets] += 1
        return weights
