"""The session core: every byte once and in order, whatever links do; and what it refuses. Mutants must be caught."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from blockcloud.primitives.errors import PeerFault
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.buffers import ReceiveBuffer, SendBuffer
from blockcloud.service_access.errors import (
    AcknowledgedUnsent,
    BadMove,
    BadResumeMac,
    BeyondEnd,
    CreditExceeded,
    DataGap,
    FencedLink,
    ImpossibleOffset,
    SessionLost,
    SessionReset,
    UnexpectedFrame,
    UnknownSession,
)
from blockcloud.service_access.frames import (
    Ack,
    Challenge,
    Data,
    Fin,
    FrameDecoder,
    Moved,
    Ping,
    Pong,
    Proof,
    Resume,
    Rst,
)
from blockcloud.service_access.session import Attempt, Role, SessionCore, SessionParameters, State
from tests.service_access.session_world import BUFFER_BYTES, STREAM, SessionWorld, run_randomly

SEEDS = 250
SIDES = st.integers(0, 1)
RECENT = st.integers(1, 3)


class SessionMachine(RuleBasedStateMachine):
    """Programs write and read, links die and are replaced from either side, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = SessionWorld()

    def link(self, recent: int):  # type: ignore[no-untyped-def]
        return self.world.links[-min(recent, len(self.world.links))]

    @rule(side=SIDES, count=st.integers(1, 400))
    def write(self, side: int, count: int) -> None:
        self.world.write(side, count)

    @rule(side=SIDES, count=st.integers(1, 700))
    def read(self, side: int, count: int) -> None:
        self.world.read(side, count)

    @rule(side=SIDES, recent=RECENT, count=st.integers(1, 6))
    def deliver(self, side: int, recent: int, count: int) -> None:
        self.world.deliver(self.link(recent), side, count)

    @rule(side=SIDES)
    def dial(self, side: int) -> None:
        self.world.dial(side)

    @rule(recent=RECENT)
    def kill(self, recent: int) -> None:
        self.world.kill(self.link(recent))

    @rule(recent=RECENT)
    def drop(self, recent: int) -> None:
        self.world.drop(self.link(recent))

    @rule(side=SIDES, recent=RECENT)
    def notice(self, side: int, recent: int) -> None:
        self.world.notice(self.link(recent), side)

    @rule(by_ms=st.sampled_from((1, 30, 300)))
    def advance(self, by_ms: int) -> None:
        self.world.advance(by_ms)

    @rule(side=SIDES)
    def finish(self, side: int) -> None:
        self.world.finish(side)

    @invariant()
    def holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.heal()


TestSession = SessionMachine.TestCase
TestSession.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_random_lives() -> None:
    for seed in range(SEEDS):
        run_randomly(seed)


# --- planted bugs: each must make some life go wrong ------------------------------------------------------------------

_attach, _receive = SessionCore._attach, SessionCore.receive


def _old_links_attach(self, counter, received, addresses, now_ms):  # type: ignore[no-untyped-def]
    self.link = min(self.link, counter - 1)
    _attach(self, counter, received, addresses, now_ms)


def _old_links_speak(self, counter, frame, now_ms):  # type: ignore[no-untyped-def]
    _receive(self, self.link, frame, now_ms)


def _acknowledge_too_much(self, received, limit):  # type: ignore[no-untyped-def]
    chunks = self.chunks
    self.limit = max(self.limit, limit)
    if received > self.acknowledged:
        self.acknowledged = received
        self.sent = max(self.sent, received)
        while chunks and chunks[0][0] < received + 1:
            chunks.pop(0)
            self.next = max(0, self.next - 1)


_rewind = SendBuffer.rewind


def _rewind_too_far(self, received):  # type: ignore[no-untyped-def]
    _rewind(self, min(received + 1, self.highest))


def _no_rewind(self, received):  # type: ignore[no-untyped-def]
    return None


def _forget_the_end(self, received):  # type: ignore[no-untyped-def]
    _rewind(self, received)
    if self.finished and self.next == len(self.chunks):
        self.sent = self.end + 1


def _keep_doubles(self, frame):  # type: ignore[no-untyped-def]
    if frame.offset > self.received:
        raise DataGap
    self.chunks.append(frame.payload)
    self.waiting += len(frame.payload)
    self.received = max(self.received, frame.offset + len(frame.payload))
    return len(frame.payload)


