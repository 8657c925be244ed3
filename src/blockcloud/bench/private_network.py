"""A network of namespaces: each host in its own, all joined by a router, reachable from whoever makes it.

    its maker (root namespace) --- router --- host 0 .. host N-1      198.18.X.0/24, X is free on this machine

Hosts have one cable to the router each, or several of which they use one at a time (`roam`), each with an address of
its own. What goes wrong is done with routes and links, as an operator would see it: the router drops or refuses packets
from one host to another (each direction for itself), a cable is unplugged at the router (the host loses its carrier) or
the interface is taken down at the host (its routes go too), and packets of a pair take a flaky road (`flaky_road`). The
path between the maker and a host suffers only with the host's cable. 198.18.0.0/15 is for tests of networks (RFC 2544).
Needs root, iproute2 and /dev/net/tun.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from blockcloud.bench.flaky_road import TUN_DEVICE, FlakyRoad, Weather
from blockcloud.primitives.errors import LocalFault

IP_SECONDS: Final = 30
NETWORKS: Final = 200
FLAKY_TABLE: Final = 100
# Priorities of rules at the router, in this order: what comes from the flaky road goes on; drops; onto the flaky road.
RETURN_PRIORITY, DROP_PRIORITY, FLAKY_PRIORITY = 50, 100, 1_000
DROPS: Final = ("blackhole", "unreachable", "prohibit")  # silently, or with a word to the sender
HOSTS_MAX: Final = 40
CABLES_MAX: Final = 5

Direction = tuple[int, int]  # from host, to host


class IpFailed(LocalFault):
    """`ip` refused; the message says why."""

    code = "ip_failed"


class NotPermitted(LocalFault):
    """No such network can be made here; the message says why."""

    code = "network_not_permitted"


def why_not() -> str:
    """Why no such network can be made here; empty if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"bcprobe{os.getpid()}"
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR))
        ip(f"netns add {name}")
        try:
            ip("link set lo up", inside=name)
        finally:
            ip(f"netns del {name}")
    except FileNotFoundError as error:
        return f"not here: {error.filename} (`ip` is in the Debian package iproute2)"
    except (OSError, IpFailed) as error:
        return f"network namespaces are not permitted: {error}"
    return ""


def ip(*lines: str, inside: str = "") -> None:
    """Run lines of `ip` in one go, in a namespace if one is named. Raises IpFailed."""
    command = ["ip", *(["-n", inside] if inside else []), "-batch", "-"]
    text = "".join(line + "\n" for line in lines)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=IP_SECONDS)
    if done.returncode:
        raise IpFailed(f"{done.stderr.strip()} (in {inside or 'the root namespace'}: {'; '.join(lines)})")


