"""Making a plot in a process of its own, which gives way to everything else.

`python -m blockcloud.node.resources.plotter`, started by the agent. It takes minutes of processor time. In a thread of
the agent it would hold the interpreter from time to time, and make answers late; here it only takes the processor when
nobody wants it (nice 19). When the agent is gone it ends with the next chunk, which it can tell nobody, and the next
agent begins anew.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from blockcloud.node.resources.frames import LENGTH_BYTES, frame
from blockcloud.node.resources.plot import Digest, PlotFile, make_plot
from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import StorageFault
from blockcloud.transaction_chain.cloudpos.parameters import PlotParameters

NICE: Final = 19
TASK_BYTES: Final = 8 * 1024


class PlotTask(Struct, frozen=True):
    """The plot that is wanted."""

    path: str
    node_key: Digest
    seed: Digest
    chunks: int
    parameters: PlotParameters


def present_root(task: PlotTask) -> bytes | None:
    """The root of the plot if it is on disk already, whole and the right one."""
    path = Path(task.path)
    if not path.exists():
        return None
    try:
        found = PlotFile(path)
    except StorageFault:
        return None
    found.close()
    is_wanted = (found.node_key, found.seed, found.chunks, found.parameters) == (
        task.node_key,
        task.seed,
        task.chunks,
        task.parameters,
    )
    return found.root if is_wanted else None


async def plot_root(task: PlotTask, progress: Callable[[int], None]) -> bytes:
    """The root of the plot, which is made first if it is not there. Tells how many chunks are made.

    Raises StorageFault. When it is cancelled, the process ends.
    """
    root = present_root(task)
    if root is not None:
        return root
    # It inherits standard error, where its last words go.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(frame(codec.encode(task)))
        async for line in process.stdout:
            progress(int(line))
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    root = present_root(task)
    if root is None:
        raise StorageFault("the plot could not be made", path=task.path, exit_code=process.returncode)
    return root


def main() -> None:
    """In the process: the task from standard input, a line with a number on standard output for each chunk."""
    os.nice(NICE)
    size = int.from_bytes(sys.stdin.buffer.read(LENGTH_BYTES), "big")
    task = codec.decode(sys.stdin.buffer.read(min(size, TASK_BYTES)), PlotTask, limit=TASK_BYTES)

    def tell(made: int) -> None:
        sys.stdout.write(f"{made}\n")
        sys.stdout.flush()

    try:
        make_plot(Path(task.path), task.node_key, task.seed, task.chunks, task.parameters, tell)
    except StorageFault as error:
        sys.stderr.write(f"{error}\n")
        os._exit(1)  # standard output may be gone, and is not worth another error


if __name__ == "__main__":
    main()
