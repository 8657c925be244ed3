"""A devnet of real validator processes for one test: started and stopped by their pid, asked over HTTP, read from disk.

Every wait has a limit and a condition. `close` ends every process that the world started, also one that is stopped
(SIGSTOP), whatever the test did before.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from blockcloud.node import devnet as network
from blockcloud.node.storage import BLOCKS, COMMITS, RECEIPTS, RocksStore
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.receipts import decode_receipt

STEP_SECONDS = 60  # how long a ledger on a busy machine may take for what it does in a second
EXIT_SECONDS = 15
POLL_SECONDS = 0.05
CLOSE_HEIGHTS = 8  # commits by which running validators may differ
LARGEST = 4  # validators in one test
FIRST_PORT, LAST_PORT = 10_000, 32_000  # below the ports that outgoing connections get

Condition = Callable[[], Awaitable[object]]


async def until(condition: Condition, what: str, seconds: float = STEP_SECONDS) -> Any:
    """What `condition` gives as soon as it is true."""
    try:
        async with asyncio.timeout(seconds):
            while not (value := await condition()):
                await asyncio.sleep(POLL_SECONDS)
            return value
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s for {what}") from None


@dataclass
class World:
    """Validators, by their number in the committee, and what the test may ask of them."""

    folder: Path
    devnet: network.Devnet
    genesis: Genesis
    http: httpx2.AsyncClient
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    # What a validator is started through, such as `ip netns exec NAME`.
    through: dict[int, list[str]] = field(default_factory=dict)

    # Processes

    def start(self, *numbers: int) -> None:
        """Start these validators, or all."""
        for number in numbers or range(len(self.devnet.validators)):
            assert number not in self.processes, "it runs already"
            validator = self.devnet.validators[number]
            self.processes[number] = network.start_validator(validator, self.through.get(number, ()))
        network.write_devnet(self.folder, self.devnet)

    def signal(self, number: int, which: signal.Signals) -> None:
        self.processes[number].send_signal(which)

    def kill(self, *numbers: int) -> None:
        """SIGKILL to all of them first, then wait."""
        ended = [self.processes.pop(number) for number in numbers]
        for process in ended:
            process.send_signal(signal.SIGKILL)
        for process in ended:
            process.wait(EXIT_SECONDS)

    async def exit_code(self, number: int, seconds: float = EXIT_SECONDS) -> int:
        """Wait until the validator has ended by itself."""
        process = self.processes[number]

        async def ended() -> bool:
            return process.poll() is not None

        await until(ended, f"validator {number} to end", seconds)
        del self.processes[number]
        return int(process.returncode)

    async def stop_all(self) -> list[int]:
        """SIGTERM to all that run; their exit codes."""
        for process in self.processes.values():
            process.terminate()
        return [await self.exit_code(number) for number in list(self.processes)]

    def close(self) -> None:
        """End what still runs."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(EXIT_SECONDS)
        self.processes.clear()

    def check_alive(self) -> None:
        """No started validator has ended by itself."""
        for number, process in self.processes.items():
            assert process.poll() is None, f"validator {number} ended: {self.log(number)[-2_000:]}"

    def resident_bytes(self, number: int) -> int:
        return resident_bytes(self.processes[number].pid)

    def log(self, number: int) -> str:
        return Path(self.devnet.validators[number].home, "node.log").read_text(encoding="utf-8")

    # What they say

    def url(self, number: int) -> str:
        return self.devnet.validators[number].api

    def key(self, account: str) -> SigningKey:
        """The key of a funded account."""
        return SigningKey.load(self.key_file(account))

    def key_file(self, account: str) -> Path:
        return Path(next(item.key_file for item in self.devnet.accounts if item.name == account))

    async def status(self, number: int) -> dict[str, Any] | None:
        """The status of a validator; None while it does not answer."""
        try:
            answer = await self.http.get(self.url(number) + "/v1/status")
            return dict(answer.json()) if answer.status_code == 200 else None
        except (httpx2.HTTPError, ValueError):
            return None

    async def statuses(self, *numbers: int) -> list[dict[str, Any]] | None:
        """The status of these validators, or of all that were started; None if one does not answer."""
        found = await asyncio.gather(*(self.status(number) for number in numbers or sorted(self.processes)))
        return [status for status in found if status is not None] if all(found) else None

    async def metric(self, number: int, name: str) -> float:
        """One value of the metrics page."""
        text = (await self.http.get(self.url(number) + "/metrics")).text
        return next(float(line.split()[1]) for line in text.splitlines() if line.split()[0] == name)

    async def wait_in_step(self, *numbers: int) -> int:
        """Until these validators (or all that were started) take part at about the same height; that height."""

        async def in_step() -> int:
            self.check_alive()
            found = await self.statuses(*numbers)
            if found is None or any(status["mode"] != "fast" for status in found):
                return 0
            heights = [status["height"] for status in found]
            return max(heights) if min(heights) > 0 and max(heights) - min(heights) <= CLOSE_HEIGHTS else 0

        return int(await until(in_step, "the validators to be in step"))

    async def wait_equal_roots(self) -> tuple[int, str]:
        """Until all that run have shown the state root of one height, at or above what any of them has now; it, after
        comparing all roots seen on the way."""
        seen: defaultdict[int, dict[int, str]] = defaultdict(dict)
        now = max(status["height"] for status in await until(self.statuses, "all validators to answer"))

        async def compared() -> int | None:
            for number in self.processes:
                status = await self.status(number)
                if status is not None and status["state_root_height"]:
                    seen[status["state_root_height"]][number] = status["state_root"]
            complete = (height for height, roots in seen.items() if len(roots) == len(self.processes))
            return next((height for height in complete if height >= now), None)

        height = await until(compared, "a checkpoint of all validators at one height")
        for at, roots in seen.items():
            assert len(set(roots.values())) == 1, f"state roots differ at height {at}"
        return height, next(iter(seen[height].values()))

    # What is on their disks, after they have ended

    def stores(self) -> Iterator[tuple[int, RocksStore]]:
        """The database of one validator after the other."""
        assert not self.processes, "a running validator holds its database"
        for validator in self.devnet.validators:
            store = RocksStore(Path(validator.data_dir))
            try:
                yield validator.id, store
            finally:
                store.close()

    def read_disks(self, acknowledged: Iterable[bytes] = ()) -> Disks:
        """Everything that the checks below need."""
        disks, wanted = Disks(), list(acknowledged)
        for number, store in self.stores():
            for key, _ in store.scan(BLOCKS, b""):
                slot = int.from_bytes(key[:4]), int.from_bytes(key[4:12]), int.from_bytes(key[12:14])
                disks.blocks[slot].add(key[14:])
            executed = disks.executed[number]
            for key, record in store.scan(COMMITS, b""):
                disks.commits[int.from_bytes(key)].add(record)
                disks.heights[number] = max(disks.heights.get(number, 0), int.from_bytes(key))
                executed.add(int.from_bytes(key))
            for identifier in wanted:
                receipt = store.get(RECEIPTS, identifier)
                if receipt is not None:
                    disks.receipts[identifier][number] = decode_receipt(receipt).height
        disks.look_for(wanted)
        return disks


