"""Real servers behind names and one `blockcloud proxy` in front, for programs that know nothing of it.

One devnet and one set of processes for all tests of a module. A server whose program is not installed is left out; its
tests skip. Every process is ended by its pid.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from blockcloud.node import devnet as network
from blockcloud.service_access.control import request
from tests.end_to_end.ledger_world import STEP_SECONDS, devnet_world, until
from tests.end_to_end.service_world import ServiceWorld

SUFFIX = "internal"
FILES, DATABASE, BROKER = "files", "database", "broker"
# What the paragraph says is there only after the script has run.
PAGE = b"""<title>start</title><p id=p></p>
<script>document.getElementById('p').append(6 * 7, ' is said by ' + location.host)</script>
"""
LARGE_BYTES = 96 * 1024 * 1024  # more than all buffers on the way hold
DATABASE_PROGRAMS = ("initdb", "postgres", "psql")
BROKER_PROGRAMS = ("mosquitto", "mosquitto_sub", "mosquitto_pub")


def program(name: str) -> str:
    """Where a program is: on the path, or where Debian keeps those of PostgreSQL's server; "" if it is not here."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return found or (str(places[-1]) if places else "")


def need(*names: str) -> None:
    """Skip the test unless these programs are installed."""
    missing = [name for name in names if not program(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@dataclass
class ProgramsWorld:
    """`published` has the home of the publish of each name; `proxy` is the ready line."""

    service: ServiceWorld
    published: dict[str, Path] = field(default_factory=dict)
    forwarded: dict[str, dict[str, Any]] = field(default_factory=dict)
    proxy: dict[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> Path:
        return self.service.content

    def host(self, name: str) -> str:
        return f"{name}.{SUFFIX}"

    # Starting

    async def publish(self, name: str, owner: str, port: int, *more: str) -> None:
        """Register the name for an account, and put the server at `port` behind it."""
        service, key = self.service, str(self.service.world.key_file(owner))
        code, _, messages = await service.run(service.world.folder, "name", "register", name, more=("--key", key))
        assert code == 0, messages
        home = service.folder / f"publish-{name}"
        await service.serve(home, "publish", name, "--to", f"127.0.0.1:{port}", "--key", key, *more)
        self.published[name] = home

    async def forward(self, name: str) -> str:
        """The port of a `forward` to the name, which has a home of its own."""
        home = self.service.folder / f"forward-{name}"
        _, ready = await self.service.serve(home, "forward", name, "--listen", "127.0.0.1:0")
        self.forwarded[name] = ready
        return str(ready["listening"]).rpartition(":")[2]

    async def start_proxy(self) -> None:
        # Addresses of its own, so that other tests on this machine may have theirs.
        part = 100 + os.getpid() % 100
        dns = f"127.{part}.255.53:53" if os.geteuid() == 0 else "127.0.0.1:0"
        faces = ("--socks", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dns", dns, "--suffix", SUFFIX)
        _, self.proxy = await self.service.serve(
            self.service.consumer, "proxy", *faces, "--addresses", f"127.{part}.0.0/17", "--ports", "80"
        )

    # Moving, by the control sockets: a command of its own would take its time to start

    async def move_provider(self, name: str, host: str) -> None:
        await self._move(self.published[name] / "run" / f"publish-{name}.sock", host)

    async def move_proxy(self, host: str) -> None:
        await self._move(Path(self.proxy["control"]), host)

    async def move_forward(self, name: str, host: str) -> None:
        await self._move(Path(self.forwarded[name]["control"]), host)

    async def _move(self, control: Path, host: str) -> None:
        answer = await request(control, {"op": "move", "to": f"{host}:0"})
        assert answer["ok"], answer

    async def sessions(self, name: str, control: str = "") -> list[dict[str, Any]]:
        """The sessions of the proxy (or of what has this control socket) with the name."""
        status = await request(Path(control or self.proxy["control"]), {"op": "status"})
        return [session for session in status["sessions"] if session["name"] == name]


async def start_files(world: ProgramsWorld) -> None:
    """The HTTP server of the standard library."""
    port = network.free_port()
    serve = ("-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(world.content))
    world.service.spawn(sys.executable, *serve, log="files")
    await until_listening(port)
    await world.publish(FILES, "provider", port)


async def start_database(world: ProgramsWorld, stack: AsyncExitStack) -> None:
    """A PostgreSQL server of its own, without a password, run by a user that is not root, which it refuses."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="blockcloud-database-")))
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    data = folder / "data"
    make = [*as_user, program("initdb"), "--no-sync", "--auth=trust", "--username=postgres", f"--pgdata={data}"]
    done = await asyncio.to_thread(subprocess.run, make, capture_output=True, text=True, timeout=STEP_SECONDS)
    assert done.returncode == 0, done.stderr
    port = network.free_port()
    options = f"listen_addresses=127.0.0.1 unix_socket_directories= fsync=off port={port}".split()
    settings = [part for option in options for part in ("-c", option)]
    server = world.service.spawn(*as_user, program("postgres"), "-D", str(data), *settings, log="database")
    # Its folder goes when the stack is left; end it before that.
    stack.callback(server.wait, STEP_SECONDS)
    stack.callback(server.terminate)
    await until_listening(port)
    await world.publish(DATABASE, "alice", port, "--port", "5432")


async def start_broker(world: ProgramsWorld) -> None:
    """A Mosquitto."""
    port = network.free_port()
    configuration = world.service.folder / "mosquitto.conf"
    user = "user root\n" if os.geteuid() == 0 else ""
    configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n{user}")
    world.service.spawn(program("mosquitto"), "-c", str(configuration), log="broker")
    await until_listening(port)
    await world.publish(BROKER, "bob", port)


async def until_listening(port: int) -> None:
    async def listening() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await until(listening, f"a server at port {port}")


@asynccontextmanager
async def programs_world(folder: Path) -> AsyncIterator[ProgramsWorld]:
    """Everything that the installed programs allow."""
    content = folder / "content"
    content.mkdir()
    (content / "index.html").write_bytes(PAGE)
    (content / "large.bin").write_bytes(os.urandom(LARGE_BYTES))
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(devnet_world(folder / "net", validators=2))
        service = ServiceWorld(ledger, folder, content, ledger.key_file("provider"))
        stack.callback(service.end)
        world = ProgramsWorld(service)
        starting = [start_files(world), world.start_proxy()]
        if all(program(name) for name in DATABASE_PROGRAMS):
            starting.append(start_database(world, stack))
        if all(program(name) for name in BROKER_PROGRAMS):
            starting.append(start_broker(world))
        await asyncio.gather(*starting)
        yield world


# Programs


async def output_of(*command: str, code: int = 0) -> bytes:
    """What a program prints, which must end with `code`."""
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=PIPE)
    async with ending(process):
        async with asyncio.timeout(STEP_SECONDS):
            output, messages = await process.communicate()
    assert process.returncode == code, (process.returncode, output[-2_000:], messages[-2_000:])
    return output


@asynccontextmanager
async def ending(process: Process) -> AsyncIterator[Process]:
    """The process is ended at the latest when the block is left."""
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@asynccontextmanager
async def talking(*command: str) -> AsyncIterator[Process]:
    """A program that is written to and read from."""
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=subprocess.STDOUT)
    async with ending(process):
        yield process


async def next_line(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(STEP_SECONDS):
        return (await process.stdout.readline()).decode().strip()


def say(process: Process, text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text.encode())