def _no_credit(self, budget_bytes, taken):  # type: ignore[no-untyped-def]
    limit, self.limit = self.limit, 10**9
    try:
        _take_frames(self, budget_bytes, taken)
    finally:
        self.limit = limit


_take_frames = SendBuffer.take_frames


def _acknowledge_the_limit(self):  # type: ignore[no-untyped-def]
    self.acknowledged_bytes = self.incoming.received
    self.incoming.advertised = self.incoming.limit
    self.acknowledge_due_ms = None
    from blockcloud.service_access.frames import encode_frame

    self._queue(encode_frame(Ack(self.incoming.received + 1, self.incoming.advertised)))


MUTANTS: dict[str, tuple[type, str, Callable[..., object]]] = {
    "an older resume attaches": (SessionCore, "_attach", _old_links_attach),
    "a chunk is forgotten before all of it arrived": (SendBuffer, "acknowledge", _acknowledge_too_much),
    "resent from one byte too far": (SendBuffer, "rewind", _rewind_too_far),
    "not resent": (SendBuffer, "rewind", _no_rewind),
    "the end is not resent": (SendBuffer, "rewind", _forget_the_end),
    "doubles are kept": (ReceiveBuffer, "receive", _keep_doubles),
    "credit is ignored": (SendBuffer, "take_frames", _no_credit),
    "more is acknowledged than has come": (SessionCore, "queue_acknowledgement", _acknowledge_the_limit),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, method, replacement = MUTANTS[name]
    monkeypatch.setattr(owner, method, replacement)
    with pytest.raises((AssertionError, PeerFault)):
        test_random_lives()


# --- single rules -----------------------------------------------------------------------------------------------------


def core(role: Role = Role.INITIATOR, **values: object) -> SessionCore:
    parameters = SessionParameters(**values)  # type: ignore[arg-type]
    return SessionCore(session_id=bytes(16), secret=bytes(32), role=role, now_ms=0.0, parameters=parameters)


def frames_of(pieces: list[bytes | memoryview]):  # type: ignore[no-untyped-def]
    decoder = FrameDecoder()
    decoder.authenticated()
    decoder.feed(b"".join(pieces))
    found = []
    while (frame := decoder.next()) is not None:
        found.append(frame)
    return found


def resumed(
    dialler: SessionCore, acceptor: SessionCore, certificate: bytes = bytes(32), seen: bytes = bytes(32)
) -> tuple[Attempt, Resume, Challenge, Proof]:
    """All messages of a resume up to the proof; `seen` is the certificate that the acceptor has."""
    attempt, first = dialler.begin_resume(b"d" * 32)
    (resume,) = frames_of([first])
    answering, second = acceptor.resume_asked(resume, b"a" * 32, seen, ())
    (challenge,) = frames_of([second])
    (proof,) = frames_of([dialler.challenged(attempt, challenge, certificate, (), 1.0)])
    return answering, resume, challenge, proof


def test_resume_hands_over_and_fences() -> None:
    one, two = core(), core(Role.RESPONDER)
    attempt, resume, _, proof = resumed(one, two)
    two.proven(attempt, proof, 1.0)
    assert (one.link, two.link) == (2, 2)
    one.receive(0, Data(0, memoryview(b"late")), 1.0)
    assert one.waiting == 0
    with pytest.raises(FencedLink):  # the same resume again
        two.resume_asked(resume, b"n" * 32, bytes(32), ())
    with pytest.raises(FencedLink):  # the same proof again
        two.proven(attempt, proof, 1.0)
    attempt, *_, proof = resumed(two, one)
    one.proven(attempt, proof, 2.0)
    assert (one.link, two.link) == (3, 3)


def test_mutant_that_listens_to_old_links_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionCore, "receive", _old_links_speak)
    with pytest.raises(AssertionError):
        test_resume_hands_over_and_fences()


def test_replayed_resume_with_higher_counter_fails_on_a_fresh_nonce() -> None:
    one, two = core(), core(Role.RESPONDER)
    _, resume, _, proof = resumed(one, two)
    attempt, _ = two.resume_asked(resume, b"b" * 32, bytes(32), ())
    with pytest.raises(BadResumeMac):
        two.proven(attempt, proof, 1.0)
    assert two.link == 0
    assert two.state is State.ATTACHED


