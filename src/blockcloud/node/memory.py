"""glibc's allocator, told to keep less. On other systems nothing happens.

A node allocates in many threads and in waves: a tree that grows, a snapshot, a burst of large transactions. What was
freed stays with the process by default, in eight arenas for each core; and after the first large piece was freed,
pieces of its size come from the heap too, where a small one that lives longer keeps all of them from going back.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

# The numbers are those of malloc.h.
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
ARENAS: Final = 2
MAPPED_BYTES: Final = 256 * 1024  # a piece of this size is mapped by itself, and goes back when it is freed
TRIM_BYTES: Final = 4 * 1024 * 1024  # free at the heap's end before it is given back


def keep_little_memory() -> None:
    """Let all threads of this process share two arenas, and large pieces have pages of their own. Call it early."""
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None)
        for parameter, value in (
            (M_ARENA_MAX, ARENAS),
            (M_MMAP_THRESHOLD, MAPPED_BYTES),
            (M_TRIM_THRESHOLD, TRIM_BYTES),
        ):
            allocator.mallopt(parameter, value)


def give_back_memory() -> None:
    """Hand free pages back to the system. Takes milliseconds, so not in the event loop; lets go of the GIL."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
