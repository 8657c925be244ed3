"""`publish NAME --to HOST:PORT --udp`: an unmodified UDP server becomes a service with a name.

Every session has a UDP socket of its own, connected to the server, so the server sees one peer for each.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import cast

import structlog

from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.listener import Listener
from blockcloud.service_access.stream import Session
from blockcloud.service_access.udp_flow import FLOW_IDLE_SECONDS, FLOWS, UdpFlow

log = structlog.get_logger(__name__)


async def publish_udp(
    listener: Listener, server: HostPort, lost: Counter[str], *, idle_seconds: float = FLOW_IDLE_SECONDS
) -> None:
    """Pass every session of `listener` on to `server`, until cancelled. `lost` counts datagrams of the server that are
    "oversized": they do not fit into one of a session."""
    running: set[asyncio.Task[None]] = set()
    try:
        async for session in listener:
            if len(running) >= FLOWS:
                session.abort("too_many", "the service has as many flows as it takes")
                continue
            task = asyncio.get_running_loop().create_task(_serve(session, server, lost, idle_seconds))
            running.add(task)
            task.add_done_callback(running.discard)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _serve(session: Session, server: HostPort, lost: Counter[str], idle_seconds: float) -> None:
    side = _ServerSide(session, lost, idle_seconds)
    try:
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: side, remote_addr=server)
    except OSError as error:
        log.warning("server_unreachable", name=session.name, server=f"{server[0]}:{server[1]}", reason=str(error))
        session.abort("server_unreachable", "the server behind the service cannot be reached")
        return
    try:
        ended = await side.flow.run()
    finally:
        side.close()
    if ended is not None:
        log.info("session_ended", name=session.name, code=ended.code, reason=str(ended))


class _ServerSide(asyncio.DatagramProtocol):
    """The socket towards the server."""

    def __init__(self, session: Session, lost: Counter[str], idle_seconds: float) -> None:
        self.flow = UdpFlow(session, self._send, idle_seconds, lost)
        self._name = session.name
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.flow.send(data)

    def error_received(self, exc: Exception) -> None:
        """The server is not there just now; that is how UDP is."""
        log.info("server_unreachable", name=self._name, reason=str(exc))

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data)

    def close(self) -> None:
        """No more."""
        if self._transport is not None:
            self._transport.close()
