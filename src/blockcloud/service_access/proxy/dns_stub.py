"""The DNS stub: names of services lead to loopback addresses of this machine. It forwards nothing to anybody.

`dns_messages` reads and writes; here are the sockets, UDP and TCP (RFC 7766) at one port, and the questions to the
ledger.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, InvalidName, Unreachable
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.front import Front, Room
from blockcloud.service_access.proxy.dns_messages import QUERY_BYTES, Outcome, Query, read_query, response
from blockcloud.service_access.proxy.errors import AddressNotName, NotAServiceName
from blockcloud.service_access.proxy.local_services import LocalServices
from blockcloud.service_access.proxy.names import ServiceNames
from blockcloud.service_access.resolution import NoInstances, Resolution, Resolver, UnknownName
from blockcloud.service_access.splice import TcpSide
from blockcloud.service_chain.rejections import NameExpired, NameRevoked

QUERIES_AT_ONCE: Final = 128
TCP_CONNECTIONS: Final = 64
TCP_IDLE_SECONDS: Final = 10.0
RESOLVE_SECONDS: Final = 4.0  # programs ask again after 5
PORTS_TRIED: Final = 8  # where any will do and TCP has the one that UDP got

PortsOf = Callable[[Resolution], Awaitable[tuple[int, ...]]]


async def no_ports(_: Resolution) -> tuple[int, ...]:
    """Where service files are not looked at."""
    return ()


class DnsStub:
    """See the module's text. `ports_of` says at which ports a service is expected. `counts` is by outcome."""

    def __init__(
        self, resolver: Resolver, names: ServiceNames, services: LocalServices, ports_of: PortsOf = no_ports
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.last_error: BlockCloudError | None = None
        self._resolver = resolver
        self._names = names
        self._services = services
        self._ports_of = ports_of
        self.tcp = _DnsOverTcp(self)
        self._udp: asyncio.DatagramTransport | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> HostPort:
        """Listen at `host`, which is of loopback: the answers are good on this machine only. Raises BadConfiguration,
        Unreachable."""
        if not _is_loopback(host):
            raise BadConfiguration("the DNS stub listens on loopback: its answers are good on this machine", host=host)
        for attempt in range(PORTS_TRIED):
            self._udp, chosen = await self._listen_udp(host, port)
            try:
                return await self.tcp.start(host, chosen)
            except Unreachable as error:
                self._udp.close()
                if port or attempt == PORTS_TRIED - 1 or error.values["errno"] != errno.EADDRINUSE:
                    raise
        raise AssertionError("the last attempt raises")

    async def close(self) -> None:
        """Stop; what is being answered is dropped."""
        if self._udp is not None:
            self._udp.close()
        await self.tcp.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def status(self) -> dict[str, Any]:
        """Counters, and the error that a program met last."""
        return {"counts": dict(self.counts), "last_error": str(self.last_error) if self.last_error else None}

    async def answer(self, data: bytes) -> bytes | None:
        """The response to the message `data`; None if it gets none."""
        try:
            query = read_query(data)
        except BlockCloudError as error:
            self.counts[error.code] += 1
            self.last_error = error
            return None
        if not query.host:
            self.counts["faulty"] += 1
            return response(query)
        outcome, address = await self._look_up(query)
        self.counts[outcome.name.lower()] += 1
        return response(query, outcome, address)

    async def _look_up(self, query: Query) -> tuple[Outcome, str]:
        try:
            name = self._names.service(query.host)
            async with asyncio.timeout(RESOLVE_SECONDS):
                ports = await self._ports_of(await self._known(name))
            return Outcome.FOUND, await self._services.address_of(name, ports)
        except (NotAServiceName, AddressNotName):
            return Outcome.NOT_OURS, ""
        except (InvalidName, UnknownName, NameRevoked, NameExpired):
            return Outcome.UNKNOWN, ""
        except BlockCloudError as error:
            self.last_error = error
        except TimeoutError:
            self.last_error = Unreachable("the ledger did not answer in time", name=query.host)
        return Outcome.FAILED, ""

    async def _known(self, name: str) -> Resolution:
        """What the ledger says of the name; that nothing runs under it now is seen by whoever connects."""
        try:
            return await self._resolver.resolve(name)
        except NoInstances as error:
            if error.resolution is None:
                raise
            return error.resolution

    # UDP

    async def _listen_udp(self, host: str, port: int) -> tuple[asyncio.DatagramTransport, int]:
        try:
            udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Datagrams(self), local_addr=(host, port)
            )
        except OSError as error:
            raise Unreachable(f"cannot listen: {error.strerror}", address=f"{host}:{port}") from None
        return udp, int(udp.get_extra_info("sockname")[1])

    def datagram(self, data: bytes, sender: Any) -> None:
        """A message by UDP. Beyond the limit it is dropped; programs ask again."""
        if len(self._running) >= QUERIES_AT_ONCE:
            self.counts["dropped"] += 1
            return
        task = asyncio.get_running_loop().create_task(self._answer_datagram(data, sender))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer_datagram(self, data: bytes, sender: Any) -> None:
        answer = await self.answer(data)
        if answer is not None and self._udp is not None and not self._udp.is_closing():
            self._udp.sendto(answer, sender)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, stub: DnsStub) -> None:
        self._stub = stub

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._stub.datagram(data, addr)


class _DnsOverTcp(Front):
    """Messages behind their length (RFC 1035, 4.2.2), answered in order."""

    kind = "dns"

    def __init__(self, stub: DnsStub) -> None:
        super().__init__(Room(TCP_CONNECTIONS))
        self._stub = stub

    async def serve(self, tcp: TcpSide) -> None:
        buffer = b""
        while True:
            while len(buffer) < 2 or len(buffer) < 2 + int.from_bytes(buffer[:2]):
                if int.from_bytes(buffer[:2].ljust(2, b"\0")) > QUERY_BYTES:
                    tcp.close()
                    return
                async with asyncio.timeout(TCP_IDLE_SECONDS):
                    data = await tcp.receive()
                if not data:
                    tcp.close()
                    return
                buffer += data
            end = 2 + int.from_bytes(buffer[:2])
            message, buffer = buffer[2:end], buffer[end:]
            answer = await self._stub.answer(message)
            if answer is None:
                tcp.close()
                return
            await tcp.write([memoryview(len(answer).to_bytes(2) + answer)])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
