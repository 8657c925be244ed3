"""The core of a relay, on a virtual clock: who is joined with whom, tokens, limits, rates, and what time ends."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

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
from blockcloud.service_access.relay.rendezvous import (
    End,
    Join,
    RelayLimits,
    Rendezvous,
    Summon,
)

KEY, OTHER = b"k" * 32, b"o" * 32
LAX = Rate(1_000_000, 1_000_000)
LIMITS = RelayLimits(registration_rate_of_instance=LAX, registration_rate=LAX, dial_rate_of_instance=LAX, dial_rate=LAX)


def core(limits: RelayLimits = LIMITS) -> Rendezvous:
    return Rendezvous(limits, random.Random(1).randbytes, 0.0)


def dialled(relay: Rendezvous, connection: int, key: bytes = KEY, now_ms: float = 0.0) -> Summon:
    (summon,) = relay.dial(connection, key, now_ms)
    assert isinstance(summon, Summon)
    return summon


def joined(relay: Rendezvous, dial: int, meeting: int, now_ms: float = 0.0) -> None:
    assert relay.meet(meeting, dialled(relay, dial, now_ms=now_ms).token, now_ms) == [Join(dial, meeting)]


def test_a_dialler_is_joined_with_who_shows_the_token_of_its_dial() -> None:
    relay = core()
    assert relay.register(1, KEY, 0) == []
    first, second = dialled(relay, 2), dialled(relay, 3)
    assert (first.control, second.control) == (1, 1)
    assert relay.meet(4, second.token, 1) == [Join(3, 4)]
    assert relay.meet(5, first.token, 1) == [Join(2, 5)]
    assert (relay.waiting, relay.spliced) == (0, 2)


def test_a_token_is_good_once() -> None:
    relay = core()
    relay.register(1, KEY, 0)
    token = dialled(relay, 2).token
    relay.meet(3, token, 0)
    with pytest.raises(BadToken):
        relay.meet(4, token, 0)


def test_a_token_with_any_bit_changed_is_refused_and_the_right_one_still_works() -> None:
    relay = core()
    relay.register(1, KEY, 0)
    token = dialled(relay, 2).token
    for bit in range(len(token) * 8):
        forged = bytearray(token)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadToken):
            relay.meet(3, bytes(forged), 0)
    with pytest.raises(BadToken):  # what a comparison with no dial at all is made against
        relay.meet(3, bytes(32), 0)
    assert relay.meet(4, token, 0) == [Join(2, 4)]


def test_an_instance_that_is_not_registered_cannot_be_dialled() -> None:
    relay = core()
    with pytest.raises(UnknownInstance):
        relay.dial(1, KEY, 0)
    relay.register(2, OTHER, 0)
    with pytest.raises(UnknownInstance):
        relay.dial(3, KEY, 0)
    relay.control_lost(2)
    with pytest.raises(UnknownInstance):
        relay.dial(4, OTHER, 0)


def test_the_newest_registration_has_the_key_and_is_invited_to_dials_that_wait() -> None:
    relay = core()
    relay.register(1, KEY, 0)
    token = dialled(relay, 2).token
    first, *others = relay.register(3, KEY, 10)
    assert isinstance(first, End)
    assert (first.connection, type(first.reason)) == (1, Replaced)
    assert others == [Summon(3, token)]
    relay.control_lost(1)  # the old connection's end is no news
    assert dialled(relay, 4).control == 3
    relay.control_lost(3)
    assert relay.register(5, KEY, 20) == [Summon(5, token), Summon(5, relay._dials[4].token)]


def test_nobody_waits_longer_than_the_time_to_pair_up() -> None:
    relay = core()
    relay.register(1, KEY, 0)
    token = dialled(relay, 2, now_ms=100).token
    relay.heard(1, 5_000)
    assert relay.next_timer() == 100 + LIMITS.pair_ms
    assert relay.tick(99 + LIMITS.pair_ms) == []
    (end,) = relay.tick(100 + LIMITS.pair_ms)
    assert isinstance(end, End)
    assert (end.connection, type(end.reason)) == (2, PairTimeout)
    with pytest.raises(BadToken):
        relay.meet(3, token, 101 + LIMITS.pair_ms)


def test_a_silent_instance_is_forgotten_and_one_that_is_heard_is_not() -> None:
    relay = core()
    relay.register(1, KEY, 0)
    relay.register(2, OTHER, 0)
    relay.heard(1, 4_000)
    (end,) = relay.tick(LIMITS.dead_after_ms)
    assert isinstance(end, End)
    assert (end.connection, type(end.reason)) == (2, NotHeard)
    assert dialled(relay, 3).control == 1


def test_a_splice_without_bytes_is_cut_and_one_with_bytes_is_not() -> None:
    relay = core(replace(LIMITS, dead_after_ms=10**9))
    relay.register(1, KEY, 0)
    joined(relay, 2, 3)
    joined(relay, 4, 5)
    assert relay.passed(2, 10, 50_000) == 0
    (end,) = relay.tick(LIMITS.idle_ms)
    assert isinstance(end, End)
    assert (end.connection, type(end.reason), relay.spliced) == (4, NotHeard, 1)
    assert relay.passed(4, 10, 61_000) == 0  # a piece that was under way counts for nobody
    assert relay.bytes_passed == 10


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        (replace(LIMITS, waiting_dials_of_instance=3), 3),
        (replace(LIMITS, waiting_dials=4), 4),
        (replace(LIMITS, splices=5), 5),
        (replace(LIMITS, dial_rate_of_instance=Rate(1, 6)), 6),
        (replace(LIMITS, dial_rate=Rate(1, 7)), 7),
    ],
)
def test_a_flood_of_dials_is_cut_at_each_limit(limits: RelayLimits, allowed: int) -> None:
    relay = core(limits)
    relay.register(1, KEY, 0)
    for connection in range(2, 2 + allowed):
        dialled(relay, connection)
    for connection in range(100, 200):
        with pytest.raises((RelayFull, RateLimited)):
            relay.dial(connection, KEY, 0)
    assert relay.waiting == allowed


def test_splices_of_one_instance_and_in_all_are_limited_and_freed() -> None:
    relay = core(replace(LIMITS, splices_of_instance=2, splices=3))
    relay.register(1, KEY, 0)
    relay.register(2, OTHER, 0)
    joined(relay, 3, 4)
    joined(relay, 5, 6)
    with pytest.raises(RelayFull):
        relay.dial(7, KEY, 0)
    dialled(relay, 8, OTHER)
    with pytest.raises(RelayFull):
        relay.dial(9, OTHER, 0)
    relay.splice_ended(3)
    dialled(relay, 10)


def test_a_flood_at_one_instance_costs_the_others_nothing() -> None:
    relay = core(replace(LIMITS, dial_rate_of_instance=Rate(1, 2), dial_rate=Rate(1, 5)))
    relay.register(1, KEY, 0)
    relay.register(2, OTHER, 0)
    for connection in range(10, 60):
        try:
            relay.dial(connection, KEY, 0)
        except RateLimited:
            continue
    assert dialled(relay, 100, OTHER).control == 2
    assert dialled(relay, 101, OTHER).control == 2


def test_what_is_refused_for_all_is_given_back_to_the_instance() -> None:
    relay = core(replace(LIMITS, dial_rate_of_instance=Rate(0.001, 3), dial_rate=Rate(1, 1)))
    relay.register(1, KEY, 0)
    dialled(relay, 2)
    for connection in range(3, 9):
        with pytest.raises(RateLimited):
            relay.dial(connection, KEY, 0)
    dialled(relay, 10, now_ms=1_000)
    dialled(relay, 11, now_ms=2_000)


def test_registrations_are_limited_in_number_and_in_rate() -> None:
    relay = core(replace(LIMITS, registrations=2, registration_rate_of_instance=Rate(1, 2)))
    relay.register(1, KEY, 0)
    relay.register(2, OTHER, 0)
    with pytest.raises(RelayFull):
        relay.register(3, b"x" * 32, 0)
    relay.register(4, KEY, 0)  # one that is there already takes no other place
    with pytest.raises(RateLimited):
        relay.register(5, KEY, 0)
    assert dialled(relay, 6).control == 4  # who is refused takes nothing away
    relay.register(7, KEY, 1_000)
    few = core(replace(LIMITS, registration_rate=Rate(1, 1)))
    few.register(1, KEY, 0)
    with pytest.raises(RateLimited):
        few.register(2, OTHER, 0)


def test_bytes_are_slowed_to_the_rate_of_the_instance_and_of_all() -> None:
    relay = core(replace(LIMITS, byte_rate_of_instance=Rate(1_000, 1_000), byte_rate=Rate(10_000, 1_500)))
    relay.register(1, KEY, 0)
    relay.register(2, OTHER, 0)
    joined(relay, 3, 4)
    assert relay.passed(3, 1_000, 0) == 0
    assert relay.passed(3, 500, 0) == 500
    assert relay.passed(3, 0, 500) == 0
    dial = dialled(relay, 5, OTHER)
    relay.meet(6, dial.token, 500)
    assert relay.passed(5, 2_500, 500) == pytest.approx(1_500)
    assert relay.passed(3, 8_500, 500) == pytest.approx(8_500)
    few = core(replace(LIMITS, byte_rate=Rate(1_000, 1_000)))
    few.register(1, KEY, 0)
    joined(few, 2, 3)
    joined(few, 4, 5)
    assert few.passed(2, 1_000, 0) == 0
    assert few.passed(4, 500, 0) == 500  # of another connection, but of the same tokens


@pytest.mark.parametrize("per_second", [0.5, 1.0, 20.0])
def test_a_bucket_lets_through_its_burst_and_then_its_rate(per_second: float) -> None:
    bucket = TokenBucket(Rate(per_second, 5), 0)
    taken = sum(bucket.take(step * 10.0) for step in range(10_001))
    assert taken == 5 + int(100 * per_second)


def test_the_table_of_buckets_forgets_who_was_seen_longest_ago() -> None:
    table = BucketTable(Rate(1, 1), 2)
    assert table.of(b"a", 0).take(0)
    assert table.of(b"b", 0).take(0)
    assert not table.of(b"a", 0).take(0)
    assert table.of(b"c", 0).take(0)
    assert len(table) == 2
    assert not table.of(b"a", 0).take(0)
    assert table.of(b"b", 0).take(0)


class RelayMachine(RuleBasedStateMachine):
    """Anything in any order: a dialler is only ever joined with who was invited to it, once, and nothing is kept for
    what is over."""

    connections = Bundle("connections")
    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.limits = RelayLimits(registrations=2, waiting_dials=4, waiting_dials_of_instance=3, splices=5)
        self.relay = Rendezvous(self.limits, random.Random(7).randbytes, 0)
        self.now_ms = 0.0
        self.numbers = 0
        self.invited: dict[bytes, tuple[int, bytes]] = {}  # token -> dial, key
        self.keys: dict[int, bytes] = {}  # registered control connections
        self.waiting: dict[int, bytes] = {}
        self.splices: set[int] = set()

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def follow(self, effects: list[object]) -> None:
        for effect in effects:
            if isinstance(effect, Summon):
                dial, key = self.invited[effect.token]
                assert self.keys[effect.control] == key == self.waiting[dial]
            elif isinstance(effect, End):
                known = (self.keys, self.waiting, dict.fromkeys(self.splices, b""))
                assert any(effect.connection in each for each in known)
                self.keys.pop(effect.connection, None)
                self.waiting.pop(effect.connection, None)
                self.splices.discard(effect.connection)

    @rule(key=st.sampled_from((KEY, OTHER, b"third" + bytes(27))))
    def register(self, key: bytes) -> None:
        control = self.number()
        try:
            effects = self.relay.register(control, key, self.now_ms)
        except RelayRefusal:
            return
        self.keys[control] = key
        self.follow([*effects])
        assert [number for number, held in self.keys.items() if held == key] == [control]

    @rule(target=tokens, key=st.sampled_from((KEY, OTHER)))
    def dial(self, key: bytes) -> bytes:
        connection = self.number()
        try:
            (summon,) = self.relay.dial(connection, key, self.now_ms)
        except RelayRefusal:
            return bytes(32)
        assert isinstance(summon, Summon)
        self.invited[summon.token] = connection, key
        self.waiting[connection] = key
        self.follow([summon])
        return summon.token

    @rule(token=tokens)
    def meet(self, token: bytes) -> None:
        meeting = self.number()
        dial = self.invited.get(token, (0, b""))[0]
        if dial not in self.waiting:
            with pytest.raises(BadToken):
                self.relay.meet(meeting, token, self.now_ms)
            return
        assert self.relay.meet(meeting, token, self.now_ms) == [Join(dial, meeting)]
        del self.waiting[dial]
        self.splices.add(dial)

    @rule(token=consumes(tokens))
    def leave(self, token: bytes) -> None:
        dial = self.invited.get(token, (0, b""))[0]
        self.relay.dial_lost(dial)
        self.relay.splice_ended(dial)
        self.waiting.pop(dial, None)
        self.splices.discard(dial)

    @rule(which=st.integers(0, 5))
    def lose_control(self, which: int) -> None:
        if self.keys:
            control = sorted(self.keys)[which % len(self.keys)]
            self.relay.control_lost(control)
            del self.keys[control]

    @rule(which=st.integers(0, 5))
    def hear(self, which: int) -> None:
        if self.keys:
            self.relay.heard(sorted(self.keys)[which % len(self.keys)], self.now_ms)

    @rule(passed_ms=st.sampled_from((1.0, 1_000.0, 5_000.0, 70_000.0)))
    def wait(self, passed_ms: float) -> None:
        self.now_ms += passed_ms
        self.follow([*self.relay.tick(self.now_ms)])
        due = self.relay.next_timer()
        assert due is None or due > self.now_ms

    @invariant()
    def nothing_is_kept_for_what_is_over(self) -> None:
        relay = self.relay
        assert (relay.registered, relay.waiting, relay.spliced) == (
            len(self.keys),
            len(self.waiting),
            len(self.splices),
        )
        assert sum(relay._waiting.values()) == len(self.waiting)
        assert sum(relay._spliced.values()) == len(self.splices)
        assert len(relay._waiting) <= len(self.waiting)
        assert relay.registered <= 2
        assert relay.waiting <= 4
        assert relay.waiting + relay.spliced <= 5


TestRelayMachine = RelayMachine.TestCase
TestRelayMachine.settings = settings(max_examples=100, stateful_step_count=40)
