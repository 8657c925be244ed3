"""`GET /v1/events`: commits and checkpoints as they happen, and nothing missed after a lost connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from blockcloud.primitives.limits import EVENT_SUBSCRIBERS
from tests.api.api_world import Api, check_problem, running_api
from tests.node.cluster import until

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def events(api: Api, after: str | None = None) -> AsyncIterator[tuple[int, str, dict[str, Any]]]:
    """(id, kind, data) of the stream, as a client that knows the format reads them."""
    headers = {} if after is None else {"Last-Event-ID": after}
    async with api.http.stream("GET", "/v1/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            if not line and fields:
                yield int(fields["id"]), fields["event"], json.loads(fields["data"])
                fields = {}
            elif line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value


async def take(api: Api, count: int, after: str | None = None) -> list[tuple[int, str, dict[str, Any]]]:
    found: list[tuple[int, str, dict[str, Any]]] = []
    stream = events(api, after)
    try:
        async with asyncio.timeout(30):
            async for event in stream:
                found.append(event)
                if len(found) == count:
                    break
    finally:
        await stream.aclose()  # type: ignore[attr-defined]
    return found


async def test_commits_and_checkpoints_are_told_in_order(api: Api) -> None:
    found = await take(api, 24)
    numbers = [number for number, _, _ in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    commits = [data["height"] for _, kind, data in found if kind == "commit"]
    assert commits == list(range(commits[0], commits[0] + len(commits)))
    checkpoint = next(data for _, kind, data in found if kind == "checkpoint")
    assert checkpoint["state_root"] == api.validator.chain.root_at(checkpoint["height"]).hex()


async def test_a_stream_goes_on_after_the_last_event_that_was_seen(api: Api) -> None:
    first = await take(api, 4)
    again = await take(api, 3, after=str(first[0][0]))
    assert again == first[1:]


@pytest.mark.parametrize("after", ["", "x", "-1", "9" * 40])
async def test_a_last_id_that_makes_no_sense_means_from_now_on(api: Api, after: str) -> None:
    ((number, _, _),) = await take(api, 1, after=after)
    assert number > 0


async def test_subscribers_are_limited_and_places_come_back(api: Api) -> None:
    await until(lambda: api.validator.events.subscribers == 0)  # those of the tests before have left
    async with AsyncExitStack() as held, asyncio.timeout(30):
        for _ in range(EVENT_SUBSCRIBERS):
            await held.enter_async_context(api.validator.subscribe())
        answer = await api.http.get("/v1/events")
        assert check_problem(answer, 503, "busy")["retry_after_ms"] > 0
        assert int(answer.headers["retry-after"]) > 0
    assert await take(api, 1)


async def test_streams_end_when_the_node_stops(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        stream = events(api)
        await anext(stream)
        api.validator.events.close()
        async with asyncio.timeout(10):
            async for _ in stream:
                pass
