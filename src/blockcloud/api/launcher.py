"""Many validators from one process: import everything once, then fork one child for each home folder.

A node's imports cost more than a second of processor time, and a devnet on two cores would pay them four times before
its first commit. The parent has imported but started nothing, neither threads nor loops, so a fork is clean; the
children also share the imported pages.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import NoReturn

from blockcloud.api.process import run_node
from blockcloud.node.devnet import LOG_FILE
from blockcloud.primitives.errors import BlockCloudError


def launch_nodes() -> None:
    """Read home folders, one a line, from standard input; fork a validator for each and print its process id."""
    gc.freeze()  # what is imported is never garbage: collections in the children need not touch the shared pages
    for line in sys.stdin:
        home = Path(line.rstrip("\n"))
        os.chdir(home)  # before the fork, so that the child is known by its folder from its first moment
        pid = os.fork()
        if pid == 0:
            _become_node(home)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _become_node(home: Path) -> NoReturn:
    """In the child: a session of its own, its log file, and then the node until it ends."""
    os.setsid()
    log = os.open(home / LOG_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        run_node(home)
        code = 0
    except BlockCloudError as error:
        sys.stderr.write(f"error: {error} [{error.code}]\n")
    except BaseException:  # noqa: BLE001  a child that returned from here would go on as the parent
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)
