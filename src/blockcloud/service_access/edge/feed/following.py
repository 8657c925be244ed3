"""A reader's side of its session with a feed: entries one after the other, each once, through cuts and restarts.

A session survives moves and short cuts by itself. When it is lost all the same, a new one begins where the reader has
come to: its `Cursor` says up to which offset, for each log it has met (the instances of a name have one each).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from blockcloud.primitives.errors import TimedOut, Unreachable
from blockcloud.service_access.edge.feed.core import Numbered
from blockcloud.service_access.edge.feed.errors import BadRequest
from blockcloud.service_access.edge.feed.lines import (
    LINE_BYTES,
    Acknowledgement,
    Dropped,
    Hello,
    Request,
    encode,
    parse_entry,
)
from blockcloud.service_access.edge.feed.serving import LineReader
from blockcloud.service_access.errors import SessionEnded
from blockcloud.service_access.stream import Session

RETRY_SECONDS: Final = (0.05, 0.2, 0.5, 1, 2, 5)
HELLO_SECONDS: Final = 10.0

Connect = Callable[[], Awaitable[Session]]
log = structlog.get_logger(__name__)


class Cursor(Struct):
    """How far a reader has come in each log."""

    reached: dict[str, int] = msgspec.field(default_factory=dict)

    def after(self, log: str) -> int:
        """The offset to go on from."""
        return self.reached.get(log, 0)


class FeedSession:
    """One session with a feed, after its hello."""

    def __init__(self, session: Session, lines: LineReader, hello: Hello) -> None:
        self.session = session
        self.hello = hello
        self._lines = lines

    @classmethod
    async def begin(cls, session: Session) -> FeedSession:
        """Wait for the feed's hello. Raises BadRequest, TimedOut, SessionEnded."""
        lines = LineReader(session, LINE_BYTES)
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                line = await lines.next()
        except TimeoutError:
            raise TimedOut("the service says nothing: it may not be a feed", name=session.name) from None
        try:
            hello = msgspec.json.decode(line or b"", type=Hello)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise BadRequest("the service is not a feed", name=session.name) from None
        return cls(session, lines, hello)

    async def ask(self, request: Request) -> None:
        """Say what is wanted."""
        await self.session.write(encode(request))

    async def next(self) -> Numbered | Dropped | None:
        """The next entry, None at the end. Raises BadRequest, SessionEnded."""
        line = await self._lines.next()
        return None if line is None else parse_entry(line)

    async def some(self, limit: int) -> list[Numbered | Dropped]:
        """The next entries, as many as have come, at most `limit`; none at the end. Raises as `next`."""
        found: list[Numbered | Dropped] = []
        while not found or (self._lines.waiting and len(found) < limit):
            entry = await self.next()
            if entry is None:
                break
            found.append(entry)
        return found

    async def acknowledge(self, offset: int) -> None:
        """Everything up to `offset` is durable here."""
        await self.session.write(encode(Acknowledgement(offset)))


async def ask_once(connect: Connect, request: Request) -> list[Numbered]:
    """The whole answer to a request that has an end. Raises as `connect`, BadRequest, SessionEnded."""
    session = await connect()
    async with session:
        feed = await FeedSession.begin(session)
        await feed.ask(request)
        found: list[Numbered] = []
        while (entry := await feed.next()) is not None:
            if not isinstance(entry, Dropped):
                found.append(entry)
        return found


async def sessions(connect: Connect) -> AsyncGenerator[FeedSession, None]:
    """Sessions with a feed, a new one whenever the last is lost. Leave one by letting SessionEnded, Unreachable or
    TimedOut pass through `surviving`. Raises what is no matter of time: the name, a policy, a feed that is none."""
    failures = 0
    while True:
        try:
            session = await connect()
            feed = await FeedSession.begin(session)
        except (Unreachable, TimedOut, SessionEnded) as error:
            log.info("feed_unreachable", code=error.code, reason=str(error))
            pause = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
            await asyncio.sleep(random.uniform(0.5, 1.5) * pause)  # noqa: S311 - a thousand readers are not to come at once
            failures += 1
            continue
        failures = 0
        try:
            yield feed
        finally:
            session.abort("closed", "the reader is done")


@contextlib.contextmanager
def surviving() -> Iterator[None]:
    """The end of a session is not the end of reading."""
    try:
        yield
    except (SessionEnded, Unreachable, TimedOut) as error:
        log.info("feed_session_over", code=error.code, reason=str(error))


async def follow(
    connect: Connect, cursor: Cursor, *, series: str = "", live: bool = False
) -> AsyncGenerator[Numbered | Dropped, None]:
    """Entries of a feed, in order and each once, for ever; with `live` the newest of each series only, as they come.

    `cursor` moves on when the next entry is asked for, that is when the last one has been dealt with. Raises as
    `sessions`.
    """
    async with contextlib.aclosing(sessions(connect)) as found:
        async for feed in found:
            log_id = feed.hello.log
            with surviving():
                after = cursor.after(log_id)
                op = Request("live", series) if live else Request("follow", series, log_id, after)
                await feed.ask(op)
                while (entry := await feed.next()) is not None:
                    yield entry
                    if not live:
                        reached = entry.reached if isinstance(entry, Dropped) else entry[0]
                        cursor.reached[log_id] = max(reached, cursor.after(log_id))
