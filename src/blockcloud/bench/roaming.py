"""`blockcloud bench roaming`: how long a session is silent when an end of it changes its network, the hard way.

Namespaces joined by a router (`private_network`); the provider and the consumer have two cables each. Whoever moves
takes the old cable down first, so nothing it says goes that way any more, and only then tells its endpoint the new
address. A devnet of one validator beside the router holds the name and the address records: names are resolved with
proofs, and moves are announced, as everywhere.

The consumer sends a number every 20 ms on one stream and the provider echoes it; the figure is the longest pause
between two answers around a move. 20 ms of it are the pace. It holds the change of cables, too (the time of one `ip`
command). Each number must come back once and in order. Cases:

    provider    the consumer listens as well: the provider dials it from where it is now
    consumer    the consumer dials the provider
    both        at once: neither is any more where the other thinks; the registry says where the provider is
    fallback    the provider moves, the consumer does not listen: it finds the link dead, then asks the registry

Tests break the same network in other ways, and watch the same two programs.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import uvloop

from blockcloud.bench.private_network import PrivateNetwork, ip, private_network
from blockcloud.bench.processes import ended_at_last
from blockcloud.node import devnet as network
from blockcloud.node.logging import set_up_logging
from blockcloud.primitives.errors import LocalFault, TimedOut
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk import ChainResolver
from blockcloud.sdk.home import Home
from blockcloud.sdk.services import listen, open_client
from blockcloud.service_access.addresses import TLS
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.errors import SessionEnded
from blockcloud.service_access.listener import Listener
from blockcloud.service_access.stream import Session

Order = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

NAME: Final = "roamer"
CASES: Final = ("provider", "consumer", "both", "fallback")
BARS_MS: Final = {"provider": 35, "consumer": 35, "both": 60, "fallback": 1_500}
PACE_S: Final = 0.02
NUMBER_BYTES: Final = 8
MESSAGE_BYTES: Final = 8  # a number and what fills it up
SETTLED_ANSWERS: Final = 10  # after a move, before the next one
READY_S: Final = 60.0
ANSWER_S: Final = 30.0
PROVIDER, CONSUMER = 0, 1  # hosts
CABLES: Final = 2


# --- the programs at the two ends -------------------------------------------------------------------------------------


async def _echo(listener: Listener) -> None:
    """Give back what comes, session after session."""
    async for session in listener:
        with suppress(SessionEnded):
            while pieces := await session.read_pieces():
                await session.write(b"".join(pieces))


async def _provider(home: str, host: str, kind: str) -> None:
    async with ServiceEndpoint(Home.find(home).instance_key()) as endpoint:
        await endpoint.start(host, 0, kind=kind)
        async with listen(NAME, home=home, endpoint=endpoint) as listener:
            echoing = asyncio.create_task(_echo(listener))
            await _obey({"move": _mover(endpoint, kind)})
            echoing.cancel()


async def _consumer(home: str, host: str, kind: str, listens: bool, message_bytes: int) -> None:
    async with open_client(home) as client, ServiceEndpoint(SigningKey.generate()) as endpoint:
        endpoint.moved.append(client.transport.renew)
        if listens:
            await endpoint.start(host, 0, kind=kind)
        session = await Connector(endpoint, ChainResolver(client)).connect(NAME)
        pacer = _Pacer(session, message_bytes)
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(pacer.send()), group.create_task(pacer.receive())]
            await _obey({"move": _mover(endpoint, kind), "note": pacer.note, "settled": pacer.settled})
            for task in running:
                task.cancel()


class _Pacer:
    """Sends numbers at a pace and notes when they come back."""

    def __init__(self, session: Session, message_bytes: int) -> None:
        self._session = session
        self._message_bytes = message_bytes
        self._arrivals: list[float] = []
        self._arrived = asyncio.Event()
        self._link = 0

    async def send(self) -> None:
        number = 0
        while True:
            await self._session.write(self._message(number))
            number += 1
            await asyncio.sleep(PACE_S)

    async def receive(self) -> None:
        number = 0
        while True:
            answer = await self._session.read_exactly(self._message_bytes)
            if answer != self._message(number):
                raise LocalFault("an answer was lost, doubled, changed or out of order", expected=number)
            number += 1
            self._arrivals.append(time.perf_counter())
            self._arrived.set()

    def _message(self, number: int) -> bytes:
        return number.to_bytes(NUMBER_BYTES) * (self._message_bytes // NUMBER_BYTES)

    async def note(self, _: dict[str, Any]) -> dict[str, Any]:
        """A move is about to begin: look at arrivals from here on."""
        self._arrivals = self._arrivals[-1:]
        self._link = self._session.core.link
        return {}

    async def settled(self, order: dict[str, Any]) -> dict[str, Any]:
        """Wait until answers come, over another link if it `moved`; the longest pause since `note`."""
        if order["moved"]:
            await self._session.attached_beyond(self._link)
        wanted = len(self._arrivals) + SETTLED_ANSWERS
        while len(self._arrivals) < wanted:
            self._arrived.clear()
            await self._arrived.wait()
        gap_s = max(after - before for before, after in pairwise(self._arrivals))
        return {"gap_ms": 1_000 * gap_s, "resumes": self._session.statistics.resumes}


def _mover(endpoint: ServiceEndpoint, kind: str) -> Order:
    async def move(order: dict[str, Any]) -> dict[str, Any]:
        """Change the cable, then move the endpoint there."""
        ip(*order["ip"])
        await endpoint.move(order["host"], 0, kind=kind)
        return {}

    return move


async def _obey(orders: dict[str, Order]) -> None:
    """Say that all is ready, then do what the lines of standard input ask for, until they end."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _tell({})
    while line := await reader.readline():
        order = json.loads(line)
        _tell(await orders[order["do"]](order))


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


