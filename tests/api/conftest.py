"""One validator with its API for all tests of this folder, in one event loop."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.api.api_world import Api, running_api


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    async with running_api(tmp_path_factory.mktemp("api")) as running:
        yield running
