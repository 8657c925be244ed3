"""The two buffers of a session: bytes sent but not yet acknowledged, and bytes received but not yet read. Sans-IO.

Both number the bytes of their direction from 0. The end of the stream takes a number of its own, as TCP's FIN does,
so that one acknowledged number says everything. Memory is bounded on both sides by the same credit: the receiver lets
the sender send only what it has room for.
"""

from __future__ import annotations

from typing import Final

from blockcloud.service_access.errors import AcknowledgedUnsent, BeyondEnd, CreditExceeded, DataGap
from blockcloud.service_access.frames import DATA_BYTES, VIEW_BYTES, Data, Fin, data_header, encode_frame

# Chunks are bounded beside bytes: a million writes of one byte would cost far more than a mebibyte.
BUFFER_CHUNKS: Final = 4_096


class SendBuffer:
    """What was written and may have to be sent again.

    `acknowledged` <= `sent` <= `end` (+1 once finished); `highest` is the highest number ever sent.
    """

    __slots__ = ("acknowledged", "capacity", "chunks", "end", "finished", "highest", "limit", "next", "sent")

    def __init__(self, capacity_bytes: int, limit: int) -> None:
        self.capacity = capacity_bytes
        # (offset, bytes), consecutive, each at most one frame. A list: an empty deque has half a kilobyte.
        self.chunks: list[tuple[int, bytes | memoryview]] = []
        self.next = 0  # index of the chunk to send next
        self.acknowledged = 0
        self.sent = 0
        self.highest = 0
        self.end = 0
        self.finished = False
        self.limit = limit

    @property
    def room(self) -> int:
        """Bytes that may be written now."""
        if self.finished or len(self.chunks) >= BUFFER_CHUNKS:
            return 0
        return self.capacity - self.end + self.acknowledged

    @property
    def complete(self) -> bool:
        """The stream has ended and the peer has all of it."""
        return self.finished and self.acknowledged == self.end + 1

    @property
    def pending(self) -> bool:
        """Something waits to be sent, and the peer's credit allows it."""
        if self.sent < self.end:
            return self.sent < self.limit
        return self.finished and self.sent == self.end

    def append(self, data: bytes | bytearray | memoryview) -> int:
        """Take as much of `data` as there is room for; how many bytes that is."""
        count, room = len(data), self.room
        if 0 < count <= VIEW_BYTES and count <= room:
            self.chunks.append((self.end, bytes(data)))
            self.end += count
            return count
        accepted = min(count, room)
        view = memoryview(data if isinstance(data, bytes) else bytes(memoryview(data)[:accepted]))
        start = 0
        while start < accepted:
            chunk = view[start : min(start + DATA_BYTES, accepted)]
            self.chunks.append((self.end, chunk))
            self.end += len(chunk)
            start += len(chunk)
        return accepted

    def finish(self) -> None:
        """No more bytes will follow."""
        self.finished = True

    def acknowledge(self, received: int, limit: int) -> None:
        """The peer has everything below `received` and allows up to `limit`. Raises AcknowledgedUnsent."""
        if received > self.highest:
            raise AcknowledgedUnsent(received=received, highest=self.highest)
        self.limit = max(self.limit, limit)
        if received <= self.acknowledged:
            return
        self.acknowledged = received
        self.sent = max(self.sent, received)
        done = self._chunks_below(received)
        del self.chunks[:done]
        self.next = max(self.next - done, 0)

    def rewind(self, received: int) -> None:
        """A new link: send again from `received` on. The caller has checked acknowledged <= received <= highest."""
        self.sent = received
        self.next = self._chunks_below(received)

    def _chunks_below(self, received: int) -> int:
        """How many chunks the peer has in whole."""
        count = 0
        for offset, chunk in self.chunks:
            if offset + len(chunk) > received:
                break
            count += 1
        return count

    def take_frames(self, budget_bytes: int, taken: list[bytes | memoryview]) -> None:
        """Append the next frames to send, in pieces: about `budget_bytes`, less when there is no more or no credit."""
        chunks, limit = self.chunks, self.limit
        while budget_bytes > 0 and self.next < len(chunks):
            offset, chunk = chunks[self.next]
            if self.sent > offset:  # the peer has a part of the chunk
                chunk = chunk[self.sent - offset :]
                offset = self.sent
            end = offset + len(chunk)
            if end > limit:
                if offset >= limit:
                    break
                chunk = chunk[: limit - offset]
                end = limit
            else:
                self.next += 1
            self.sent = end
            if end > self.highest:
                self.highest = end
            length = end - offset
            budget_bytes -= length
            if length <= VIEW_BYTES:
                # One piece is one TLS record less; copying so little costs nothing beside that.
                taken.append(data_header(offset, length) + chunk)
            else:
                taken += (data_header(offset, length), chunk)
        if budget_bytes > 0 and self.finished and self.sent == self.end:
            self.sent = self.end + 1
            self.highest = max(self.highest, self.sent)
            taken.append(encode_frame(Fin(self.end)))


