"""Two session cores and the links between them, without sockets: links die, notices come late, both sides dial."""

from __future__ import annotations

import random
from collections import deque

from blockcloud.primitives.hashes import sha256
from blockcloud.service_access.errors import FencedLink, UnknownSession
from blockcloud.service_access.frames import Challenge, Frame, FrameDecoder, Proof, Resume, Rst, encode_frame
from blockcloud.service_access.session import Attempt, Role, SessionCore, SessionParameters, State

BUFFER_BYTES = 600
SMALL = SessionParameters(buffer_bytes=BUFFER_BYTES, acknowledge_after_bytes=100, give_up_ms=10**9, linger_ms=10**9)
STREAM = [sha256(bytes([side])) * 4_096 for side in (0, 1)]


class SimLink:
    """A link: what is on its way to each side, and how far each side is with it."""

    def __init__(self, number: int, dialler: int) -> None:
        self.number = number
        self.dialler = dialler
        self.certificate = sha256(number.to_bytes(8, "big"))
        self.to: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        self.decoders = (FrameDecoder(), FrameDecoder())
        self.counter: list[int | None] = [None, None]
        self.attempt: list[Attempt | None] = [None, None]
        self.alive = True
        self.noticed = [False, False]
        for decoder in self.decoders:
            decoder.authenticated()


