"""Links of the kind `unix`: a Unix socket between two processes of one user on one machine, without TLS.

Nothing leaves the machine, so there is nothing to encrypt. What TLS would give beside that, this gives instead: each
side asks the kernel who the other is (SO_PEERCRED) and speaks to nobody but its own user or root, so no other user can
stand in the middle, whoever owns the folder; and the listener speaks first, with 32 random bytes that name this very
channel. A dialler who is sent to a socket of another program waits for that greeting and says nothing. ADR 22.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

from blockcloud.primitives.errors import TimedOut, Unreachable
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.service_access.addresses import UNIX, Address
from blockcloud.service_access.links.kind import Incoming
from blockcloud.service_access.links.link import Link, LinkBroken, StreamLink
from blockcloud.service_access.links.sockets import LISTEN_BACKLOG, SocketListener

GREETING_MAGIC: Final = b"blockcloud/unix/1\n"
GREETING_RANDOM_BYTES: Final = 32
GREETING_BYTES: Final = len(GREETING_MAGIC) + GREETING_RANDOM_BYTES

_CREDENTIALS = struct.Struct("3i")  # unix(7): struct ucred, that is pid, uid, gid


class ForeignUser(Unreachable):
    """The process at the other end of a Unix socket belongs to another user."""

    code = "foreign_user"


class NotALink(Unreachable):
    """What listens at the path is not a service endpoint."""

    code = "not_a_link"


class UnixLinks:
    """See the module's text."""

    async def dial(
        self, address: Address, *, peer: bytes, source: str | None, timeout_ms: float, first: bytes = b""
    ) -> Link:
        """See LinkKind. Raises ForeignUser and NotALink too."""
        loop = asyncio.get_running_loop()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            async with asyncio.timeout(timeout_ms / 1_000):
                await loop.sock_connect(connection, address.host)
                _check_user(connection)
                greeting = await _read_greeting(connection)
                link = StreamLink(first)
                link.binding = _binding(greeting)
                await loop.create_unix_connection(lambda: link, sock=connection)
        except TimeoutError:
            connection.close()
            raise TimedOut("no answer to a new link", address=str(address)) from None
        except OSError as error:
            connection.close()
            raise Unreachable(f"no link: {error.strerror or error}", address=str(address)) from None
        except BaseException:
            connection.close()
            raise
        return link

    def close(self) -> None:
        """See LinkKind; the transports close by themselves."""

    async def listen(self, address: Address, incoming: Incoming) -> UnixListener:
        """See LinkKind. A socket file that nobody answers at is replaced."""
        path = Path(address.host)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.setblocking(False)
            if await _is_left_over(path):
                path.unlink()
            before = os.umask(0o177)  # so that there is no moment at which others may connect
            try:
                bound.bind(address.host)
            finally:
                os.umask(before)
            bound.listen(LISTEN_BACKLOG)
            return UnixListener(bound, path, incoming)
        except OSError as error:
            bound.close()
            raise Unreachable(f"cannot listen: {error.strerror}", address=str(address)) from None


class UnixListener(SocketListener):
    """A listener that takes its socket file along when it goes."""

    def __init__(self, bound: socket.socket, path: Path, incoming: Incoming) -> None:
        super().__init__(bound, Address(UNIX, str(path), 0), incoming, _accepted)
        self._path = path
        self._identity = _identity(path)

    def close(self) -> None:
        """Take no more links, and remove the socket file, unless it is somebody else's by now."""
        super().close()
        if _identity(self._path) == self._identity:
            self._path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


async def _accepted(connection: socket.socket) -> Link:
    loop = asyncio.get_running_loop()
    link = StreamLink()
    try:
        connection.setblocking(False)
        _check_user(connection)
        greeting = GREETING_MAGIC + os.urandom(GREETING_RANDOM_BYTES)
        link.binding = _binding(greeting)
        await loop.sock_sendall(connection, greeting)
        await loop.connect_accepted_socket(lambda: link, connection)
    except OSError as error:
        connection.close()
        raise LinkBroken(error.strerror or "") from None
    except BaseException:
        connection.close()
        raise
    return link


def _check_user(connection: socket.socket) -> None:
    """Raise ForeignUser unless the process at the other end is root's or of our own user."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(found)
    if user not in (0, os.geteuid()):
        raise ForeignUser(user=user)


async def _read_greeting(connection: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    greeting = b""
    while len(greeting) < GREETING_BYTES:
        part = await loop.sock_recv(connection, GREETING_BYTES - len(greeting))
        greeting += part
        if not part or not greeting.startswith(GREETING_MAGIC[: len(greeting)]):
            raise NotALink
    return greeting


def _binding(greeting: bytes) -> bytes:
    return tagged_hash("unix-link/v1", greeting)


async def _is_left_over(path: Path) -> bool:
    """Whether a socket is there at which nobody listens any more."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(trial, str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
