"""The short way of small messages does what the general one does: both are driven side by side with the same inputs.

One core takes whatever `small_messages` takes and the rest the general way, the other all of it the general way. After
every step both must be in the same state and have sent the same bytes; a refusal of the short way must change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blockcloud.primitives.errors import PeerFault
from blockcloud.service_access import buffers, small_messages
from blockcloud.service_access.frames import Ack, Fin, FrameDecoder, Ping, Rst, data_header, encode_frame
from blockcloud.service_access.session import Role, SessionCore, SessionParameters
from blockcloud.service_access.small_messages import SMALL_BYTES, frame_small, receive_small
from blockcloud.service_access.stream import READ_BYTES, SEND_BATCH_BYTES

PARAMETERS = SessionParameters(buffer_bytes=6_000, acknowledge_after_frames=7, acknowledge_after_bytes=3_000)
STREAM = bytes(range(256)) * 400
LENGTHS = st.sampled_from((1, 2, 99, 100, 700, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, 5_000))
CHUNKS = 12  # instead of thousands, so that the limit is met

STEPS = st.one_of(
    st.tuples(st.just("data"), LENGTHS, st.sampled_from((0, 0, 0, 0, 0, -1, 1, -300)), st.booleans()),
    st.tuples(st.just("data"), LENGTHS, st.just(0), st.booleans()),
    st.tuples(st.just("write"), st.one_of(st.just(0), LENGTHS)),
    st.tuples(st.just("write"), LENGTHS),
    st.tuples(st.just("acknowledge"), st.integers(0, 6_000), st.integers(0, 20_000)),
    st.tuples(st.just("read"), LENGTHS),
    st.tuples(st.just("advance"), st.sampled_from((0, 1, 10, 49, 50, 51, 100, 260, 1_100))),
    st.tuples(st.just("link_lost")),
    st.tuples(st.just("attach"), st.integers(0, 3), st.integers(0, 6_000)),
    st.tuples(st.just("old link"), LENGTHS),
    st.tuples(st.sampled_from(("pause", "resume"))),
    st.tuples(st.sampled_from(("finish", "fin", "ping", "reset", "announce", "two frames", "cut short", "empty"))),
)


def state_of(core: SessionCore) -> dict[str, Any]:
    """Everything a core consists of."""
    found = {name: getattr(core, name) for name in SessionCore.__slots__}
    for part in ("incoming", "outgoing"):
        found[part] = {name: getattr(getattr(core, part), name) for name in type(getattr(core, part)).__slots__}
        found[part]["chunks"] = [
            bytes(each) if part == "incoming" else (each[0], bytes(each[1])) for each in found[part]["chunks"]
        ]
    found["statistics"] = repr(core.statistics)
    found["control"] = list(core.control)
    found["error"] = repr(core.error)
    found["datagrams"] = len(core.datagrams)
    return found


class Side:
    """A core as `Session` drives it, with or without the short way."""

    def __init__(self, short: bool) -> None:
        self.short = short
        self.taken = 0
        self.paused = False  # the link takes nothing
        self.now_ms = 0.0
        self.sent = b""
        self.passed = b""
        self.core = SessionCore(
            session_id=bytes(16),
            secret=bytes(32),
            role=Role.INITIATOR,
            now_ms=0.0,
            peer_window=4_500,
            parameters=PARAMETERS,
        )

    def shortly(self, take: Callable[[], bytes | None]) -> bytes | None:
        """The result of the short way, which must leave everything alone if it has none."""
        if not self.short:
            return None
        before = state_of(self.core)
        result = take()
        if result is None:
            assert state_of(self.core) == before
        else:
            self.taken += 1
        return result

    def arrive(self, data: bytes, *, counter: int | None = None, at_once: bool = False) -> None:
        link = self.core.link if counter is None else counter
        payload = self.shortly(lambda: receive_small(self.core, link, data, self.now_ms, at_once))
        if payload is not None:
            if at_once:
                self.passed += payload
        else:
            decoder = FrameDecoder()
            decoder.authenticated()
            decoder.feed(data)
            try:
                while (frame := decoder.next()) is not None:
                    self.core.receive(link, frame, self.now_ms)
            except PeerFault as fault:
                self.core.fail_for(fault)
            while at_once and self.core.waiting:
                self.passed += b"".join(self.core.read(READ_BYTES, self.now_ms))
        due_ms = self.core.acknowledge_due_ms
        if payload is None or (due_ms is not None and due_ms <= self.now_ms):
            self.pump()

    def write(self, count: int) -> None:
        core = self.core
        data = STREAM[core.outgoing.end % 1_000 :][:count]
        frame = None if self.paused else self.shortly(lambda: frame_small(core, data, self.now_ms))
        if frame is not None:
            self.sent += frame
            return
        if not core.writable:
            return
        core.write(data)
        self.pump()

    def pump(self) -> None:
        if not self.paused:
            self.sent += b"".join(self.core.take_frames(SEND_BATCH_BYTES, self.now_ms))

    def step(self, what: str, *numbers: Any) -> None:
        core, incoming, outgoing = self.core, self.core.incoming, self.core.outgoing
        match what, *numbers:
            case "data", count, shift, at_once:
                offset = max(0, incoming.received + shift)
                self.arrive(data_header(offset, count) + STREAM[:count], at_once=at_once)
            case "old link", count:
                self.arrive(data_header(incoming.received, count) + STREAM[:count], counter=core.link - 1)
            case "write", count:
                self.write(count)
            case ("pause",):
                self.paused = True
            case ("resume",):
                self.paused = False
                self.pump()
            case "acknowledge", back, limit:
                self.arrive(encode_frame(Ack(max(0, outgoing.highest - back), limit)))
            case "read", count:
                self.passed += b"".join(core.read(count, self.now_ms))
            case "advance", by_ms:
                self.now_ms += by_ms
                if core.tick(self.now_ms):
                    core.link_lost(core.link, self.now_ms)
                self.pump()
            case ("link_lost",):
                core.link_lost(core.link, self.now_ms)
            case "attach", more, back:
                try:
                    received = max(outgoing.acknowledged, outgoing.highest - back)
                    core._attach(core.link + more, received, (), self.now_ms)
                except (PeerFault, KeyError):  # fenced; or over, which the callers of _attach see before
                    return
                self.pump()
            case ("finish",):
                core.finish()
                self.pump()
            case ("announce",):
                core.announce_move(())
                self.pump()  # as `Session.announce_move` does
            case ("fin",):
                self.arrive(encode_frame(Fin(incoming.received)))
            case ("ping",):
                self.arrive(encode_frame(Ping(1)))
            case ("reset",):
                self.arrive(encode_frame(Rst("closed", "")))
            case ("two frames",):
                self.arrive((data_header(incoming.received, 1) + b"x") * 2)
            case ("cut short",):
                self.arrive(data_header(incoming.received, 9) + b"x")
            case ("empty",):
                self.arrive(data_header(incoming.received, 0))


def lived(steps: list[tuple[Any, ...]]) -> Side:
    """Both sides after the same steps, compared after each; the one with the short way."""
    short, general = Side(short=True), Side(short=False)
    for step in steps:
        for side in (short, general):
            side.step(*step)
        assert state_of(short.core) == state_of(general.core), step
        assert short.sent == general.sent, step
        assert short.passed == general.passed, step
    return short


@given(steps=st.lists(STEPS, max_size=40))
@example([("pause",), ("data", 4_000, 0, True), ("data", 4_000, 0, True)])  # no credit
@example([("write", 4_000), ("write", 4_000)])
@example([("write", 100), ("acknowledge", 0, 90_000), ("write", 4_000), ("write", 4_000)])  # no room
@example([("announce",), ("write", 100)])
@example([("pause",), ("announce",), ("data", 1, 0, False), ("resume",), ("write", 100)])
@example([("finish",), ("write", 100)])
@example([("write", 100), ("acknowledge", 100, 90_000), ("attach", 1, 100), ("advance", 260), ("write", 100)])
@settings(max_examples=400, deadline=None)
def test_both_ways_do_the_same(steps: list[tuple[Any, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "BUFFER_CHUNKS", CHUNKS)
        patch.setattr(small_messages, "BUFFER_CHUNKS", CHUNKS)
        lived(steps)


def test_the_short_way_is_taken() -> None:
    exchange = [("data", 100, 0, True), ("write", 100), ("advance", 1)] * 60
    side = lived(
        [
            step
            for number, step in enumerate(exchange)
            for step in (step, ("acknowledge", 0, 90_000))[: 1 + (number % 9 == 0)]
        ]
    )
    assert side.taken == 120