class ReceiveBuffer:
    """What has arrived in order and waits to be read. `received` counts the end of the stream as one more byte."""

    __slots__ = ("advertised", "capacity", "chunks", "consumed", "final", "received", "waiting")

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity = capacity_bytes
        self.chunks: list[bytes | memoryview] = []
        self.final: int | None = None
        self.received = 0
        self.consumed = 0
        self.waiting = 0  # bytes that can be read now
        self.advertised = capacity_bytes

    @property
    def limit(self) -> int:
        """Bytes below this number have room."""
        return self.consumed + self.capacity

    @property
    def unadvertised(self) -> int:
        """Bytes that have room, of which the sender does not know yet."""
        return self.consumed + self.capacity - self.advertised

    @property
    def ended(self) -> bool:
        """The peer has finished and everything it sent has arrived."""
        return self.final is not None

    def receive(self, frame: Data) -> int:
        """Take a data frame; how many new bytes it brought. Raises DataGap, BeyondEnd, CreditExceeded."""
        payload, offset = frame.payload, frame.offset
        end = offset + len(payload)
        if offset > self.received:
            raise DataGap(offset=offset, received=self.received)
        if self.final is not None:
            if end > self.final:
                raise BeyondEnd(offset=offset, final=self.final)
            return 0
        if end > self.advertised:
            raise CreditExceeded(end=end, limit=self.advertised)
        fresh = end - self.received
        if fresh <= 0:
            return 0  # sent again over a new link, though it had arrived
        if fresh < len(payload):
            payload = payload[len(payload) - fresh :]
        if len(payload) < VIEW_BYTES and not isinstance(payload, bytes):
            payload = bytes(payload)
        if len(self.chunks) >= BUFFER_CHUNKS:
            self.chunks = [b"".join(self.chunks)]
        self.chunks.append(payload)
        self.received = end
        self.waiting += fresh
        return fresh

    def receive_fin(self, frame: Fin) -> None:
        """The peer's stream ends. Raises DataGap or BeyondEnd."""
        if self.final is not None:
            if frame.offset != self.final:
                raise BeyondEnd(offset=frame.offset, final=self.final)
            return
        if frame.offset > self.received:
            raise DataGap(offset=frame.offset, received=self.received)
        if frame.offset < self.received:
            raise BeyondEnd(offset=frame.offset, received=self.received)
        self.final = frame.offset
        self.received += 1

    def read(self, count: int) -> list[bytes | memoryview]:
        """Take at most `count` bytes, in pieces."""
        chunks = self.chunks
        if self.waiting <= count:
            self.chunks = []
            self.consumed += self.waiting
            self.waiting = 0
            return chunks
        pieces: list[bytes | memoryview] = []
        left = count
        for chunk in chunks:
            if len(chunk) > left:
                break
            pieces.append(chunk)
            left -= len(chunk)
        del chunks[: len(pieces)]
        if left:
            # A view: cutting copies of a large chunk again and again would take quadratic time.
            view = memoryview(chunks[0])
            chunks[0] = view[left:]
            pieces.append(view[:left])
        self.consumed += count
        self.waiting -= count
        return pieces
