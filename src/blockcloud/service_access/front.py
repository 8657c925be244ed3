"""Where programs that know nothing of names connect: a local listener, and a task for each connection.

`Front` is what `forward`, the SOCKS and HTTP proxies and the loopback addresses of services have in common: a bounded
number of connections, an orderly end, and counters of what went wrong.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import structlog

from blockcloud.primitives.errors import BlockCloudError, TimedOut, Unreachable
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.errors import TooMany
from blockcloud.service_access.splice import TcpSide

FRONT_CONNECTIONS: Final = 1_024

log = structlog.get_logger(__name__)


class Room:
    """How many connections may be open at once, at all fronts that share it."""

    def __init__(self, limit: int = FRONT_CONNECTIONS) -> None:
        self.limit = limit
        self.taken = 0


class Front:
    """A local listener. `errors` counts by code why connections came to nothing."""

    kind = "front"

    def __init__(self, room: Room | None = None) -> None:
        self.errors: Counter[str] = Counter()
        self.last_error: BlockCloudError | None = None
        self.room = room or Room()
        self.addresses: list[HostPort] = []
        self._servers: list[asyncio.Server] = []
        self._running: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> HostPort:
        """Listen; the address. May be called again for another one. Raises Unreachable."""
        try:
            server = await asyncio.get_running_loop().create_server(self._accept, host, port)
        except OSError as error:
            raise Unreachable(f"cannot listen: {error.strerror}", address=f"{host}:{port}", errno=error.errno) from None
        self._servers.append(server)
        address = host, int(server.sockets[0].getsockname()[1])
        self.addresses.append(address)
        return address

    async def close(self) -> None:
        """Stop; what is under way is reset."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        self.addresses.clear()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @property
    def open_connections(self) -> int:
        """How many programs are connected."""
        return len(self._running)

    def side(self) -> TcpSide:
        """The program's side of a new connection."""
        return TcpSide()

    async def serve(self, tcp: TcpSide) -> None:
        """Answer one program. A BlockCloudError that is raised is counted, and the connection reset."""
        raise NotImplementedError

    def failed(self, error: BlockCloudError) -> None:
        """Count an error, and log it."""
        self.errors[error.code] += 1
        self.last_error = error
        log.warning(f"{self.kind}_failed", code=error.code, reason=str(error), hint=error.hint, **self.log_values())

    def log_values(self) -> dict[str, str]:
        """What tells this front from others in the log."""
        return {}

    def _accept(self) -> TcpSide:
        tcp = self.side()
        task = asyncio.get_running_loop().create_task(self._serve(tcp))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return tcp

    async def _serve(self, tcp: TcpSide) -> None:
        room = self.room
        room.taken += 1
        try:
            await tcp.connected()
            if room.taken > room.limit:
                raise TooMany("too many connections", limit=room.limit)
            await self.serve(tcp)
        except BlockCloudError as error:
            self.failed(error)
            tcp.reset()
        except TimeoutError:
            self.failed(TimedOut("the program did not say in time what it wants"))
            tcp.reset()
        except asyncio.CancelledError:
            tcp.reset()
            raise
        finally:
            room.taken -= 1
