"""Our side of the launcher, the process that turns into validators by forking (`api/launcher.py`, ADR 5).

Its imports take longer than anything else in the start of a devnet, so this module imports next to nothing: `devnet up`
starts the launcher before it imports what it needs itself.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from blockcloud.primitives.errors import LocalFault


class Launcher:
    """Make it before anything slow, and `start` when the home folders are there. Use as a context manager."""

    def __init__(self) -> None:
        self._used = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "blockcloud", "node", "launch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._used:
            self._process.kill()
        self._process.communicate()

    def start(self, homes: Sequence[str]) -> list[int]:
        """Start a validator in each home folder; their process ids. Raises LocalFault if the launcher has ended."""
        self._used = True
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.writelines(f"{home}\n" for home in homes)
            self._process.stdin.flush()
            return [int(self._process.stdout.readline()) for _ in homes]
        except (OSError, ValueError):
            raise LocalFault("the launcher of the validators ended early", homes=list(homes)) from None
