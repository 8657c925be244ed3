"""Which instance of a name a new session begins with: what is measured of each, and the order that follows. Sans-IO.

Of each instance is known: the round trip as an exponentially weighted mean (alpha 0.2; an old value counts half after
HALF_LIFE_MS), how many sessions of this process it has, how many attempts in a row have failed, and what it says of
itself (load, draining) or posts (price, priority, weight). A failure makes the round trip four times as long in the
eyes of the chooser; UNHEALTHY_AFTER failures in a row take the instance out, for a time that doubles with each further
one. Somebody probes it then (`probes`), and one success brings it back.

The order: instances that drain come only when there are no others, sick ones last; then priority, as in RFC 2782; then
cost = (NOISE_MS + round trip) x pressure x price. Those whose cost is within COMPARABLE of the best are about as
good: of two of them, drawn by weight, the cheaper one goes first (the power of two choices, Mitzenmacher 2001), so
that many consumers with the same stale loads do not all run to the same place. While one instance is clearly nearest
it is alone in that set; as it fills up, its cost rises until others join. One choice in EXPLORE_ONE_IN begins with the
instance whose measurement is oldest, because nobody knows whether it has become better. A sticky consumer gets the
instance that it had, or the one that rendezvous hashing gives it, as long as that one is healthy.

Randomness is an argument: `draw(n)` is a number below n.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from blockcloud.primitives.hashes import tagged_hash

Draw: TypeAlias = Callable[[int], int]

ALPHA: Final = 0.2
HALF_LIFE_MS: Final = 300_000.0
UNMEASURED_MS: Final = 50.0
ROUND_TRIP_MS_MAX: Final = 10_000.0
FAILURE_PENALTY: Final = 4.0
UNHEALTHY_AFTER: Final = 2
OUT_MS: Final = 1_000.0
OUT_MS_MAX: Final = 60_000.0
NOISE_MS: Final = 10.0  # differences of round trips that are small beside this say nothing
COMPARABLE: Final = 1.5
SAME: Final = 1.05  # costs that differ by less are equal: the weights alone decide
SESSIONS_THAT_DOUBLE: Final = 32  # of ours at one instance double its cost
LOAD_SHARE: Final = 0.95  # an instance that says it is full costs 20 times as much as an idle one
LOAD_FULL: Final = 1_000
EXPLORE_ONE_IN: Final = 20
MEASURED_INSTANCES: Final = 4_096
STICKY_CHOICES: Final = 4_096


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance as its record and its service file describe it. `load`: 0 idle to 1,000 full. `price`: in one unit
    for all candidates, None if nothing is posted."""

    key: bytes
    load: int = 0
    priority: int = 0
    weight: int = 1
    price: int | None = None
    draining: bool = False


@dataclass(slots=True)
class Standing:
    """What is known of one instance. `round_trip_ms` None: never measured."""

    round_trip_ms: float | None = None
    measured_ms: float = 0.0
    in_flight: int = 0
    failures: int = 0
    out_until_ms: float = 0.0

    def is_healthy(self, now_ms: float) -> bool:
        """It may be chosen: not enough failures in a row, or its time out is over."""
        return self.failures < UNHEALTHY_AFTER or now_ms >= self.out_until_ms

    def estimate_ms(self, now_ms: float) -> float:
        """The round trip to reckon with. A bad measurement is forgotten with time, or nobody would try again; a good
        one is kept until there is a newer one, or whoever was used last would seem better than its equals."""
        if self.round_trip_ms is None:
            return UNMEASURED_MS
        if self.round_trip_ms <= UNMEASURED_MS:
            return self.round_trip_ms
        return UNMEASURED_MS + (self.round_trip_ms - UNMEASURED_MS) * _half_lives(now_ms - self.measured_ms)


