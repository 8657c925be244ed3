"""HTTP/1.1 messages as values, and the parser that makes them (llhttp, in C, under its strict rules). Sans-IO.

A message is written anew from what was parsed, never passed on as it came: so nobody behind us reads a boundary between
messages elsewhere than we do. Field names are lower case, values are latin-1 text without space around them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import httptools

from blockcloud.service_access.edge.errors import BadMessage

HEAD_BYTES: Final = 32 * 1024
FIELDS: Final = 128
TARGET_BYTES: Final = 8 * 1024
NO_BODY_STATUS: Final = (204, 304)
HOP_BY_HOP: Final = frozenset(
    "connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade"
    " content-length".split()
)
REASONS: Final = {
    200: "OK",
    301: "Moved Permanently",
    304: "Not Modified",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
}
_TARGET = re.compile(r"/[\x21\x22\x24-\x7e]*", re.ASCII)  # origin form, no fragment
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

Fields: TypeAlias = tuple[tuple[str, str], ...]


def values(fields: Fields, name: str) -> list[str]:
    """The values of all lines of a field."""
    return [value for each, value in fields if each == name]


def combined(fields: Fields, name: str) -> str | None:
    """A field's lines as one value (RFC 9110 5.3), or None if there is none."""
    found = values(fields, name)
    return ", ".join(found) if found else None


def without(fields: Fields, names: Collection[str]) -> Fields:
    """The fields that are not among `names`."""
    return tuple(each for each in fields if each[0] not in names)


def end_to_end(fields: Fields) -> Fields:
    """Without what is about one connection only (RFC 9110 7.6.1), and without content-length, which is set anew."""
    named = {item.strip().lower() for value in values(fields, "connection") for item in value.split(",")}
    return without(fields, HOP_BY_HOP | named)


@dataclass(frozen=True, slots=True)
class Request:
    """A request without its content. `target` is in origin form (/path?query)."""

    method: str
    target: str
    fields: Fields = ()

    @property
    def path(self) -> str:
        """As it came, percent signs and all."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """With its question mark, which stands alone where there is no query (RFC 9421 2.2.7)."""
        return "?" + self.target.partition("?")[2]

    def head(self, framing: Fields = ()) -> bytes:
        """The bytes before the content; `framing` are the fields that say where it ends."""
        return _head(f"{self.method} {self.target} HTTP/1.1", self.fields + framing)


@dataclass(frozen=True, slots=True)
class Response:
    """A response, with its content where that is held whole."""

    status: int
    fields: Fields = ()
    body: bytes = b""

    def head(self, framing: Fields = ()) -> bytes:
        """The bytes before the content; `framing` are the fields that say where it ends."""
        return _head(f"HTTP/1.1 {self.status} {REASONS.get(self.status, '')}", self.fields + framing)


def _head(first: str, fields: Fields) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def origin_form(url: str) -> tuple[str, str]:
    """(target in origin form, authority or "") of a request's target. Raises BadMessage."""
    authority = ""
    if url[:7].lower() == "http://":
        try:
            parts = urlsplit(url)
        except ValueError:
            raise BadMessage("not a URL", target=url[:80]) from None
        authority = parts.netloc
        url = (parts.path or "/") + ("?" + url.split("?", 1)[1] if "?" in url else "")
    if len(url) > TARGET_BYTES or not _TARGET.fullmatch(url):
        raise BadMessage("a request's target is a path of printable ASCII, and perhaps a query", target=url[:80])
    return url, authority


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request has begun; its content follows as pieces, `chunked` or of a known length (0: none)."""

    request: Request
    length: int | None  # None: chunked
    keep_alive: bool
    expects_continue: bool
    version: str


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A response has begun. `length` None: not known before its end."""

    response: Response
    length: int | None
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class End:
    """The message is complete."""


Event: TypeAlias = RequestHead | ResponseHead | bytes | End


