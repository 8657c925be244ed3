"""What the benchmarks ask of the machine: processor time and disk writes of processes, and the cost of a signature."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Final

from blockcloud.primitives.keys import SigningKey, verify_raw

VERIFICATIONS: Final = 2_000
ROUNDS: Final = 5
MESSAGE_BYTES: Final = 180


def verify_seconds() -> float:
    """Seconds of one Ed25519 verification over 180 bytes, on one core: the median of several rounds."""
    key = SigningKey(bytes(32))
    message = bytes(MESSAGE_BYTES)
    signature = key.sign("bench/v1", message)
    signed = b"blockcloud/bench/v1\x00" + message
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(VERIFICATIONS):
            verify_raw(key.public, signed, signature)
        rounds.append((time.process_time() - start) / VERIFICATIONS)
    return median(rounds)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time, user and system, that the processes have used so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def written_bytes(pids: Iterable[int]) -> int:
    """Bytes that the processes have caused to be written to storage so far."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/io").read_text(encoding="utf-8").splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))
    return total