class SessionWorld:
    """The cores, and every step that a network or a program can take. A broken rule raises."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.cores = [
            SessionCore(
                session_id=bytes(16),
                secret=bytes(32),
                role=role,
                now_ms=0.0,
                peer_window=BUFFER_BYTES,
                parameters=SMALL,
            )
            for role in (Role.INITIATOR, Role.RESPONDER)
        ]
        first = SimLink(0, 0)
        first.counter = [0, 0]
        self.links = [first]
        self.written = [0, 0]
        self.read_bytes = [bytearray(), bytearray()]
        self.newest = [0, 0]

    # --- programs ---

    def write(self, side: int, count: int) -> None:
        if self.cores[side].writable:
            start = self.written[side]
            self.written[side] += self.cores[side].write(STREAM[side][start : start + count])
            self.pump(side)

    def finish(self, side: int) -> None:
        self.cores[side].finish()
        self.pump(side)

    def read(self, side: int, count: int) -> None:
        for piece in self.cores[side].read(count, self.now_ms):
            self.read_bytes[side] += piece
        self.pump(side)

    # --- the network ---

    def link_of(self, side: int) -> SimLink | None:
        core = self.cores[side]
        found = [link for link in self.links if link.counter[side] == core.link]
        return found[-1] if found and core.linked else None

    def pump(self, side: int, budget: int = 200) -> None:
        link = self.link_of(side)
        if link is not None:
            for piece in self.cores[side].take_frames(budget, self.now_ms):
                if link.alive:
                    link.to[1 - side].append(bytes(piece))

    def deliver(self, link: SimLink, side: int, count: int = 1) -> None:
        """The next `count` pieces on their way to `side` arrive."""
        for _ in range(count):
            if not link.to[side]:
                return
            link.decoders[side].feed(link.to[side].popleft())
            while (frame := link.decoders[side].next()) is not None:
                self._handle(link, side, frame)
        self.pump(side)

    def _handle(self, link: SimLink, side: int, frame: Frame) -> None:
        core, counter = self.cores[side], link.counter[side]
        try:
            if counter is not None:
                core.receive(counter, frame, self.now_ms)
            elif isinstance(frame, Resume):
                nonce = sha256(link.certificate)
                link.attempt[side], answer = core.resume_asked(frame, nonce, link.certificate, ())
                link.to[1 - side].append(answer)
            elif isinstance(frame, Challenge):
                attempt = link.attempt[side]
                assert attempt is not None
                proof = core.challenged(attempt, frame, link.certificate, (), self.now_ms)
                link.to[1 - side].append(proof)
                self._bound(link, side, attempt)
            elif isinstance(frame, Proof):
                attempt = link.attempt[side]
                assert attempt is not None
                core.proven(attempt, frame, self.now_ms)
                self._bound(link, side, attempt)
                for older in self.links:
                    if older is not link and older.counter[side] is not None:
                        self.kill(older)
        except (FencedLink, UnknownSession) as refused:
            link.to[1 - side].append(encode_frame(Rst(refused.code, "")))
            self.kill(link)

    def _bound(self, link: SimLink, side: int, attempt: Attempt) -> None:
        link.counter[side] = attempt.counter
        self.check()

    def dial(self, side: int) -> None:
        link = SimLink(len(self.links), side)
        link.attempt[side], frame = self.cores[side].begin_resume(sha256(link.certificate + b"dial"))
        link.to[1 - side].append(frame)
        self.links.append(link)

    def kill(self, link: SimLink) -> None:
        """The link breaks; what is on its way may still arrive, nothing more is sent."""
        link.alive = False

    def drop(self, link: SimLink) -> None:
        """The link breaks and what is on its way is gone."""
        link.alive = False
        for queue in link.to:
            queue.clear()

    def notice(self, link: SimLink, side: int) -> None:
        """`side` learns that the link broke."""
        counter = link.counter[side]
        if not link.alive and not link.noticed[side] and counter is not None:
            link.noticed[side] = True
            link.to[side].clear()
            self.cores[side].link_lost(counter, self.now_ms)

    def advance(self, by_ms: float) -> None:
        self.now_ms += by_ms
        for side, core in enumerate(self.cores):
            link = self.link_of(side)
            if core.tick(self.now_ms) and link is not None:
                self.kill(link)
                self.notice(link, side)
            self.pump(side)

    # --- what must hold ---

    def check(self) -> None:
        for side, core in enumerate(self.cores):
            assert core.error is None, core.error
            got, sent = self.read_bytes[side], STREAM[1 - side][: self.written[1 - side]]
            assert sent.startswith(got), "bytes lost, doubled or out of order"
            assert core.waiting <= BUFFER_BYTES, "more received than there is room for"
            assert core.link >= self.newest[side], "an older link took the session back"
            self.newest[side] = core.link

    def heal(self) -> None:
        """No more faults: everything must arrive, and the session end cleanly."""
        for side in (0, 1):
            self.finish(side)
        for _ in range(3_000):
            link = self.link_of(0)
            if link is None or not link.alive or link is not self.link_of(1):
                link = self._relink()
            for side in (0, 1):
                self.read(side, 1_000)
                self.deliver(link, side, 10)
            self.advance(10)
            self.check()
            if all(core.state is State.FINISHED for core in self.cores) and not any(c.waiting for c in self.cores):
                break
        for side in (0, 1):
            assert self.read_bytes[side] == STREAM[1 - side][: self.written[1 - side]], "not everything arrived"
            assert self.cores[side].state is State.FINISHED, "the session does not end"

    def _relink(self) -> SimLink:
        for link in self.links:
            self.drop(link)
            self.notice(link, 0)
            self.notice(link, 1)
        self.dial(0)
        for _ in range(2):
            for side in (1, 0):
                self.deliver(self.links[-1], side, 10)
        return self.links[-1]


def run_randomly(seed: int, steps: int = 150) -> None:
    """One life of a session, drawn from `seed`."""
    chance = random.Random(seed)
    world = SessionWorld()
    for _ in range(steps):
        side = chance.randrange(2)
        link = chance.choice(world.links[-3:])
        action = chance.random()
        if action < 0.25:
            world.write(side, chance.choice((1, 7, 60, 300)))
        elif action < 0.65:
            world.deliver(link, side, chance.choice((1, 2, 5)))
        elif action < 0.80:
            world.read(side, chance.choice((3, 50, 1_000)))
        elif action < 0.85:
            world.advance(chance.choice((1, 30, 300)))
        elif action < 0.90:
            world.dial(side)
        elif action < 0.94:
            (world.kill if chance.random() < 0.5 else world.drop)(link)
        elif action < 0.99:
            world.notice(link, side)
        else:
            world.finish(side)
        world.check()
    world.heal()
