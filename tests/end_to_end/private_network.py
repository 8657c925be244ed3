"""The network of namespaces of `blockcloud.bench`, for tests: where it is not permitted, the test is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from blockcloud.bench.private_network import DROPS, Direction, NotPermitted, PrivateNetwork
from blockcloud.bench.private_network import private_network as made_network

__all__ = ["DROPS", "Direction", "PrivateNetwork", "private_network"]


@contextmanager
def private_network(hosts: int, seed: int, cables: int = 1) -> Iterator[PrivateNetwork]:
    """A network that nobody else on this machine uses, until the block is left. Needs a running loop."""
    with ExitStack() as stack:
        try:
            network = stack.enter_context(made_network(hosts, seed, cables))
        except NotPermitted as reason:
            pytest.skip(str(reason))
        yield network
