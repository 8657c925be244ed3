"""The processes on the demo's stage: their logs go to files, what they say is waited for, they end by their id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from blockcloud.primitives.errors import LocalFault, TimedOut

READY_SECONDS: Final = 20
STOP_SECONDS: Final = 5
POLL_SECONDS: Final = 0.05
LINE_BYTES: Final = 1024 * 1024


@dataclass
class Stage:
    """A folder and the processes that were started in it."""

    folder: Path
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    slowest_command_s: float = 0.0  # of those that ran to their end

    async def start(self, log: str, *command: str) -> asyncio.subprocess.Process:
        """Start a program with its messages in `log`.log; its standard output can be read."""
        with (self.folder / f"{log}.log").open("ab") as messages:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=messages,
                start_new_session=True,
                limit=LINE_BYTES,
            )
        self.processes.append(process)
        return process

    async def start_blockcloud(self, log: str, home: Path, *arguments: str) -> tuple[asyncio.subprocess.Process, Any]:
        """Start a serving `blockcloud` command and wait for its ready line, one JSON object."""
        process = await self.start(log, *blockcloud_command(home, *arguments))
        assert process.stdout is not None
        async with asyncio.timeout(READY_SECONDS):
            line = await process.stdout.readline()
        if not line:
            raise LocalFault("a program of the demo ended before it was ready", log=str(self.folder / f"{log}.log"))
        return process, msgspec.json.decode(line)

    async def run_blockcloud(self, home: Path, *arguments: str) -> tuple[int, Any]:
        """Run a `blockcloud` command to its end: exit code, and the JSON object it printed (None for none)."""
        start = time.monotonic()
        process = await self.start("commands", *blockcloud_command(home, *arguments))
        output, _ = await process.communicate()
        self.slowest_command_s = max(self.slowest_command_s, time.monotonic() - start)
        assert process.returncode is not None
        return process.returncode, msgspec.json.decode(output) if output.strip() else None

    async def end(self) -> None:
        """End everything that still runs."""
        for process in self.processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
        for process in self.processes:
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


def blockcloud_command(home: Path, *arguments: str) -> list[str]:
    """The command line of a `blockcloud` command with JSON output in the home folder `home`."""
    return [sys.executable, "-m", "blockcloud", "--home", str(home), "--json", *arguments]


def download_command(url: str, target: Path, bytes_per_s: int) -> list[str]:
    """An unmodified HTTP client at a limited rate: curl where there is one, else a small urllib script."""
    curl = shutil.which("curl")
    if curl:
        return [curl, "--silent", "--show-error", "--fail", "--limit-rate", str(bytes_per_s), "-o", str(target), url]
    return [sys.executable, "-c", _URLLIB_CLIENT, url, str(target), str(bytes_per_s)]


_URLLIB_CLIENT: Final = """
import sys, time, urllib.request
url, target, rate = sys.argv[1], sys.argv[2], int(sys.argv[3])
start, received = time.monotonic(), 0
with urllib.request.urlopen(url, timeout=30) as answer, open(target, "wb") as file:
    expected = int(answer.headers["Content-Length"])
    while data := answer.read(65536):
        received += len(data)
        file.write(data)
        time.sleep(max(0.0, received / rate - (time.monotonic() - start)))
sys.exit(received != expected)
"""


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
    """Return once `condition` holds. Raises TimedOut, naming `what` was waited for."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                if await condition():
                    return
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise TimedOut(f"waited {seconds:g} s for {what}") from None
