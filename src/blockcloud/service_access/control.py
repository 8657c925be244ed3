"""The control socket of a running publish or forward: one JSON object a line, one answer each.

    {"op": "move", "to": "127.0.0.5:0"}   ->  {"ok": true, "address": "127.0.0.5:40123"}
    {"op": "status"}                      ->  {"ok": true, ...}

An operation may also be a stream: its answer is followed by further lines, which have no `ok`, while the connection
goes on taking operations (`control_table`: events and verdicts). A Unix socket with mode 0600: who may connect is a
matter of the file system.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, Malformed, Unreachable
from blockcloud.primitives.limits import MOVED_ADDRESSES
from blockcloud.service_access.addresses import SOCKET_PATH_BYTES, parse_address
from blockcloud.service_access.endpoint import ServiceEndpoint

LINE_BYTES: Final = 64 * 1024
CONTROL_CONNECTIONS: Final = 16
ANSWER_SECONDS: Final = 30.0
STATUS_SESSIONS: Final = 100

Handler: TypeAlias = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Lines: TypeAlias = AsyncGenerator[dict[str, Any], None]


@dataclass(frozen=True)
class Stream:
    """An operation whose answer is the first of `lines`; the others follow as they come, one stream a connection."""

    lines: Callable[[dict[str, Any]], Lines]


Operations: TypeAlias = Mapping[str, Handler | Stream]


class UnknownOperation(Malformed):
    """The control socket knows no such operation."""

    code = "unknown_operation"


class ControlServer:
    """Answers `operations` at the Unix socket `path`."""

    def __init__(self, path: Path, operations: Operations) -> None:
        self._path = path
        self._operations = operations
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen. A socket file that nobody answers at is replaced. Raises BadConfiguration."""
        if await is_served(self._path):
            raise BadConfiguration("another process serves this control socket", path=str(self._path))
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise BadConfiguration("the control socket's path is taken by another file", path=str(self._path))
            self._path.unlink()
        before = os.umask(0o177)  # so that there is no moment at which others may connect
        try:
            with _short(self._path) as path:
                self._server = await asyncio.start_unix_server(self._serve, path=path, limit=LINE_BYTES)
        except OSError as error:
            reason = error.strerror or str(error)
            raise BadConfiguration(f"cannot open control socket: {reason}", path=str(self._path)) from None
        finally:
            os.umask(before)
        self._path.chmod(0o600)

    async def close(self) -> None:
        """Stop, end the connections, and remove the socket file."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.close()
            self._path.unlink(missing_ok=True)
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONTROL_CONNECTIONS:
            writer.close()
            return
        self._open.add(writer)
        stream: tuple[Lines, asyncio.Task[None]] | None = None
        try:
            while line := await reader.readline():
                answer, more = await self._answer(line, streaming=stream is not None)
                _write(writer, answer)
                if more is not None:
                    stream = more, asyncio.get_running_loop().create_task(_follow(more, writer))
                await writer.drain()
        except (ValueError, ConnectionError):  # a line beyond the limit, or the client has left
            return
        finally:
            self._open.discard(writer)
            writer.close()
            if stream is not None:
                lines, following = stream
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await following
                await lines.aclose()

    async def _answer(self, line: bytes, *, streaming: bool) -> tuple[dict[str, Any], Lines | None]:
        """What to say, and the lines that follow it, if any do."""
        try:
            request = _parse(line)
            operation = self._operations.get(str(request.get("op")))
            if operation is None:
                known = sorted(self._operations)
                raise UnknownOperation("no such operation", op=str(request.get("op"))[:40], known=known)
            if not isinstance(operation, Stream):
                return {"ok": True, **await operation(request)}, None
            if streaming:
                raise Malformed("a connection has one subscription; open another one")
            lines = operation.lines(request)
            return {"ok": True, **await anext(lines)}, lines
        except BlockCloudError as error:
            return {"ok": False, "code": error.code, "error": str(error), "hint": error.hint}, None


def _parse(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise Malformed("a request is one JSON object on a line") from None
    if not isinstance(request, dict):
        raise Malformed("a request is one JSON object on a line")
    return request


def _write(writer: asyncio.StreamWriter, line: dict[str, Any]) -> None:
    writer.write(json.dumps(line).encode() + b"\n")


async def _follow(lines: Lines, writer: asyncio.StreamWriter) -> None:
    """Write lines as they come, and as fast as they are read."""
    try:
        async for line in lines:
            _write(writer, line)
            await writer.drain()
    except ConnectionError:  # the reader of the same connection ends it
        return


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for `path` that fits a socket's address, good until the context ends: through the folder, held open, if
    the path itself is too long. A file's name (255 bytes at most) may still be. Raises OSError."""
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


