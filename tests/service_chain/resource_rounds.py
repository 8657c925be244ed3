"""A ledger in memory whose candidates put up resources and test each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.operations import ReportChallenges, StakeResources
from blockcloud.service_chain.records import OpenRound, SilentChallengers, StakeRecord
from blockcloud.service_chain.resources import open_round, reported
from blockcloud.service_chain.state_keys import SILENT_CHALLENGERS_KEY
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.cloudpos.stake import Resources, StakeClaim
from blockcloud.transaction_chain.cloudpos.verdicts import Report, Verdict, Verdicts
from tests.service_chain.era_world import ERA_LENGTH, NODES, EraLedger, era_genesis

# Places in an era of the commits before which something changes: the draw, the first report, the settlement.
DRAW, START, SETTLE = 9, 13, 17
CHALLENGERS = 3
CHALLENGES = ChallengeParameters(challengers=CHALLENGERS, report_ms=0)
PLACE = "127.0.0.1:8702"
PASSED, LATE, SILENT = Verdict.PASSED, Verdict.LATE, Verdict.SILENT
ALL_PASSED: Verdicts = (PASSED, PASSED, PASSED)
ALL_SILENT: Verdicts = (SILENT, SILENT, SILENT)
BY_KEY = {node.public: number for number, node in enumerate(NODES)}
Amounts: TypeAlias = tuple[int, int, int]

assert ERA_LENGTH * CHALLENGES.draw_percent // 100 == DRAW
assert ERA_LENGTH * CHALLENGES.settle_percent // 100 == SETTLE
assert DRAW + CHALLENGES.lead_commits == START


def round_genesis(challengers: int = CHALLENGERS, **changes: object) -> Genesis:
    return replace(era_genesis(), challenges=replace(CHALLENGES, challengers=challengers), **changes)


def claim(amounts: Amounts, plot: int = 1, lanes: int = 1) -> StakeClaim:
    return StakeClaim(Resources(*amounts), lanes, bytes([plot]) * 32)


class RoundLedger(EraLedger):
    """Members are numbers of NODES."""

    def __init__(self, genesis: Genesis | None = None) -> None:
        super().__init__(genesis or round_genesis())

    def stake(self, node: int, amounts: Amounts, plot: int = 1, address: str = PLACE) -> str:
        return self.do(node, StakeResources(claim(amounts, plot), address))

    def staked(self, node: int) -> StakeRecord:
        record = self.chain.stake(NODES[node].public)
        assert record is not None
        return record

    def confirmed(self, node: int) -> Amounts:
        return self.staked(node).confirmed.dimensions()

    def opened(self) -> OpenRound:
        opened = open_round(self.chain.get)
        assert opened is not None
        return opened

    def drawn(self) -> list[int]:
        """The challengers of the open round."""
        return [BY_KEY[key] for key in self.opened().challengers]

    def tested(self) -> list[int]:
        """The candidates of the open round."""
        return [BY_KEY[key] for key in self.opened().candidates]

    def report(self, node: int, verdicts: dict[int, Verdicts] | Verdicts, **changes: int) -> str:
        """Report these verdicts, by candidate (default: passed) or for all; the code."""
        rows: Sequence[Verdicts]
        if isinstance(verdicts, dict):
            rows = [verdicts.get(candidate, ALL_PASSED) for candidate in self.tested()]
        else:
            rows = [verdicts] * len(self.opened().candidates)
        report = replace(Report(self.opened().era, 0, tuple(rows)), **changes)
        return self.do(node, ReportChallenges(report))

    def has_reported(self, node: int) -> bool:
        return reported(self.chain.get, NODES[node].public)

    def silent(self) -> list[int]:
        """Who forfeits at the end of this era."""
        value = self.chain.get(SILENT_CHALLENGERS_KEY)
        if value is None:
            return []
        return [BY_KEY[key] for key in codec.decode(value, SilentChallengers, limit=2**16).node_keys]

    def run_round(self, verdicts: dict[int, Verdicts] | Verdicts = ALL_PASSED) -> None:
        """From before the draw to the settlement, with all challengers of one opinion."""
        self.at(START)
        for challenger in self.drawn():
            assert self.report(challenger, verdicts) == "ok"
        self.at(SETTLE + 1)

    def weights(self) -> dict[int, int]:
        """The resource weight of each member."""
        return {BY_KEY[seat.node_key]: seat.resource_weight for seat in self.plan.seats}