# --- the measurement --------------------------------------------------------------------------------------------------


class _Program:
    """A program at a host, as the measurement sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """Give an order and wait for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
        return await self.answer(ANSWER_S)

    async def answer(self, within_s: float) -> dict[str, Any]:
        """The next line that it says. Raises LocalFault, TimedOut."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise TimedOut("a program of the benchmark does not answer") from None
        if not line:
            raise LocalFault("a program of the benchmark has ended; what it said is above")
        return dict(json.loads(line))


@asynccontextmanager
async def _program(place: PrivateNetwork, host: int, *arguments: str) -> AsyncIterator[_Program]:
    command = [*place.through(host), sys.executable, "-m", "blockcloud.bench.roaming", *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        program = _Program(process)
        await program.answer(READY_S)
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class _Host:
    """One end: its program, and the cable that it uses."""

    def __init__(self, place: PrivateNetwork, number: int, program: _Program) -> None:
        self.program = program
        self._place, self._number = place, number
        self._cable = 0

    async def move(self) -> None:
        """Change to the other cable."""
        self._cable = 1 - self._cable
        lines = self._place.roam(self._number, self._cable)
        host = self._place.address(self._number, self._cable)
        await self.program.ask("move", ip=lines, host=host)


@dataclass(frozen=True)
class Ends:
    """The two ends of one session, in a network that can be broken."""

    place: PrivateNetwork
    provider: _Host
    consumer: _Host

    async def note(self) -> None:
        """Something is about to happen."""
        await self.consumer.program.ask("note")

    async def settled(self, *, moved: bool = True) -> dict[str, Any]:
        """What came of it, when answers come again (over another link, if it `moved`): `gap_ms`, `resumes`."""
        return await self.consumer.program.ask("settled", moved=moved)


@asynccontextmanager
async def ends(
    place: PrivateNetwork,
    homes: Sequence[Path],
    *,
    kind: str = TLS,
    listens: bool = True,
    message_bytes: int = MESSAGE_BYTES,
) -> AsyncIterator[Ends]:
    """A session over links of that kind between two hosts, of which the consumer `listens` or not."""
    for host in (PROVIDER, CONSUMER):
        ip(*place.roam(host, 0), inside=place.namespace(host))
    arguments = [
        ["provider", str(homes[PROVIDER]), place.address(PROVIDER, 0), kind],
        [
            "consumer",
            str(homes[CONSUMER]),
            place.address(CONSUMER, 0),
            kind,
            "1" if listens else "",
            str(message_bytes),
        ],
    ]
    async with AsyncExitStack() as stack:
        hosts = [
            _Host(place, host, await stack.enter_async_context(_program(place, host, *arguments[host])))
            for host in (PROVIDER, CONSUMER)
        ]
        yield Ends(place, *hosts)


async def _case(case: str, place: PrivateNetwork, homes: Sequence[Path], moves: int) -> list[float]:
    """The longest pause around each of `moves` moves, in ms."""
    async with ends(place, homes, listens=case != "fallback") as both:
        movers = {"consumer": [both.consumer], "both": [both.provider, both.consumer]}.get(case, [both.provider])
        gaps = []
        for _ in range(moves):
            await both.note()
            await asyncio.gather(*(mover.move() for mover in movers))
            gaps.append(float((await both.settled())["gap_ms"]))
        return gaps


@asynccontextmanager
async def ledger_at(folder: Path, host: str) -> AsyncIterator[list[Path]]:
    """A devnet of one validator at `host`, with the name registered; a home for each end."""
    made = network.create_devnet(folder / "net", 1, hosts=[host])
    with ended_at_last() as processes:
        processes.append(network.start_validator(made.validators[0]))
        made.validators[0].pid = processes[0].pid
        await asyncio.to_thread(network.wait_ready, made, READY_S)
        homes = [folder / name for name in ("provider", "consumer")]
        for home in homes:
            home.mkdir()
            (home / "genesis.json").write_bytes(Path(made.genesis).read_bytes())
        owner = SigningKey.load(Path(made.accounts[0].key_file))
        (homes[PROVIDER] / "keys").mkdir(mode=0o700)
        owner.save(homes[PROVIDER] / "keys" / "account.pem")
        async with open_client(homes[PROVIDER]) as client:
            await client.preorder_and_register(owner, NAME)
        yield homes


async def _run(cases: Sequence[str], moves: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(prefix="blockcloud-bench-") as folder, private_network(2, 0, CABLES) as place:
        async with ledger_at(Path(folder), place.maker_address) as homes:
            return {case: await _case(case, place, homes, moves) for case in cases}


def run(*, cases: Sequence[str] = CASES, moves: int = 15) -> dict[str, Any]:
    """{"figures", "bars", "ratio"}: for each case the median and the worst pause of `moves` moves, in ms; `ratio` is
    the median over its bar. Raises NotPermitted where namespaces cannot be made."""
    gaps = uvloop.run(_run(cases, moves))
    medians = {case: statistics.median(each) for case, each in gaps.items()}
    figures: dict[str, Any] = {f"gap_{case}_ms": round(median, 1) for case, median in medians.items()}
    figures |= {f"gap_{case}_worst_ms": round(max(each), 1) for case, each in gaps.items()}
    return {
        "figures": figures,
        "bars": {f"gap_{case}_ms": BARS_MS[case] for case in gaps},
        "peer": {"what": "the pace of the numbers", "pace_ms": round(1_000 * PACE_S)},
        "ratio": {case: round(median / BARS_MS[case], 2) for case, median in medians.items()},
        "settings": {"moves": moves, "cores": os.cpu_count()},
    }


if __name__ == "__main__":
    set_up_logging("warning")  # standard output belongs to the answers
    role, *rest = sys.argv[1:]
    home, host, kind, *more = rest
    if role == "provider":
        uvloop.run(_provider(home, host, kind))
    else:
        uvloop.run(_consumer(home, host, kind, bool(more[0]), int(more[1])))
