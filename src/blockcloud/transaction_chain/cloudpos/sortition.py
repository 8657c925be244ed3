"""Who tests whom, and when (CloudPoS phase 2, DESIGN section 3.4).

The beacon draws the challengers of a round from the members, all alike: a report is a vote about others, and the
resources a member has do not make its word better. Every challenger tests every candidate (but itself), and all of
them begin at one and the same height, so that one machine cannot answer for many candidates in turn: the tests of
compute and data rate take as much as was staked, for the same second.

The draw is a function of beacon, era and round, so everybody can check who was to report. It is known when the beacon
is; what is asked is not, because each challenger adds randomness of its own to its questions.
"""

from __future__ import annotations

from dataclasses import dataclass

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.limits import COMMITTEE_MEMBERS

CHALLENGERS_DOMAIN = "challengers/v1"
# Who may stand for the next committee and is tested: more than it can have, or newcomers could not displace anybody.
CANDIDATES = 4 * COMMITTEE_MEMBERS


@dataclass(frozen=True, slots=True)
class ChallengeRound:
    """One round of tests, which begins for all candidates with the commit at `height`. Node keys, each once."""

    era: int
    number: int
    height: int
    challengers: tuple[bytes, ...]
    candidates: tuple[bytes, ...]

    def judges_of(self, candidate: bytes) -> tuple[bytes, ...]:
        """The challengers that test `candidate`: all but itself."""
        return tuple(challenger for challenger in self.challengers if challenger != candidate)

    def candidates_of(self, challenger: bytes) -> tuple[bytes, ...]:
        """Whom `challenger` tests."""
        return tuple(candidate for candidate in self.candidates if candidate != challenger)


def draw_round(
    *,
    beacon: bytes,
    era: int,
    number: int,
    height: int,
    members: tuple[bytes, ...],
    candidates: tuple[bytes, ...],
    challengers: int,
) -> ChallengeRound:
    """Round `number` of `era`: as many `challengers` as asked for, or all `members` if there are not more.

    Raises BadConfiguration for a key that is there twice, or too many candidates.
    """
    if len(candidates) > CANDIDATES:
        raise BadConfiguration("too many candidates", candidates=len(candidates), limit=CANDIDATES)
    if len(dict.fromkeys(members)) != len(members) or len(dict.fromkeys(candidates)) != len(candidates):
        raise BadConfiguration("members and candidates are named once each")
    left = list(members)
    drawn = []
    for place in range(min(challengers, len(members))):
        point = int.from_bytes(tagged_hash(CHALLENGERS_DOMAIN, codec.encode((beacon, era, number, place))), "big")
        drawn.append(left.pop(point % len(left)))
    return ChallengeRound(era, number, height, tuple(drawn), candidates)
