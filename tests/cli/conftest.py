"""One node for all tests of the command line, and an environment that says nothing."""

import os
from collections.abc import Iterator

import pytest

from tests.cli.cli_world import Node, node_in_thread


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BLOCKCLOUD_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node_in_thread(tmp_path_factory.mktemp("cli")) as running:
        yield running
