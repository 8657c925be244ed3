"""Readers of a feed: newest values, windows and streams, slow readers, cuts; and a feed that takes over another."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.errors import PeerFault
from blockcloud.service_access.edge.feed.board import Board, Tail, fitting
from blockcloud.service_access.edge.feed.core import Numbered, Sample, Window
from blockcloud.service_access.edge.feed.errors import BadRequest
from blockcloud.service_access.edge.feed.following import Connect, Cursor, FeedSession, ask_once, follow
from blockcloud.service_access.edge.feed.intake import now_us
from blockcloud.service_access.edge.feed.lines import Dropped, Request, parse_entry, parse_request, render
from blockcloud.service_access.edge.feed.node import Feed, open_feed
from blockcloud.service_access.edge.feed.readings import Batch, Reading
from blockcloud.service_access.edge.feed.series import WindowResult
from tests.service_access.access_world import World, bounded
from tests.service_access.edge.feed_samples import NOW_US, readings
from tests.service_access.edge.feed_world import FEED, SETTINGS, connecting, feed_at, serving, until_true

WINDOW = WindowResult("porch/t", NOW_US, 10_000_000, 3, 4.5, -1.0, 3.0, True, NOW_US + 1, "Cel")
ENTRIES = st.one_of(
    st.builds(Sample, readings(), st.sampled_from(["", "porch-1"]), st.none() | st.integers(0, 9)),
    st.sampled_from([Window(WINDOW), Window(WindowResult("a", NOW_US, 10_000_000, 1, None, None, None, "x", NOW_US))]),
)


# --- lines ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 2**53 - 1), ENTRIES)
def test_a_line_reads_back(offset: int, entry: Sample | Window) -> None:
    assert parse_entry(render((offset, entry), "json")) == (offset, entry)


@given(st.integers(1, 100), ENTRIES)
def test_a_line_of_senml_is_a_pack(offset: int, entry: Sample | Window) -> None:
    pack = msgspec.json.decode(render((offset, entry), "senml"))
    assert pack[0]["bcoff"] == offset


@given(st.binary(max_size=80))
def test_garbage_lines_have_a_typed_end(line: bytes) -> None:
    for parse in (parse_request, parse_entry):
        with contextlib.suppress(PeerFault):
            parse(line)


# --- the board ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 50)), max_size=30), st.lists(st.integers(1, 300)))
def test_a_reader_of_any_speed_ends_with_the_newest_and_misses_no_series(
    changes: list[tuple[str, int]], rooms: list[int]
) -> None:
    board, seen, got = Board(), 0, dict[str, object]()
    times: dict[str, int] = {}
    pending = list(rooms)

    def read(room: int) -> None:
        nonlocal seen
        data, version = fitting(board.since(seen, "", "json"), room)
        assert len(data) <= room
        for line in data.splitlines():
            shown = msgspec.json.decode(line)
            got[shown["series"]] = shown["offset"]
        seen = max(seen, version)

    newest: dict[str, int] = {}
    for offset, (series, second) in enumerate(changes, 1):
        board.put([(offset, Sample(Reading(series, NOW_US + second * 1_000_000, 1.0), ""))])
        if second >= times.get(series, -1):
            times[series], newest[series] = second, offset
        if pending:
            read(pending.pop())
    read(1_000_000)
    assert got == newest
    assert board.since(seen, "", "json").joined == b""


def test_the_tail_goes_back_as_far_as_it_does() -> None:
    tail = Tail(5)
    assert tail.after(5, 10) == []
    assert tail.after(4, 10) is None
    entries: list[Numbered] = [(number, Window(WINDOW)) for number in range(6, 10)]
    tail.put(entries)
    assert tail.after(5, 10) == entries
    assert tail.after(7, 1) == entries[2:3]
    assert tail.after(4, 10) is None
    assert tail.after(9, 10) == []


# --- over sessions --------------------------------------------------------------------------------------------------


async def put(feed: Feed, value: float, series: str = "porch/t", sequence: int | None = None) -> None:
    await feed.intake.take(Batch("test", (Reading(series, now_us(), value),), sequence))


async def values(connect: Connect, cursor: Cursor, count: int, *, live: bool = False) -> list[object]:
    """The next values of a stream."""
    found: list[object] = []
    async with contextlib.aclosing(follow(connect, cursor, live=live)) as entries:
        async for entry in entries:
            if len(found) == count:
                break
            assert not isinstance(entry, Dropped)
            if isinstance(entry[1], Sample):
                found.append(entry[1].reading.value)
                if len(found) == count:
                    cursor.reached = {log: entry[0] for log in cursor.reached} or cursor.reached
                    return found
    return found


async def test_newest_last_and_windows(world: World, tmp_path: Path) -> None:
    async with feed_at(world, tmp_path / "feed.sqlite") as feed:
        old = now_us() - 60_000_000
        for second in (0, 1, 11, 25):
            await feed.intake.take(Batch("t", (Reading("porch/t", old + second * 1_000_000, float(second)),)))
        await put(feed, 7.0, "kitchen/t")
        connect = await connecting(world)
        newest = await ask_once(connect, Request("newest"))
        assert [(entry.reading.series, entry.reading.value) for _, entry in newest if isinstance(entry, Sample)] == [
            ("kitchen/t", 7.0),
            ("porch/t", 25.0),
        ]
        last = await ask_once(connect, Request("last", "porch/"))
        assert [entry.reading.value for _, entry in last if isinstance(entry, Sample)] == [0.0, 1.0, 11.0, 25.0]
        windows = await ask_once(connect, Request("windows", "porch/", limit=1))
        assert [type(entry) for _, entry in windows] == [Window]


async def test_a_live_reader_gets_what_is_and_what_comes(world: World, tmp_path: Path) -> None:
    async with feed_at(world, tmp_path / "feed.sqlite") as feed:
        await put(feed, 1.0)
        connect = await connecting(world)
        async with contextlib.aclosing(follow(connect, Cursor(), live=True)) as entries:
            first = await bounded(anext(entries))
            await put(feed, 2.0)
            second = await bounded(anext(entries))
    assert [each[1].reading.value for each in (first, second)] == [1.0, 2.0]  # type: ignore[index, union-attr]


async def test_a_reader_that_does_not_read_stalls_nobody(world: World, tmp_path: Path) -> None:
    """The stalled one has its buffers full; the other gets each last value, and so does the first once it reads."""
    async with feed_at(world, tmp_path / "feed.sqlite") as feed:
        connect = await connecting(world)
        stalled = await FeedSession.begin(await connect())
        await stalled.ask(Request("live"))
        await until_true(lambda: feed.readers.live_count == 1)
        text = "x" * 900
        async with contextlib.aclosing(follow(connect, Cursor(), live=True)) as entries:
            for number in range(40):
                names = [f"series/{place}" for place in range(20)]
                await feed.intake.take(Batch("t", tuple(Reading(name, now_us(), f"{number} {text}") for name in names)))
                wanted = {name: f"{number} {text}" for name in names}
                got: dict[str, object] = {}
                while got != wanted:
                    entry = await bounded(anext(entries))
                    assert not isinstance(entry, Dropped)
                    assert isinstance(entry[1], Sample)
                    got[entry[1].reading.series] = entry[1].reading.value
        session = next(iter(feed.readers._live))
        assert session.core.room < 2_000  # it is stalled indeed
        seen: dict[str, object] = {}
        lines = 0
        while seen != wanted:
            found = await bounded(stalled.next())
            assert found is not None
            assert not isinstance(found, Dropped)
            assert isinstance(found[1], Sample)
            seen[found[1].reading.series] = found[1].reading.value
            lines += 1
        assert lines < 40 * 20  # values that were overtaken were not sent
        stalled.session.abort("closed", "done")


@pytest.mark.parametrize(
    "line",
    [b"{}\n", b"\xff\n", b'{"op":"follow","after":5}\n', b'{"op":"newest","limit":0}\n', b"x" * 5_000, b"x"],
)
async def test_a_bad_request_ends_with_its_reason(world: World, tmp_path: Path, line: bytes) -> None:
    async with feed_at(world, tmp_path / "feed.sqlite") as feed:
        session = await (await connecting(world))()
        found = await FeedSession.begin(session)
        if b"after" in line:
            line = line.replace(b"}", b',"log":"%s"}' % feed.outbox.log.encode())
        await session.write(line)
        session.write_eof()
        with pytest.raises(BadRequest, match="refuses"):
            await bounded(found.next())
        await session.close()


# --- cuts -----------------------------------------------------------------------------------------------------------


async def test_a_reader_gets_each_reading_once_across_cuts_and_restarts(world: World, tmp_path: Path) -> None:
    path, total = tmp_path / "feed.sqlite", 400
    key = world.key(FEED)
    connect = await connecting(world)
    got: list[object] = []

    async def read_all() -> None:
        async with contextlib.aclosing(follow(connect, Cursor())) as entries:
            async for entry in entries:
                assert not isinstance(entry, Dropped)
                if isinstance(entry[1], Sample):
                    got.append(entry[1].reading.value)
                if len(got) == total:
                    return

    reading = asyncio.create_task(read_all())
    for turn in range(4):  # each turn a new process, so to speak: listener, feed and all
        async with contextlib.AsyncExitStack() as stack:
            mine = World(stack, world.registry)
            listener = await mine.listener(name=FEED, key=key)
            feed = await stack.enter_async_context(open_feed(FEED, path, SETTINGS))
            await stack.enter_async_context(serving(feed, listener))
            for number in range(turn * 100, turn * 100 + 100):
                await put(feed, float(number), sequence=number)
                if number % 40 == 7:
                    for session in list(listener.endpoint.sessions.values()):
                        session.abort("cut", "a test cuts it")
            if turn == 3:
                await bounded(reading)
    assert got == [float(number) for number in range(total)]


async def test_a_feed_takes_over_another_once_across_cuts_and_restarts_of_both(world: World, tmp_path: Path) -> None:
    edge_key, total = world.key("edge.home"), 300
    connect = await connecting(world, "edge.home")
    for turn in range(3):
        async with contextlib.AsyncExitStack() as stack:
            mine = World(stack, world.registry)
            listener = await mine.listener(name="edge.home", key=edge_key)
            edge = await stack.enter_async_context(open_feed("edge.home", tmp_path / "edge.sqlite", SETTINGS))
            await stack.enter_async_context(serving(edge, listener))
            above = await stack.enter_async_context(open_feed("above", tmp_path / "above.sqlite", SETTINGS))
            above.collect("edge.home", connect)
            for number in range(turn * 100, turn * 100 + 100):
                await put(edge, float(number), sequence=number)
                if number % 30 == 11:
                    for session in list(listener.endpoint.sessions.values()):
                        session.abort("cut", "a test cuts it")
            if turn == 2:
                await until_true(lambda: above.core.upstreams.get(edge.outbox.log) == edge.readers.tail.reached)  # noqa: B023
                await until_true(lambda: list(edge.outbox.consumers.values()) == [edge.readers.tail.reached])  # noqa: B023
                samples = []
                after = 0
                while page := above.readers._stored.after(after):
                    if page.reached == after:
                        break
                    samples += [entry.reading.value for _, entry in page.entries if isinstance(entry, Sample)]
                    after = page.reached
                assert samples == [float(number) for number in range(total)]
                assert above.core.series["porch/t"].state.newest.value == total - 1
