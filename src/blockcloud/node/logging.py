"""Logs: one event with a stable name and its values on a line; JSON unless a person watches.

Event names are part of the interface (`link_up`, `link_down`, `peer_fault`, `committed`, `diverged` and so on) and do
not change; texts for people are made from them. Values are public data only: a private key has no representation
(`SigningKey.__repr__`), and payloads are logged by their ids.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

import structlog

from blockcloud.primitives.errors import BadConfiguration, BlockCloudError


def set_up_logging(level: str = "info", *, stream: TextIO | None = None) -> None:
    """Send logs to `stream` (standard error). `BLOCKCLOUD_LOG` overrides `level`. Call once in a process."""
    stream = stream or sys.stderr
    name = os.environ.get("BLOCKCLOUD_LOG") or level
    number = logging.getLevelNamesMapping().get(name.upper())
    if number is None:
        raise BadConfiguration("no such log level", level=name)
    renderer: structlog.typing.Processor
    renderer = structlog.dev.ConsoleRenderer() if stream.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _show_errors,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)


class _Libraries(logging.Handler):
    """What libraries say by the standard module, as events like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        values = {"logger": record.name, "text": record.getMessage()} | ({} if error is None else {"error": error})
        structlog.get_logger().log(record.levelno, "library", **values)


def _show_errors(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """An error as its code and message; never a trace of somebody else's input."""
    error = event.get("error")
    if isinstance(error, BlockCloudError):
        event["error"], event["code"] = str(error), error.code
    elif isinstance(error, BaseException):
        event["error"] = f"{type(error).__name__}: {error}"
    return {key: value.hex() if isinstance(value, bytes) else value for key, value in event.items()}
