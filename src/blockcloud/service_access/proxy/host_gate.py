"""Guards a service's loopback address against pages of other sites (DNS rebinding); sans-IO.

A browser can be made to connect to any address, loopback included, by a name that an attacker resolves to it. It then
says that name in its Host header. So the first bytes of a connection, where they are an HTTP request, wait until the
head is complete, and pass only if its Host is the service's. What cannot be one passes at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import h11

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.service_access.proxy.errors import MisdirectedRequest, OversizedHead
from blockcloud.service_access.proxy.http_rules import HEAD_BYTES, problem, refused_by_parser

# The first line of a request, and what may become one. HTTP/2 without TLS is no browser's.
REQUEST_LINE: Final = re.compile(rb"[!-~]{1,32} [!-~]+ HTTP/1\.\d\r?\n")
LINE_BEGUN: Final = re.compile(rb"[!-~]{1,32}( [!-~]*( (H(T(T(P(/(1(\.(\d\r?)?)?)?)?)?)?)?)?)?)?")


class HostGate:
    """For one connection. `is_own` says whether a Host value leads to the service."""

    def __init__(self, is_own: Callable[[str], bool]) -> None:
        self._is_own = is_own
        self._held = b""
        self._open = False

    def receive(self, data: bytes) -> bytes:
        """What may pass of `data` and of what was held back. Raises HttpRefused's children."""
        if self._open:
            return data
        self._held += data
        may_be_http = REQUEST_LINE.match(self._held) or LINE_BEGUN.fullmatch(self._held)
        if may_be_http and not self._judged():
            return b""
        self._open = True
        passed, self._held = self._held, b""
        return passed

    def answer(self, error: BlockCloudError) -> bytes:
        """The bytes of the answer that refuses a request."""
        writer = h11.Connection(h11.SERVER)
        response, body = problem(error)
        events = (response, h11.Data(data=body), h11.EndOfMessage())
        return b"".join(writer.send(event) or b"" for event in events)

    def _judged(self) -> bool:
        """Whether the head is complete and in order."""
        if not REQUEST_LINE.match(self._held):
            if len(self._held) > HEAD_BYTES:
                raise OversizedHead(limit=HEAD_BYTES)
            return False  # too short to tell
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        parser.receive_data(self._held)
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError as error:
            raise refused_by_parser(error) from None
        if not isinstance(event, h11.Request):
            return False
        hosts = [bytes(value).decode("latin-1") for name, value in event.headers if name == b"host"]
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            raise MisdirectedRequest(host=hosts[0][:80] if hosts else "")
        return True
