"""The wall clock of a node: cores get the time as an argument, and this is where it comes from."""

from __future__ import annotations

import time


def unix_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
