"""`forward NAME --listen HOST:PORT --udp`: unmodified UDP clients reach a service by sending to a local port.

Every address that sends to the port has a session of its own. What a client sends while its session is being made
waits, a little; what it sends just after that has failed is lost, as it would be without us.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, deque
from typing import Any, Final, cast

import structlog

from blockcloud.primitives.errors import BlockCloudError, Unreachable
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.udp_flow import FLOW_IDLE_SECONDS, FLOWS, UdpFlow

EARLY_DATAGRAMS: Final = 16
FAILED_SECONDS: Final = 1.0  # nothing is tried again for an address before

log = structlog.get_logger(__name__)


class UdpForwarder(asyncio.DatagramProtocol):
    """A local UDP port for one name. `errors` counts by code why flows ended, and "flows_full" what had no room.

    `lost` counts datagrams of clients: "oversized" did not fit into one of a session, "early" came while the session
    was being made, and too many waited already.
    """

    def __init__(self, name: str, connector: Connector, *, idle_seconds: float = FLOW_IDLE_SECONDS) -> None:
        self.name = name
        self.errors: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.last_error: BlockCloudError | None = None
        self._connector = connector
        self._idle_seconds = idle_seconds
        self._transport: asyncio.DatagramTransport | None = None
        self._flows: dict[Any, UdpFlow | deque[bytes]] = {}  # by address of the client; what waits, before the session
        self._running: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> HostPort:
        """Listen; the address. Raises Unreachable."""
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            bound.setblocking(False)
            bound.bind((host, port))
        except OSError as error:
            bound.close()
            raise Unreachable(f"cannot listen: {error.strerror}", address=f"{host}:{port}") from None
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=bound)
        return host, int(bound.getsockname()[1])

    async def close(self) -> None:
        """Stop; the sessions are reset."""
        if self._transport is not None:
            self._transport.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @property
    def flow_count(self) -> int:
        """Addresses that have a session, or are about to."""
        return len(self._flows)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        flow = self._flows.get(addr)
        if isinstance(flow, UdpFlow):
            flow.send(data)
        elif flow is not None:
            if len(flow) < EARLY_DATAGRAMS:
                flow.append(data)
            else:
                self.lost["early"] += 1
        elif len(self._flows) >= FLOWS:
            self.errors["flows_full"] += 1
        else:
            self._flows[addr] = deque([data])
            task = asyncio.get_running_loop().create_task(self._serve(addr))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def error_received(self, exc: Exception) -> None:
        """A client has gone; its flow ends by silence."""

    async def _serve(self, client: Any) -> None:
        try:
            try:
                session = await self._connector.connect(self.name)
            except BlockCloudError as error:
                self._failed(error)
                await asyncio.sleep(FAILED_SECONDS)
                return
            flow = UdpFlow(session, lambda data: self._answer(data, client), self._idle_seconds, self.lost)
            early, self._flows[client] = self._flows[client], flow
            for data in early if isinstance(early, deque) else ():
                flow.send(data)
            ended = await flow.run()
            if ended is not None:
                self._failed(ended)
        finally:
            self._flows.pop(client, None)

    def _answer(self, data: bytes, client: Any) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, client)

    def _failed(self, error: BlockCloudError) -> None:
        self.errors[error.code] += 1
        self.last_error = error
        log.warning("forward_failed", name=self.name, code=error.code, reason=str(error), hint=error.hint)
