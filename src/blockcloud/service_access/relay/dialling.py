"""A connection to a relay, up to the point where it belongs to whoever is at the other end. An asyncio adaptor."""

from __future__ import annotations

import asyncio
import socket

from blockcloud.primitives.errors import Malformed, TimedOut, Unreachable
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.relay.errors import REFUSALS, NotRelayed, RelayRefusal, Status
from blockcloud.service_access.relay.messages import ANSWER_BYTES, Preamble, decode_answer, encode_preamble


async def open_connection(
    relay: HostPort, preamble: Preamble, *, source: str | None, timeout_ms: float
) -> socket.socket:
    """A TCP connection to `relay`, from the local address `source`, to whose preamble the relay said OK.

    Raises NotRelayed (the relay refused), Unreachable, TimedOut.
    """
    place = f"{relay[0]}:{relay[1]}"
    try:
        async with asyncio.timeout(timeout_ms / 1_000):
            connection = await _connect(relay, source)
            try:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(connection, encode_preamble(preamble))
                status = decode_answer(await receive_exactly(connection, ANSWER_BYTES))
            except BaseException:
                connection.close()
                raise
    except TimeoutError:
        raise TimedOut("no answer from the relay", relay=place) from None
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unreachable(f"no connection to the relay: {reason}", relay=place) from None
    except Malformed as error:
        raise Unreachable(f"whoever answers there is no relay: {error.message}", relay=place) from None
    if status is not Status.OK:
        connection.close()
        refusal = REFUSALS.get(status, RelayRefusal)
        raise NotRelayed(f"the relay refused: {refusal().message}", reason=refusal.code, relay=place)
    return connection


async def _connect(relay: HostPort, source: str | None) -> socket.socket:
    """The first address of the relay's host that answers. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(*relay, type=socket.SOCK_STREAM)
    last = OSError("the host has no address")
    for family, kind, protocol, _, place in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if source is not None:
                connection.bind((source, 0))
            await loop.sock_connect(connection, place)
        except OSError as error:
            connection.close()
            last = error
            continue
        except BaseException:
            connection.close()
            raise
        return connection
    raise last


async def receive_exactly(connection: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes and not one more: what follows is not ours. Raises EOFError, OSError."""
    loop = asyncio.get_running_loop()
    parts: list[bytes] = []
    while count:
        part = await loop.sock_recv(connection, count)
        if not part:
            raise EOFError("the connection was closed")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
