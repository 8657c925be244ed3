"""Wire frames of a link, and their incremental decoder. Sans-IO.

A frame is a 32-bit big-endian word (kind in the top 8 bits, length of the rest in the lower 24) and its body. DATA has
a 64-bit offset and raw bytes, because it is the hot path; every other body is the canonical encoding of a struct. The
length is checked against the limit of the moment before anything is kept for it: 4 KiB until the peer has proven who it
is, then 64 KiB of data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias, cast

from blockcloud.primitives.codec import Struct, decode, encode
from blockcloud.primitives.errors import Malformed, Oversized
from blockcloud.primitives.limits import SESSION_DATAGRAM_BYTES, SESSION_FRAME_BYTES
from blockcloud.service_access.addresses import Address, check_addresses
from blockcloud.service_access.handshake import HANDSHAKE_MESSAGE_BYTES

HEADER_BYTES: Final = 4
OFFSET_BYTES: Final = 8
DATA_BYTES: Final = SESSION_FRAME_BYTES  # of the stream in one frame; its header comes on top
SESSION_ID_BYTES: Final = 16
RESUME_NONCE_BYTES: Final = 32
MAC_BYTES: Final = 32
RESET_TEXT_BYTES: Final = 256
PAYMENT_BYTES: Final = 1_024
# A view keeps all of what it is a part of alive, and a copy of a few bytes costs no more than a view.
VIEW_BYTES: Final = 4_096
OFFSET_MAX: Final = 2**62
COUNTER_MAX: Final = 2**62

_HEADER = struct.Struct(">I")
_DATA_HEADER = struct.Struct(">IQ")
_OFFSET = struct.Struct(">Q")


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    REPLY = 2
    FINISH = 3
    RESUME = 4
    CHALLENGE = 5
    PROOF = 6
    ADMITTED = 7
    DATA = 16
    ACK = 17
    PING = 18
    PONG = 19
    MOVED = 20
    FIN = 21
    RST = 22
    DATAGRAM = 23
    PAYMENT = 24


@dataclass(frozen=True, slots=True)
class HandshakeFrame:
    """A message of `handshake`, as it is."""

    kind: Kind
    message: bytes


class Data(Struct, frozen=True):
    """Bytes of the stream, from `offset` on. A large payload is a view into what was received, a small one a copy."""

    offset: int
    payload: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Datagram:
    """A message beside the stream, unreliable and in no order. On a QUIC link it travels as a QUIC datagram instead."""

    payload: memoryview


class Payment(Struct, frozen=True):
    """A message between payer and payee (`payment.messages`), beside the stream. A link that breaks loses it."""

    message: bytes


class Ack(Struct, frozen=True):
    """All bytes below `received` have arrived; bytes below `limit` may be sent. The end counts as one byte."""

    received: int
    limit: int


class Ping(Struct, frozen=True):
    """Are you there?"""

    number: int


class Pong(Struct, frozen=True):
    """Yes."""

    number: int


class Moved(Struct, frozen=True):
    """The sender can now be reached at `addresses`; dial it there."""

    counter: int
    addresses: tuple[Address, ...]
    mac: bytes


class Fin(Struct, frozen=True):
    """The stream ends at `offset`."""

    offset: int


class Rst(Struct, frozen=True):
    """The session ends at once."""

    code: str
    reason: str


class Admitted(Struct, frozen=True):
    """The provider lets the consumer in; the first frame after FINISH where a policy is bound. `policy`: its digest,
    empty if it was removed meanwhile."""

    policy: bytes


class Resume(Struct, frozen=True):
    """First frame of a link that takes over a session. `counter` is higher than that of any link before."""

    session_id: bytes
    counter: int
    nonce: bytes


class Challenge(Struct, frozen=True):
    """The accepting side's nonce, what it has received, where it listens, and its proof."""

    nonce: bytes
    received: int
    addresses: tuple[Address, ...]
    mac: bytes


class Proof(Struct, frozen=True):
    """The dialling side's answer to the challenge. Data may follow at once."""

    received: int
    addresses: tuple[Address, ...]
    mac: bytes


Frame: TypeAlias = (
    HandshakeFrame
    | Data
    | Datagram
    | Payment
    | Ack
    | Ping
    | Pong
    | Moved
    | Fin
    | Rst
    | Resume
    | Challenge
    | Proof
    | Admitted
)

_STRUCTS: Final[dict[Kind, type[Struct]]] = {
    Kind.ACK: Ack,
    Kind.PING: Ping,
    Kind.PONG: Pong,
    Kind.MOVED: Moved,
    Kind.FIN: Fin,
    Kind.RST: Rst,
    Kind.RESUME: Resume,
    Kind.CHALLENGE: Challenge,
    Kind.PROOF: Proof,
    Kind.ADMITTED: Admitted,
    Kind.PAYMENT: Payment,
}
_KINDS: Final = {shape: kind for kind, shape in _STRUCTS.items()}
_KNOWN: Final[dict[int, Kind]] = {int(kind): kind for kind in Kind}
_DATA_KIND: Final = Kind.DATA  # looking a member of an Enum up costs as much as the rest of a small frame
_DATA_WORD: Final = Kind.DATA << 24


def encode_frame(frame: Struct) -> bytes:
    """The wire form of a frame that is a struct."""
    body = encode(frame)
    return _HEADER.pack(_KINDS[type(frame)] << 24 | len(body)) + body


def encode_handshake(kind: Kind, message: bytes) -> bytes:
    """The wire form of a handshake message."""
    return _HEADER.pack(kind << 24 | len(message)) + message


