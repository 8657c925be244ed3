"""Bytes from one connection to another, both ways, unread. An asyncio adaptor.

Each direction reads a piece only when the last one is written, so a splice holds at most two pieces, however slow a
reader is, and none while it is idle. `passed` is told of every piece and says how long to pause (rate limits).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

PIECE_BYTES: Final = 64 * 1024

Passed = Callable[[int], float]


async def splice_sockets(one: socket.socket, other: socket.socket, passed: Passed) -> None:
    """Pass bytes until both directions have ended, or one has failed. The sockets stay the caller's."""
    loop = asyncio.get_running_loop()
    directions = [loop.create_task(_pass(one, other, passed)), loop.create_task(_pass(other, one, passed))]
    try:
        await asyncio.wait(directions, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for each in directions:
            each.cancel()
        await asyncio.gather(*directions, return_exceptions=True)


async def _pass(source: socket.socket, sink: socket.socket, passed: Passed) -> None:
    loop = asyncio.get_running_loop()
    while piece := await loop.sock_recv(source, PIECE_BYTES):
        await loop.sock_sendall(sink, piece)
        if pause_ms := passed(len(piece)):
            await asyncio.sleep(pause_ms / 1_000)
    sink.shutdown(socket.SHUT_WR)
