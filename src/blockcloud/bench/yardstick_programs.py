"""What the yardsticks have in common: the programs of others, run as they come, and what is counted of their work."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from blockcloud.bench.payments import percentiles_ms
from blockcloud.bench.processes import ended_at_last
from blockcloud.primitives.errors import BlockCloudError

VALUE_BYTES: Final = 128
INSTALL_S: Final = 300
START_S: Final = 30.0
WARM_UP_S: Final = 1.0


class YardstickFailed(BlockCloudError):
    """A program to compare with did not start, or does not answer as expected."""

    code = "yardstick_failed"


@dataclass
class Window:
    """Operations that were finished in the time that is measured, with what each took."""

    seconds: float
    opens_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    def begin(self) -> None:
        """Measure from WARM_UP_S on."""
        self.opens_s = time.perf_counter() + WARM_UP_S

    @property
    def is_over(self) -> bool:
        return time.perf_counter() >= self.opens_s + self.seconds

    def done(self, began_s: float, count: int = 1) -> None:
        """`count` operations that began at `began_s` are finished."""
        now_s = time.perf_counter()
        if self.opens_s <= now_s < self.opens_s + self.seconds:
            self.latencies_s += [now_s - began_s] * count

    def report(self) -> dict[str, Any]:
        p50_ms, p95_ms = percentiles_ms(self.latencies_s)
        return {
            "per_s": round(len(self.latencies_s) / self.seconds),
            "p50_ms": p50_ms,
            "p95_ms": p95_ms,
            "seconds": self.seconds,
        }


@contextmanager
def running(commands: Sequence[Sequence[str]], folder: Path) -> Iterator[None]:
    """These programs run, with their output in `folder`, until the context ends."""
    with ended_at_last() as processes:
        for number, command in enumerate(commands):
            with (folder / f"log{number}").open("wb") as log:
                processes.append(
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
                )
        yield
        ended = [process for process in processes if process.poll() is not None]
        if ended:
            raise YardstickFailed(f"{ended[0].args!r} ended with {ended[0].returncode}")


async def until_ready(ready: Callable[[], Awaitable[bool]], name: str) -> None:
    """Until a program answers as it should. Raises YardstickFailed after START_S."""
    end = time.perf_counter() + START_S
    while time.perf_counter() < end:
        with contextlib.suppress(OSError, httpx2.HTTPError, YardstickFailed, KeyError, ValueError):
            if await ready():
                return
        await asyncio.sleep(0.1)
    raise YardstickFailed(f"{name} did not start within {START_S:.0f} s")


def output_of(command: Sequence[str], what: str, environment: dict[str, str] | None = None) -> str:
    """What a program prints. Raises YardstickFailed."""
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S, env=environment)
    except (OSError, subprocess.SubprocessError) as error:
        raise YardstickFailed(f"{what} failed: {error}") from None
    return done.stdout.strip()


def first_line(program: str, option: str) -> str:
    return output_of([program, option], program).partition("\n")[0]
