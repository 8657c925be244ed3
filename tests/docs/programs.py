"""Running what a document says, as a reader would: each command a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

STEP_SECONDS = 60
REJECTED = 4  # exit code: by the ledger


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


def typed_by(folder: Path, line: str) -> AbstractAsyncContextManager[Process]:
    """A command of a document, as somebody types it who has set nothing up."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BLOCKCLOUD_")}
    return running(folder, "-m", *shlex.split(line), environment=environment)


async def typed(folder: Path, line: str, code: int = 0) -> Any:
    """The JSON that a command prints, or else what it says, where it must end with `code`."""
    async with typed_by(folder, f"{line} --json") as process, asyncio.timeout(STEP_SECONDS):
        output, messages = await process.communicate()
    assert process.returncode == code, f"{line}: {messages.decode()}"
    return json.loads(output) if code == 0 else messages.decode()
