"""The CoAP input: one UDP socket over `coap_exchange`."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import structlog

from blockcloud.primitives.errors import BlockCloudError, Busy, Unreachable
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.edge.feed.coap_exchange import CoapExchanges, Request
from blockcloud.service_access.edge.feed.formats import check_token, parse
from blockcloud.service_access.edge.feed.intake import RETRY_MS, Intake, now_us

REQUESTS_AT_ONCE: Final = 1_024

log = structlog.get_logger(__name__)


class CoapInput(asyncio.DatagramProtocol):
    """Takes readings by CoAP into `intake`."""

    def __init__(self, intake: Intake, token: bytes) -> None:
        self.exchanges = CoapExchanges()
        self._intake = intake
        self._token = token
        self._transport: asyncio.DatagramTransport | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def start(self, host: str, port: int) -> HostPort:
        """Listen; the address. Raises Unreachable."""
        try:
            transport, _ = await self._loop.create_datagram_endpoint(lambda: self, local_addr=(host, port))
        except OSError as error:
            raise Unreachable(f"cannot listen for CoAP: {error.strerror}", address=f"{host}:{port}") from None
        return host, int(transport.get_extra_info("sockname")[1])

    async def close(self) -> None:
        """Stop; requests that are under way get no answer, and are sent again by devices that care."""
        if self._transport is not None:
            self._transport.abort()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio has opened the socket."""
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is one without saying so

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """A datagram has come."""
        peer = str(addr[0]), int(addr[1])
        found = self.exchanges.receive(data, peer, self._loop.time() * 1_000)
        if isinstance(found, bytes):
            self._send(found, peer)
        elif found is not None and len(self._running) >= REQUESTS_AT_ONCE:
            self._send(self.exchanges.refuse(found.key, Busy("too many at once", retry_after_ms=RETRY_MS)), peer)
        elif found is not None:
            task = self._loop.create_task(self._take(found))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _take(self, request: Request) -> None:
        peer, _ = request.key
        try:
            check_token(self._token, request.token)
            batch = parse(request.payload, request.content_format, now_us(), "coap", request.series)
        except BlockCloudError as error:
            self._intake.count_refusal(error)
            self._send(self.exchanges.refuse(request.key, error), peer)
            return
        try:
            await self._intake.take(batch)
        except BlockCloudError as error:
            self._send(self.exchanges.refuse(request.key, error), peer)
            return
        self._send(self.exchanges.accept(request.key), peer)

    def _send(self, datagram: bytes | None, peer: HostPort) -> None:
        if datagram is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(datagram, peer)

    def error_received(self, exc: Exception) -> None:
        """A device has gone before its answer came."""
        log.debug("coap_unreachable", reason=str(exc))