class ReplicaChoice:
    """See the module's text. Instances are known by their keys; the least recently used are forgotten."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._standings: OrderedDict[bytes, Standing] = OrderedDict()
        self._sticky: OrderedDict[tuple[str, bytes], bytes] = OrderedDict()

    # --- what happens -----------------------------------------------------------------------------------------------

    def measured(self, key: bytes, round_trip_ms: float, now_ms: float) -> None:
        """The instance has answered, after so long; it is well."""
        standing = self._standing(key)
        standing.failures = 0
        sample = min(max(round_trip_ms, 0.0), ROUND_TRIP_MS_MAX)
        if standing.round_trip_ms is None:
            standing.round_trip_ms = sample
        else:
            old = (1 - ALPHA) * _half_lives(now_ms - standing.measured_ms)
            standing.round_trip_ms = old * standing.round_trip_ms + (1 - old) * sample
        standing.measured_ms = now_ms

    def outrun(self, key: bytes, waited_ms: float, now_ms: float) -> None:
        """Another was faster; this one had not answered after `waited_ms`, which counts if it is more than was
        expected."""
        standing = self._standing(key)
        if waited_ms > standing.estimate_ms(now_ms):
            failures = standing.failures
            self.measured(key, waited_ms, now_ms)
            standing.failures = failures

    def failed(self, key: bytes, now_ms: float) -> None:
        """The instance did not answer, or not as it should."""
        standing = self._standing(key)
        standing.round_trip_ms = min(FAILURE_PENALTY * max(1.0, standing.estimate_ms(now_ms)), ROUND_TRIP_MS_MAX)
        standing.measured_ms = now_ms
        standing.failures += 1
        if standing.failures >= UNHEALTHY_AFTER:
            doublings = min(standing.failures - UNHEALTHY_AFTER, 16)
            standing.out_until_ms = now_ms + min(OUT_MS * 2**doublings, OUT_MS_MAX)

    def began(self, key: bytes) -> None:
        """A session with the instance has begun."""
        self._standing(key).in_flight += 1

    def ended(self, key: bytes) -> None:
        """It is over."""
        standing = self._standings.get(key)
        if standing is not None and standing.in_flight:
            standing.in_flight -= 1

    def probes(self, keys: Iterable[bytes], now_ms: float) -> list[bytes]:
        """Those of `keys` that are sick and whose time out is over: to be asked whether they are well."""
        known = ((key, self._standings.get(key)) for key in keys)
        return [
            key
            for key, standing in known
            if standing is not None and standing.failures >= UNHEALTHY_AFTER and now_ms >= standing.out_until_ms
        ]

    def standing(self, key: bytes) -> Standing:
        """What is known of an instance; a blank one if nothing is."""
        return self._standings.get(key, Standing())

    # --- the order --------------------------------------------------------------------------------------------------

    def rank(
        self, name: str, candidates: Sequence[Candidate], now_ms: float, *, sticky: bytes = b""
    ) -> list[Candidate]:
        """Those to try, best first. `sticky` is who asks, where the same one is to get the same instance."""
        if not candidates:
            return []
        offered = [each for each in candidates if not each.draining] or list(candidates)
        well = [each for each in offered if self.standing(each.key).is_healthy(now_ms)]
        sick = [each for each in offered if each not in well]
        order: list[Candidate] = []
        for group in (well, sick):
            for priority in sorted({each.priority for each in group}):
                order += self._ordered([each for each in group if each.priority == priority], now_ms)
        first: Candidate | None = None
        best = [each for each in well if each.priority == order[0].priority]
        if sticky and best:
            first = self._stuck(name, well, best, sticky)
        elif len(best) > 1 and self._draw(EXPLORE_ONE_IN) == 0:
            first = min(best, key=lambda each: self._age(each.key))
        return order if first is None else [first, *(each for each in order if each is not first)]

    def cost(self, candidate: Candidate, now_ms: float, cheapest: int = 0, dearest: int = 0) -> float:
        """What is minimised; see the module's text. `cheapest` and `dearest` of the prices to compare with."""
        standing = self.standing(candidate.key)
        fill = LOAD_SHARE * min(candidate.load, LOAD_FULL) / LOAD_FULL
        pressure = (1 + standing.in_flight / SESSIONS_THAT_DOUBLE) / (1 - fill)
        price = dearest if candidate.price is None else candidate.price  # who posts nothing may ask anything
        extra = (price - cheapest) / dearest if dearest > 0 else 0.0
        return (NOISE_MS + standing.estimate_ms(now_ms)) * pressure * (1 + extra)

    def _ordered(self, group: list[Candidate], now_ms: float) -> list[Candidate]:
        prices = [each.price for each in group if each.price is not None] or [0]
        costs = {each.key: self.cost(each, now_ms, min(prices), max(prices)) for each in group}
        order = sorted(group, key=lambda each: costs[each.key])
        comparable = [each for each in order if costs[each.key] <= COMPARABLE * costs[order[0].key]]
        if len(comparable) < 2:
            return order
        one = self._drawn(comparable)
        other = self._drawn([each for each in comparable if each is not one])
        first = other if costs[other.key] * SAME < costs[one.key] else one
        return [first, *(each for each in order if each is not first)]

    def _drawn(self, group: list[Candidate]) -> Candidate:
        """One of `group`, in proportion to the weights; weight 0 is a very small chance, as in RFC 2782."""
        weights = [256 * each.weight + 1 for each in group]
        point = self._draw(sum(weights))
        for each, weight in zip(group, weights, strict=True):
            point -= weight
            if point < 0:
                return each
        raise AssertionError("a draw is below its limit")

    def _stuck(self, name: str, well: list[Candidate], best: list[Candidate], sticky: bytes) -> Candidate:
        kept = self._sticky.pop((name, sticky), None)
        chosen = next((each for each in well if each.key == kept), None)
        if chosen is None:
            chosen = max(best, key=lambda each: _rendezvous(each, name, sticky))
        self._sticky[name, sticky] = chosen.key
        if len(self._sticky) > STICKY_CHOICES:
            self._sticky.popitem(last=False)
        return chosen

    def stick(self, name: str, sticky: bytes, key: bytes) -> None:
        """The consumer has a session with another instance than the one that it was given first: stay there."""
        if (name, sticky) in self._sticky:
            self._sticky[name, sticky] = key

    def _age(self, key: bytes) -> float:
        """For comparing only: what was never measured is oldest."""
        standing = self.standing(key)
        return -math.inf if standing.round_trip_ms is None else standing.measured_ms

    def _standing(self, key: bytes) -> Standing:
        standing = self._standings.setdefault(key, Standing())
        self._standings.move_to_end(key)
        if len(self._standings) > MEASURED_INSTANCES:
            self._standings.popitem(last=False)
        return standing


def _half_lives(age_ms: float) -> float:
    return float(0.5 ** (max(age_ms, 0.0) / HALF_LIFE_MS))


def _rendezvous(candidate: Candidate, name: str, sticky: bytes) -> float:
    """Highest random weight, with weights: the highest score wins, and only those of a lost instance choose anew."""
    digest = tagged_hash("sticky-instance/v1", name.encode() + b"\0" + sticky + candidate.key)
    uniform = (int.from_bytes(digest[:8]) + 1) / (2**64 + 1)
    return -max(candidate.weight, 1) / math.log(uniform)
