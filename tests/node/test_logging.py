"""Logs: a JSON object on a line when nobody watches, errors by their code, and nothing secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from blockcloud.node.logging import set_up_logging
from blockcloud.primitives.errors import BadConfiguration, BadSignature
from blockcloud.primitives.keys import SigningKey


@pytest.fixture(autouse=True)
def _default_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("BLOCKCLOUD_LOG", raising=False)
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers
    structlog.reset_defaults()


def test_events_are_json_lines_with_codes_of_errors() -> None:
    stream = io.StringIO()
    set_up_logging("info", stream=stream)
    log = structlog.get_logger()
    log.debug("not_shown")
    log.info("link_up", peer=3, digest=b"\x01\xff", key=SigningKey(b"\x2a" * 32))
    log.warning("peer_fault", error=BadSignature("signature does not verify", domain="block"))
    log.error("failed", error=ValueError("no"))
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["level"], first["peer"], first["digest"]) == ("link_up", "info", 3, "01ff")
    assert "2a2a" not in stream.getvalue()
    assert second["code"] == "bad_signature"
    assert second["error"].startswith("signature does not verify")
    assert third["error"] == "ValueError: no"


def test_what_libraries_say_is_an_event_too() -> None:
    stream = io.StringIO()
    set_up_logging("info", stream=stream)
    logging.getLogger("asyncio").warning("%s is closed", "the connection")
    logging.getLogger("asyncio").info("not shown")
    (event,) = map(json.loads, stream.getvalue().splitlines())
    assert (event["event"], event["level"]) == ("library", "warning")
    assert (event["logger"], event["text"]) == ("asyncio", "the connection is closed")


def test_the_environment_sets_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKCLOUD_LOG", "error")
    stream = io.StringIO()
    set_up_logging("debug", stream=stream)
    structlog.get_logger().warning("not_shown")
    assert stream.getvalue() == ""
    monkeypatch.setenv("BLOCKCLOUD_LOG", "loud")
    with pytest.raises(BadConfiguration, match="no such log level"):
        set_up_logging()
