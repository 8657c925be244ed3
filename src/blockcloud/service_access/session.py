"""The core of a session: a two-way byte stream between two identities that outlives the links below it. Sans-IO.

A link is one TLS connection. The session's bytes are numbered (`buffers`), what is not acknowledged is kept, and a new
link takes over by RESUME:

    dialler                                     acceptor
    RESUME(session, counter, nonce)      ->
                                         <-     CHALLENGE(nonce, received, addresses, MAC)
    PROOF(received, addresses, MAC) data ->     ... the link is the session's; older ones are fenced

Each MAC is by the session's secret over session, maker's role, counter, both nonces, the certificate hash of the new
link and what the message claims: it can be neither replayed, reflected, nor relayed to another link. The initiator
dials with even counters and the responder with odd ones, so two sides that move at once never tie; the higher counter
wins. Nothing is sent on a link before it is authenticated, and nothing that goes wrong on a link that is not yet the
session's harms the session.

`receive`, `attach` and `tick` may raise a PeerFault: the caller then calls `fail_for` or drops the link. Outputs are
taken with `take_frames`, in the order they must be sent. `now_ms` never goes back. DESIGN section 5.2.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from blockcloud.primitives.codec import encode
from blockcloud.primitives.errors import BlockCloudError, PeerFault
from blockcloud.primitives.hashes import tagged
from blockcloud.primitives.limits import SESSION_BUFFER_BYTES
from blockcloud.service_access.addresses import Address, check_addresses
from blockcloud.service_access.buffers import ReceiveBuffer, SendBuffer
from blockcloud.service_access.datagrams import DatagramQueue
from blockcloud.service_access.errors import (
    BadMove,
    BadResumeMac,
    FencedLink,
    ImpossibleOffset,
    SessionLost,
    SessionReset,
    UnexpectedFrame,
    UnknownSession,
)
from blockcloud.service_access.frames import (
    COUNTER_MAX,
    Ack,
    Challenge,
    Data,
    Datagram,
    Fin,
    Frame,
    Moved,
    Payment,
    Ping,
    Pong,
    Proof,
    Resume,
    Rst,
    encode_frame,
)

CONTROL_FRAMES: Final = 64
PAYMENTS_WAITING: Final = 8  # messages between payer and payee; the newest say all that the older said


@dataclass(frozen=True)
class SessionParameters:
    """Times and sizes of a session (`reference/parameters.md`); the defaults are those of a devnet."""

    heartbeat_ms: int = 250
    idle_heartbeat_ms: int = 5_000
    dead_after_ms: int = 1_000
    give_up_ms: int = 5_000
    linger_ms: int = 2_000
    acknowledge_after_ms: int = 100  # with data on its way half of that: each costs a record of its own
    acknowledge_after_bytes: int = 128 * 1024
    acknowledge_after_frames: int = 1_024
    buffer_bytes: int = SESSION_BUFFER_BYTES
    moved_burst: int = 8
    moved_interval_ms: int = 50


class Role(IntEnum):
    """Who began the session. The value is also the parity of the counters of the links that this side dials."""

    INITIATOR = 0
    RESPONDER = 1

    @property
    def other(self) -> Role:
        """The peer's role."""
        return Role.RESPONDER if self is Role.INITIATOR else Role.INITIATOR


class State(Enum):
    """Where the session is in its life."""

    ATTACHED = "attached"  # a link carries it
    DETACHED = "detached"  # its link is gone; it waits for another
    FINISHED = "finished"  # both streams ended and were acknowledged; it lingers to tell the peer so again
    FAILED = "failed"  # `error` says why


class Event(Enum):
    """What moves a session from one state to the next."""

    ATTACH = "attach"
    DETACH = "detach"
    COMPLETE = "complete"
    FAIL = "fail"


# Looking a member of an Enum up costs as much as all else that is done for a small frame.
_ATTACHED: Final = State.ATTACHED
_FAILED: Final = State.FAILED

