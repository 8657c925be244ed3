"""What the reports of the challengers count for (CloudPoS phase 2, DESIGN section 3.4).

A challenger reports a verdict for every candidate and dimension, whatever the candidate says of itself. A dimension is
confirmed when more than half of the challengers *drawn* for the candidate saw it pass, refused when more than half saw
it fail, and otherwise undecided: then what was confirmed before stays. Counting those drawn and not those heard means
that a few challengers cannot decide alone by making others miss their deadline. Who was drawn and does not report
forfeits. One lying challenger changes nothing by itself; a lying majority of those drawn can, which is why nothing but
leader draws and rewards rests on this ("evidence, not proof").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Annotated, TypeAlias

from msgspec import Meta

from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import PeerFault
from blockcloud.transaction_chain.cloudpos.sortition import CANDIDATES, ChallengeRound
from blockcloud.transaction_chain.cloudpos.stake import Resources

DIMENSIONS = 3


class BadReport(PeerFault):
    """A report of challenges that its sender may not make, or that does not fit the round."""

    code = "bad_report"


class Verdict(IntEnum):
    """What a challenger saw in one dimension."""

    PASSED = 0
    LATE = 1  # an answer, too slow
    WRONG = 2  # an answer that is not what was asked for
    FORGED = 3  # data that the commitment leads to and that no plot of this candidate contains
    SILENT = 4  # no answer


# In the order of `Resources.dimensions`.
Verdicts: TypeAlias = tuple[Verdict, Verdict, Verdict]


class Report(Struct, frozen=True):
    """One challenger's verdicts, a row for each candidate of the round in its order; its own row, if it is a candidate,
    is there and does not count. The transaction that carries it says who signed."""

    era: int
    round_number: int
    rows: Annotated[tuple[Verdicts, ...], Meta(max_length=CANDIDATES)]


class Outcome(Enum):
    """What a round says about one dimension of one candidate."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"
    UNDECIDED = "undecided"


Outcomes: TypeAlias = tuple[Outcome, Outcome, Outcome]


@dataclass(frozen=True, slots=True)
class Settlement:
    """The result of a round: outcomes by candidate in the order of the round, and the challengers that forfeit."""

    outcomes: Mapping[bytes, Outcomes]
    forfeits: tuple[bytes, ...]


def check_report(drawn: ChallengeRound, challenger: bytes, report: Report) -> None:
    """Raise BadReport unless `challenger` may send `report` about this round."""
    if challenger not in drawn.challengers:
        raise BadReport("the sender was not drawn", challenger=challenger.hex()[:16])
    if (report.era, report.round_number) != (drawn.era, drawn.number):
        raise BadReport("the report is about another round", era=report.era, round=report.round_number)
    if len(report.rows) != len(drawn.candidates):
        raise BadReport("a row for each candidate", rows=len(report.rows), candidates=len(drawn.candidates))


def settle(drawn: ChallengeRound, reports: Iterable[tuple[bytes, Report]]) -> Settlement:
    """The result of a round from (challenger, report) pairs in the order of the chain; a second one does not count.

    Raises BadReport: the caller checked each report when it came in.
    """
    heard: dict[bytes, Report] = {}
    for challenger, report in reports:
        check_report(drawn, challenger, report)
        heard.setdefault(challenger, report)
    outcomes = {
        candidate: _outcomes(
            judges := drawn.judges_of(candidate),
            [heard[judge].rows[number] for judge in judges if judge in heard],
        )
        for number, candidate in enumerate(drawn.candidates)
    }
    return Settlement(outcomes, tuple(challenger for challenger in drawn.challengers if challenger not in heard))


def _outcomes(judges: tuple[bytes, ...], rows: list[Verdicts]) -> Outcomes:
    compute, storage, data_rate = (
        _majority(len(judges), [row[dimension] for row in rows]) for dimension in range(DIMENSIONS)
    )
    return compute, storage, data_rate


def _majority(judges: int, verdicts: list[Verdict]) -> Outcome:
    passed = sum(verdict is Verdict.PASSED for verdict in verdicts)
    if 2 * passed > judges:
        return Outcome.CONFIRMED
    return Outcome.REFUSED if 2 * (len(verdicts) - passed) > judges else Outcome.UNDECIDED


def confirmed_stake(claimed: Resources, before: Resources, outcomes: Outcomes) -> Resources:
    """What of `claimed` counts now. An undecided dimension keeps what counted `before`, though not above the claim."""
    amounts = (
        {Outcome.CONFIRMED: claim, Outcome.REFUSED: 0, Outcome.UNDECIDED: min(claim, kept)}[outcome]
        for claim, kept, outcome in zip(claimed.dimensions(), before.dimensions(), outcomes, strict=True)
    )
    return Resources(*amounts)
