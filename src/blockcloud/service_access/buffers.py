"""The two buffers of a session: bytes sent but not yet acknowledged, and bytes received but not yet read. Sans-IO.

Both number the bytes of their direction from 0. The end of the stream takes a number of its own, as TCP's FIN does,
so that one acknowledged number says everything. Memory is bounded on both sides by the same credit: the receiver lets
the sender send only what it has room for.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from blockcloud.service_access.errors import AcknowledgedUnsent, BeyondEnd, CreditExceeded, DataGap
from blockcloud.service_access.frames import DATA_BYTES, Data, Fin, data_header, encode_frame

# Chunks are bounded beside bytes: a million writes of one byte would cost far more than a mebibyte.
BUFFER_CHUNKS: Final = 4_096
_VIEW_BYTES: Final = 4_096


class SendBuffer:
    """What was written and may have to be sent again.

    `acknowledged` <= `sent` <= `end` (+1 once finished); `highest` is the highest number ever sent.
    """

    def __init__(self, capacity_bytes: int, limit: int) -> None:
        self._capacity = capacity_bytes
        self._chunks: deque[tuple[int, memoryview]] = deque()  # (offset, bytes), consecutive, each at most one frame
        self._next = 0  # index of the chunk to send next
        self.acknowledged = 0
        self.sent = 0
        self.highest = 0
        self.end = 0
        self.finished = False
        self.limit = limit

    @property
    def room(self) -> int:
        """Bytes that may be written now."""
        if self.finished or len(self._chunks) >= BUFFER_CHUNKS:
            return 0
        return max(0, self._capacity - (self.end - self.acknowledged))

    @property
    def complete(self) -> bool:
        """The stream has ended and the peer has all of it."""
        return self.finished and self.acknowledged == self.end + 1

    def append(self, data: bytes | bytearray | memoryview) -> int:
        """Take as much of `data` as there is room for; how many bytes that is."""
        accepted = min(len(data), self.room)
        view = memoryview(data if isinstance(data, bytes) else bytes(memoryview(data)[:accepted]))
        start = 0
        while start < accepted:
            chunk = view[start : min(start + DATA_BYTES, accepted)]
            self._chunks.append((self.end, chunk))
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
        chunks = self._chunks
        while chunks and chunks[0][0] + len(chunks[0][1]) <= received:
            chunks.popleft()
            self._next -= 1
        self._next = max(self._next, 0)

    def rewind(self, received: int) -> None:
        """A new link: send again from `received` on. The caller has checked acknowledged <= received <= highest."""
        self.sent = received
        self._next = 0
        for offset, chunk in self._chunks:
            if offset + len(chunk) > received:
                break
            self._next += 1

    def next_frame(self) -> list[bytes | memoryview] | None:
        """The next frame to send, in pieces, or None while there is nothing to send or no credit."""
        if self._next < len(self._chunks):
            offset, chunk = self._chunks[self._next]
            if self.sent > offset:  # the peer has a part of the chunk
                chunk = chunk[self.sent - offset :]
                offset = self.sent
            if offset + len(chunk) > self.limit:
                if offset >= self.limit:
                    return None
                chunk = chunk[: self.limit - offset]
                self._next -= 1
            self._next += 1
            self.sent = offset + len(chunk)
            self.highest = max(self.highest, self.sent)
            return [data_header(offset, len(chunk)), chunk]
        if self.finished and self.sent == self.end:
            self.sent = self.end + 1
            self.highest = max(self.highest, self.sent)
            return [encode_frame(Fin(self.end))]
        return None


class ReceiveBuffer:
    """What has arrived in order and waits to be read. `received` counts the end of the stream as one more byte."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._chunks: deque[memoryview] = deque()
        self._final: int | None = None
        self.received = 0
        self.consumed = 0
        self.advertised = capacity_bytes

    @property
    def limit(self) -> int:
        """Bytes below this number have room."""
        return self.consumed + self._capacity

    @property
    def waiting(self) -> int:
        """Bytes that can be read now."""
        return (self.received if self._final is None else self._final) - self.consumed

    @property
    def ended(self) -> bool:
        """The peer has finished and everything it sent has arrived."""
        return self._final is not None

    def receive(self, frame: Data) -> int:
        """Take a data frame; how many new bytes it brought. Raises DataGap, BeyondEnd, CreditExceeded."""
        payload, offset = frame.payload, frame.offset
        end = offset + len(payload)
        if offset > self.received:
            raise DataGap(offset=offset, received=self.received)
        if self._final is not None:
            if end > self._final:
                raise BeyondEnd(offset=offset, final=self._final)
            return 0
        if end > self.advertised:
            raise CreditExceeded(end=end, limit=self.advertised)
        fresh = end - self.received
        if fresh <= 0:
            return 0  # sent again over a new link, though it had arrived
        # A view keeps all of what it is a part of alive, so small parts are copied.
        piece = payload if fresh == len(payload) >= _VIEW_BYTES else memoryview(bytes(payload[len(payload) - fresh :]))
        if len(self._chunks) >= BUFFER_CHUNKS:
            self._chunks = deque([memoryview(b"".join(self._chunks))])
        self._chunks.append(piece)
        self.received = end
        return fresh

    def receive_fin(self, frame: Fin) -> None:
        """The peer's stream ends. Raises DataGap or BeyondEnd."""
        if self._final is not None:
            if frame.offset != self._final:
                raise BeyondEnd(offset=frame.offset, final=self._final)
            return
        if frame.offset > self.received:
            raise DataGap(offset=frame.offset, received=self.received)
        if frame.offset < self.received:
            raise BeyondEnd(offset=frame.offset, received=self.received)
        self._final = frame.offset
        self.received += 1

    def read(self, count: int) -> list[memoryview]:
        """Take at most `count` bytes, in pieces."""
        pieces: list[memoryview] = []
        while count and self._chunks:
            chunk = self._chunks[0]
            if len(chunk) > count:
                self._chunks[0] = chunk[count:]
                chunk = chunk[:count]
            else:
                self._chunks.popleft()
            pieces.append(chunk)
            count -= len(chunk)
            self.consumed += len(chunk)
        return pieces
