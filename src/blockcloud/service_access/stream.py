"""A session as programs see it: `read`, `write`, `write_eof`, `close`, over whatever link there is at the moment.

The asyncio adaptor of `session.SessionCore`. It passes frames both ways, keeps one timer, and tells its keeper (the
endpoint) when a new link is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from blockcloud.primitives.errors import BlockCloudError, PeerFault
from blockcloud.primitives.limits import SESSION_DATAGRAM_BYTES
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.errors import DatagramTooLarge, FencedLink, SessionEnded
from blockcloud.service_access.frames import Data, Frame, Rst
from blockcloud.service_access.links.link import Link
from blockcloud.service_access.session import Role, SessionCore, State, Statistics
from blockcloud.service_access.small_messages import frame_small, receive_small

READ_BYTES: Final = 256 * 1024
SEND_BATCH_BYTES: Final = 256 * 1024
JOINED_BYTES: Final = 16 * 1024  # one TLS record
PAYMENT_SECONDS: Final = 0.001

# Looking a member of an Enum up costs as much as all else that is done for a small message.
_ATTACHED: Final = State.ATTACHED
_FAILED: Final = State.FAILED


# Called with every piece of the stream, in order; it must not raise.
Receiver: TypeAlias = Callable[[bytes | memoryview], object]


class SessionKeeper(Protocol):
    """Who finds links for sessions and forgets them when they are over."""

    def link_needed(self, session: Session) -> None: ...

    def session_over(self, session: Session) -> None: ...


class Session:
    """A two-way byte stream to the holder of `peer_key`, under the service name `name`.

    Either end may move: the stream goes on. If the peer is gone for good, `read` and `write` raise SessionLost; if it
    gave up on purpose, SessionReset. One reader and one writer at a time.
    """

    __slots__ = (
        *("core", "name", "peer_key", "_acknowledge_after_ms", "_changes", "_datagram_reader", "_discard", "_keeper"),
        *("_link", "_loop", "_old", "_over", "_passing", "_reader", "_reading", "_receiver", "_timer", "_timer_ms"),
        *("_payments", "_unsettled", "_writer"),
    )

    def __init__(self, core: SessionCore, *, name: str, peer_key: bytes, keeper: SessionKeeper) -> None:
        self.core = core
        self.name = name
        self.peer_key = peer_key
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._old: Link | None = None  # until the first frame on the new link shows that the peer has switched
        # Who waits now. No events: thousands of idle sessions would have four each, with a queue in every one.
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._datagram_reader: asyncio.Future[None] | None = None
        self._changes: list[asyncio.Future[None]] = []  # of link or state
        self._receiver: Receiver | None = None
        self._payments: Callable[[bytes], object] | None = None
        self._reading = True  # the receiver takes what comes
        self._passing = False  # it is being called with what has waited
        self._acknowledge_after_ms = core.parameters.acknowledge_after_ms
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0.0
        self._unsettled = False  # something came that was not data
        self._discard = False
        self._over = False

    # --- for programs -----------------------------------------------------------------------------------------------

    @property
    def statistics(self) -> Statistics:
        """Counters: bytes, resumes, longest gap."""
        return self.core.statistics

    async def read(self, count: int = READ_BYTES) -> bytes:
        """At most `count` bytes, at least one; b"" at the end of the peer's stream. Raises SessionEnded's children."""
        if self.core.incoming.waiting or await self._readable():
            return _joined(self._take(count))
        return b""

    async def read_pieces(self, count: int = READ_BYTES) -> list[bytes | memoryview]:
        """As `read`, without joining; an empty list at the end."""
        if self.core.incoming.waiting or await self._readable():
            return self._take(count)
        return []

    async def read_exactly(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises SessionEnded if the stream ends before."""
        pieces: list[bytes | memoryview] = []
        while count:
            if not self.core.incoming.waiting and not await self._readable():
                raise SessionEnded("the peer's stream ended early", missing=count)
            part = self._take(count)
            if not pieces and len(part) == 1 and len(part[0]) == count:
                return bytes(part[0])
            count -= sum(map(len, part))
            pieces += part
        return _joined(pieces)

    async def _readable(self) -> bool:
        """Wait until something can be read; False at the end of the peer's stream. Raises SessionEnded's children."""
        core = self.core
        while not core.incoming.waiting:
            if core.error is not None:
                raise core.error
            if core.peer_ended:
                return False
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return True

    def _take(self, count: int) -> list[bytes | memoryview]:
        core, now_ms = self.core, self._loop.time() * 1_000
        pieces = core.read(count, now_ms)
        if core.acknowledge_due_ms is not None and core.acknowledge_due_ms <= now_ms:
            self._pump()
        return pieces

    def set_receiver(self, receiver: Receiver) -> None:
        """From now on call `receiver` with what arrives, as it arrives, instead of letting `read` wait for it: no task
        has to be woken for a message. `pause_reading` holds the peer back; the end is for `peer_finished` to tell."""
        self._receiver = receiver
        self._pass_on()

    def pause_reading(self) -> None:
        """The receiver takes no more for now. What was on its way to it already still comes."""
        self._reading = False

    def resume_reading(self) -> None:
        """The receiver goes on."""
        self._reading = True
        self._pass_on()

    async def peer_finished(self) -> None:
        """Wait until the peer's stream has ended and the receiver has had all of it. Raises SessionEnded's children."""
        core = self.core
        while core.incoming.waiting or not core.peer_ended:
            if core.error is not None:
                raise core.error
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def _pass_on(self) -> None:
        """Give the receiver what waits."""
        receiver, core = self._receiver, self.core
        if receiver is None or self._passing:
            return
        self._passing = True
        try:
            while self._reading and core.incoming.waiting:
                for piece in self._take(READ_BYTES):
                    receiver(piece)
        finally:
            self._passing = False
        if self._reader is not None and core.peer_ended and not core.incoming.waiting:
            _wake(self._reader)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`; returns when the bounded buffer has all of it. Raises SessionEnded's children."""
        if self._write_small(data):
            return
        core = self.core
        view: bytes | bytearray | memoryview = data
        while True:
            if not core.writable:
                raise core.error or SessionEnded("this side has ended its stream")
            accepted = core.write(view)
            self._pump()
            if accepted == len(view):
                return
            view = memoryview(view)[accepted:]
            if not core.room:
                self._writer = self._loop.create_future()
                try:
                    await self._writer
                finally:
                    self._writer = None

    def write_now(self, data: bytes | memoryview) -> int:
        """Take as much of `data` as there is room for, without waiting; how many bytes."""
        if self._write_small(data):
            return len(data)
        accepted = self.core.write(data)
        self._pump()
        return accepted

    def _write_small(self, data: bytes | bytearray | memoryview) -> bool:
        """Send `data` at once if that is all there is to do."""
        link = self._link
        if link is None or link.paused:
            return False
        now_ms = self._loop.time() * 1_000
        frame = frame_small(self.core, data, now_ms)
        if frame is None:
            return False
        link.send(frame)
        if self._timer is None or self._timer_ms > now_ms + self._acknowledge_after_ms:
            self._schedule(now_ms)
        return True

    def send_datagram(self, data: bytes) -> None:
        """Send `data` (at most 1,200 bytes) beside the stream: it may get lost, and overtake. A link that is busy or
        gone loses it at once. Raises DatagramTooLarge, SessionEnded's children."""
        if len(data) > SESSION_DATAGRAM_BYTES:
            raise DatagramTooLarge(bytes=len(data), limit=SESSION_DATAGRAM_BYTES)
        if self.core.error is not None:
            raise self.core.error
        link = self._link
        if link is None or link.paused or not self.core.linked:
            self.statistics.datagrams_dropped += 1
            return
        self.statistics.datagrams_sent += 1
        link.send_datagram(data)

    async def receive_datagram(self) -> bytes:
        """The next datagram of the peer. Raises SessionEnded or one of its children when no more can come."""
        core = self.core
        while (datagram := core.datagrams.take()) is None:
            if core.error is not None:
                raise core.error
            if core.state is State.FINISHED:
                raise SessionEnded("the session is over")
            self._datagram_reader = self._loop.create_future()
            try:
                await self._datagram_reader
            finally:
                self._datagram_reader = None
        return datagram

    def send_payment(self, message: bytes, *, urgent: bool = True) -> bool:
        """Send a message about payment (at most 1,024 bytes) beside the stream; False if no link takes it now. A link
        that breaks loses it. One that is not urgent goes with the next data, if some comes within a millisecond."""
        queued = self.core.pay(message)
        if urgent:
            self._pump()
        elif queued:
            self._loop.call_later(PAYMENT_SECONDS, self._pump)
        return queued

    def set_payments(self, receiver: Callable[[bytes], object]) -> None:
        """From now on call `receiver` with each message about payment; it must not raise."""
        self._payments = receiver
        self._settle()

    def write_eof(self) -> None:
        """End this side's stream; the peer's goes on."""
        self.core.finish()
        self._pump()

    async def drained(self) -> None:
        """Wait until the peer has everything, the end included (after `write_eof`). Raises SessionEnded's children."""
        while not self.core.all_sent:
            if self.core.error is not None:
                raise self.core.error
            await self._change()

    async def close(self) -> None:
        """End this side's stream and wait until the peer has it all; what the peer still sends is dropped.

        Never raises: a session that is over already is closed. A peer that goes on sending after the linger time is
        reset.
        """
        if self.core.writable:
            self.write_eof()
        self._discard = True
        self._settle()
        limit_ms = self.core.parameters.linger_ms + self.core.parameters.give_up_ms
        try:
            async with asyncio.timeout(limit_ms / 1_000):
                await self.drained()
            async with asyncio.timeout(self.core.parameters.linger_ms / 1_000):
                while self.core.state not in (State.FINISHED, State.FAILED):
                    await self._change()
        except TimeoutError:
            self.abort("closed", "closed by the program")
        except SessionEnded:
            return

    def abort(self, code: str, reason: str) -> None:
        """End the session at once; the peer's program sees SessionReset with `code` and `reason`."""
        self.core.reset(code, reason)
        self._settle()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.close()
        else:
            self.abort("closed", "closed by the program after an error")

    @property
    def error(self) -> BlockCloudError | None:
        """Why the session failed, if it did."""
        return self.core.error

    # --- for the endpoint -------------------------------------------------------------------------------------------

    @property
    def linked(self) -> bool:
        """A link carries the session now."""
        return self.core.linked

    @property
    def role(self) -> Role:
        """Whether this side began the session."""
        return self.core.role

    def adopt(self, link: Link, counter: int) -> None:
        """`link` has the session now (the core has said so). The old one is closed as soon as the peer uses the new."""
        if self._old is not None:
            self._old.abort()
        self._old, self._link = self._link, link
        if counter % 2 != self.core.role and self._old is not None:
            self._old.abort()  # the peer dialled, so it uses the new link already
            self._old = None
        link.bind(self, counter)
        self._tell_change()

    async def attached_beyond(self, counter: int) -> None:
        """Wait for a link with a higher counter than `counter`, or for the session's end."""
        while self.core.link <= counter and self.core.state in (State.ATTACHED, State.DETACHED):
            await self._change()

    async def ended(self) -> None:
        """Wait until the session is finished or has failed."""
        while self.core.state not in (State.FINISHED, State.FAILED):
            await self._change()

    def drop_link(self) -> None:
        """Cut the link as it is; the session looks for another one."""
        if self._link is not None:
            self._link.abort()

    def announce_move(self, addresses: tuple[Address, ...]) -> None:
        """Tell the peer over the present link where we are now."""
        self.core.announce_move(addresses)
        self._pump()

    def lose(self, reason: str) -> None:
        """Give up: no link can be made."""
        self.core.lose(reason)
        self._settle()

    async def _change(self) -> None:
        """Wait for the next change of link or state."""
        change = self._loop.create_future()
        self._changes.append(change)
        await change

    def _tell_change(self) -> None:
        changes, self._changes = self._changes, []
        for change in changes:
            _wake(change)

    # --- LinkOwner --------------------------------------------------------------------------------------------------

    def link_small(self, link: Link, data: bytes) -> bool:
        """See LinkOwner: the common case of `link_frame` and `link_settled` in one."""
        if link is not self._link or self._old is not None or self._discard:
            return False
        core, now_ms, receiver = self.core, self._loop.time() * 1_000, self._receiver
        at_once = receiver is not None and self._reading and not self._passing
        payload = receive_small(core, link.counter, data, now_ms, at_once)
        if payload is None:
            return False
        if at_once and receiver is not None:
            receiver(payload)
        elif self._reader is not None and receiver is None:
            _wake(self._reader)
        due_ms = core.acknowledge_due_ms
        if due_ms is not None and due_ms <= now_ms:
            self._pump()
        elif self._timer is None or self._timer_ms > now_ms + self._acknowledge_after_ms:
            self._schedule(now_ms)
        return True

    def link_frame(self, link: Link, frame: Frame) -> None:
        """A frame of the session, from its link or an older one (the core knows)."""
        if self._old is not None and link is self._link:
            self._old.abort()
            self._old = None
        self.core.receive(link.counter, frame, self._loop.time() * 1_000)
        if type(frame) is not Data:
            self._unsettled = True
            if isinstance(frame, Rst) and frame.code == FencedLink.code:
                link.abort()  # a newer link comes, or is looked for when this one is gone

    def link_settled(self, link: Link) -> None:
        """See what has changed. After nothing but data, that is little."""
        now_ms = self._loop.time() * 1_000
        if self._unsettled or self._discard or self.core.must_send(now_ms):
            self._settle()
            return
        if self._receiver is not None:
            self._pass_on()
        elif self._reader is not None:
            _wake(self._reader)
        self._schedule(now_ms)

    def link_fault(self, link: Link, fault: PeerFault) -> None:
        """The peer broke a rule: on the session's link that ends the session, on an old one only the link."""
        if link is self._link:
            self.core.fail_for(fault)
            self._settle()
        else:
            link.abort()

    def link_lost(self, link: Link) -> None:
        """A link broke; if it was the session's, another one is needed."""
        if link is self._old:
            self._old = None
        if self.core.link_lost(link.counter, self._now_ms()):
            self._link = None
            self._settle()
            if self.core.state is State.DETACHED:
                self._keeper.link_needed(self)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _now_ms(self) -> float:
        return self._loop.time() * 1_000

    def _pump(self) -> None:
        """Send what may be sent, as long as the link takes it, and see when to look again."""
        link, now_ms = self._link, self._loop.time() * 1_000
        if link is not None and not link.lost:
            while not link.paused:
                pieces = self.core.take_frames(SEND_BATCH_BYTES, now_ms)
                if len(pieces) <= 1:
                    if pieces:
                        link.send(pieces[0])
                    break
                size = sum(map(len, pieces))
                if size <= JOINED_BYTES:
                    pieces = [b"".join(pieces)]
                link.send(*pieces)
                if size < SEND_BATCH_BYTES:
                    break
        self._schedule(now_ms)

    def _settle(self) -> None:
        """After anything happened: send, wake whoever waits, act on a new state."""
        core = self.core
        self._unsettled = False
        if self._discard and core.waiting:
            core.read(core.waiting, self._now_ms())
        self._pump()
        if self._receiver is not None:
            self._pass_on()
        if self._reader is not None and (core.waiting or core.peer_ended or core.error is not None):
            _wake(self._reader)
        if self._writer is not None and (core.room or core.error is not None):
            _wake(self._writer)
        if self._datagram_reader is not None and (core.datagrams or core.state in (State.FINISHED, State.FAILED)):
            _wake(self._datagram_reader)
        if core.payments and self._payments is not None:
            payments, core.payments = core.payments, ()
            for message in payments:
                self._payments(message)
        if core.dial_due_ms is not None and core.state is not _FAILED:
            self._keeper.link_needed(self)
        if core.state is _ATTACHED:
            if self._changes and core.all_sent:
                self._tell_change()
            return
        if core.state in (State.FINISHED, State.FAILED):
            self._tell_change()
            if self._link is not None:
                self._link.close()
            if core.state is State.FAILED:
                self._end()

    def _schedule(self, now_ms: float) -> None:
        # What is new is due no sooner than an acknowledgement of now; a timer before that sets itself again.
        if self._timer is not None and self._timer_ms <= now_ms + self._acknowledge_after_ms:
            return
        due = self.core.next_timer()
        if due is None or self._over:
            return
        if self._timer is not None:
            if self._timer_ms <= due + 1:
                return  # it fires early enough, and then sets itself again
            self._timer.cancel()
        self._timer_ms = due
        self._timer = self._loop.call_at(due / 1_000 + 0.0005, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now_ms = self._now_ms()
        if self.core.tick(now_ms) and self._link is not None:
            link = self._link
            link.abort()
            self.link_lost(link)
            return
        if self.core.expired(now_ms):
            self._end()
            return
        self._settle()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._old is not None:
            self._old.abort()
        for waiter in (self._reader, self._writer, self._datagram_reader):
            if waiter is not None:
                _wake(waiter)
        self._tell_change()
        self._keeper.session_over(self)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _joined(pieces: list[bytes | memoryview]) -> bytes:
    return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
