"""Listening for other nodes: a socket, and the connections that come to it. Who they are is `authentication.py`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Final

import structlog

from blockcloud.primitives.errors import Unreachable

ACCEPT_PAUSE_S: Final = 0.1

log = structlog.get_logger()


def open_listener(host: str, port: int, *, awaited: str, backlog: int) -> socket.socket:
    """A socket that listens for whom `awaited` names. Raises Unreachable if the address is taken."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        raise Unreachable(f"cannot listen for {awaited}: {error.strerror}", host=host, port=port) from None
    listener.setblocking(False)
    return listener


async def connections(listener: socket.socket) -> AsyncIterator[socket.socket]:
    """Whatever connects, for as long as it is asked for."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection, _ = await loop.sock_accept(listener)
        except OSError as error:  # too many open files, or the caller is gone already
            log.warning("accept_failed", error=error)
            await asyncio.sleep(ACCEPT_PAUSE_S)
            continue
        yield connection
