"""A feed's side of its readers' sessions (`lines` has the conversation).

Live readers are served in rounds: each gets what it lacks, as far as its session has room, and whoever has none is left
out until the next round. So a reader that does not read costs its session's buffer and a number, and keeps nobody
waiting. A round takes as long as it takes, and the next one has newer values.

Readers that follow have a task each, which waits for its own reader only: back-pressure is theirs. They are given pages
out of the tail, or out of the outbox where the tail does not go back so far.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.service_access.edge.feed.board import Board, Tail, fitting
from blockcloud.service_access.edge.feed.core import FeedCore, Numbered, Sample, series_of
from blockcloud.service_access.edge.feed.errors import BadRequest, TooManyReaders
from blockcloud.service_access.edge.feed.intake import Intake
from blockcloud.service_access.edge.feed.lines import (
    REQUEST_BYTES,
    Dropped,
    Format,
    Hello,
    Request,
    encode,
    error_line,
    parse_acknowledgement,
    parse_request,
    render,
)
from blockcloud.service_access.edge.feed.outbox import PAGE_ENTRIES, Outbox, OutboxReader, Page
from blockcloud.service_access.errors import SessionEnded
from blockcloud.service_access.stream import Session

READERS: Final = 4_096
REQUEST_SECONDS: Final = 10.0
ROUND_SECONDS: Final = 0.05  # at the most 20 rounds a second, however many commits there are
READERS_BEFORE_A_PAUSE: Final = 32

T = TypeVar("T")
log = structlog.get_logger(__name__)


class _LiveReader:
    """What is known of a reader of the newest values."""

    __slots__ = ("format", "seen", "series", "session")

    def __init__(self, session: Session, request: Request) -> None:
        self.session = session
        self.series = request.series
        self.format: Format = request.format
        self.seen = 0


class LineReader:
    """The lines of a session, each of a limited length."""

    def __init__(self, session: Session, limit: int) -> None:
        self._session = session
        self._limit = limit
        self._held = b""

    @property
    def waiting(self) -> bool:
        """Another whole line has come already."""
        return b"\n" in self._held

    async def next(self) -> bytes | None:
        """The next line, None at the end. Raises BadRequest for a line that is too long or cut off, SessionEnded."""
        while b"\n" not in self._held:
            if len(self._held) > self._limit:
                raise BadRequest("a line is too long", limit=self._limit)
            piece = await self._session.read()
            if not piece:
                if self._held:
                    raise BadRequest("the stream ends in the middle of a line")
                return None
            self._held += piece
        line, _, self._held = self._held.partition(b"\n")
        return line


class Readers:
    """All readers of a feed. See the module's text."""

    def __init__(self, name: str, core: FeedCore, outbox: Outbox, intake: Intake) -> None:
        self.board = Board()
        self.tail = Tail(core.next_offset - 1)
        self.messages = 0  # lines given to live readers
        self.open = 0
        self._name = name
        self._core = core
        self._outbox = outbox
        self._intake = intake
        self._live: dict[Session, _LiveReader] = {}
        self._changed = asyncio.Event()
        self._news = asyncio.Event()
        self._stored = OutboxReader(outbox.path)
        self._disk = ThreadPoolExecutor(1, "feed-readers")
        self.board.put((0, Sample(each.state.newest, "")) for each in core.series.values())

    def publish(self, entries: Sequence[Numbered]) -> None:
        """Entries have become durable."""
        self.board.put(entries)
        self.tail.put(entries)
        self._changed.set()

    def close(self) -> None:
        """After all sessions are over."""
        self._disk.shutdown()
        self._stored.close()

    @property
    def live_count(self) -> int:
        """Live readers at the moment."""
        return len(self._live)

    async def rounds(self) -> None:
        """Serve the live readers, and wake those that follow, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._news.set()
            self._news = asyncio.Event()
            for number, reader in enumerate(list(self._live.values())):
                self._give(reader)
                if number % READERS_BEFORE_A_PAUSE == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(ROUND_SECONDS)

    def _give(self, reader: _LiveReader) -> None:
        """Give a live reader what it lacks, as far as there is room."""
        core = reader.session.core
        if reader.seen == self.board.version or not core.writable:
            return
        news = self.board.since(reader.seen, reader.series, reader.format)
        data, seen = fitting(news, core.room)
        if data:
            taken = reader.session.write_now(data)
            assert taken == len(data)
            self.messages += data.count(b"\n")
        reader.seen = max(reader.seen, seen)
        if seen < self.board.version:
            self._changed.set()  # there is more for this one: another round

    async def serve(self, session: Session) -> None:
        """One reader, to its end."""
        self.open += 1
        try:
            if self.open > READERS:
                raise TooManyReaders(limit=READERS)
            await session.write(encode(Hello(self._name, self._outbox.log, self.tail.reached + 1)))
            lines = LineReader(session, REQUEST_BYTES)
            async with asyncio.timeout(REQUEST_SECONDS):
                line = await lines.next()
            if line is not None:
                await self._answer(session, lines, parse_request(line))
            await session.close()
        except TimeoutError:
            session.abort("no_request", "the reader did not say what it wants")
        except SessionEnded as error:
            log.debug("reader_gone", feed=self._name, reason=str(error))
        except BlockCloudError as error:
            log.info("reader_refused", feed=self._name, code=error.code, reason=str(error))
            await self._refuse(session, error)
        finally:
            self.open -= 1
            self._live.pop(session, None)

    async def _refuse(self, session: Session, error: BlockCloudError) -> None:
        if session.core.writable:
            session.write_now(error_line(error))
        await session.close()

    async def _answer(self, session: Session, lines: LineReader, request: Request) -> None:
        match request.op:
            case "newest":
                await self._write(session, self.board.newest(request.series)[: request.limit], request.format)
            case "last":
                await self._write(session, self._last(request.series, request.limit), request.format)
            case "windows":
                found = await self._on_disk(lambda: self._stored.windows(request.series, request.limit))
                await self._write(session, found, request.format)
            case "live":
                self._live[session] = _LiveReader(session, request)
                self._changed.set()
                if await lines.next() is not None:
                    raise BadRequest("a live reader has nothing to say")
            case "follow":
                await self._follow(session, lines, request)

    def _last(self, series: str, limit: int) -> list[Numbered]:
        found: list[Numbered] = []
        for name, each in sorted(self._core.series.items()):
            if name.startswith(series):
                found += [(0, Sample(reading, "")) for reading in each.last]
        return found[:limit]

    async def _write(self, session: Session, entries: Sequence[Numbered], format: Format) -> None:
        for start in range(0, len(entries), PAGE_ENTRIES):
            await session.write(b"".join(render(each, format) for each in entries[start : start + PAGE_ENTRIES]))

    # --- following --------------------------------------------------------------------------------------------------

    async def _follow(self, session: Session, lines: LineReader, request: Request) -> None:
        """Give everything after an offset, and note what the reader acknowledges."""
        after = request.after if request.log == self._outbox.log else 0
        if after > self.tail.reached:
            raise BadRequest("nothing has this offset yet", after=after, reached=self.tail.reached)
        giving = asyncio.create_task(self._give_all(session, after, request))
        hearing = asyncio.create_task(self._hear(session, lines))
        try:
            done, _ = await asyncio.wait((giving, hearing), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (giving, hearing):
                task.cancel()
            await asyncio.gather(giving, hearing, return_exceptions=True)

    async def _give_all(self, session: Session, after: int, request: Request) -> None:
        while True:
            news = self._news
            page = await self._page(after)
            wanted = [each for each in page.entries if series_of(each[1]).startswith(request.series)]
            data = [encode(Dropped(page.dropped, page.entries[0][0] - 1))] if page.dropped else []
            data += [render(each, request.format) for each in wanted]
            if data:
                await session.write(b"".join(data))
            if page.reached == after:
                await news.wait()
            after = page.reached

    async def _page(self, after: int) -> Page:
        """The next entries, none if there are none yet."""
        recent = self.tail.after(after, PAGE_ENTRIES)
        if recent is not None:
            return Page(recent, 0, recent[-1][0] if recent else after)
        return await self._on_disk(lambda: self._stored.after(after))

    async def _hear(self, session: Session, lines: LineReader) -> None:
        """Note acknowledgements. A consumer is who it has proven to be in the handshake."""
        consumer = session.peer_key.hex()
        while (line := await lines.next()) is not None:
            offset = parse_acknowledgement(line, self.tail.reached)
            await self._intake.on_disk(lambda: self._outbox.acknowledge(consumer, offset))  # noqa: B023 - awaited here

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)
