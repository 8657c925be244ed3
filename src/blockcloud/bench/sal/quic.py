"""Bulk of a session over a QUIC link, beside bare `qh3`: the same library, sockets, packets, windows and bounds.

The yardstick is `qh3`'s own asyncio protocol on its fast transport, with what the link has and it lacks: no more than
so many bytes wait for their first transmission, written 64 KiB at a time. Neither side asks who issued the
certificate; `qh3` checks that the server holds its key.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import statistics
import time
from contextlib import AsyncExitStack
from typing import Any, Final

from qh3.asyncio._transport import create_optimized_datagram_transport
from qh3.asyncio.protocol import QuicConnectionProtocol
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection
from qh3.quic.events import QuicEvent, StreamDataReceived

from blockcloud.bench.sal.connecting import MEGABYTE, named_seconds
from blockcloud.bench.sal.plain import PIECE, REQUEST_BYTES
from blockcloud.bench.sal.servers import server
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access import tls
from blockcloud.service_access.addresses import QUIC
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.links.link import WRITE_BUFFER_BYTES
from blockcloud.service_access.links.quic import (
    APPLICATION,
    DATAGRAM_FRAME_BYTES,
    UDP_BUFFER_BYTES,
    UDP_PAYLOAD_BYTES,
    WINDOW_BYTES,
)
from blockcloud.service_access.links.quic_link import RESUME_BYTES, STREAM

WARM_UP_BYTES: Final = 1_000_000


def _configuration(*, is_client: bool) -> QuicConfiguration:
    """As the link has it."""
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[APPLICATION],
        max_data=WINDOW_BYTES,
        max_stream_data=WINDOW_BYTES,
        max_datagram_size=UDP_PAYLOAD_BYTES,
        max_datagram_frame_size=DATAGRAM_FRAME_BYTES,
        verify_mode=ssl.CERT_NONE,
    )


def _socket() -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        bound.setsockopt(socket.SOL_SOCKET, buffer, UDP_BUFFER_BYTES)
    bound.setblocking(False)
    return bound


class _Sender(QuicConnectionProtocol):
    """The server's side of a connection: a request of 8 bytes, a number, is answered with as many bytes."""

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic)
        self._left = 0
        self._paused = False

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived) and event.data:
            self._left += int.from_bytes(event.data)

    def transmit(self) -> None:
        super().transmit()
        while self._left > 0 and not self._is_full():
            piece = PIECE if self._left >= len(PIECE) else PIECE[: self._left]
            self._left -= len(piece)
            self._quic.send_stream_data(STREAM, piece)
            if self._left == 0 or self._is_full():
                super().transmit()

    def _is_full(self) -> bool:
        """Between the two marks it is what it was."""
        waiting = self._quic.get_send_buffer_size(STREAM)
        self._paused = waiting > (RESUME_BYTES if self._paused else WRITE_BUFFER_BYTES)
        return self._paused


class PlainQuicServer(asyncio.DatagramProtocol):
    """A UDP socket with one connection for each address that sends to it."""

    def __init__(self) -> None:
        certificate_key, certificate, _ = tls.new_certificate()
        self._configuration = _configuration(is_client=False)
        self._configuration.load_cert_chain(certificate, certificate_key)
        self._senders: dict[Any, _Sender] = {}

    async def start(self) -> int:
        """Listen; the port."""
        bound = _socket()
        bound.bind(("127.0.0.1", 0))
        port = int(bound.getsockname()[1])
        await create_optimized_datagram_transport(asyncio.get_running_loop(), lambda: self, bound)
        return port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.datagrams_received([data], addr)

    def datagrams_received(self, datagrams: list[bytes], addr: Any) -> None:
        """As many as the socket gave at once, all from one address."""
        sender = self._senders.get(addr)
        if sender is None:
            destination = datagrams[0][6 : 6 + datagrams[0][5]]  # RFC 9000, section 17.2
            quic = QuicConnection(configuration=self._configuration, original_destination_connection_id=destination)
            sender = self._senders[addr] = _Sender(quic)
            sender.connection_made(self._transport)
        sender.datagrams_received(datagrams, addr)


class _Receiver(QuicConnectionProtocol):
    """Asks for bytes and counts them."""

    def __init__(self, count: int) -> None:
        super().__init__(QuicConnection(configuration=_configuration(is_client=True)))
        self._left = count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            self._left -= len(event.data)
            if self._left == 0:
                self.done.set_result(None)


async def plain_quic_seconds(port: int, count: int) -> float:
    """Seconds to connect and receive `count` bytes."""
    started = time.perf_counter()
    dialled = _socket()
    dialled.connect(("127.0.0.1", port))
    receiver = _Receiver(count)
    transport, _ = await create_optimized_datagram_transport(asyncio.get_running_loop(), lambda: receiver, dialled)
    receiver.connect(("127.0.0.1", port))
    await receiver.wait_connected()
    receiver._quic.send_stream_data(STREAM, count.to_bytes(REQUEST_BYTES))
    receiver.transmit()
    await receiver.done
    took = time.perf_counter() - started
    receiver.close()
    transport.close()
    return took


async def measure_quic(rounds: int, bulk_bytes: int) -> dict[str, Any]:
    """MB/s of one stream."""
    async with AsyncExitStack() as stack:
        start = stack.enter_async_context
        plain, provider = await start(server("quic")), await start(server("provide-quic"))
        endpoint = await start(ServiceEndpoint(SigningKey.generate()))
        connector = Connector(endpoint, provider.resolver(QUIC))
        times: dict[str, list[float]] = {"plain": [], "session": []}
        for count in (WARM_UP_BYTES, *[bulk_bytes] * rounds):
            times["plain"].append(await plain_quic_seconds(plain.port, count))
            times["session"].append(await named_seconds(connector, count))
    rate = {who: bulk_bytes / MEGABYTE / statistics.median(taken[1:]) for who, taken in times.items()}
    return {
        "figures": {"bulk_quic_session_mb_s": round(rate["session"], 1)},
        "peer": {"bulk_quic_mb_s": round(rate["plain"], 1)},
        "ratio": {"bulk_quic": round(rate["session"] / rate["plain"], 2)},
    }
