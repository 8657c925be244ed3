"""Fixtures of the SDK's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.sdk.sdk_world import World, running_world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as running:
        yield running
