"""Who is registered at a relay, who waits for whom, and what is too much. Sans-IO.

Connections are numbers that the adaptor gives. An instance registers (`register`, after the handshake) and is heard of
(`heard`); somebody dials it (`dial`), which invites the instance with a token; it comes (`meet`), and the two are
joined. Effects say what the adaptor has to do, in this order.

A token names the dial that it was made for and has 24 random bytes that only the instance's control connection carries.
It is good once, and for `pair_ms`. It is no proof of identity and need not be: the link above authenticates both ends,
so whoever steals a token can waste a dial and no more.

The newest registration of a key has it: an instance that moved must not wait until its old connection is found dead.
Dials that wait are invited again then. Four things are rationed by token buckets: registrations and dials of each
instance and in all, and bytes through splices, of each instance and in all. What one instance is refused costs the
others nothing: its own bucket is asked first.
"""

from __future__ import annotations

import hmac
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

from blockcloud.service_access.relay.buckets import BucketTable, Rate, TokenBucket
from blockcloud.service_access.relay.errors import (
    BadToken,
    NotHeard,
    PairTimeout,
    RateLimited,
    RelayFull,
    RelayRefusal,
    Replaced,
    UnknownInstance,
)
from blockcloud.service_access.relay.messages import SUBJECT_BYTES

NUMBER_BYTES: Final = 8
SECRET_BYTES: Final = SUBJECT_BYTES - NUMBER_BYTES

MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class RelayLimits:
    """What a relay allows. Rates are for each instance and in all; the defaults are those of a small public relay."""

    registrations: int = 4_096
    waiting_dials: int = 1_024
    waiting_dials_of_instance: int = 64
    splices: int = 2_048
    splices_of_instance: int = 512
    pair_ms: int = 5_000
    heartbeat_ms: int = 2_000
    dead_after_ms: int = 6_000
    idle_ms: int = 60_000  # sessions have heartbeats: a splice without bytes is dead
    registration_rate_of_instance: Rate = field(default_factory=lambda: Rate(1, 10))
    registration_rate: Rate = field(default_factory=lambda: Rate(100, 500))
    dial_rate_of_instance: Rate = field(default_factory=lambda: Rate(20, 100))
    dial_rate: Rate = field(default_factory=lambda: Rate(200, 1_000))
    byte_rate_of_instance: Rate = field(default_factory=lambda: Rate(32 * MIB, 32 * MIB))
    byte_rate: Rate = field(default_factory=lambda: Rate(128 * MIB, 128 * MIB))


@dataclass(frozen=True, slots=True)
class Summon:
    """Send an invitation with `token` over the control connection."""

    control: int
    token: bytes


@dataclass(frozen=True, slots=True)
class Join:
    """Splice the connection of the dialler with the one that came to meet it; the splice has the dialler's number."""

    dial: int
    meeting: int


@dataclass(frozen=True, slots=True)
class End:
    """Close the connection with this number (control, dial or splice), for this reason."""

    connection: int
    reason: RelayRefusal


Effect: TypeAlias = Summon | Join | End


@dataclass(slots=True)
class _Registration:
    key: bytes
    control: int
    heard_ms: float


@dataclass(slots=True)
class _Dial:
    key: bytes
    token: bytes
    due_ms: float


@dataclass(slots=True)
class _Splice:
    key: bytes
    passed_ms: float


