"""Services at loopback addresses of their own, for programs that only know DNS.

Each service that was asked for has one address (`address_pool`) and a listener at each of its ports, all of which lead
to it. They listen before the address is told to anybody.
"""

from __future__ import annotations

import asyncio
import errno
from typing import Any, Final

from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, Unreachable
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.forward import Forwarder
from blockcloud.service_access.front import Room
from blockcloud.service_access.proxy.address_pool import DEFAULT_RANGE, SERVICES, AddressPool
from blockcloud.service_access.proxy.host_gate import HostGate
from blockcloud.service_access.proxy.names import ServiceNames

DEFAULT_PORTS: Final = (80, 443)
PORTS: Final = 16
ADDRESSES_TRIED: Final = 8  # where another program has a port already


class CannotListen(Unreachable):
    """No port of the service can be listened at."""

    code = "cannot_listen"
    hint = "Ports below 1024 need root, or: sysctl net.ipv4.ip_unprivileged_port_start=80. Choose others with --ports."


class LocalServices:
    """See the module's text. `ports` is where services listen whose service file names none."""

    def __init__(
        self,
        connector: Connector,
        names: ServiceNames,
        *,
        network: str = DEFAULT_RANGE,
        ports: tuple[int, ...] = DEFAULT_PORTS,
        services: int = SERVICES,
        room: Room | None = None,
    ) -> None:
        if not 0 < len(ports) <= PORTS or not all(1 <= port <= 0xFFFF for port in ports):
            raise BadConfiguration(f"services listen at 1 to {PORTS} ports", ports=list(ports)[: PORTS + 1])
        self._connector = connector
        self._names = names
        self._ports = ports
        self._room = room or Room()
        self._pool = AddressPool(network, self._is_busy, services=services)
        self._fronts: dict[str, Forwarder] = {}
        self._changing = asyncio.Lock()

    async def address_of(self, name: str, ports: tuple[int, ...] = ()) -> str:
        """The address where `name` is reached, at `ports` if its file names some. Raises PoolExhausted, CannotListen.

        Some ports may be missing: others have them, or they need root.
        """
        async with self._changing:
            if name not in self._fronts:
                await self._open(name, ports or self._ports)
            return self._pool.assign(name, self._now_ms()).address

    async def close(self) -> None:
        """Stop listening; what is under way is reset."""
        for front in self._fronts.values():
            await front.close()
        self._fronts.clear()

    def status(self) -> list[dict[str, Any]]:
        """What is where."""
        return [
            {
                "name": name,
                "addresses": [f"{host}:{port}" for host, port in front.addresses],
                "connections": front.open_connections,
                "errors": dict(front.errors),
            }
            for name, front in self._fronts.items()
        ]

    async def _open(self, name: str, ports: tuple[int, ...]) -> None:
        refused: list[BlockCloudError] = []
        for attempt in range(ADDRESSES_TRIED):
            assigned = self._pool.assign(name, self._now_ms())
            if assigned.evicted:
                await self._fronts.pop(assigned.evicted).close()
            front, refused = await self._listen(name, assigned.address, ports)
            taken = any(error.values.get("errno") == errno.EADDRINUSE for error in refused)
            if front.addresses and (not taken or attempt == ADDRESSES_TRIED - 1):
                self._fronts[name] = front
                return
            await front.close()
            self._pool.release(name)
            if not taken:
                break
        raise CannotListen(refused[0].message, name=name, ports=list(ports))

    async def _listen(self, name: str, address: str, ports: tuple[int, ...]) -> tuple[Forwarder, list[BlockCloudError]]:
        def is_own(host: str) -> bool:
            plain = host.rpartition(":")[0] if ":" in host else host
            try:
                return plain == address or self._names.service(plain) == name
            except BlockCloudError:
                return False

        front = Forwarder(name, self._connector, room=self._room, gate=lambda: HostGate(is_own))
        refused: list[BlockCloudError] = []
        for port in ports:
            try:
                await front.start(address, port)
            except Unreachable as error:
                refused.append(error)
        return front, refused

    def _is_busy(self, name: str) -> bool:
        front = self._fronts.get(name)
        return front is not None and front.open_connections > 0

    def _now_ms(self) -> float:
        return asyncio.get_running_loop().time() * 1_000
