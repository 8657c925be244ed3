"""One interface over the two things that HTTP runs on here: a session, and a TCP connection. An adaptor."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from blockcloud.primitives.errors import Unreachable
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.edge.errors import ConnectionBroken
from blockcloud.service_access.errors import SessionEnded
from blockcloud.service_access.stream import Session

READ_BYTES: Final = 64 * 1024
WRITE_BUFFER_BYTES: Final = 256 * 1024
CONNECT_SECONDS: Final = 5.0


class ByteStream(Protocol):
    """Bytes both ways. `read` and `write` raise ConnectionBroken."""

    async def read(self) -> bytes:
        """At least one byte; b"" at the end."""

    async def write(self, data: bytes) -> None:
        """Send; waits while the other side does not read."""

    async def close(self) -> None:
        """End when everything is sent."""

    def abort(self) -> None:
        """End at once, so that the other side sees an error."""


class SessionStream:
    """A session as a ByteStream."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def read(self) -> bytes:
        try:
            return await self.session.read(READ_BYTES)
        except SessionEnded as error:
            raise ConnectionBroken(str(error)) from None

    async def write(self, data: bytes) -> None:
        try:
            await self.session.write(data)
        except SessionEnded as error:
            raise ConnectionBroken(str(error)) from None

    async def close(self) -> None:
        await self.session.close()

    def abort(self) -> None:
        self.session.abort("closed", "the HTTP connection ended early")


class TcpStream:
    """A TCP connection as a ByteStream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        writer.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    @classmethod
    async def connect(cls, address: HostPort) -> TcpStream:
        """A new connection. Raises Unreachable."""
        host, port = address
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return cls(*await asyncio.open_connection(host, port, limit=READ_BYTES))
        except OSError as error:  # TimeoutError is one
            raise Unreachable("nobody answers", address=f"{host}:{port}", reason=str(error)) from None

    @property
    def peer_host(self) -> str:
        """Whose address the other side has."""
        return str((self._writer.get_extra_info("peername") or ("",))[0])

    async def read(self) -> bytes:
        try:
            return await self._reader.read(READ_BYTES)
        except OSError as error:
            raise ConnectionBroken(str(error)) from None

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise ConnectionBroken(str(error)) from None

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return  # it is closed, if not as nicely as we wished

    def abort(self) -> None:
        self._writer.transport.abort()
