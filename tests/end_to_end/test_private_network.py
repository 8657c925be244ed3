"""The network that chaos happens on does what it says: each way to break it breaks just that, and healing mends it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from blockcloud.bench.flaky_road import Weather
from tests.end_to_end.ledger_world import until
from tests.end_to_end.private_network import DROPS, PrivateNetwork, private_network

HOSTS = 3
PORT = 7_000
TRIES = 20  # datagrams, one after the other
ECHO = f"""
import socket, sys
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind((sys.argv[1], {PORT}))
print("ready", flush=True)
while True:
    data, sender = server.recvfrom(100)
    server.sendto(data, sender)
"""
ASK = f"""
import socket, sys
asker = socket.socket(type=socket.SOCK_DGRAM)
asker.settimeout(float(sys.argv[2]))
answers = 0
for number in range(int(sys.argv[3])):
    try:
        asker.sendto(b"%d" % number, (sys.argv[1], {PORT}))
        for _ in range(int(sys.argv[4])):
            answers += asker.recv(100) == b"%d" % number
    except OSError:
        pass
print(answers)
"""

pytestmark = pytest.mark.long


async def answers(
    network: PrivateNetwork, asker: int, other: int, tries: int = 1, patience_s: float = 0.3, copies: int = 1
) -> int:
    """How many answers came in time to `tries` datagrams from one host to another, if each should get `copies`."""
    command = [
        *network.through(asker),
        sys.executable,
        "-c",
        ASK,
        network.addresses[other],
        str(patience_s),
        str(tries),
        str(copies),
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return int(output)


async def reached(network: PrivateNetwork) -> list[tuple[int, int]]:
    """The pairs (lower, higher) of hosts that reach each other there and back."""
    pairs = [(one, other) for one in range(HOSTS) for other in range(one + 1, HOSTS)]
    return [pair for pair in pairs if await answers(network, *pair)]


@asynccontextmanager
async def echoing() -> AsyncIterator[PrivateNetwork]:
    """A network whose hosts answer every datagram."""
    with private_network(HOSTS, seed=0) as network:
        servers = []
        try:
            for host, address in enumerate(network.addresses):
                command = [*network.through(host), sys.executable, "-c", ECHO, address]
                servers.append(await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE))
                stdout = servers[-1].stdout
                assert stdout is not None
                assert await asyncio.wait_for(stdout.readline(), 30) == b"ready\n"
            yield network
        finally:
            for server in servers:
                server.kill()
                await server.communicate()


async def test_what_is_broken_is_just_that_and_healing_mends_it() -> None:
    async with echoing() as network:

        async def comes_to(*expected: tuple[int, int]) -> None:
            """On a busy machine an answer may come too late; a pair that is cut off never answers."""

            async def so() -> bool:
                return await reached(network) == list(expected)

            await until(so, f"just {expected} to reach each other")

        for how in DROPS:
            for direction in ((0, 1), (1, 0)):
                await comes_to((0, 1), (0, 2), (1, 2))
                network.drop([direction], how)
                await comes_to((0, 2), (1, 2))
                network.heal()
        for cut in (network.unplug, network.take_down):
            await comes_to((0, 1), (0, 2), (1, 2))
            cut(2)
            await comes_to((0, 1))
            network.heal()
        await comes_to((0, 1), (0, 2), (1, 2))


async def test_a_bad_line_loses_delays_and_doubles_in_its_direction_only() -> None:
    async with echoing() as network:
        network.spoil([(0, 1)], Weather(lost=1.0))
        assert await answers(network, 0, 1) == 0
        assert await answers(network, 0, 2, patience_s=30.0) == 1
        network.spoil([(0, 1)], Weather(lost=0.5))
        # One chance in a million each that all of them pass, or none.
        assert 0 < await answers(network, 0, 1, TRIES) < TRIES
        network.spoil([(0, 1)], Weather(doubled=1.0))
        # Who asks takes both answers: one that finds its port closed makes the kernel say so, on the same bad line.
        assert await answers(network, 0, 1, patience_s=30.0, copies=2) == 2
        network.spoil([(0, 1)], Weather(delay_s=2.0))
        assert await answers(network, 0, 1, patience_s=1.0) == 0
        assert await answers(network, 0, 1, patience_s=30.0) == 1
        network.heal()
        assert await answers(network, 0, 1, patience_s=30.0) == 1
