"""How many sockets a process may have open: as many as the system lets it, not the 1,024 that shells begin with."""

from __future__ import annotations

import resource

import structlog

log = structlog.get_logger(__name__)


def allow_open_files() -> int:
    """Raise this process's soft limit of open files to the hard one; the limit that holds now. For what serves many
    connections; each of these has bounds of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # macOS has a hard limit "infinity" that it does not grant
        log.warning("open_files_not_raised", soft=soft, hard=hard, reason=str(error))
        return soft
    return hard