# What is not in the table cannot happen: that would be a bug of ours.
_TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.ATTACHED, Event.ATTACH): State.ATTACHED,
    (State.ATTACHED, Event.DETACH): State.DETACHED,
    (State.ATTACHED, Event.COMPLETE): State.FINISHED,
    (State.ATTACHED, Event.FAIL): State.FAILED,
    (State.DETACHED, Event.ATTACH): State.ATTACHED,
    (State.DETACHED, Event.FAIL): State.FAILED,
    (State.FINISHED, Event.ATTACH): State.FINISHED,
    (State.FINISHED, Event.DETACH): State.FINISHED,
    (State.FAILED, Event.DETACH): State.FAILED,
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """A resume that has begun: by whom, with which counter and nonces, over which TLS certificate."""

    dialler: Role
    counter: int
    dialler_nonce: bytes
    acceptor_nonce: bytes = b""
    certificate_hash: bytes = b""


@dataclass(slots=True)
class Statistics:
    """Counters of a session; times in milliseconds."""

    bytes_written: int = 0
    bytes_read: int = 0
    bytes_resent: int = 0
    resumes: int = 0
    longest_gap_ms: float = 0.0
    last_gap_ms: float = 0.0
    faults: int = 0
    datagrams_sent: int = 0
    datagrams_received: int = 0
    datagrams_dropped: int = 0  # of ours: no link took them; of the peer's: the program was too slow
    round_trip_ms: float = 0.0  # of the newest ping that was answered, or of the handshake
    round_trip_at_ms: float = 0.0  # when that was


