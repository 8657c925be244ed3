"""`blockcloud edge`: nodes that stand near the consumers of services, each kind in a module of its own."""

from __future__ import annotations

from blockcloud.cli import edge_cache, edge_feed
from blockcloud.cli.context import command_group

app = command_group("Edge nodes: serve services from nearby.")
edge_cache.register(app)
edge_feed.register(app)