async def is_served(path: Path) -> bool:
    """Whether a process answers at the control socket `path`; its file may be left from one that crashed."""
    try:
        with _short(path) as short:
            _, writer = await asyncio.open_unix_connection(short)
    except OSError:
        return False
    writer.close()
    return True


async def request(path: Path, operation: Mapping[str, Any], *, timeout_s: float = ANSWER_SECONDS) -> dict[str, Any]:
    """Ask the process behind the control socket `path`. Raises Unreachable, also when the answer does not come."""
    try:
        async with asyncio.timeout(timeout_s):
            with _short(path) as short:
                reader, writer = await asyncio.open_unix_connection(short, limit=LINE_BYTES)
            try:
                writer.write(json.dumps(dict(operation)).encode() + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, ValueError) as error:
        raise Unreachable(f"no answer at the control socket: {error}", path=str(path)) from None
    try:
        answer = json.loads(line)
    except ValueError:
        raise Unreachable("no answer at the control socket", path=str(path)) from None
    return dict(answer)


async def subscription(path: Path, operation: Mapping[str, Any], *, timeout_s: float = ANSWER_SECONDS) -> Lines:
    """The lines of a stream of the process behind the control socket `path`: its answer first, the others as they come.

    Ends when the process does. Raises Unreachable if there is no answer.
    """
    try:
        async with asyncio.timeout(timeout_s):
            with _short(path) as short:
                reader, writer = await asyncio.open_unix_connection(short, limit=LINE_BYTES)
            writer.write(json.dumps(dict(operation)).encode() + b"\n")
            line = await reader.readline()
    except OSError as error:
        raise Unreachable(f"no answer at the control socket: {error}", path=str(path)) from None
    try:
        while line:
            yield json.loads(line)
            line = await reader.readline()
    except (ConnectionError, ValueError) as error:
        raise Unreachable(f"the control socket broke: {error}", path=str(path)) from None
    finally:
        writer.close()


def endpoint_operations(endpoint: ServiceEndpoint, status: Callable[[], dict[str, Any]]) -> dict[str, Handler]:
    """The operations of a publish or forward over `endpoint`: `move` and `status`; `status` adds to what is shown."""

    async def move(request: dict[str, Any]) -> dict[str, Any]:
        to = request.get("to")
        wanted = [parse_address(each) for each in (to if isinstance(to, list) else [to])]
        if not 0 < len(wanted) <= MOVED_ADDRESSES:
            raise Malformed("an endpoint moves to one address, or to a few", limit=MOVED_ADDRESSES)
        reached = [str(address) for address in await endpoint.move_to(wanted)]
        return {"address": reached[0], "addresses": reached}

    async def show(_: dict[str, Any]) -> dict[str, Any]:
        sessions = [
            {
                "id": session.core.session_id.hex(),
                "name": session.name,
                "peer": session.peer_key.hex(),
                "state": session.core.state.value,
                **asdict(session.statistics),
            }
            for session in list(endpoint.sessions.values())[:STATUS_SESSIONS]
        ]
        addresses = [str(address) for address in endpoint.addresses]
        return {
            "addresses": addresses,
            "sessions": sessions,
            "session_count": len(endpoint.sessions),
            "faults": dict(endpoint.faults),
            "relays": endpoint.relays.status(),
            **status(),
        }

    return {"move": move, "status": show}
