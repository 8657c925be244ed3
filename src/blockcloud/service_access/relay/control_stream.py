"""A control connection as a stream of messages, over TLS. The asyncio side of `messages`."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final

from blockcloud.primitives.errors import PeerFault, TimedOut, Unreachable
from blockcloud.service_access.relay.errors import RelayFull, UnexpectedMessage
from blockcloud.service_access.relay.messages import (
    HEADER_BYTES,
    ControlMessage,
    HandshakePart,
    MessageKind,
    Refused,
    decode_body,
    decode_header,
    encode_message,
)
from blockcloud.service_access.tls import peer_certificate_hash

UNSENT_BYTES: Final = 64 * 1024
TLS_SHUTDOWN_SECONDS: Final = 1.0


class ControlLost(Unreachable):
    """The control connection has ended."""

    code = "control_lost"


class ControlStream:
    """Messages one at a time, in and out. Make one with `upgrade`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def upgrade(
        cls, connection: socket.socket, context: ssl.SSLContext, *, timeout_s: float, server_side: bool = False
    ) -> ControlStream:
        """TLS over a connection that is there already, which belongs to the stream from then on. Raises Unreachable,
        TimedOut."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=UNSENT_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            if server_side:
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol,
                    connection,
                    ssl=context,
                    ssl_handshake_timeout=timeout_s,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
                )
            else:
                transport, _ = await loop.create_connection(
                    lambda: protocol,
                    sock=connection,
                    ssl=context,
                    server_hostname="",
                    ssl_handshake_timeout=timeout_s,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
                )
        except TimeoutError:
            raise TimedOut("no answer to a TLS handshake") from None
        except OSError as error:  # ssl.SSLError is one
            raise Unreachable(f"no control connection: {error.strerror or error}") from None
        return cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def receive(self) -> ControlMessage:
        """The next message. Raises ControlLost at the end, Malformed and other PeerFaults."""
        try:
            kind, length = decode_header(await self._reader.readexactly(HEADER_BYTES))
            return decode_body(kind, await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            raise ControlLost from None

    async def receive_part(self, kind: MessageKind) -> bytes:
        """The handshake message of this kind, which must be the next one. Raises UnexpectedMessage, too."""
        message = await self.receive()
        if not isinstance(message, HandshakePart) or message.kind is not kind:
            raise UnexpectedMessage("another message was expected", got=type(message).__name__, expected=kind.name)
        return message.message

    def send(self, message: ControlMessage) -> None:
        """Send without waiting. Raises RelayFull when the peer has not read for so long that too much waits."""
        if self._writer.transport.get_write_buffer_size() > UNSENT_BYTES:
            raise RelayFull("the peer does not read its control connection")
        self._writer.write(encode_message(message))

    def refuse(self, fault: PeerFault) -> None:
        """Say why, and close."""
        if self._writer.transport.get_write_buffer_size() <= UNSENT_BYTES:
            self._writer.write(encode_message(Refused(fault.code, fault.message[:200])))
        self.close()

    def peer_certificate_hash(self) -> bytes:
        """SHA-256 of the certificate of the TLS server at the other end."""
        return peer_certificate_hash(self._writer.get_extra_info("ssl_object"))

    def close(self) -> None:
        """Close when everything is sent."""
        self._writer.close()

    def abort(self) -> None:
        """Close at once."""
        self._writer.transport.abort()