class Rendezvous:
    """See the module's text. `randomness` gives so many random bytes."""

    def __init__(self, limits: RelayLimits, randomness: Callable[[int], bytes], now_ms: float) -> None:
        self.limits = limits
        self.counts: Counter[str] = Counter()  # registered, dialled, joined, and refusals by code
        self.bytes_passed = 0
        self._randomness = randomness
        self._registrations: OrderedDict[bytes, _Registration] = OrderedDict()  # heard of longest ago first
        self._controls: dict[int, bytes] = {}
        self._dials: OrderedDict[int, _Dial] = OrderedDict()  # due first first, as all wait equally long
        self._waiting: Counter[bytes] = Counter()
        self._splices: OrderedDict[int, _Splice] = OrderedDict()  # silent longest first
        self._spliced: Counter[bytes] = Counter()
        known = 2 * limits.registrations
        self._registration_buckets = BucketTable(limits.registration_rate_of_instance, known)
        self._registration_bucket = TokenBucket(limits.registration_rate, now_ms)
        self._dial_buckets = BucketTable(limits.dial_rate_of_instance, known)
        self._dial_bucket = TokenBucket(limits.dial_rate, now_ms)
        self._byte_buckets = BucketTable(limits.byte_rate_of_instance, known)
        self._byte_bucket = TokenBucket(limits.byte_rate, now_ms)

    @property
    def registered(self) -> int:
        """Instances that are registered now."""
        return len(self._registrations)

    @property
    def waiting(self) -> int:
        """Dials whose instance has not come yet."""
        return len(self._dials)

    @property
    def spliced(self) -> int:
        """Splices that run."""
        return len(self._splices)

    def _refused(self, refusal: RelayRefusal) -> RelayRefusal:
        self.counts[refusal.code] += 1
        return refusal

    # --- instances --------------------------------------------------------------------------------------------------

    def register(self, control: int, key: bytes, now_ms: float) -> list[Effect]:
        """The control connection has proven `key`. Raises RateLimited, RelayFull."""
        own = self._registration_buckets.of(key, now_ms)
        if not own.take(now_ms):
            raise self._refused(RateLimited("the instance registers too often"))
        before = self._registrations.pop(key, None)
        if before is None and len(self._registrations) >= self.limits.registrations:
            raise self._refused(RelayFull("as many instances as may register", limit=self.limits.registrations))
        if before is None and not self._registration_bucket.take(now_ms):
            raise self._refused(RateLimited("too many instances register at once"))
        effects: list[Effect] = []
        if before is not None:
            del self._controls[before.control]
            effects.append(End(before.control, Replaced()))
        self._registrations[key] = _Registration(key, control, now_ms)
        self._controls[control] = key
        self.counts["registered"] += 1
        if self._waiting[key]:
            effects += [Summon(control, each.token) for each in self._dials.values() if each.key == key]
        return effects

    def heard(self, control: int, now_ms: float) -> None:
        """A PING came over the control connection."""
        key = self._controls.get(control)
        if key is not None:
            self._registrations[key].heard_ms = now_ms
            self._registrations.move_to_end(key)

    def control_lost(self, control: int) -> None:
        """The control connection is gone. Dials that wait go on waiting: the instance may register again."""
        key = self._controls.pop(control, None)
        if key is not None:
            del self._registrations[key]

    # --- diallers ---------------------------------------------------------------------------------------------------

    def dial(self, connection: int, key: bytes, now_ms: float) -> list[Effect]:
        """`connection` wants to reach the instance `key`. Raises UnknownInstance, RateLimited, RelayFull."""
        registration = self._registrations.get(key)
        if registration is None:
            raise self._refused(UnknownInstance())
        limits = self.limits
        if self._waiting[key] >= limits.waiting_dials_of_instance or self._spliced[key] >= limits.splices_of_instance:
            raise self._refused(RelayFull("as many connections as the instance may have"))
        if len(self._dials) >= limits.waiting_dials or len(self._dials) + len(self._splices) >= limits.splices:
            raise self._refused(RelayFull("as many connections as there may be"))
        own = self._dial_buckets.of(key, now_ms)
        if not own.take(now_ms):
            raise self._refused(RateLimited("the instance is dialled too often"))
        if not self._dial_bucket.take(now_ms):
            own.give_back()
            raise self._refused(RateLimited("too many dials at once"))
        token = connection.to_bytes(NUMBER_BYTES) + self._randomness(SECRET_BYTES)
        self._dials[connection] = _Dial(key, token, now_ms + limits.pair_ms)
        self._waiting[key] += 1
        self.counts["dialled"] += 1
        return [Summon(registration.control, token)]

    def dial_lost(self, connection: int) -> None:
        """The dialler has left before it was joined."""
        dial = self._dials.pop(connection, None)
        if dial is not None:
            _count_down(self._waiting, dial.key)

    def meet(self, connection: int, token: bytes, now_ms: float) -> list[Effect]:
        """`connection` shows a token. Raises BadToken."""
        number = int.from_bytes(token[:NUMBER_BYTES])
        dial = self._dials.get(number)
        # Compared also where there is no such dial, so that the time tells nothing.
        if not hmac.compare_digest(dial.token if dial is not None else bytes(SUBJECT_BYTES), token) or dial is None:
            raise self._refused(BadToken())
        self.dial_lost(number)
        self._splices[number] = _Splice(dial.key, now_ms)
        self._spliced[dial.key] += 1
        self.counts["joined"] += 1
        return [Join(number, connection)]

    # --- splices ----------------------------------------------------------------------------------------------------

    def passed(self, splice: int, count: int, now_ms: float) -> float:
        """`count` bytes went through the splice in one direction; how many ms that direction has to pause."""
        running = self._splices.get(splice)
        if running is None:
            return 0.0
        running.passed_ms = now_ms
        self._splices.move_to_end(splice)
        self.bytes_passed += count
        own_ms = self._byte_buckets.of(running.key, now_ms).owe(count, now_ms)
        return max(own_ms, self._byte_bucket.owe(count, now_ms))

    def splice_ended(self, splice: int) -> None:
        """Both its connections are closed."""
        running = self._splices.pop(splice, None)
        if running is not None:
            _count_down(self._spliced, running.key)

    # --- time -------------------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When `tick` is due, in ms; None while nothing waits."""
        due: list[float] = []
        if dial := _first(self._dials):
            due.append(dial.due_ms)
        if registration := _first(self._registrations):
            due.append(registration.heard_ms + self.limits.dead_after_ms)
        if splice := _first(self._splices):
            due.append(splice.passed_ms + self.limits.idle_ms)
        return min(due, default=None)

    def tick(self, now_ms: float) -> list[Effect]:
        """Time has passed."""
        effects: list[Effect] = []
        while (dial := _first(self._dials)) and dial.due_ms <= now_ms:
            number = next(iter(self._dials))
            self.dial_lost(number)
            effects.append(End(number, self._refused(PairTimeout())))
        while (registration := _first(self._registrations)) and self._silent(registration, now_ms):
            self.control_lost(registration.control)
            effects.append(End(registration.control, self._refused(NotHeard())))
        while (splice := _first(self._splices)) and splice.passed_ms + self.limits.idle_ms <= now_ms:
            number = next(iter(self._splices))
            self.splice_ended(number)
            effects.append(End(number, self._refused(NotHeard("no bytes came through for too long"))))
        return effects

    def _silent(self, registration: _Registration, now_ms: float) -> bool:
        return registration.heard_ms + self.limits.dead_after_ms <= now_ms


Key = TypeVar("Key")
Value = TypeVar("Value")


def _first(table: OrderedDict[Key, Value]) -> Value | None:
    return next(iter(table.values()), None)


def _count_down(counter: Counter[bytes], key: bytes) -> None:
    """One less; a key that is at zero takes no room."""
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