def test_resume_relayed_to_another_certificate_is_refused() -> None:
    with pytest.raises(BadResumeMac):
        resumed(core(), core(Role.RESPONDER), certificate=b"x" * 32)


def test_resume_of_another_session_and_wrong_parity() -> None:
    two = core(Role.RESPONDER)
    with pytest.raises(UnknownSession):
        two.resume_asked(Resume(b"x" * 16, 2, bytes(32)), bytes(32), bytes(32), ())
    with pytest.raises(FencedLink):
        two.resume_asked(Resume(bytes(16), 3, bytes(32)), bytes(32), bytes(32), ())


def test_reflected_challenge_is_refused() -> None:
    one, two = core(), core(Role.RESPONDER)
    attempt, first = one.begin_resume(b"d" * 32)
    (resume,) = frames_of([first])
    _, second = two.resume_asked(resume, b"a" * 32, bytes(32), ())
    (challenge,) = frames_of([second])
    answering, _ = two.resume_asked(resume, b"a" * 32, bytes(32), ())
    with pytest.raises(BadResumeMac):
        two.proven(answering, Proof(challenge.received, (), challenge.mac), 1.0)
    with pytest.raises(BadResumeMac):
        one.challenged(attempt, Challenge(challenge.nonce, 1, (), challenge.mac), bytes(32), (), 1.0)
    assert one.link == 0


def test_wrong_secret_is_refused() -> None:
    stranger = SessionCore(session_id=bytes(16), secret=b"x" * 32, role=Role.RESPONDER, now_ms=0.0)
    with pytest.raises(BadResumeMac):
        resumed(core(), stranger)


def test_impossible_offsets() -> None:
    one, two = core(), core(Role.RESPONDER)
    one.write(b"x" * 100)
    one.take_frames(1_000, 0.0)
    # The peer's authenticated proof claims more than was ever sent, then takes back what it acknowledged.
    two.incoming.received = 101
    attempt, *_, proof = resumed(two, one)
    with pytest.raises(ImpossibleOffset):
        one.proven(attempt, proof, 1.0)
    one.receive(0, Ack(60, 1_000_000), 1.0)
    two.incoming.received = 59
    attempt, *_, proof = resumed(two, one)
    with pytest.raises(ImpossibleOffset):
        one.proven(attempt, proof, 1.0)
    assert (one.link, one.state) == (0, State.ATTACHED)


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (Ack(1, 1), AcknowledgedUnsent),
        (Data(1, memoryview(b"x")), DataGap),
        (Data(0, memoryview(bytes(1_001))), CreditExceeded),
        (Fin(1), DataGap),
        (Resume(bytes(16), 2, bytes(32)), UnexpectedFrame),
        (Proof(0, (), bytes(32)), UnexpectedFrame),
        (Moved(1, (Address("tls", "127.0.0.1", 1),), bytes(32)), BadMove),
    ],
)
def test_broken_rules(frame: object, error: type[PeerFault]) -> None:
    one = core(buffer_bytes=1_000)
    with pytest.raises(error) as caught:
        one.receive(0, frame, 1.0)  # type: ignore[arg-type]
    one.fail_for(caught.value)
    assert isinstance(one.error, SessionReset)
    assert one.error.reset_code == error.code
    assert [type(each) for each in frames_of(one.take_frames(1_000, 1.0))] == [Rst]


def test_data_after_the_end() -> None:
    one = core()
    one.receive(0, Data(0, memoryview(b"abc")), 1.0)
    one.receive(0, Fin(3), 1.0)
    one.receive(0, Data(0, memoryview(b"abc")), 1.0)
    one.receive(0, Fin(3), 1.0)
    with pytest.raises(BeyondEnd):
        one.receive(0, Data(2, memoryview(b"cd")), 1.0)
    with pytest.raises(BeyondEnd):
        one.receive(0, Fin(2), 1.0)


