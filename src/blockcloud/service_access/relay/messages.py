"""What is said to a relay and by it. Sans-IO.

Every connection to a relay begins with a preamble of 40 bytes, which says what it is for, and the relay's answer of 8.
After DIAL and MEET the answer means that both are there, and all that follows belongs to the other end. After CONTROL
follow TLS and messages: kind (8 bits), length (16 bits), body. Nobody sends anything between preamble and answer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

from blockcloud.primitives.codec import Struct, decode, encode
from blockcloud.primitives.errors import Malformed, Oversized
from blockcloud.primitives.keys import PUBLIC_KEY_BYTES
from blockcloud.service_access.handshake import HANDSHAKE_MESSAGE_BYTES
from blockcloud.service_access.relay.errors import Status

RELAY_PURPOSE: Final = "relay/v1"  # of the handshake on a control connection
MAGIC: Final = b"BCRL"
VERSION: Final = 1
SUBJECT_BYTES: Final = 32
HEADER_BYTES: Final = 3
REFUSAL_TEXT_BYTES: Final = 256
NO_SUBJECT: Final = bytes(SUBJECT_BYTES)

_PREAMBLE = struct.Struct(">4sBBH32s")
_ANSWER = struct.Struct(">4sB3s")
_HEADER = struct.Struct(">BH")
PREAMBLE_BYTES: Final = _PREAMBLE.size
ANSWER_BYTES: Final = _ANSWER.size

assert SUBJECT_BYTES == PUBLIC_KEY_BYTES


class Wish(IntEnum):
    """What a connection to a relay is for."""

    CONTROL = 1  # to register an instance
    DIAL = 2  # to reach the instance whose key is the subject
    MEET = 3  # to meet the dialler for which the token that is the subject was made


@dataclass(frozen=True, slots=True)
class Preamble:
    """The first bytes of a connection."""

    wish: Wish
    subject: bytes = NO_SUBJECT


def encode_preamble(preamble: Preamble) -> bytes:
    """Its wire form."""
    return _PREAMBLE.pack(MAGIC, VERSION, preamble.wish, 0, preamble.subject)


def decode_preamble(data: bytes) -> Preamble:
    """The preamble in `data`, PREAMBLE_BYTES long. Raises Malformed."""
    if len(data) != PREAMBLE_BYTES:
        raise Malformed("a preamble has the wrong length", bytes=len(data), expected=PREAMBLE_BYTES)
    magic, version, wish, reserved, subject = _PREAMBLE.unpack(data)
    if magic != MAGIC or version != VERSION or reserved:
        raise Malformed("not the preamble of a connection to a relay", start=data[:8].hex())
    try:
        preamble = Preamble(Wish(wish), subject)
    except ValueError:
        raise Malformed("a relay does no such thing", wish=wish) from None
    if preamble.wish is Wish.CONTROL and subject != NO_SUBJECT:
        raise Malformed("who registers is proven by the handshake, not named in the preamble")
    return preamble


def encode_answer(status: Status) -> bytes:
    """The wire form of the relay's answer to a preamble."""
    return _ANSWER.pack(MAGIC, status, bytes(3))


def decode_answer(data: bytes) -> Status:
    """The answer in `data`, ANSWER_BYTES long. Raises Malformed."""
    if len(data) != ANSWER_BYTES:
        raise Malformed("a relay's answer has the wrong length", bytes=len(data), expected=ANSWER_BYTES)
    magic, status, reserved = _ANSWER.unpack(data)
    if magic != MAGIC or reserved != bytes(3):
        raise Malformed("not the answer of a relay", start=data.hex())
    try:
        return Status(status)
    except ValueError:
        raise Malformed("a relay gives no such answer", status=status) from None


# Control connections


class MessageKind(IntEnum):
    """What a message on a control connection is."""

    HELLO = 1
    REPLY = 2
    FINISH = 3
    REGISTERED = 4
    REFUSED = 5
    INVITE = 6
    PING = 7
    PONG = 8


@dataclass(frozen=True, slots=True)
class HandshakePart:
    """A message of `handshake`, as it is."""

    kind: MessageKind
    message: bytes


class Registered(Struct, frozen=True):
    """The relay will invite the instance. It wants to hear a PING every `heartbeat_ms`."""

    heartbeat_ms: int


class Refused(Struct, frozen=True):
    """The relay ends the connection."""

    code: str
    reason: str


class Invite(Struct, frozen=True):
    """Somebody waits for the instance: come and meet them with `token`."""

    token: bytes


class RelayPing(Struct, frozen=True):
    """The instance is there."""

    number: int


class RelayPong(Struct, frozen=True):
    """The relay is there, too."""

    number: int


ControlMessage: TypeAlias = HandshakePart | Registered | Refused | Invite | RelayPing | RelayPong

HEARTBEAT_MS_MAX: Final = 3_600_000
NUMBER_MAX: Final = 2**62
_STRUCTS: Final[dict[MessageKind, type[Struct]]] = {
    MessageKind.REGISTERED: Registered,
    MessageKind.REFUSED: Refused,
    MessageKind.INVITE: Invite,
    MessageKind.PING: RelayPing,
    MessageKind.PONG: RelayPong,
}
_KINDS: Final = {shape: kind for kind, shape in _STRUCTS.items()}


def encode_message(message: ControlMessage) -> bytes:
    """The wire form of a message on a control connection."""
    if isinstance(message, HandshakePart):
        kind, body = message.kind, message.message
    else:
        kind, body = _KINDS[type(message)], encode(message)
    return _HEADER.pack(kind, len(body)) + body


def decode_header(data: bytes) -> tuple[MessageKind, int]:
    """(kind, bytes of the body) from HEADER_BYTES. Raises Malformed, Oversized."""
    kind, length = _HEADER.unpack(data)
    try:
        known = MessageKind(kind)
    except ValueError:
        raise Malformed("unknown kind of message", kind=kind) from None
    if length > HANDSHAKE_MESSAGE_BYTES:
        raise Oversized("message is larger than its limit", bytes=length, limit=HANDSHAKE_MESSAGE_BYTES)
    return known, length


def decode_body(kind: MessageKind, body: bytes) -> ControlMessage:
    """The message of this kind in `body`. Raises Malformed, NonCanonical, Oversized."""
    if kind <= MessageKind.FINISH:
        return HandshakePart(kind, body)
    message = decode(body, _STRUCTS[kind], limit=HANDSHAKE_MESSAGE_BYTES)
    match message:
        case Registered(heartbeat_ms=heartbeat_ms):
            if not 1 <= heartbeat_ms <= HEARTBEAT_MS_MAX:
                raise Malformed("heartbeat is out of range", heartbeat_ms=heartbeat_ms)
        case Refused(code=code, reason=reason):
            if len(code.encode()) + len(reason.encode()) > REFUSAL_TEXT_BYTES:
                raise Malformed("the reason of a refusal is too long")
        case Invite(token=token):
            if len(token) != SUBJECT_BYTES:
                raise Malformed("a token has the wrong length", bytes=len(token))
        case RelayPing(number=number) | RelayPong(number=number):
            if not 0 <= number <= NUMBER_MAX:
                raise Malformed("a number is out of range", number=number)
    assert isinstance(message, Registered | Refused | Invite | RelayPing | RelayPong)
    return message
