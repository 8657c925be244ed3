"""Readings of a feed by its name (`blockcloud edge feed`), each once, through cuts and restarts of either side.

async for reading in blockcloud.read_feed("porch.home"):
    print(reading.series, reading.value, reading.unit)
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from msgspec import Struct

from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.names import parse_name
from blockcloud.sdk.home import Place
from blockcloud.sdk.resolver import ChainResolver
from blockcloud.sdk.services import open_client
from blockcloud.service_access.admission import Credentials
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.edge.feed.core import Sample
from blockcloud.service_access.edge.feed.following import Connect, Cursor, follow
from blockcloud.service_access.edge.feed.lines import Dropped
from blockcloud.service_access.edge.feed.node import READER_PARAMETERS
from blockcloud.service_access.edge.feed.readings import MICROSECONDS, Data, Value
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.stream import Session

__all__ = ["Cursor", "FeedReading", "feed_connection", "read_feed"]


class FeedReading(Struct, frozen=True):
    """A reading as programs see it. `time` is in seconds of UTC; `value` is bytes where SenML has data; `offset` is its
    place in the feed's log."""

    series: str
    time: float
    value: float | bool | str | bytes | None
    unit: str
    total: float | None
    source: str
    sequence: int | None
    offset: int


@contextlib.asynccontextmanager
async def feed_connection(
    name: str,
    *,
    home: Place = None,
    api: str | None = None,
    identity: SigningKey | None = None,
    role: str = "",
    grant: bytes = b"",
) -> AsyncIterator[Connect]:
    """What makes sessions with the feed `name`, for as long as the block lasts. Raises BadConfiguration."""
    name = parse_name(name)
    async with (
        open_client(home, api=api) as client,
        ServiceEndpoint(identity or SigningKey.generate(), parameters=READER_PARAMETERS) as endpoint,
    ):
        connector = Connector(endpoint, ChainResolver(client), Credentials(role, grant))

        async def connect() -> Session:
            return await connector.connect(name)

        yield connect


async def read_feed(
    name: str,
    *,
    home: Place = None,
    api: str | None = None,
    identity: SigningKey | None = None,
    series: str = "",
    live: bool = False,
    cursor: Cursor | None = None,
    role: str = "",
    grant: bytes = b"",
) -> AsyncGenerator[FeedReading, None]:
    """The readings of the feed `name` in order, from the oldest that it has, each once, for ever.

    With `live`, the newest value of each series and then each newer one: whoever is slow misses values, not news. With
    `series`, only series whose names begin so. `cursor` says where to begin and moves on when the next reading is asked
    for: keep it with what you made of the readings, and go on with it after a restart. Readings that the feed had no
    room for any more are left out. Raises as `sdk.services.connect`, and BadRequest where the service is no feed.
    """
    reached = cursor if cursor is not None else Cursor()
    async with (
        feed_connection(name, home=home, api=api, identity=identity, role=role, grant=grant) as connect,
        contextlib.aclosing(follow(connect, reached, series=series, live=live)) as entries,
    ):
        async for found in entries:
            if not isinstance(found, Dropped) and isinstance(found[1], Sample):
                yield _reading(*found)


def _reading(offset: int, sample: object) -> FeedReading:
    assert isinstance(sample, Sample)
    reading = sample.reading
    return FeedReading(
        reading.series,
        reading.time_us / MICROSECONDS,
        _value(reading.value),
        reading.unit,
        reading.total,
        sample.source,
        sample.sequence,
        offset,
    )


def _value(value: Value | None) -> float | bool | str | bytes | None:
    return value.raw if isinstance(value, Data) else value