def test_moved_renews_addresses_is_counted_and_slowed() -> None:
    one, two = core(moved_burst=2, moved_interval_ms=50), core(Role.RESPONDER)
    notices: list[Moved] = []
    for port in (1, 2, 3, 4):
        two.announce_move((Address("tls", "127.0.0.9", port),))
        notices += [each for each in frames_of(two.take_frames(1_000, 0.0)) if isinstance(each, Moved)]
    due = []
    for notice in notices:
        one.receive(0, notice, 10.0)
        due.append(one.dial_due_ms)
    assert due == [10.0, 10.0, 60.0, 110.0]
    assert one.peer_addresses == (Address("tls", "127.0.0.9", 4),)
    with pytest.raises(BadMove):  # replayed
        one.receive(0, notices[0], 11.0)
    forged = Moved(9, (("10.0.0.1", 80),), notices[3].mac)
    with pytest.raises(BadMove):
        one.receive(0, forged, 11.0)
    assert one.peer_addresses == (Address("tls", "127.0.0.9", 4),)


def test_heartbeat_finds_a_dead_link_and_a_late_tick_is_not_taken_for_one() -> None:
    one = core()
    assert one.next_timer() == 250
    assert not one.tick(250)
    assert isinstance(frames_of(one.take_frames(1_000, 250))[0], Ping)
    assert one.next_timer() == 1_000
    assert not one.tick(999)
    assert one.tick(1_000)
    late = core()
    assert not late.tick(5_000)  # this process slept; the ping goes out now and has its full time
    assert not late.tick(5_749)
    assert late.tick(5_750)


def test_an_idle_session_asks_ever_more_rarely_and_at_once_when_it_waits_for_an_answer() -> None:
    one = core()
    pauses: list[float] = []
    now_ms = 0.0
    while now_ms < 60_000:
        due_ms = one.next_timer()
        assert due_ms is not None
        pauses.append(due_ms - now_ms)
        now_ms = due_ms
        assert not one.tick(now_ms)
        assert isinstance(frames_of(one.take_frames(1_000, now_ms))[0], Ping)
        one.receive(0, Pong(len(pauses)), now_ms)
    assert pauses[:6] == [250, 250, 500, 1_000, 2_000, 4_000]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5_000
    assert len(pauses) < 20
    one.write(b"x")
    one.take_frames(1_000, now_ms + 100)
    assert one.next_timer() == now_ms + 350  # not 5,000: something was sent that nobody has acknowledged
    assert not one.tick(now_ms + 350)
    one.take_frames(1_000, now_ms + 350)
    assert not one.tick(now_ms + 1_099)
    assert one.tick(now_ms + 1_100)


def test_an_acknowledgement_rides_with_data_or_comes_alone_later() -> None:
    one = core()
    one.receive(0, Data(0, b"abc"), 0.0)
    one.write(b"x")
    assert [type(each) for each in frames_of(one.take_frames(1_000, 1.0))] == [Data]  # too soon
    assert one.next_timer() == 100
    one.write(b"y")
    assert frames_of(one.take_frames(1_000, 50.0))[0] == Ack(3, 1_048_576)
    one.receive(0, Data(3, b"def"), 51.0)
    assert one.take_frames(1_000, 150.0) == []
    assert frames_of(one.take_frames(1_000, 151.0)) == [Ack(6, 1_048_576)]


def test_a_lost_session_ends_with_an_error() -> None:
    one = core()
    assert one.link_lost(0, 100.0)
    assert one.state is State.DETACHED
    one.tick(5_099.0)
    assert one.error is None
    one.tick(5_100.0)
    assert isinstance(one.error, SessionLost)
    with pytest.raises(UnknownSession):
        resumed(core(Role.RESPONDER), one)


def test_back_pressure_is_bounded_in_bytes_and_pieces() -> None:
    world = SessionWorld()
    assert world.cores[0].write(STREAM[0]) == BUFFER_BYTES
    assert world.cores[0].write(b"x") == 0
    many = core()
    accepted = sum(many.write(b"x") for _ in range(10_000))
    assert accepted == 4_096
    receiver = core(Role.RESPONDER)
    for offset in range(20_000):
        receiver.receive(0, Data(offset, memoryview(b"x")), 1.0)
        if offset % 1_000 == 0:
            receiver.take_frames(1, 1.0)
    assert len(receiver.incoming.chunks) <= 4_097
    assert sum(map(len, receiver.read(30_000, 1.0))) == 20_000