@dataclass
class Disks:
    """What the validators have on disk, taken together."""

    # (era, level, author) -> digests
    blocks: defaultdict[tuple[int, int, int], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    commits: defaultdict[int, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    heights: dict[int, int] = field(default_factory=dict)
    executed: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))  # validator -> heights
    # Acknowledged id -> validator -> height of its receipt there.
    receipts: defaultdict[bytes, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    missing: dict[int, list[bytes]] = field(default_factory=dict)  # validator (-1: everybody) -> ids without a receipt

    def look_for(self, acknowledged: Iterable[bytes]) -> None:
        """What is missing: a receipt at everybody, or at one that has executed the commit. Whoever was eras behind and
        took a snapshot has not, though it has the record of the commit at the boundary; receipts do not travel. Of
        commits whose records are pruned, one receipt says that a validator has executed them."""
        wanted, held = list(acknowledged), defaultdict(set)
        for identifier in wanted:
            for number, height in self.receipts[identifier].items():
                held[number].add(height)
        for identifier in wanted:
            found = self.receipts[identifier]
            if not found:
                self.missing.setdefault(-1, []).append(identifier)
                continue
            height = next(iter(found.values()))
            for number, executed in self.executed.items():
                has = height in held[number] or (height in executed and (height - 1 in executed or height == 1))
                if has and number not in found:
                    self.missing.setdefault(number, []).append(identifier)

    def check(self) -> None:
        """No fork, nobody signed twice, nothing acknowledged is lost."""
        assert self.commits, "nothing was committed"
        forks = sorted(height for height, records in self.commits.items() if len(records) > 1)
        assert not forks, f"commit records differ at heights {forks[:10]}"
        assert not self.equivocations(), f"(era, level, author) with two blocks: {self.equivocations()[:10]}"
        assert not self.missing, f"acknowledged and lost: { {n: len(ids) for n, ids in self.missing.items()} }"

    def equivocations(self) -> list[tuple[int, int, int]]:
        """Eras, levels and authors with more than one block on any disk."""
        return sorted(slot for slot, digests in self.blocks.items() if len(digests) > 1)

    def levels_of(self, author: int, era: int = 0) -> list[int]:
        """Levels at which blocks of this member of an era are known to anybody."""
        return sorted(level for number, level, who in self.blocks if number == era and who == author)


@asynccontextmanager
async def devnet_world(
    folder: Path, validators: int = 4, *, started: bool = True, era_length: int | None = None
) -> AsyncIterator[World]:
    """A new devnet in `folder`, running and past its first commit unless `started` is False."""
    with free_base(validators) as base:
        devnet = network.create_devnet(folder, validators, base_port=base, era_length=era_length)
        async with open_world(folder, devnet) as world:
            if started:
                world.start()
                await world.wait_in_step()
            yield world


@asynccontextmanager
async def open_world(folder: Path, devnet: network.Devnet) -> AsyncIterator[World]:
    """The world of a devnet, nobody started yet; whoever is when the block is left, ends."""
    genesis = Genesis.from_json(Path(devnet.genesis).read_text(encoding="utf-8"))
    async with httpx2.AsyncClient(timeout=2, trust_env=False) as http:
        world = World(folder, devnet, genesis, http)
        try:
            yield world
        finally:
            world.close()


@contextmanager
def free_base(validators: int) -> Iterator[int]:
    """The base of a range of free ports, kept from other tests of this kind until the block is left: a validator that
    is down for a while must get its ports back."""
    span = network.PORT_STEP * LARGEST
    assert validators <= LARGEST
    ranges = (LAST_PORT - FIRST_PORT) // span
    first = os.getpid() * 7 % ranges
    for number in range(ranges):
        base = FIRST_PORT + (first + number) % ranges * span
        with ExitStack() as claim:
            try:
                lock = claim.enter_context(Path(tempfile.gettempdir(), f"blockcloud-ports-{base}").open("wb"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with ExitStack() as held:
                    for port in range(base, base + span, network.PORT_STEP):
                        held.enter_context(bound(port))
                        held.enter_context(bound(port + 1))
            except OSError:
                continue
            yield base
            return
    raise AssertionError("no free range of ports")


@contextmanager
def bound(port: int) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((network.HOST, port))
        yield listener


def resident_bytes(pid: int) -> int:
    """Memory that a process has in RAM."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
