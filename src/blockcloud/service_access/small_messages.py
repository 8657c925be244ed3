"""Small messages in the common case: one whole data frame comes, or one piece is written, and that is all. Sans-IO.

A message of a hundred bytes goes through decoder, frame, core and buffers in some thirty calls, which cost more than
its TLS record. The two functions here do in one what `FrameDecoder.next` with `SessionCore.receive`, and
`SessionCore.write` with `take_frames`, do together, for as long as everything is as it mostly is. As soon as anything
is not, they change nothing and return None, and the general path, which alone knows about faults, decides. Both paths
leave the same state and the same bytes: `tests/service_access/test_small_messages.py` drives them side by side.
"""

from __future__ import annotations

import struct
from typing import Final

from blockcloud.service_access.buffers import BUFFER_CHUNKS
from blockcloud.service_access.frames import HEADER_BYTES, OFFSET_BYTES, VIEW_BYTES, Kind
from blockcloud.service_access.session import SessionCore, State

SMALL_BYTES: Final = VIEW_BYTES - 1  # larger payloads are kept as views, here all are copied

_ATTACHED: Final = State.ATTACHED  # then a link has the session, too
_DATA_WORD: Final = (Kind.DATA << 24) + OFFSET_BYTES
_HEADER: Final = struct.Struct(">IQ")
_HEADER_BYTES: Final = HEADER_BYTES + OFFSET_BYTES
_FRAME_BYTES: Final = _HEADER_BYTES + SMALL_BYTES
_unpack, _pack = _HEADER.unpack_from, _HEADER.pack


def receive_small(core: SessionCore, counter: int, data: bytes, now_ms: float, at_once: bool) -> bytes | None:
    """The payload if `data`, which came over the link `counter`, is exactly the next data frame of the stream.

    `at_once`: the program takes the payload now, as if it had called `read`; otherwise it waits to be read.
    """
    size = len(data)
    if not _HEADER_BYTES < size <= _FRAME_BYTES:
        return None
    word, offset = _unpack(data)
    count = size - _HEADER_BYTES
    incoming = core.incoming
    end = offset + count
    if (
        word != _DATA_WORD + count
        or offset != incoming.received
        or end > incoming.advertised
        or incoming.waiting
        or incoming.final is not None
        or counter != core.link
        or core.state is not _ATTACHED
        or core.gap_from_ms is not None
    ):
        return None
    payload = bytes(data[_HEADER_BYTES:])
    core.heard_ms = core.progress_ms = now_ms
    core.ping_at_ms = None
    core.statistics.bytes_read += count
    core.unacknowledged_frames += 1
    incoming.received = end
    due = (
        end - core.acknowledged_bytes >= core.acknowledge_bytes
        or core.unacknowledged_frames >= core.parameters.acknowledge_after_frames
    )
    if at_once:
        incoming.consumed = end
        due = due or end + incoming.capacity - incoming.advertised >= core.acknowledge_bytes
    else:
        incoming.chunks.append(payload)
        incoming.waiting = count
    if due:
        core.acknowledge_due_ms = now_ms
    elif core.acknowledge_due_ms is None:
        core.acknowledge_due_ms = now_ms + core.parameters.acknowledge_after_ms
    return payload


def frame_small(core: SessionCore, data: bytes | bytearray | memoryview, now_ms: float) -> bytes | None:
    """Take all of `data`, and the bytes to send on the session's link for it: the frame, and before it an
    acknowledgement if one is nearly due. The caller has seen that the link takes output."""
    outgoing = core.outgoing
    offset, count = outgoing.end, len(data)
    end = offset + count
    if (
        not 0 < count <= SMALL_BYTES
        or outgoing.sent != offset
        or end > outgoing.limit
        or end - outgoing.acknowledged > outgoing.capacity
        or len(outgoing.chunks) >= BUFFER_CHUNKS
        or outgoing.finished
        or core.control
        or core.state is not _ATTACHED
    ):
        return None
    payload = bytes(data)
    outgoing.chunks.append((offset, payload))
    outgoing.next = len(outgoing.chunks)
    outgoing.end = outgoing.sent = end
    if end > outgoing.highest:
        outgoing.highest = end
    if outgoing.acknowledged == offset:
        core.unanswered_ms = now_ms
    core.statistics.bytes_written += count
    frame = _pack(_DATA_WORD + count, offset) + payload
    due_ms = core.acknowledge_due_ms
    if due_ms is not None and now_ms >= due_ms - core.parameters.acknowledge_after_ms / 2:
        core.queue_acknowledgement()
        return core.control.pop() + frame
    return frame
