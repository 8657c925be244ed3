"""The how-to on where service files are kept: its tables are configurations, its numbers the defaults."""

from __future__ import annotations

import tomllib
from dataclasses import asdict

from blockcloud.node.routing_config import RoutingConfig, read_routing
from tests.docs.documents import ROOT, blocks, command_lines

HOW_TO = ROOT / "docs" / "how-to" / "where-service-files-are-kept.md"


def test_every_table_is_a_configuration_and_says_the_defaults() -> None:
    tables = [tomllib.loads(block.text)["routing"] for block in blocks(HOW_TO) if block.language == "toml"]
    assert len(tables) == 2
    told: dict[str, object] = {}
    for table in tables:
        read_routing(table)
        told |= table
    defaults = asdict(RoutingConfig())
    assert told.keys() == defaults.keys()
    for name in told.keys() - {"store", "store_endpoint", "store_region"}:
        assert told[name] == defaults[name], name


def test_it_begins_and_ends_a_devnet() -> None:
    first, *_, last = command_lines(HOW_TO, "blockcloud")
    assert first.startswith("blockcloud devnet up")
    assert last.startswith("blockcloud devnet down")