class _Parser:
    """What both directions share: callbacks of llhttp into a list of events, within limits."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._fields: list[tuple[str, str]] = []
        self._head_bytes = 0  # fed since the head began, complete or not
        self._field_bytes = 0
        self._in_body = False
        self._fault: BadMessage | None = None

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises BadMessage."""
        parser = self._llhttp()
        if not self._in_body:
            self._head_bytes += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise BadMessage("a change of protocol is not taken here: publish without --http for it") from None
        except httptools.HttpParserError as error:
            raise self._fault or BadMessage(f"not HTTP/1.1: {str(error)[:120]}") from None
        if not self._in_body and self._head_bytes > HEAD_BYTES:
            raise BadMessage("the head of a message is too large", limit=HEAD_BYTES)
        events, self.events = self.events, []
        return events

    def _llhttp(self) -> httptools.HttpRequestParser | httptools.HttpResponseParser:
        raise NotImplementedError

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            return  # trailers are dropped: nothing that is signed can stand there
        text = value.decode("latin-1").strip(" \t")
        self._field_bytes += len(name) + len(value)
        if self._field_bytes > HEAD_BYTES:
            self._refuse(BadMessage("the head of a message is too large", limit=HEAD_BYTES))
        if len(self._fields) >= FIELDS or not _VALUE.fullmatch(text):
            self._refuse(BadMessage("too many fields, or a control character in one", limit=FIELDS))
        self._fields.append((name.decode("latin-1").lower(), text))

    def on_body(self, body: bytes) -> None:
        self.events.append(body)

    def on_message_complete(self) -> None:
        self.events.append(End())
        self._in_body = False
        self._head_bytes = 0

    def _refuse(self, fault: BadMessage) -> None:
        self._fault = fault  # llhttp gives back an error of its own
        raise fault

    def _take_fields(self) -> tuple[Fields, int | None]:
        """The fields of the head, and how long the content is (None: chunked, or until the end)."""
        fields, self._fields = tuple(self._fields), []
        self._field_bytes = 0
        self._in_body = True
        lengths = values(fields, "content-length")
        if len(set(lengths)) > 1:
            self._refuse(BadMessage("two lengths of one content"))
        if values(fields, "transfer-encoding"):
            return fields, None
        return fields, int(lengths[0]) if lengths else None


class RequestParser(_Parser):
    """Parses what a client sends, request after request."""

    def __init__(self) -> None:
        super().__init__()
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""

    def _llhttp(self) -> httptools.HttpRequestParser:
        return self._parser

    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        fields, length = self._take_fields()
        try:
            target, authority = origin_form(self._url.decode("latin-1"))
        except BadMessage as fault:
            self._refuse(fault)
            raise
        if authority:
            fields = (("host", authority), *without(fields, ("host",)))
        if len(values(fields, "host")) > 1:
            self._refuse(BadMessage("a request names one host"))
        request = Request(self._parser.get_method().decode("latin-1"), target, fields)
        chunked = bool(values(fields, "transfer-encoding"))
        expects = (combined(fields, "expect") or "").lower() == "100-continue"
        keep = self._parser.should_keep_alive()
        version = self._parser.get_http_version()
        self.events.append(RequestHead(request, length if chunked or length else 0, keep, expects, version))


class ResponseParser(_Parser):
    """Parses one response to a request of `method`; interim ones (1xx) are passed over."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self._parser = httptools.HttpResponseParser(self)
        self._method = method
        self._interim = False
        self.ended = False

    def _llhttp(self) -> httptools.HttpResponseParser:
        return self._parser

    def feed(self, data: bytes) -> list[Event]:
        """As above. Raises BadMessage also for bytes after the response's end."""
        if self.ended and data:
            raise BadMessage("bytes after the end of a response")
        events = super().feed(data)
        if self._method == "HEAD" and any(isinstance(event, ResponseHead) for event in events):
            events = [next(event for event in events if isinstance(event, ResponseHead)), End()]
        ends = [number for number, event in enumerate(events) if isinstance(event, End)]
        if ends and ends[0] != len(events) - 1:
            raise BadMessage("bytes after the end of a response")
        self.ended = bool(ends)
        return events

    def on_headers_complete(self) -> None:
        fields, length = self._take_fields()
        status = self._parser.get_status_code()
        self._interim = 100 <= status < 200
        if status == 101:
            self._refuse(BadMessage("a change of protocol is not taken here"))
        if not self._interim:
            empty = status in NO_BODY_STATUS
            keep = self._parser.should_keep_alive()
            self.events.append(ResponseHead(Response(status, fields), 0 if empty else length, keep))

    def on_message_complete(self) -> None:
        if self._interim:
            self._in_body, self._head_bytes = False, 0
        else:
            super().on_message_complete()
