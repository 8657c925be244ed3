"""Garbage on every port of the service plane: links of each kind, a relay, proxies, a DNS stub, both edge nodes.

Noise in streams and datagrams, half handshakes, requests that are wrong, ten thousand connections that begin TLS and
never end it. Programs go on serving, memory stays bounded, nothing prints a traceback (DESIGN section 11).

`BLOCKCLOUD_GARBAGE_SECONDS` says for how long (25, after a first round of five).
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.ledger_world import devnet_world
from tests.end_to_end.service_world import NAME, SMALL, ServiceWorld, resident_bytes, service_world
from tests.end_to_end.test_garbage import (
    Attack,
    bad_request,
    half_handshake,
    noise,
    oversized_frame,
    place,
    plain,
)

SECONDS = float(os.environ.get("BLOCKCLOUD_GARBAGE_SECONDS", "25"))
FIRST_SECONDS = 5.0  # so that what grows only once has grown
HALF_HANDSHAKES = 10_000
AT_ONCE = 64
GROWTH_BYTES = 64 * 1024 * 1024
ANY = "127.0.0.1:0"
RELAY, FEED = "relay.test", "feed.test"
DATAGRAM_BYTES = (1, 12, 50, 1_200, 1_500, 9_000)
# What each protocol takes for the beginning of something: SOCKS5, a relay's preamble, a QUIC Initial, CoAP, DNS.
BEGINNINGS = (b"\x05\x01\x00", b"BCRL", b"\xc3\x00\x00\x00\x01\x08", b"\x40\x01\x12\x34", b"\x12\x34\x01\x00\x00\x01")

pytestmark = [pytest.mark.long, pytest.mark.timeout(SECONDS + 280)]

Place = tuple[str, int]


@dataclass
class Ports:
    """Everything that listens, by what it speaks; and the processes behind it."""

    streams: list[Place] = field(default_factory=list)
    tls: list[Place] = field(default_factory=list)
    http: list[Place] = field(default_factory=list)
    datagrams: list[Place] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def memory(self) -> dict[str, int]:
        return {who: resident_bytes(process.pid) for who, process in self.processes.items()}


async def datagram_noise(host: str, port: int, choice: random.Random) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        for _ in range(8):
            sender.sendto(
                choice.choice((b"", *BEGINNINGS)) + choice.randbytes(choice.choice(DATAGRAM_BYTES)), (host, port)
            )


async def beginning(host: str, port: int, choice: random.Random) -> None:
    async with plain(host, port) as writer:
        writer.write(choice.choice(BEGINNINGS) + choice.randbytes(choice.choice((0, 5, 300, 70_000))))


async def socket_noise(path: str, choice: random.Random) -> None:
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(choice.randbytes(choice.choice((1, 40, 5_000))))
    writer.transport.abort()


async def throw(ports: Ports, seconds: float, choice: random.Random) -> None:
    """Garbage of all kinds until the time is over."""
    kinds: list[tuple[Attack, Place]] = [
        *((kind, each) for kind in (noise, beginning) for each in (*ports.streams, *ports.tls, *ports.http)),
        *((kind, each) for kind in (half_handshake, oversized_frame) for each in ports.tls),
        *((bad_request, each) for each in ports.http),
        *((datagram_noise, each) for each in ports.datagrams),
    ]
    end = asyncio.get_running_loop().time() + seconds

    async def thrower(own: random.Random) -> None:
        while asyncio.get_running_loop().time() < end:
            with suppress(OSError, TimeoutError):  # cut short by the other side
                if ports.sockets and own.random() < 0.05:
                    await socket_noise(own.choice(ports.sockets), own)
                else:
                    kind, where = own.choice(kinds)
                    await kind(*where, own)

    await asyncio.gather(*(thrower(random.Random(choice.getrandbits(32))) for _ in range(AT_ONCE)))


async def half_handshakes(where: Place, choice: random.Random) -> None:
    """So many connections that begin TLS, AT_ONCE of them open at any time, each left as it is."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(seed: int) -> None:
        async with turn:
            with suppress(OSError, TimeoutError):
                await half_handshake(*where, random.Random(seed))

    await asyncio.gather(*(one(choice.getrandbits(32)) for _ in range(HALF_HANDSHAKES)))


@asynccontextmanager
async def everything(service: ServiceWorld, short: Path) -> AsyncIterator[Ports]:
    """One process of each serving command beside the publish and the forward that run."""
    owner, ports = str(service.owner_key), Ports()
    for name in (RELAY, FEED):
        code, _, messages = await service.run(service.world.folder, "name", "register", name, more=("--key", owner))
        assert code == 0, messages
    home, path = service.folder / service.published["home"], str(short / "s")
    to = ("--to", ANY, "--to", f"quic:{ANY}", "--to", f"unix:{path}")
    code, _, messages = await service.run(home, "move", NAME, *to)
    assert code == 0, messages
    for address in (await service.status(NAME))["addresses"]:
        kind, _, rest = address.partition(":")
        if kind == "unix":
            ports.sockets.append(rest)
        elif kind == "quic":
            ports.datagrams.append(place(rest))
        else:
            ports.tls.append(place(address))
    ports.processes["publish"] = service.publish

    async def start(who: str, *arguments: str) -> dict[str, Any]:
        ports.processes[who], ready = await service.serve(service.folder / who, *arguments)
        return ready

    relay = await start("relay", "relay", "serve", RELAY, "--listen", ANY, "--key", owner)
    ports.streams.append(place(relay["listening"]))
    proxy = await start("proxy", "proxy", "--socks", ANY, "--http", ANY, "--dns", ANY)
    ports.streams += [place(proxy["socks"]), place(proxy["dns"])]
    ports.http.append(place(proxy["http"]))
    ports.datagrams.append(place(proxy["dns"]))
    cache = await start("cache", "edge", "cache", NAME, "--listen", ANY)
    ports.http.append(place(cache["listening"]))
    feed = await start("feed", "edge", "feed", FEED, "--http", ANY, "--coap", ANY, "--key", owner)
    ports.http.append(place(feed["http"]))
    ports.tls.append(place(feed["listening"]))
    ports.datagrams.append(place(feed["coap"]))
    yield ports


async def test_garbage_on_every_port_changes_nothing(tmp_path: Path, run_seed: int) -> None:
    choice = random.Random(run_seed)
    with tempfile.TemporaryDirectory() as short:
        async with (
            devnet_world(tmp_path / "net") as world,
            service_world(world, tmp_path, large_bytes=0) as service,
            everything(service, Path(short)) as ports,
        ):
            await throw(ports, FIRST_SECONDS, choice)
            before = ports.memory()
            await throw(ports, SECONDS, choice)
            await half_handshakes(ports.tls[0], choice)
            assert (await service.fetch("/small.txt")) == SMALL
            for who, process in ports.processes.items():
                assert process.poll() is None, f"{who} has ended"
                grown = ports.memory()[who] - before[who]
                assert grown < GROWTH_BYTES, f"{who} grew by {grown >> 20} MiB"
            faults = (await service.status(NAME))["faults"]
            assert sum(faults.values()) >= HALF_HANDSHAKES / 2, faults
            code, _, messages = await service.run(service.consumer, "resolve", NAME)
            assert code == 0, messages
    logs = [log.read_text(encoding="utf-8", errors="replace") for log in tmp_path.glob("*.log")]
    assert not [log[-2_000:] for log in logs if "Traceback" in log]
