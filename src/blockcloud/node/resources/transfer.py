"""A timed transfer: a data rate that is really there (CloudPoS phase 2, DESIGN section 3.4).

The candidate sends bytes that follow from the challenger's seed over the authenticated connection on which it was
asked. They do not compress, and nobody can send them before the seed is known. The challenger hashes them as they
come, so that neither side holds more than a piece. What is tested is the way out of the candidate, which is what it
serves others by.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Final

PIECE_BYTES: Final = 64 * 1024


def pieces(seed: bytes, size: int) -> Iterator[bytes]:
    """The stream of `size` bytes for `seed`, in pieces."""
    for number, at in enumerate(range(0, size, PIECE_BYTES)):
        yield hashlib.shake_128(seed + number.to_bytes(8, "big")).digest(min(PIECE_BYTES, size - at))


def stream_digest(seed: bytes, size: int) -> bytes:
    """SHA-256 of the stream for `seed`."""
    digest = hashlib.sha256()
    for piece in pieces(seed, size):
        digest.update(piece)
    return digest.digest()


async def send_stream(writer: asyncio.StreamWriter, seed: bytes, size: int) -> None:
    """Send the stream as fast as the connection takes it."""
    for piece in pieces(seed, size):
        writer.write(piece)
        await writer.drain()


async def receive_stream(reader: asyncio.StreamReader, size: int) -> bytes:
    """SHA-256 of the next `size` bytes, whatever they are. Raises IncompleteReadError."""
    digest = hashlib.sha256()
    left = size
    while left:
        piece = await reader.read(min(PIECE_BYTES, left))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        digest.update(piece)
        left -= len(piece)
    return digest.digest()
