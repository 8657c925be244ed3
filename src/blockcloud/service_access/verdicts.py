"""Connects that wait for a verdict of a program of the user. Sans-IO.

A DELAY rule holds a connect, and so does a miss while a program has said that it decides about misses. It also holds
sessions that come in to a listener; they have a limit of their own, so that strangers cannot keep the connects of this
process out, and may only be let in or dropped. The program sees
an event with the number of the waiting connect and answers what is to become of it. How many wait is bounded; how long
each waits is up to whoever holds it (`connector`), until `deadline_ms`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from blockcloud.primitives.errors import BlockCloudError, TimedOut
from blockcloud.service_access.addresses import Address

WAITING_CONNECTS: Final = 256
WAITING_ARRIVALS: Final = 64  # sessions that come in
VERDICT_WAIT_MS: Final = 5_000.0
VERDICT_WAIT_MS_MAX: Final = 60_000.0
# Of a session that comes in: its consumer waits, and not for as long as it would for an address.
ARRIVAL_WAIT_MS_MAX: Final = 2_500.0
REASON_CHARACTERS: Final = 200


class TooManyWaiting(BlockCloudError):
    """As many connects wait for verdicts as may."""

    code = "too_many_waiting"
    hint = "Does the program that gives verdicts run? blockcloud table watch shows what waits."


class UnknownWait(BlockCloudError):
    """No connect with this number waits: it has its verdict, or its time is over."""

    code = "unknown_wait"


class CannotForward(BlockCloudError):
    """A session that comes in may be let in or dropped; it is here already."""

    code = "cannot_forward"


class NoVerdict(TimedOut):
    """The service table holds the connect, and no verdict came in time."""

    code = "no_verdict"
    hint = "A DELAY rule needs a program that answers: docs/how-to/choose-and-steer.md"


class Fate(Enum):
    """What becomes of a waiting connect."""

    FORWARD = "forward"  # to addresses that the verdict names; who answers there must still prove to be the service
    RESOLVE = "resolve"  # as if there were no rule; a session that comes in is let in
    DROP = "drop"


@dataclass(frozen=True)
class Verdict:
    """An answer. `addresses` go with FORWARD; `reason` is told to whoever is dropped."""

    fate: Fate
    addresses: tuple[Address, ...] = ()
    reason: str = ""


RESOLVE: Final = Verdict(Fate.RESOLVE)
RULE_GONE: Final = Verdict(Fate.RESOLVE, reason="the rule is gone")  # no program's: the table is asked again


@dataclass(frozen=True)
class Held:
    """A waiting connect: because of the DELAY rule `rule`, or of a miss (None). `arrival`: it comes in."""

    number: int
    name: str
    rule: int | None
    since_ms: float
    deadline_ms: float
    decide: Callable[[Verdict], None]
    arrival: bool = False


class WaitingRoom:
    """The connects that wait. `deciding` counts the programs that decide about misses."""

    def __init__(self) -> None:
        self.deciding = 0
        self._held: dict[int, Held] = {}
        self._numbers = 0

    def hold(
        self,
        name: str,
        rule: int | None,
        now_ms: float,
        wait_ms: float,
        decide: Callable[[Verdict], None],
        *,
        arrival: bool = False,
    ) -> Held:
        """Take a connect in; `decide` is called once, with its verdict. Raises TooManyWaiting."""
        limit = WAITING_ARRIVALS if arrival else WAITING_CONNECTS
        if sum(each.arrival is arrival for each in self._held.values()) >= limit:
            raise TooManyWaiting(limit=limit)
        self._numbers += 1
        held = Held(self._numbers, name, rule, now_ms, now_ms + wait_ms, decide, arrival)
        self._held[held.number] = held
        return held

    def answer(self, number: int, verdict: Verdict) -> Held:
        """Give a waiting connect its verdict. Raises UnknownWait, CannotForward (it goes on waiting)."""
        held = self._held.get(number)
        if held is None:
            raise UnknownWait(id=number)
        if held.arrival and verdict.fate is Fate.FORWARD:
            raise CannotForward(id=number)
        del self._held[number]
        held.decide(verdict)
        return held

    def rule_gone(self, number: int) -> None:
        """The table has lost a rule: whoever it held is told so, with the verdict `RULE_GONE` itself."""
        for held in [each for each in self._held.values() if each.rule == number]:
            del self._held[held.number]
            held.decide(RULE_GONE)

    def release(self, held: Held) -> None:
        """The connect waits no more: its time is over, or whoever asked for it has given up."""
        self._held.pop(held.number, None)

    def waiting(self) -> list[Held]:
        """Those that wait, oldest first."""
        return list(self._held.values())