class SessionCore:
    """One side of one session. See the module's text; `secret` and `session_id` come out of the handshake."""

    __slots__ = (
        *("dial_due_ms", "error", "link", "linked", "parameters", "peer_addresses", "role", "session_id", "state"),
        *("acknowledge_bytes", "acknowledge_due_ms", "acknowledged_bytes", "control", "datagrams", "gap_from_ms"),
        *("heard_ms", "incoming", "outgoing", "ping_at_ms", "progress_ms", "statistics", "unacknowledged_frames"),
        *("unanswered_ms", "_highest_counter", "_moved_at_ms", "_moved_counter", "_moved_tokens"),
        *("_peer_moved_counter", "_ping_number", "_pinged_ms", "_secret", "_since_ms", "payments"),
    )

    def __init__(
        self,
        *,
        session_id: bytes,
        secret: bytes,
        role: Role,
        now_ms: float,
        peer_addresses: tuple[Address, ...] = (),
        peer_window: int = SESSION_BUFFER_BYTES,
        parameters: SessionParameters | None = None,
    ) -> None:
        self.parameters = parameters or SessionParameters()
        self.session_id = session_id
        self.role = role
        self.state = State.ATTACHED
        self.error: BlockCloudError | None = None
        self.peer_addresses = peer_addresses
        self.statistics = Statistics()
        self.datagrams = DatagramQueue()
        self.payments: tuple[bytes, ...] = ()  # that have come and wait for who pays or is paid
        self.link = 0  # counter of the link that has the session
        self.linked = True
        self.dial_due_ms: float | None = None  # the peer asked to be dialled at `peer_addresses`; not before this time
        self._secret = secret
        self._highest_counter = 0
        self.outgoing = SendBuffer(self.parameters.buffer_bytes, peer_window)
        self.incoming = ReceiveBuffer(self.parameters.buffer_bytes)
        self.control: list[bytes] = []
        self._since_ms = now_ms  # of the state
        self.heard_ms = now_ms
        self.ping_at_ms: float | None = None  # of the ping that has no answer yet
        self._ping_number = 0
        self._pinged_ms = 0.0  # when the newest ping was sent, whatever has come since
        self.unanswered_ms = now_ms  # since when the peer owes an acknowledgement, if it does
        # Well below the buffer, or the credit that is held back could be all that the peer waits for.
        self.acknowledge_bytes = min(self.parameters.acknowledge_after_bytes, self.parameters.buffer_bytes // 4 + 1)
        self.acknowledged_bytes = 0
        self.unacknowledged_frames = 0
        self.acknowledge_due_ms: float | None = None
        self.progress_ms = now_ms
        self.gap_from_ms: float | None = None
        self._moved_counter = 0
        self._peer_moved_counter = 0
        self._moved_tokens = float(self.parameters.moved_burst)
        self._moved_at_ms = now_ms

    # --- the application's side -------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Bytes that `write` would take now."""
        return 0 if self.state is _FAILED else self.outgoing.room

    @property
    def waiting(self) -> int:
        """Bytes that `read` can give now."""
        return self.incoming.waiting

    @property
    def peer_ended(self) -> bool:
        """The peer has finished its stream; when `waiting` is 0 all of it was read."""
        return self.incoming.ended

    @property
    def all_sent(self) -> bool:
        """Our stream has ended and the peer has all of it."""
        return self.outgoing.complete

    @property
    def writable(self) -> bool:
        """Our stream has not ended."""
        return not self.outgoing.finished and self.state is not State.FAILED

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take as much of `data` as there is room for; how many bytes. The rest is the caller's to keep."""
        accepted = self.outgoing.append(data)
        self.statistics.bytes_written += accepted
        return accepted

    def finish(self) -> None:
        """End our stream; the peer's goes on."""
        self.outgoing.finish()

    def pay(self, message: bytes) -> bool:
        """Send a message about payment with what goes next; False if no link takes it now."""
        if not self.linked or self.state is not _ATTACHED or len(self.control) >= CONTROL_FRAMES:
            return False
        self._queue(encode_frame(Payment(message)))
        return True

    def read(self, count: int, now_ms: float) -> list[bytes | memoryview]:
        """Take at most `count` received bytes, in pieces. Gives the peer credit for as many."""
        incoming = self.incoming
        pieces = incoming.read(count)
        if incoming.unadvertised >= self.acknowledge_bytes:
            self.acknowledge_due_ms = now_ms
        return pieces

    def must_send(self, now_ms: float) -> bool:
        """`take_frames` has something."""
        due_ms = self.acknowledge_due_ms
        return (due_ms is not None and now_ms >= due_ms) or bool(self.control) or self.outgoing.pending

    def reset(self, code: str, reason: str) -> None:
        """End the session at once, and say so to the peer if a link is there."""
        if self.state in (State.FAILED, State.FINISHED):
            return
        self.control.clear()
        self.control.append(encode_frame(Rst(code, reason)))
        self._fail(SessionReset(f"session was reset: {reason}", reset_code=code))

    def fail_for(self, fault: PeerFault) -> None:
        """The peer broke the protocol on the session's own link: reset with the fault's code."""
        self.statistics.faults += 1
        self.reset(fault.code, fault.message[:200])

    def lose(self, reason: str) -> None:
        """The caller gives up looking for the peer."""
        if self.state is not State.FINISHED:
            self._fail(SessionLost(reason))

    # --- links ------------------------------------------------------------------------------------------------------

    def begin_resume(self, nonce: bytes) -> tuple[Attempt, bytes]:
        """Start to take a new link that this side dialled: the attempt, and the RESUME frame to send on it."""
        counter = self._highest_counter + 1
        if counter % 2 != self.role:
            counter += 1
        self._highest_counter = counter
        return Attempt(self.role, counter, nonce), encode_frame(Resume(self.session_id, counter, nonce))

    def challenged(
        self, attempt: Attempt, challenge: Challenge, certificate_hash: bytes, own: tuple[Address, ...], now_ms: float
    ) -> bytes:
        """The acceptor's challenge has come: the PROOF frame to send. The link has the session from then on.

        Raises BadResumeMac, FencedLink, ImpossibleOffset; the session is unharmed then and the link is to be closed.
        """
        if self.state is State.FAILED:
            raise UnknownSession
        whole = Attempt(self.role, attempt.counter, attempt.dialler_nonce, challenge.nonce, certificate_hash)
        self._verify(whole, self.role.other, challenge.received, challenge.addresses, challenge.mac)
        # What the old link still acknowledged after the challenge was made may exceed it.
        self._attach(attempt.counter, max(challenge.received, self.outgoing.acknowledged), challenge.addresses, now_ms)
        received = self.incoming.received
        return encode_frame(Proof(received, own, self._mac(whole, self.role, received, own)))

    def resume_asked(
        self, resume: Resume, nonce: bytes, certificate_hash: bytes, own: tuple[Address, ...]
    ) -> tuple[Attempt, bytes]:
        """The peer dialled and asks to resume: the attempt, and the CHALLENGE frame to answer. Nothing changes yet.

        Raises UnknownSession, FencedLink.
        """
        if resume.session_id != self.session_id or self.state is State.FAILED:
            raise UnknownSession
        if resume.counter <= self.link or resume.counter % 2 != self.role.other or resume.counter > COUNTER_MAX:
            raise FencedLink(counter=resume.counter, link=self.link)
        attempt = Attempt(self.role.other, resume.counter, resume.nonce, nonce, certificate_hash)
        received = self.incoming.received
        mac = self._mac(attempt, self.role, received, own)
        return attempt, encode_frame(Challenge(nonce, received, own, mac))

    def proven(self, attempt: Attempt, proof: Proof, now_ms: float) -> None:
        """The dialler has proven itself: the link has the session now.

        Raises BadResumeMac, FencedLink, ImpossibleOffset, UnknownSession; the session is unharmed then.
        """
        if self.state is State.FAILED:
            raise UnknownSession
        self._verify(attempt, self.role.other, proof.received, proof.addresses, proof.mac)
        if attempt.counter > self.link and proof.received < self.outgoing.acknowledged:
            raise ImpossibleOffset("takes back an acknowledgement", offset=proof.received)
        self._attach(attempt.counter, proof.received, proof.addresses, now_ms)

    def link_lost(self, counter: int, now_ms: float) -> bool:
        """A link has broken; whether it was the one that had the session."""
        if counter != self.link or not self.linked:
            return False
        self.linked = False
        self.control.clear()
        self._move_to(Event.DETACH, now_ms)
        return True

    def _attach(self, counter: int, received: int, addresses: tuple[Address, ...], now_ms: float) -> None:
        if counter <= self.link:
            raise FencedLink(counter=counter, link=self.link)
        if received > self.outgoing.highest:
            raise ImpossibleOffset("claims bytes that were never sent", offset=received, highest=self.outgoing.highest)
        self.outgoing.acknowledge(received, 0)
        self.statistics.bytes_resent += max(0, self.outgoing.sent - received)
        self.outgoing.rewind(received)
        if addresses:
            self.peer_addresses = addresses
        self.link = counter
        self.linked = True
        self._highest_counter = max(self._highest_counter, counter)
        self.dial_due_ms = None
        self.statistics.resumes += 1
        self.heard_ms = now_ms
        self.ping_at_ms = None
        if self.gap_from_ms is None:
            self.gap_from_ms = self.progress_ms
        self.control.clear()
        self.queue_acknowledgement()
        self._move_to(Event.ATTACH, now_ms)
        self._complete_if_done(now_ms)

    def _mac(self, attempt: Attempt, maker: Role, received: int, addresses: tuple[Address, ...]) -> bytes:
        claims = (
            self.session_id,
            int(maker),
            int(attempt.dialler),
            attempt.counter,
            attempt.dialler_nonce,
            attempt.acceptor_nonce,
            attempt.certificate_hash,
            received,
            addresses,
        )
        return hmac.digest(self._secret, tagged("session-resume/v1", encode(claims)), "sha256")

    def _verify(self, attempt: Attempt, maker: Role, received: int, addresses: tuple[Address, ...], mac: bytes) -> None:
        if not hmac.compare_digest(self._mac(attempt, maker, received, addresses), mac):
            raise BadResumeMac(counter=attempt.counter)

    # --- moves ------------------------------------------------------------------------------------------------------

    def announce_move(self, addresses: tuple[Address, ...]) -> None:
        """Tell the peer, over the link that is there, to dial us at `addresses` (at most four)."""
        check_addresses(addresses)
        if len(self.control) >= CONTROL_FRAMES:
            return  # the link takes nothing; it will be found dead
        self._moved_counter += 1
        mac = self._moved_mac(self.role, self._moved_counter, addresses)
        self._queue(encode_frame(Moved(self._moved_counter, addresses, mac)))

    def _moved_mac(self, maker: Role, counter: int, addresses: tuple[Address, ...]) -> bytes:
        claims = (self.session_id, int(maker), counter, addresses)
        return hmac.digest(self._secret, tagged("session-moved/v1", encode(claims)), "sha256")

    def _peer_moved(self, frame: Moved, now_ms: float) -> None:
        if not hmac.compare_digest(self._moved_mac(self.role.other, frame.counter, frame.addresses), frame.mac):
            raise BadMove("notice of a move does not verify")
        if frame.counter <= self._peer_moved_counter:
            raise BadMove("notice of a move is an old one", counter=frame.counter)
        self._peer_moved_counter = frame.counter
        if not frame.addresses:
            return
        self.peer_addresses = frame.addresses
        # A token bucket: a peer cannot make us dial third parties at a high rate. The newest notice is kept, not lost.
        interval = self.parameters.moved_interval_ms
        earned = (now_ms - self._moved_at_ms) / interval
        self._moved_tokens = min(float(self.parameters.moved_burst), self._moved_tokens + earned) - 1
        self._moved_at_ms = now_ms
        self.dial_due_ms = now_ms + max(0.0, -self._moved_tokens * interval)

    # --- frames -----------------------------------------------------------------------------------------------------

    def receive(self, counter: int, frame: Frame, now_ms: float) -> None:
        """A frame came over the link `counter`; ignored unless that link has the session.

        Raises a PeerFault if the frame breaks a rule; then call `fail_for`.
        """
        if counter != self.link or not self.linked or self.state is _FAILED:
            return
        self.heard_ms = now_ms
        self.ping_at_ms = None
        if type(frame) is Data:
            incoming = self.incoming
            self.statistics.bytes_read += incoming.receive(frame)
            if self.gap_from_ms is None:
                self.progress_ms = now_ms
            else:
                self._progressed(now_ms)
            self.unacknowledged_frames += 1
            if (
                incoming.received - self.acknowledged_bytes >= self.acknowledge_bytes
                or self.unacknowledged_frames >= self.parameters.acknowledge_after_frames
            ):
                self.acknowledge_due_ms = now_ms
            elif self.acknowledge_due_ms is None:
                self.acknowledge_due_ms = now_ms + self.parameters.acknowledge_after_ms
            return
        match frame:
            case Datagram(payload=payload):
                before = self.datagrams.dropped
                self.datagrams.put(payload)
                self.statistics.datagrams_received += 1
                self.statistics.datagrams_dropped += self.datagrams.dropped - before
                self._progressed(now_ms)
            case Payment(message=message):
                self.payments = (*self.payments[1 - PAYMENTS_WAITING :], message)
            case Ack(received=received, limit=limit):
                self.outgoing.acknowledge(received, limit)
                self._progressed(now_ms)
            case Ping(number=number):
                if len(self.control) >= CONTROL_FRAMES:
                    raise UnexpectedFrame("the peer asks for more answers than it takes", limit=CONTROL_FRAMES)
                self._queue(encode_frame(Pong(number)))
            case Pong(number=number):
                if number == self._ping_number and number:
                    self.statistics.round_trip_ms = now_ms - self._pinged_ms
                    self.statistics.round_trip_at_ms = now_ms
            case Moved():
                self._peer_moved(frame, now_ms)
            case Fin():
                self.incoming.receive_fin(frame)
                self._progressed(now_ms)
                self.queue_acknowledgement()
            case Rst(code=FencedLink.code):
                return  # both dialled at once, and the peer took its own link: this one is done for, not the session
            case Rst(code=code, reason=reason):
                if self.state is State.ATTACHED:
                    self._fail(SessionReset(f"the peer reset the session: {reason}", reset_code=code))
                return
            case _:
                raise UnexpectedFrame("frame may not come inside a session", frame=type(frame).__name__)
        self._complete_if_done(now_ms)

    def take_frames(self, budget_bytes: int, now_ms: float) -> list[bytes | memoryview]:
        """What is to be sent on the session's link now, in order; about `budget_bytes` of it at most. Less than that:
        there is no more."""
        taken: list[bytes | memoryview] = []
        if not self.linked:
            return taken
        outgoing, due_ms = self.outgoing, self.acknowledge_due_ms
        if due_ms is not None:
            # With data on its way anyway, half the time is enough: alone it would be a record and a wake-up of its own.
            early_ms = self.parameters.acknowledge_after_ms / 2 if outgoing.pending else 0
            if now_ms >= due_ms - early_ms:
                self.queue_acknowledgement()
        if self.control:
            taken.extend(self.control)
            self.control.clear()
        if self.state is not _FAILED:
            if outgoing.acknowledged == outgoing.sent:
                self.unanswered_ms = now_ms
            outgoing.take_frames(budget_bytes, taken)
        return taken

    def _queue(self, frame: bytes) -> None:
        if self.linked:
            self.control.append(frame)

    def queue_acknowledgement(self) -> None:
        self.acknowledged_bytes = self.incoming.received
        self.incoming.advertised = self.incoming.limit
        self.unacknowledged_frames = 0
        self.acknowledge_due_ms = None
        self._queue(encode_frame(Ack(self.acknowledged_bytes, self.incoming.advertised)))

    def _progressed(self, now_ms: float) -> None:
        if self.gap_from_ms is not None:
            gap = now_ms - self.gap_from_ms
            self.gap_from_ms = None
            self.statistics.last_gap_ms = gap
            self.statistics.longest_gap_ms = max(self.statistics.longest_gap_ms, gap)
        self.progress_ms = now_ms

    # --- time and states --------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When `tick` is due, in ms; None when the session is over for good."""
        if self.state is _ATTACHED:
            due_ms = self._dead_at_ms() if self.ping_at_ms is not None else self._heartbeat_at_ms()
            acknowledge_ms = self.acknowledge_due_ms
            return due_ms if acknowledge_ms is None else min(due_ms, acknowledge_ms)
        match self.state:
            case State.FINISHED:
                return self._since_ms + self.parameters.linger_ms
            case State.DETACHED:
                return self._since_ms + self.parameters.give_up_ms
        return None

    def _heartbeat_at_ms(self) -> float:
        """When to ask whether the peer is there. Soon, while it owes an acknowledgement; else the more rarely, the
        longer nothing of the stream has moved, each time after as long again: a node that takes thousands of sessions
        in a minute would do nothing else."""
        heartbeat_ms, heard_ms, outgoing = self.parameters.heartbeat_ms, self.heard_ms, self.outgoing
        if outgoing.acknowledged < outgoing.sent or outgoing.pending:
            return max(heard_ms, self.unanswered_ms) + heartbeat_ms
        quiet_ms = heard_ms - self.progress_ms
        return heard_ms + max(heartbeat_ms, min(quiet_ms, self.parameters.idle_heartbeat_ms))

    def tick(self, now_ms: float) -> bool:
        """Time has passed. True when the link must be taken for dead: close it and call `link_lost`."""
        if self.state is State.DETACHED and now_ms >= self._since_ms + self.parameters.give_up_ms:
            self._fail(
                SessionLost("no link to the peer could be made in time", waited_ms=round(now_ms - self._since_ms))
            )
        if self.state is not State.ATTACHED:
            return False
        if self.ping_at_ms is not None:
            return now_ms >= self._dead_at_ms()
        if now_ms >= self._heartbeat_at_ms():
            self.ping_at_ms = self._pinged_ms = now_ms
            self._ping_number += 1
            self._queue(encode_frame(Ping(self._ping_number)))
        return False

    def _dead_at_ms(self) -> float:
        """When an unanswered ping means that the link is dead. A ping that we sent late has its full time, too."""
        wait = self.parameters.dead_after_ms - self.parameters.heartbeat_ms
        return max(self.heard_ms + self.parameters.dead_after_ms, (self.ping_at_ms or 0.0) + wait)

    def expired(self, now_ms: float) -> bool:
        """The session may be forgotten."""
        lingered = self.state is State.FINISHED and now_ms >= self._since_ms + self.parameters.linger_ms
        return lingered or self.state is State.FAILED

    def _complete_if_done(self, now_ms: float) -> None:
        if self.state is State.ATTACHED and self.outgoing.complete and self.incoming.ended:
            self._move_to(Event.COMPLETE, now_ms)

    def _fail(self, error: BlockCloudError) -> None:
        if self.state is not State.FAILED:
            self.error = error
            self._move_to(Event.FAIL, self._since_ms)

    def _move_to(self, event: Event, now_ms: float) -> None:
        following = _TRANSITIONS[self.state, event]
        if following is not self.state:
            self.state = following
            self._since_ms = now_ms
