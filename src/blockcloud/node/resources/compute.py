"""A timed hash chain: computing power that is really there (CloudPoS phase 2, DESIGN section 3.4).

A chain is PBKDF2-HMAC-SHA256 (RFC 8018) over and over, each link starting from the output of the link before, so it has
to be walked from end to end: more machines do not make it faster. A candidate that staked several cores walks as many
chains (*lanes*) at once, each too long for the time if two lanes share a core. The bytes between the links are the
*checkpoints*: the answer has them all, and the challenger walks a few links again, chosen in secret after the answer.
Who left out a part of the links to be in time is caught by k of them with probability 1 - (1 - part)^k; from a machine
that is half as fast as it says, a quarter is missing at a tolerance of 1.5.

A step is one iteration of PBKDF2, two SHA-256 compressions: what libraries do in C without holding the GIL.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from blockcloud.primitives.hashes import DIGEST_BYTES

_CALIBRATION_STEPS: Final = 20_000
_CALIBRATION_ROUNDS: Final = 5


def lane_origin(seed: bytes, lane: int) -> bytes:
    """What the chain of `lane` starts from."""
    return hashlib.sha256(seed + lane.to_bytes(4, "big")).digest()


def walk_link(start: bytes, seed: bytes, lane: int, link: int, steps: int) -> bytes:
    """One link: `steps` iterations from `start`, 32 bytes. Salted with its place, or one lane could be shown for all
    and only its first link would be wrong."""
    salt = seed + lane.to_bytes(4, "big") + link.to_bytes(4, "big")
    return hashlib.pbkdf2_hmac("sha256", start, salt, steps, DIGEST_BYTES)


def walk_lane(seed: bytes, lane: int, links: int, steps: int) -> tuple[bytes, ...]:
    """The checkpoints of a lane: the output of each of its `links` of `steps` steps. As slow as that is long."""
    checkpoints = []
    word = lane_origin(seed, lane)
    for link in range(links):
        word = walk_link(word, seed, lane, link, steps)
        checkpoints.append(word)
    return tuple(checkpoints)


def walk(seed: bytes, lanes: int, links: int, steps: int, cores: Sequence[int] = ()) -> tuple[tuple[bytes, ...], ...]:
    """All lanes at once, lane i on `cores[i]` (a CPU's number) if the staked cores are given."""
    if lanes == 1 and not cores:
        return (walk_lane(seed, 0, links, steps),)

    def pinned(lane: int) -> tuple[bytes, ...]:
        if cores:
            os.sched_setaffinity(0, {cores[lane % len(cores)]})  # of this thread, which ends with the pool
        return walk_lane(seed, lane, links, steps)

    with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as threads:
        return tuple(threads.map(pinned, range(lanes)))


def verify_links(seed: bytes, lane: int, checkpoints: Sequence[bytes], steps: int, links: Iterable[int]) -> bool:
    """Whether each of `links` (numbers from 0) leads from the checkpoint before it to its own."""
    starts = (lane_origin(seed, lane), *checkpoints)
    return all(walk_link(starts[link], seed, lane, link, steps) == checkpoints[link] for link in links)


def measure_core_steps_per_second() -> int:
    """What one core does now, the best of a few tries: what a node can stake a part of."""
    fastest = min(_time_steps() for _ in range(_CALIBRATION_ROUNDS))
    return int(_CALIBRATION_STEPS / fastest)


def _time_steps() -> float:
    begin = time.perf_counter()
    walk_link(bytes(DIGEST_BYTES), b"calibration", 0, 0, _CALIBRATION_STEPS)
    return max(time.perf_counter() - begin, 1e-9)
