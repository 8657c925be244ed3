"""A node that runs in a thread beside the test, a home folder for it, and reading what commands print."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from blockcloud.cli.app import run
from blockcloud.cli.output import show
from tests.api.api_world import Api, running_api
from tests.node.cluster import USERS

T = TypeVar("T")
START_SECONDS = 60


@dataclass
class Result:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> Any:
        """The one JSON object on stdout, where the node in this process logs too."""
        (line,) = [line for line in self.out.splitlines() if line.startswith(("{", "["))]
        return json.loads(line)


def command(*arguments: str) -> Result:
    """Run a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments))
    return Result(code, out.getvalue(), err.getvalue())


@dataclass
class Node:
    """A ledger of one validator with its API, in a thread; `home` is a home folder whose owner is USERS[0]."""

    api: Api
    home: Path
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://{self.api.host}:{self.api.port}"

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the node's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(START_SECONDS)

    def command(self, *arguments: str) -> Result:
        """Run a command line with this home."""
        return command(*arguments, "--home", str(self.home))

    def ok(self, *arguments: str) -> Any:
        """The report of a command that succeeds."""
        result = self.command(*arguments, "--json")
        assert result.code == 0, result.err
        return result.report


@contextmanager
def node_in_thread(folder: Path) -> Iterator[Node]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="node")
    thread.start()

    def call(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(START_SECONDS)

    stack = AsyncExitStack()
    try:
        api = call(stack.enter_async_context(running_api(folder / "node")))
        yield Node(api, make_home(folder / "a home", api), loop)
    finally:
        call(stack.aclose())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def make_home(path: Path, api: Api, user: int = 0) -> Path:
    """A client's home with the genesis and the key of USERS[user]."""
    path.mkdir()
    (path / "genesis.json").write_text(api.net.genesis.to_json(), encoding="utf-8")
    USERS[user].save(path / "keys" / "account.pem")
    return path


# Reading the view for people


def shown_by(report: object, *, as_json: bool) -> str:
    """What `show` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        show(report, as_json=as_json)
    return out.getvalue()


def shown(value: object) -> str:
    """How a value stands on one line."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={shown(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(shown(item) for item in value)
    return str(value)


def read_view(lines: list[str], like: Any) -> Any:
    """The texts that the view for people holds, in the shape of `like`, the JSON of the same report."""
    if isinstance(like, Mapping) and like:
        return _read_object(lines, like)
    if isinstance(like, list) and like and all(isinstance(item, Mapping) for item in like):
        return _read_table(lines)
    if isinstance(like, list) and like:
        return [line.strip() for line in lines]
    (line,) = lines
    return line.strip()


def texts(value: Any) -> Any:
    """`value` with every leaf as its text, to compare with `read_view`."""
    if isinstance(value, Mapping) and value:
        return {key: texts(item) for key, item in value.items()}
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        columns = dict.fromkeys(key for row in value for key in row)
        return [{column: shown(row[column]) if column in row else "" for column in columns} for row in value]
    if isinstance(value, list) and value:
        return [shown(item) for item in value]
    return shown(value)


def _read_object(lines: list[str], like: Mapping[str, Any]) -> dict[str, Any]:
    margin = len(lines[0]) - len(lines[0].lstrip())
    blocks: list[list[str]] = []
    for line in lines:
        if line[margin : margin + 1].isspace():
            blocks[-1].append(line)
        else:
            blocks.append([line])
    found: dict[str, Any] = {}
    for block in blocks:
        key, _, text = block[0].strip().partition(" ")
        found[key] = read_view(block[1:], like[key]) if len(block) > 1 else text.strip()
    return found


def _read_table(lines: list[str]) -> list[dict[str, str]]:
    header = lines[0]
    columns = list(re.finditer(r"\S+", header))
    ends = [column.start() for column in columns[1:]] + [max(map(len, lines))]
    return [
        {column[0]: line[column.start() : end].strip() for column, end in zip(columns, ends, strict=True)}
        for line in lines[1:]
    ]