def datagram_header(length: int) -> bytes:
    """What goes before a datagram of `length` bytes."""
    return _HEADER.pack(Kind.DATAGRAM << 24 | length)


def data_header(offset: int, length: int) -> bytes:
    """What goes before `length` bytes of the stream that start at `offset`."""
    return _DATA_HEADER.pack(_DATA_WORD | length + OFFSET_BYTES, offset)


def _check(frame: Struct) -> None:
    """Ranges and lengths that the types do not say."""
    match frame:
        case Ack(received=first, limit=second):
            _check_range(first, second)
        case Ping(number=number) | Pong(number=number) | Fin(offset=number):
            _check_range(number)
        case Rst(code=code, reason=reason):
            if len(code.encode()) + len(reason.encode()) > RESET_TEXT_BYTES:
                raise Malformed("the reason of a reset is too long")
        case Admitted(policy=policy):
            if len(policy) not in (0, MAC_BYTES):
                raise Malformed("a policy's digest has the wrong length")
        case Payment(message=message):
            if not 0 < len(message) <= PAYMENT_BYTES:
                raise Malformed("a message about payment has the wrong length", bytes=len(message))
        case Resume(session_id=session_id, counter=counter, nonce=nonce):
            _check_range(counter)
            if len(session_id) != SESSION_ID_BYTES or len(nonce) != RESUME_NONCE_BYTES:
                raise Malformed("a field of a resume has the wrong length")
        case Challenge(nonce=nonce, received=received, addresses=addresses, mac=mac):
            _check_range(received)
            check_addresses(addresses)
            if len(nonce) != RESUME_NONCE_BYTES or len(mac) != MAC_BYTES:
                raise Malformed("a field of a challenge has the wrong length")
        case Proof(received=number, addresses=addresses, mac=mac) | Moved(counter=number, addresses=addresses, mac=mac):
            _check_range(number)
            check_addresses(addresses)
            if len(mac) != MAC_BYTES:
                raise Malformed("a MAC has the wrong length")


def _check_range(*numbers: int) -> None:
    for number in numbers:
        if not 0 <= number <= OFFSET_MAX:
            raise Malformed("a number of a frame is out of range", number=number)


class FrameDecoder:
    """Takes bytes as they come and gives frames. Keeps at most one unfinished frame beyond what it was fed last."""

    __slots__ = ("_at", "_data", "_rest", "buffered", "limit")

    def __init__(self) -> None:
        self._data: bytes | memoryview = b""  # frames begin at `_at`
        self._at = 0
        self._rest: list[bytes | memoryview] = []  # what came behind `_data` while that ended within a frame
        self.buffered = 0
        self.limit = HANDSHAKE_MESSAGE_BYTES

    def authenticated(self) -> None:
        """The peer has proven who it is: full frames from now on."""
        self.limit = DATA_BYTES + OFFSET_BYTES

    def feed(self, data: bytes) -> None:
        """More bytes have arrived. They must not be changed afterwards."""
        if not self.buffered:
            self._data, self._at = data, 0
        elif data:
            self._rest.append(data)
        self.buffered += len(data)

    def next(self) -> Frame | None:
        """The next whole frame, or None. Raises Malformed, NonCanonical or Oversized; the link is then of no use."""
        if self.buffered < HEADER_BYTES:
            return None
        if self._at == len(self._data):
            self._data, self._at = self._rest.pop(0), 0
        if len(self._data) - self._at < HEADER_BYTES:
            self._join(HEADER_BYTES)
        (word,) = _HEADER.unpack_from(self._data, self._at)
        kind, length = _KNOWN.get(word >> 24), word & 0xFFFFFF
        if kind is None:
            raise Malformed("unknown kind of frame", kind=word >> 24)
        if length > self.limit:
            raise Oversized("frame is larger than its limit", bytes=length, limit=self.limit)
        size = HEADER_BYTES + length
        if self.buffered < size:
            return None
        if len(self._data) - self._at < size:
            self._join(size)
        data, begin = self._data, self._at + HEADER_BYTES
        self._at = end = begin + length
        self.buffered -= size
        if not self.buffered:
            self._data, self._at = b"", 0  # an idle link keeps nothing alive
        if kind is _DATA_KIND:
            if length < OFFSET_BYTES:
                raise Malformed("data frame without an offset")
            (offset,) = _OFFSET.unpack_from(data, begin)
            if offset > OFFSET_MAX:
                _check_range(offset)
            begin += OFFSET_BYTES
            if end - begin >= VIEW_BYTES:
                return Data(offset, memoryview(data)[begin:end])
            return Data(offset, bytes(data[begin:end]))
        if kind is Kind.DATAGRAM:
            if length > SESSION_DATAGRAM_BYTES:
                raise Oversized("datagram is larger than its limit", bytes=length, limit=SESSION_DATAGRAM_BYTES)
            return Datagram(memoryview(data)[begin:end])
        if kind <= Kind.FINISH:
            return HandshakeFrame(kind, bytes(data[begin:end]))
        frame = decode(bytes(data[begin:end]), _STRUCTS[kind], limit=HANDSHAKE_MESSAGE_BYTES)
        _check(frame)
        return cast("Frame", frame)

    def _join(self, count: int) -> None:
        """Have the next `count` bytes, which have arrived, in one piece; copies no others."""
        parts = [memoryview(self._data)[self._at :]]
        missing = count - len(parts[0])
        taken = 0
        while missing > 0:
            part = memoryview(self._rest[taken])
            if len(part) > missing:
                self._rest[taken] = part[missing:]
                part = part[:missing]
            else:
                taken += 1
            parts.append(part)
            missing -= len(part)
        del self._rest[:taken]
        self._data, self._at = b"".join(parts), 0
