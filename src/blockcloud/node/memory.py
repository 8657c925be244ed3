"""glibc's allocator, told to keep less. On other systems nothing happens.

A node allocates in many threads and in waves: a tree that grows, a snapshot, a burst of large transactions. What was
freed stays with the process by default, in eight arenas for each core.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

M_ARENA_MAX: Final = -8  # of malloc.h
ARENAS: Final = 2


def limit_arenas() -> None:
    """Let all threads of this process share two arenas. Call it before there are many."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def give_back_memory() -> None:
    """Hand free pages back to the system. Takes milliseconds, so not in the event loop; lets go of the GIL."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
