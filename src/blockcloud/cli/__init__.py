"""The command line: `blockcloud ...`. Data on stdout, messages on stderr, exit codes as UX.md lists them."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `blockcloud` command."""
    from blockcloud.cli.app import run

    sys.exit(run(sys.argv[1:]))
