"""Frames of everything in this package that talks: four bytes of length, big-endian, and that many bytes."""

from __future__ import annotations

import asyncio
from typing import Final

from blockcloud.primitives.errors import Oversized

LENGTH_BYTES: Final = 4


def frame(data: bytes) -> bytes:
    """`data` with its length before it."""
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


async def read_frame(reader: asyncio.StreamReader, limit: int) -> bytes:
    """The next frame. Raises Oversized before it is read, or IncompleteReadError."""
    size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    if size > limit:
        raise Oversized("a frame is larger than its limit", bytes=size, limit=limit)
    return await reader.readexactly(size)


async def write_frame(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a frame."""
    writer.write(frame(data))
    await writer.drain()
