"""What all commands that serve until stopped have in common."""

from __future__ import annotations

import resource
import subprocess
import sys

SOFT_FILES = 256

CODE = f"""
import resource
from blockcloud.cli.service import serve_until_stopped

async def serve():
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, ({SOFT_FILES}, hard))
serve_until_stopped(serve())
"""


def test_whoever_serves_may_have_as_many_connections_as_the_system_allows() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard > SOFT_FILES
    assert done.stdout.split() == [str(hard), str(hard)]
