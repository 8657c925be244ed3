"""Provider and consumer in two namespaces without a way to each other, and two relays that both of them reach.

A session works through a relay, survives a hard move of the provider to another network and the death of the relay
that carries it, and ends with a clear error when no relay is left. What a relay sees is captured beside it, packet by
packet.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from blockcloud.bench.private_network import ip
from blockcloud.service_access.relay.messages import MAGIC
from tests.docs.documents import ROOT
from tests.end_to_end.private_network import PrivateNetwork, private_network
from tests.end_to_end.relay_party import SERVICE

pytestmark = pytest.mark.long

STEP_SECONDS = 60
PROVIDER, CONSUMER, FIRST, SECOND = range(4)
RELAYS = {FIRST: "first.acme", SECOND: "second.acme"}
SECRET = "the quick brown fox pays forty-two for the lazy dog "
CAPTURE = """
import socket, sys
everything = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
everything.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_000_000)
with open(sys.argv[1], "wb", buffering=0) as file:
    print("{}", flush=True)
    while True:
        file.write(everything.recv(70_000))
"""


class Party:
    """A process in a namespace, its commands and answers."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(STEP_SECONDS):
            line = await self.process.stdout.readline()
        assert line, f"ended with {await self.process.wait()}"
        return dict(json.loads(line))

    async def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        return await self.answer()

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.communicate()


class Networks:
    """The parties of one test."""

    def __init__(self, network: PrivateNetwork, folder: Path, stack: AsyncExitStack) -> None:
        self.network = network
        self.folder = folder
        self._stack = stack

    async def start(self, host: int, *arguments: str) -> tuple[Party, dict[str, Any]]:
        command = [*self.network.through(host), sys.executable, *arguments]
        party = Party(await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE))
        self._stack.push_async_callback(party.end)
        return party, await party.answer()

    async def party(self, host: int, role: str, name: str, *relays: str) -> tuple[Party, dict[str, Any]]:
        where = (self.network.addresses[host], str(self.folder))
        return await self.start(host, "-m", "tests.end_to_end.relay_party", role, name, *where, *relays)

    def captured(self, host: int) -> bytes:
        return (self.folder / f"{host}.packets").read_bytes()


async def said(consumer: Party, number: int) -> int:
    """Say something long and hear it back; how often the session was resumed so far."""
    answer = await consumer.ask(f"say {number} {SECRET * 1_000}")
    assert answer.get("same"), answer
    return int(answer["resumes"])


async def test_a_session_between_two_networks_lives_while_a_relay_does(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        network = stack.enter_context(private_network(4, seed=0, cables=2))
        # No word of the provider ever gets to the consumer: dials to it end only with their time.
        ip(f"route add blackhole {network.addresses[CONSUMER]}/32", inside=network.namespace(PROVIDER))
        networks = Networks(network, tmp_path, stack)
        relays: dict[int, Party] = {}
        for host, name in RELAYS.items():
            await networks.start(host, "-c", CAPTURE, str(tmp_path / f"{host}.packets"))
            relays[host], _ = await networks.party(host, "relay", name)
        provider, ready = await networks.party(PROVIDER, "provider", SERVICE, *RELAYS.values())
        consumer, _ = await networks.party(CONSUMER, "consumer", SERVICE, *RELAYS.values())
        await said(consumer, 1)

        ip(*network.roam(PROVIDER, 1), inside=network.namespace(PROVIDER))
        moved = await provider.ask(f"move {network.address(PROVIDER, 1)}")
        assert moved["moved"].startswith(network.address(PROVIDER, 1))
        assert len(moved["addresses"]) == 3, moved
        resumes = await said(consumer, 2)
        assert resumes >= 1

        (carrying,) = [host for host, relay in relays.items() if (await relay.ask("status"))["splices"]]
        await relays.pop(carrying).end()
        assert await said(consumer, 3) > resumes

        (left,) = relays.values()
        assert (await left.ask("status"))["splices"]
        await left.end()
        assert await consumer.ask("say anything") == {"error": "session_lost"}

        for host in RELAYS:
            seen = networks.captured(host)
            assert MAGIC in seen  # that much is said in the open: whom a dialler wants
            assert bytes.fromhex(ready["key"]) in seen
            assert len(seen) > 2 * len(SECRET) * 1_000
            for plain in (SECRET[:16], SECRET[20:36], SERVICE):
                assert plain.encode() not in seen
