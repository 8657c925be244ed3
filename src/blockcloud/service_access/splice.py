"""Joins a session with a plain TCP connection, both ways, for programs that know nothing of names.

Bytes and half-closes pass through. If one side ends in an error, the other is reset, so that its program sees an error
rather than a short answer that looks complete.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final, Protocol, cast

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.service_access.errors import SessionEnded
from blockcloud.service_access.stream import Session

TCP_WRITE_BUFFER_BYTES: Final = 512 * 1024


class ByteGate(Protocol):
    """Looks at what a program sends before it gets into the session."""

    def receive(self, data: bytes) -> bytes:
        """What may pass of `data` and of what was held back. Raises BlockCloudError: nothing more passes."""

    def answer(self, error: BlockCloudError) -> bytes:
        """What the program is told about the error."""


class ByteMeter(Protocol):
    """Counts what passes, and holds it back while it is not paid for."""

    def affordable(self, count: int) -> int:
        """How many of `count` bytes of this side may pass now."""

    def count(self, passed: int) -> None:
        """So many of them pass."""

    def brought(self, piece: bytes | memoryview) -> None:
        """The peer's piece passes."""

    async def room(self) -> None:
        """Wait until something more may pass. Raises BlockCloudError: nothing will."""


class TcpSide(asyncio.Protocol):
    """The plain connection. What it reads goes straight into the session, as fast as the session takes it.

    Before there is a session, `receive` and `write` are for a conversation with the program.
    """

    def __init__(self, gate: ByteGate | None = None, meter: ByteMeter | None = None) -> None:
        self.session: Session | None = None
        self._meter = meter
        self.refusal: BlockCloudError | None = None  # by the gate
        self._gate = gate
        self._arrived = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._connected = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._pending: asyncio.Task[None] | None = None
        self._early = b""
        self._eof = False
        self._lost = False
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=TCP_WRITE_BUFFER_BYTES)
        self._connected.set()

    async def connected(self) -> None:
        """Wait until the connection is there (a server makes the protocol first)."""
        await self._connected.wait()

    async def receive(self) -> bytes:
        """What the program has sent; b"" when it has ended its direction or is gone. Before `start` only."""
        while not self._early and not self._eof and not self._lost:
            self._resume()
            self._arrived.clear()
            await self._arrived.wait()
        early, self._early = self._early, b""
        return early

    def put_back(self, data: bytes) -> None:
        """What `receive` gave and was not for its caller."""
        self._early = data + self._early

    async def gone(self) -> None:
        """Wait until the program has left, or ended its direction. One that has sent more meanwhile is only missed when
        it is written to."""
        while not self._lost and not self._eof:
            if not self._early:
                self._resume()
            self._arrived.clear()
            await self._arrived.wait()

    def start(self, session: Session) -> None:
        """Pass what is read to `session` from now on."""
        self.session = session
        if self._lost:
            session.abort("connection_closed", "the program behind the session has closed its connection")
            return
        if not self._writable.is_set():
            session.pause_reading()
        early, self._early = self._early, b""
        if early:
            self.data_received(early)
        if self._pending is None:
            self._read_on()

    def data_received(self, data: bytes) -> None:
        session = self.session
        if session is None:
            # Pausing in `connection_made` is of no use: not every loop has begun to read by then.
            self._early += data
            self._arrived.set()
            self._pause()
            return
        if not session.core.writable:
            return
        if self._gate is not None:
            try:
                data = self._gate.receive(data)
            except BlockCloudError as error:
                self._refuse(session, self._gate, error)
                return
        if self._meter is None:
            accepted = session.write_now(data)
        else:
            affordable = min(self._meter.affordable(len(data)), session.core.room)
            if affordable:
                self._meter.count(affordable)  # what it has to say goes with the data
            accepted = session.write_now(memoryview(data)[:affordable]) if affordable else 0
        if accepted < len(data):
            self._pause()
            rest = memoryview(data)[accepted:]
            self._pending = asyncio.get_running_loop().create_task(self._write_rest(session, rest))

    def _refuse(self, session: Session, gate: ByteGate, error: BlockCloudError) -> None:
        """The program gets the gate's answer, the service nothing."""
        self.refusal = error
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(gate.answer(error))
        self.close()
        session.abort("refused", "the connection was refused on the consumer's side")

    async def _write_rest(self, session: Session, rest: memoryview) -> None:
        try:
            if self._meter is None:
                await session.write(rest)
            else:
                await self._write_metered(session, rest, self._meter)
        except BlockCloudError:
            return  # the other direction sees it, too, and says so
        finally:
            self._pending = None
        self._read_on()

    async def _write_metered(self, session: Session, rest: memoryview, meter: ByteMeter) -> None:
        """Send what is paid for, and wait for more money."""
        while rest:
            size = meter.affordable(len(rest))
            if size:
                meter.count(size)
                await session.write(rest[:size])
                rest = rest[size:]
            else:
                await meter.room()

    def _pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _read_on(self) -> None:
        if self._eof and self.session is not None:
            self.session.write_eof()
        else:
            self._resume()

    def eof_received(self) -> bool:
        self._eof = True
        self._arrived.set()
        if self._pending is None and self.session is not None:
            self.session.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._arrived.set()
        self._writable.set()
        if not self._closing and self.session is not None:
            self.session.abort("connection_reset", "the program behind the session broke its connection")

    def pause_writing(self) -> None:
        self._writable.clear()
        if self.session is not None:
            self.session.pause_reading()

    def resume_writing(self) -> None:
        self._writable.set()
        if self.session is not None:
            self.session.resume_reading()

    async def write(self, pieces: list[bytes | memoryview]) -> None:
        """Write, and wait while the other program does not read (back-pressure)."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(pieces)
            await self._writable.wait()

    def pass_on(self, piece: bytes | memoryview) -> None:
        """Write what the session has brought. While the other program does not read, the session is held back."""
        if self._meter is not None:
            self._meter.brought(piece)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(piece)

    def write_eof(self) -> None:
        """End our direction."""
        if self._transport is not None and not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        """Close when everything is written."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Close with a TCP reset, so that the program cannot take what it got for the whole."""
        self._closing = True
        if self._transport is None or self.refusal is not None:
            return
        plain = self._transport.get_extra_info("socket")
        if plain is not None and not self._transport.is_closing():
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


async def splice(session: Session, tcp: TcpSide) -> SessionEnded | None:
    """Pass bytes until both directions have ended; the session's error if it ended in one. Both are closed then."""
    try:
        tcp.start(session)
        session.set_receiver(tcp.pass_on)
        await session.peer_finished()
        tcp.write_eof()
        await session.drained()
    except SessionEnded as error:
        tcp.reset()
        return error
    except BaseException:
        session.abort("closed", "the process stops")
        tcp.reset()
        raise
    tcp.close()
    return None
