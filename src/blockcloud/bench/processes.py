"""Programs that a benchmark starts end with it, whatever happens."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from blockcloud.node.devnet import STOP_SECONDS


@contextmanager
def ended_at_last() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list for processes: all in it are asked to end when the context is left, and killed if they do not."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
