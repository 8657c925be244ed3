"""HTTP to several nodes, any of which may be down, slow, busy or lying.

A request goes to one node after another until one gives an answer that is accepted: one node alone can neither deny
nor forge. Answers have a size limit.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import httpx2
import msgspec

from blockcloud.primitives.errors import (
    BadConfiguration,
    BlockCloudError,
    Busy,
    NotTakingPart,
    PeerFault,
    Rejected,
    TimedOut,
    Unreachable,
)
from blockcloud.primitives.limits import HTTP_BODY_BYTES
from blockcloud.sdk.errors import BadAnswer, Refused, refusal

ATTEMPT_SECONDS: Final = 5.0
REFUSALS_KEPT: Final = 64
CONNECTIONS: Final = 64
MSGPACK: Final = "application/msgpack"

T = TypeVar("T")


class _Pool:
    """Connections made from one place of ours. A retired pool is closed when the last request in it has ended."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http
        self.users = 0
        self.retired = False

    async def __aenter__(self) -> httpx2.AsyncClient:
        self.users += 1
        return self.http

    async def __aexit__(self, *_: object) -> None:
        self.users -= 1
        if self.retired and not self.users:
            await self.http.aclose()


class Transport:
    """Requests to the nodes at `urls`. Use as an async context manager, or call `close`."""

    def __init__(self, urls: Sequence[str], *, attempt_s: float = ATTEMPT_SECONDS) -> None:
        if not urls or any(not url.startswith(("http://", "https://")) for url in urls):
            raise BadConfiguration("a client needs the http or https URL of at least one node", urls=list(urls))
        self.urls = tuple(url.rstrip("/") for url in urls)
        self.refused: deque[tuple[str, BlockCloudError]] = deque(maxlen=REFUSALS_KEPT)
        self._attempt_s = attempt_s
        self._preferred = 0
        self._pool = self._new_pool()
        self._retiring: set[asyncio.Task[None]] = set()

    def _new_pool(self) -> _Pool:
        # No proxies or credentials from the environment: the URLs are the nodes themselves.
        limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        # The default context reads all public authorities, which takes long and nobody needs without https.
        secure = any(url.startswith("https://") for url in self.urls)
        verify = True if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return _Pool(httpx2.AsyncClient(trust_env=False, limits=limits, timeout=self._attempt_s, verify=verify))

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.http.aclose()
        await asyncio.gather(*self._retiring)

    def renew(self) -> None:
        """This machine has another address: what is asked from now on goes over new connections.

        The old ones are dead without knowing it, and a request over one of them would wait for its whole time.
        """
        old, self._pool = self._pool, self._new_pool()
        old.retired = True
        if not old.users:
            task = asyncio.get_running_loop().create_task(old.http.aclose())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def once(
        self,
        url: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        accept: str = "application/json",
        timeout_s: float | None = None,
    ) -> bytes:
        """The body of one node's answer. Raises Unreachable, TimedOut, BadAnswer, or what the node refuses with."""
        seconds = self._attempt_s if timeout_s is None else timeout_s
        headers = {"Accept": accept}
        if content is not None:
            headers["Content-Type"] = MSGPACK if method == "POST" else "application/octet-stream"
        try:
            async with (
                asyncio.timeout(seconds),
                self._pool as http,
                http.stream(
                    method, url + path, params=params, content=content, headers=headers, timeout=seconds
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > HTTP_BODY_BYTES:
                        raise BadAnswer("an answer is larger than its limit", url=url, limit=HTTP_BODY_BYTES)
        except (TimeoutError, httpx2.TimeoutException):
            raise TimedOut("the node did not answer in time", url=url, seconds=round(seconds, 3)) from None
        except (httpx2.TransportError, httpx2.DecodingError, httpx2.InvalidURL) as error:
            raise Unreachable(f"no answer: {str(error) or type(error).__name__}", url=url) from None
        if response.status_code >= 300:
            raise _problem(bytes(body), response.status_code)
        return bytes(body)

    async def first(
        self,
        attempt: Callable[[str], Awaitable[T]],
        *,
        order: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> T:
        """What `attempt` gives for the first node where it works.

        Goes on to the next node after every error; answers that were wrong are noted in `refused`. With all nodes
        tried, raises what says most: a wrong answer, else a refusal, else why no node could be reached.
        """
        start = self._preferred
        urls = order or [*self.urls[start:], *self.urls[:start]]
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        fault = no = None
        last: BlockCloudError = Unreachable("no node answered", urls=list(urls))
        for url in urls:
            if deadline is not None and asyncio.get_running_loop().time() >= deadline:
                last = TimedOut("no node answered in time", seconds=timeout_s)
                break
            try:
                result = await attempt(url)
            except (Unreachable, TimedOut, Busy, NotTakingPart) as error:
                last = error
            except PeerFault as error:
                self.refused.append((url, error))
                fault = fault or error
            except (Refused, Rejected) as error:
                no = no or error
            else:
                self._preferred = self.urls.index(url) if url in self.urls else 0
                return result
        raise fault or no or last

    async def json(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The JSON object that the first willing node answers to GET. Nobody has verified it."""

        async def attempt(url: str) -> dict[str, Any]:
            return decode_object(await self.once(url, "GET", path, params=params))

        return await self.first(attempt)

    async def everywhere(self, method: str, path: str, content: bytes, *, first: Sequence[str] = ()) -> int:
        """Send to all nodes at once, or to those in `first`, and to the others if none of them took it; how many took
        it. Raises the first refusal if none did."""
        if first and len(first) < len(self.urls):
            try:
                return await self._to_all(first, method, path, content)
            except BlockCloudError:
                others = [url for url in self.urls if url not in first]
                return await self._to_all(others, method, path, content)
        return await self._to_all(self.urls, method, path, content)

    async def _to_all(self, urls: Sequence[str], method: str, path: str, content: bytes) -> int:
        calls = (self.once(url, method, path, content=content) for url in urls)
        results = await asyncio.gather(*calls, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if not isinstance(failure, BlockCloudError):
                raise failure
        if len(failures) == len(results):
            refusals = [failure for failure in failures if isinstance(failure, Refused)]
            raise (refusals or failures)[0]
        return len(results) - len(failures)


def decode_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises BadAnswer."""
    return _decode(body, dict)


def _decode(body: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadAnswer(f"not the JSON that is expected: {error}") from None


def _problem(body: bytes, status: int) -> BlockCloudError:
    try:
        return refusal(decode_object(body), status)
    except BadAnswer:
        return BadAnswer("a refusal that is not problem+json", status=status)
