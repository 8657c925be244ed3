"""The server's side of SOCKS5 (RFC 1928) with user name and password (RFC 1929), up to the request; sans-IO.

    client: 05 n method*n           server: 05 method
    client: 01 n user n password    server: 01 status           (only where a token is asked for)
    client: 05 01 00 03 n host port server: 05 reply 00 01 0.0.0.0:0

Only CONNECT to a host by its name is taken. A program that resolves by itself sends an address, which says nothing
about the service, so it is refused with the reply that says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.service_access.proxy.errors import (
    MalformedSocks,
    NoCommonMethod,
    NotSocks,
    SocksAddressNotName,
    UnsupportedCommand,
    WrongSocksToken,
)
from blockcloud.service_access.proxy.token import is_token

VERSION: Final = 5
PASSWORD_VERSION: Final = 1
NO_AUTHENTICATION: Final = 0
PASSWORD: Final = 2
NONE_ACCEPTABLE: Final = 0xFF
CONNECT: Final = 1
IPV4, NAME, IPV6 = 1, 3, 4


class Reply(IntEnum):
    """RFC 1928, section 6."""

    SUCCEEDED = 0
    FAILURE = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    EXPIRED = 6
    COMMAND = 7
    ADDRESS_TYPE = 8


# What a failed connect is called in SOCKS; everything else is FAILURE.
_REPLIES: Final = {
    "access_denied": Reply.NOT_ALLOWED,
    "policy_denied": Reply.NOT_ALLOWED,
    "not_a_service_name": Reply.NOT_ALLOWED,
    "address_not_name": Reply.ADDRESS_TYPE,
    "invalid_name": Reply.HOST_UNREACHABLE,
    "unknown_name": Reply.HOST_UNREACHABLE,
    "name_revoked": Reply.HOST_UNREACHABLE,
    "name_expired": Reply.HOST_UNREACHABLE,
    "no_instances": Reply.HOST_UNREACHABLE,
    "unreachable": Reply.NETWORK_UNREACHABLE,
    "session_reset": Reply.REFUSED,
    "timed_out": Reply.EXPIRED,
}


def reply(code: Reply) -> bytes:
    """A reply. Its address is none: a session has no address that a program could use."""
    return bytes((VERSION, code, 0, IPV4, 0, 0, 0, 0, 0, 0))


def reply_to(error: BlockCloudError) -> bytes:
    """What to answer when the connect failed with `error`."""
    return reply(_REPLIES.get(error.code, Reply.FAILURE))


@dataclass(frozen=True, slots=True)
class SocksRequest:
    """Connect to `host`. The port is told, but names lead to services, and a service has one entrance."""

    host: str
    port: int


class _State(Enum):
    GREETING = "greeting"
    PASSWORD = "password"
    REQUEST = "request"
    DONE = "done"


class SocksConversation:
    """Feed what the program sends to `receive` until there is a `request`. What came after it is in `rest`."""

    def __init__(self, token: bytes = b"") -> None:
        self.request: SocksRequest | None = None
        self._token = token
        self._state = _State.GREETING
        self._buffer = b""

    @property
    def rest(self) -> bytes:
        """What the program sent behind its request."""
        return self._buffer if self._state is _State.DONE else b""

    def receive(self, data: bytes) -> bytes:
        """What to send to the program. Raises SocksRefused's children, whose `answer` is to be sent, then closed."""
        self._buffer += data
        answers = b""
        while self._state is not _State.DONE:
            before = self._state
            if before is _State.GREETING:
                answers += self._greeting()
            elif before is _State.PASSWORD:
                answers += self._password()
            else:
                self._request()
            if self._state is before:
                break  # not all of it is here
        return answers

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _greeting(self) -> bytes:
        if self._buffer[:1] not in (b"", bytes((VERSION,))):
            raise NotSocks(first_byte=self._buffer[0])
        if len(self._buffer) < 2 or len(self._buffer) < 2 + self._buffer[1]:
            return b""
        methods = self._take(2 + self._buffer[1])[2:]
        wanted = PASSWORD if self._token else NO_AUTHENTICATION
        if wanted not in methods:
            raise NoCommonMethod(answer=bytes((VERSION, NONE_ACCEPTABLE)), offered=list(methods)[:8])
        self._state = _State.PASSWORD if self._token else _State.REQUEST
        return bytes((VERSION, wanted))

    def _password(self) -> bytes:
        buffer = self._buffer
        if buffer[:1] not in (b"", bytes((PASSWORD_VERSION,))):
            raise MalformedSocks("the version of the password exchange is 1", answer=bytes((PASSWORD_VERSION, 1)))
        if len(buffer) < 2 or len(buffer) < 3 + buffer[1] or len(buffer) < 3 + buffer[1] + buffer[2 + buffer[1]]:
            return b""
        user_bytes = buffer[1]
        shown = self._take(3 + user_bytes + buffer[2 + user_bytes])[3 + user_bytes :]
        if not is_token(shown, self._token):
            raise WrongSocksToken(answer=bytes((PASSWORD_VERSION, 1)))
        self._state = _State.REQUEST
        return bytes((PASSWORD_VERSION, 0))

    def _request(self) -> None:
        buffer = self._buffer
        if len(buffer) < 5:
            return
        version, command, reserved, kind, host_bytes = buffer[:5]
        if version != VERSION or reserved != 0:
            raise MalformedSocks("not a request of version 5", answer=reply(Reply.FAILURE))
        if command != CONNECT:
            raise UnsupportedCommand(answer=reply(Reply.COMMAND), command=command)
        if kind in (IPV4, IPV6):
            raise SocksAddressNotName(answer=reply(Reply.ADDRESS_TYPE), kind="IPv4" if kind == IPV4 else "IPv6")
        if kind != NAME:
            raise MalformedSocks("no such type of address", answer=reply(Reply.ADDRESS_TYPE), kind=kind)
        if len(buffer) < 7 + host_bytes:
            return
        taken = self._take(7 + host_bytes)
        host = taken[5:-2]
        if not host or not host.isascii():
            raise MalformedSocks("a host name is of ASCII characters, at least one", answer=reply(Reply.FAILURE))
        self.request = SocksRequest(host.decode("ascii"), int.from_bytes(taken[-2:]))
        self._state = _State.DONE
