"""Running what a document says, as a reader would: each command a process of its own."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

STEP_SECONDS = 60


@asynccontextmanager
async def running(folder: Path, *arguments: str, environment: Mapping[str, str]) -> AsyncIterator[Process]:
    """Python with these arguments in `folder`; ended at the latest when the block is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=folder, env=environment, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STEP_SECONDS):
            await process.communicate()
