"""An unmodified HTTP server published under a name, and a forward to it: each a process with a home of its own.

What a person would type runs as the same `blockcloud` commands. `service_world` ends every process it started.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec

from blockcloud.node import devnet as network
from tests import slow_client
from tests.end_to_end.ledger_world import EXIT_SECONDS, STEP_SECONDS, World, resident_bytes

__all__ = ["NAME", "SMALL", "ServiceWorld", "resident_bytes", "service_world"]

NAME = "files.test"
SMALL = b"the service answers\n"


@dataclass
class ServiceWorld:
    """The processes of a service and its consumer; `published` and `forwarded` are their ready lines."""

    world: World
    folder: Path
    content: Path
    owner_key: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    published: dict[str, Any] = field(default_factory=dict)
    forwarded: dict[str, Any] = field(default_factory=dict)

    @property
    def publish(self) -> subprocess.Popen[bytes]:
        return self.replicas[self.published["home"]][0]

    replicas: dict[str, tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]] = field(default_factory=dict)

    # Programs

    def spawn(self, *command: str, log: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{log}.log").open("ab") as messages:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages, start_new_session=True
            )
        self.processes.append(process)
        return process

    async def run(self, home: Path, *arguments: str, more: tuple[str, ...] = ()) -> tuple[int, Any, str]:
        """Run a command to its end: exit code, the JSON object it printed (None for none), its messages."""
        process = await asyncio.create_subprocess_exec(
            *command(home, *arguments), *more, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(STEP_SECONDS):
                output, messages = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        text = messages.decode()
        assert "Traceback" not in text, text
        return process.returncode, msgspec.json.decode(output) if output.strip() else None, text

    async def serve(self, home: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
        """Start a serving command; its process and its ready line."""
        home.mkdir(exist_ok=True)
        (home / "genesis.json").write_text(Path(self.world.devnet.genesis).read_text(encoding="utf-8"))
        process = self.spawn(*command(home, *arguments), log=home.name)
        line = await read_line(process.stdout)
        assert line, (self.folder / f"{home.name}.log").read_text(encoding="utf-8")
        return process, {**msgspec.json.decode(line), "home": home.name}

    # The service

    async def start_replica(self, letter: str) -> dict[str, Any]:
        """An `http.server` of the content and a `publish` in front of it; the ready line."""
        port = network.free_port()
        server = self.spawn(
            *(sys.executable, "-m", "http.server", str(port), "--bind", network.HOST),
            *("--directory", str(self.content)),
            log=f"http-{letter}",
        )
        home = self.folder / f"replica-{letter}"
        arguments = ("publish", NAME, "--to", f"{network.HOST}:{port}", "--key", str(self.owner_key))
        publish, ready = await self.serve(home, *arguments)
        self.replicas[home.name] = publish, server
        return ready

    async def start_forward(self) -> subprocess.Popen[bytes]:
        process, self.forwarded = await self.serve(self.consumer, "forward", NAME, "--listen", f"{network.HOST}:0")
        return process

    @property
    def consumer(self) -> Path:
        return self.folder / "consumer"

    async def status(self, which: str) -> dict[str, Any]:
        """What the control socket of the `forward`, the `publish`, or a replica's home tells."""
        home, what = (self.consumer, "forward") if which == "forward" else (self.folder / self.published["home"], NAME)
        code, status, messages = await self.run(home, "move", what, "--status")
        assert code == 0, messages
        return dict(status)

    def client(self, path: str, rate: int) -> subprocess.Popen[bytes]:
        """An unmodified program that fetches `path` through the forward, at a limited rate; it prints its progress."""
        url = f"http://{self.forwarded['listening']}{path}"
        return self.spawn(sys.executable, "-c", slow_client.SCRIPT, url, str(rate), log="client")

    async def fetch(self, path: str) -> bytes:
        """What an HTTP client gets through the forward."""
        host, _, port = self.forwarded["listening"].rpartition(":")
        async with asyncio.timeout(STEP_SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {NAME}\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
        return answer.partition(b"\r\n\r\n")[2]

    def end(self) -> None:
        """Ask everything to end, kill what does not."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(EXIT_SECONDS)
            if process.stdout is not None:
                process.stdout.close()


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "blockcloud", "--home", str(home), "--json", *arguments]


async def read_line(stream: IO[bytes] | None) -> bytes:
    """The next line that a process prints; empty at its end."""
    assert stream is not None
    async with asyncio.timeout(STEP_SECONDS):
        return await asyncio.to_thread(stream.readline)


async def progress_of(client: subprocess.Popen[bytes], wanted: int) -> None:
    """Read the client's progress until it has `wanted` bytes."""
    while line := await read_line(client.stdout):
        if int(line) >= wanted:
            return
    raise AssertionError("the client ended early")


async def digest_of(client: subprocess.Popen[bytes]) -> tuple[int, str]:
    """The client's exit code and the digest that it printed last."""
    last = b""
    while line := await read_line(client.stdout):
        last = line
    return await asyncio.to_thread(client.wait, STEP_SECONDS), last.decode().strip()


@asynccontextmanager
async def service_world(
    world: World, folder: Path, *, large_bytes: int, replicas: int = 1
) -> AsyncIterator[ServiceWorld]:
    """The name registered, `replicas` of the service published, a forward running."""
    content = folder / "content"
    content.mkdir()
    (content / "small.txt").write_bytes(SMALL)
    (content / "large.bin").write_bytes(os.urandom(large_bytes))
    service = ServiceWorld(world, folder, content, world.key_file("provider"))
    try:
        code, _, messages = await service.run(
            world.folder, "name", "register", NAME, more=("--key", str(service.owner_key))
        )
        assert code == 0, messages
        for number in range(replicas):
            service.published = await service.start_replica("abc"[number])
        await service.start_forward()
        yield service
    finally:
        service.end()


def content_digest(service: ServiceWorld, name: str) -> str:
    return hashlib.sha256((service.content / name).read_bytes()).hexdigest()
