"""Listening at a stream socket, for the kinds of link that are made of one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog

from blockcloud.service_access.addresses import Address
from blockcloud.service_access.links.kind import Incoming
from blockcloud.service_access.links.link import Link

LISTEN_BACKLOG: Final = 512
ACCEPT_PAUSE_SECONDS: Final = 0.05

log = structlog.get_logger(__name__)


class SocketListener:
    """Passes on every connection of `bound`; `open_link` makes a link of one, and owns it from then on."""

    def __init__(
        self,
        bound: socket.socket,
        address: Address,
        incoming: Incoming,
        open_link: Callable[[socket.socket], Awaitable[Link]],
    ) -> None:
        self.address = address
        self._socket = bound
        self._incoming = incoming
        self._open_link = open_link
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Take no more links."""
        self._accepting.cancel()
        self._socket.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._socket)
            except OSError as error:  # out of file descriptors, or the peer was gone already
                log.warning("accept_failed", reason=error.strerror)
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            if not self._incoming(partial(self._open_link, connection)):
                connection.close()