class PrivateNetwork:
    """`hosts` namespaces with `cables` each, and the router between them. Use `private_network`."""

    def __init__(self, number: int, hosts: int, seed: int, cables: int = 1) -> None:
        assert hosts <= HOSTS_MAX
        assert cables <= CABLES_MAX
        self._number = number
        self._cables = cables
        self.addresses = [self.address(host, 0) for host in range(hosts)]
        self.maker_address = f"198.18.{number}.254"
        self._gateway = f"198.18.{number}.1"
        self._router = f"bc{number}-router"
        self._top = f"bc{number}t"  # the maker's own end of its cable
        self._dropped: dict[Direction, str] = {}
        self._flaky: dict[Direction, None] = {}
        self._unplugged: dict[int, None] = {}
        self._down: dict[int, None] = {}
        self.remove()
        self._make(seed)

    def namespace(self, host: int) -> str:
        return f"bc{self._number}-h{host}"

    def address(self, host: int, cable: int) -> str:
        """What a host is reached at over one of its cables."""
        return f"198.18.{self._number}.{10 + host + HOSTS_MAX * cable}"

    def through(self, host: int) -> list[str]:
        """The command that runs a program at a host."""
        return ["ip", "netns", "exec", self.namespace(host)]

    # Making

    def _make(self, seed: int) -> None:
        router, gateway, own = self._router, self._gateway, self.maker_address
        ip(f"netns add {router}", *(f"netns add {self.namespace(host)}" for host in range(len(self.addresses))))
        forwarding = "for f in all default; do echo 0 > /proc/sys/net/ipv4/conf/$f/rp_filter; done;"
        forwarding += "echo 1 > /proc/sys/net/ipv4/ip_forward"
        subprocess.run(["ip", "netns", "exec", router, "sh", "-c", forwarding], check=True, timeout=IP_SECONDS)
        ip(
            f"link add {self._top} type veth peer name top netns {router}",
            f"addr add {own} peer {gateway} dev {self._top}",
            f"link set {self._top} up",
            f"route add 198.18.{self._number}.0/24 via {gateway}",
        )
        ip(f"addr add {gateway} peer {own} dev top", "link set top up", "link set lo up", inside=router)
        for host in range(len(self.addresses)):
            for cable in range(self._cables):
                self._lay(host, cable)
            self._raise(host)
        name = f"bc{self._number}flaky"
        self.road = FlakyRoad(name, seed)
        ip(f"link set {name} netns {router}")
        ip(
            f"link set {name} txqueuelen 2000 up",
            f"route add default dev {name} table {FLAKY_TABLE}",
            f"rule add priority {RETURN_PRIORITY} iif {name} lookup main",
            inside=router,
        )

    def _lay(self, host: int, cable: int) -> None:
        """A cable from a host to the router, up at the router only."""
        end, inside, gateway, address = _end(host, cable), _cable(cable), self._gateway, self.address(host, cable)
        ip(f"link add {end} type veth peer name {inside} netns {self.namespace(host)}", inside=self._router)
        ip(f"addr add {gateway} peer {address} dev {end}", f"link set {end} up", inside=self._router)
        ip(f"addr add {address} peer {gateway} dev {inside}", "link set lo up", inside=self.namespace(host))

    def _raise(self, host: int) -> None:
        ip(*self._up(0), inside=self.namespace(host))

    def _up(self, cable: int) -> list[str]:
        return [f"link set {_cable(cable)} up", f"route replace default via {self._gateway} dev {_cable(cable)}"]

    def roam(self, host: int, cable: int) -> list[str]:
        """Lines of `ip` by which a host changes to one of its cables. The others go down first, and their addresses
        with them: while the old address is there, the kernel goes on sending from it, over the new cable."""
        lines = []
        for other in range(self._cables):
            if other != cable:
                lines += [f"link set {_cable(other)} down", f"addr flush dev {_cable(other)}"]
        address = f"addr replace {self.address(host, cable)} peer {self._gateway} dev {_cable(cable)}"
        return [*lines, address, *self._up(cable)]

    def remove(self) -> None:
        """Take away what is there of this network, also what a killed test left. Its programs must have ended."""
        if hasattr(self, "road"):
            self.road.close()
        # Its cable first: the kernel takes a namespace apart in its own time, and the other end of the cable with it.
        if Path("/sys/class/net", self._top).exists():
            ip(f"link del {self._top}")
        names = [self._router, *(self.namespace(host) for host in range(len(self.addresses)))]
        ip(*(f"netns del {name}" for name in names if Path("/run/netns", name).exists()))

    # Breaking

    def _rules(self, verb: str, base: int, directions: Iterable[Direction], action: str) -> list[str]:
        """Lines that add or delete a rule at the router for each direction."""
        return [
            f"rule {verb} priority {base + source * len(self.addresses) + destination}"
            f" from {self.addresses[source]} to {self.addresses[destination]} {action}"
            for source, destination in directions
        ]

    def drop(self, directions: Iterable[Direction], how: str = "blackhole") -> None:
        """Let nothing pass from one host to another; `how` is one of DROPS."""
        assert how in DROPS
        new = [direction for direction in directions if direction not in self._dropped]
        self._dropped.update(dict.fromkeys(new, how))
        ip(*self._rules("add", DROP_PRIORITY, new, how), inside=self._router)

    def spoil(self, directions: Iterable[Direction], weather: Weather) -> None:
        """Send packets from one host to another over the flaky road."""
        directions = list(directions)
        for source, destination in directions:
            self.road.weather[_packed(self.addresses[source]), _packed(self.addresses[destination])] = weather
        new = [direction for direction in directions if direction not in self._flaky]
        self._flaky.update(dict.fromkeys(new))
        ip(*self._rules("add", FLAKY_PRIORITY, new, f"lookup {FLAKY_TABLE}"), inside=self._router)

    def unplug(self, host: int) -> None:
        """Take the cable out of the router: the host loses its carrier, and the router its route there."""
        if host not in self._unplugged:
            self._unplugged[host] = None
            ip(f"link set {_end(host, 0)} down", inside=self._router)

    def take_down(self, host: int) -> None:
        """Take the interface down at the host: its routes are gone, whoever sends gets an error at once."""
        if host not in self._down:
            self._down[host] = None
            ip("link set cable down", inside=self.namespace(host))

    def plug(self, host: int) -> None:
        """Undo `unplug` and `take_down`."""
        if host in self._unplugged:
            del self._unplugged[host]
            ip(f"link set {_end(host, 0)} up", inside=self._router)
        if host in self._down:
            del self._down[host]
            self._raise(host)

    def heal(self) -> None:
        """Everything as it was."""
        for host in range(len(self.addresses)):
            self.plug(host)
        drops = [line for each, how in self._dropped.items() for line in self._rules("del", DROP_PRIORITY, [each], how)]
        roads = self._rules("del", FLAKY_PRIORITY, self._flaky, f"lookup {FLAKY_TABLE}")
        ip(*drops, *roads, inside=self._router)
        self._dropped.clear()
        self._flaky.clear()
        self.road.weather.clear()


def _end(host: int, cable: int) -> str:
    """The router's end of a cable."""
    return f"h{host}" if cable == 0 else f"h{host}c{cable}"


def _cable(cable: int) -> str:
    """The host's end."""
    return "cable" if cable == 0 else f"cable{cable}"


def _packed(address: str) -> bytes:
    return ipaddress.IPv4Address(address).packed


@contextmanager
def private_network(hosts: int, seed: int, cables: int = 1) -> Iterator[PrivateNetwork]:
    """A network that nobody else on this machine uses, until the block is left. Needs a running loop. Raises
    NotPermitted."""
    if reason := why_not():
        raise NotPermitted(reason)
    for number in range(1, NETWORKS):
        with Path(tempfile.gettempdir(), f"blockcloud-network-{number}").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            network = PrivateNetwork(number, hosts, seed, cables)
            try:
                yield network
            finally:
                network.remove()
            return
    raise LocalFault("no free test network", tried=NETWORKS)
