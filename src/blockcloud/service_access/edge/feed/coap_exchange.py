"""CoAP (RFC 7252) as far as a feed needs it: requests in, one answer each, sans-IO.

    PUT /readings/porch/t        Content-Format 50, 110 or 112         -> 2.04 when the readings are durable
    GET /.well-known/core                                              -> where readings go (RFC 6690)

The messages are aiocoap's. Its server is not used: it remembers each message for 247 seconds without a limit on how
many, and acknowledges after 100 ms whether or not the request has succeeded. Here a confirmable request is acknowledged
by its answer (5.2.1), so the ACK means "durable"; a retransmission gets the same answer again, or none while the first
one is under way. What is remembered is bounded: the oldest goes first, and sequence numbers catch the rest.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from aiocoap import Code, ContentFormat, Message  # type: ignore[import-untyped]
from aiocoap.error import Error as CoapError  # type: ignore[import-untyped]
from aiocoap.numbers.types import Type  # type: ignore[import-untyped]

from blockcloud.primitives.errors import BlockCloudError, Busy, Oversized, PeerFault
from blockcloud.service_access.edge.feed.errors import BadReading, BadToken, OutboxFull, UnknownFormat

REMEMBERED: Final = 4_096
LIFETIME_MS: Final = 247_000  # EXCHANGE_LIFETIME, RFC 7252 section 4.8.2
PATH: Final = "readings"
RETRY_SECONDS: Final = 1
TOKEN_QUERY: Final = "token="
LINKS: Final = b'</readings>;rt="blockcloud.readings";ct="50 110 112"'
LINK_FORMAT: Final = 40
# Options that are understood: Uri-Host, Uri-Port, Uri-Path, Content-Format, Uri-Query, Accept, Block2, Block1, Size1.
_UNDERSTOOD: Final = frozenset((3, 7, 11, 12, 15, 17, 23, 27, 60))

Peer = tuple[str, int]


@dataclass(frozen=True)
class Request:
    """Readings that want to be taken; `key` is for the answer."""

    key: tuple[Peer, int]
    series: str
    content_format: int | None
    token: bytes
    payload: bytes


@dataclass
class _Exchange:
    begun_ms: float
    request: Message
    answer: bytes | None = None


class CoapExchanges:
    """See the module's text. `now_ms` never goes back."""

    def __init__(self) -> None:
        self.garbage = 0
        self._known: OrderedDict[tuple[Peer, int], _Exchange] = OrderedDict()
        self._message_id = 0

    def receive(self, datagram: bytes, peer: Peer, now_ms: float) -> Request | bytes | None:
        """What a datagram is: a request to be answered later, or a datagram to send back, or nothing."""
        try:
            message = Message.decode(datagram)
            options = [(int(option.number), option) for option in message.opt.option_list()]
        except (CoapError, ValueError, IndexError):  # whatever the decoder stumbles over in garbage
            self.garbage += 1
            return None
        code = int(message.code)
        if message.mtype is Type.CON and code == 0:
            return _empty(Type.RST, message.mid)  # a ping (4.3)
        if message.mtype not in (Type.CON, Type.NON) or not 0 < code < 32:
            self.garbage += 1
            return None
        return self._request(message, [number for number, _ in options], peer, now_ms)

    def _request(self, message: Message, options: list[int], peer: Peer, now_ms: float) -> Request | bytes | None:
        key = peer, message.mid
        self._forget(now_ms)
        if (known := self._known.get(key)) is not None:
            return known.answer
        self._known[key] = _Exchange(now_ms, message)
        if any(number % 2 and number not in _UNDERSTOOD for number in options):
            return self._answer(key, Code.BAD_OPTION)
        path = tuple(message.opt.uri_path)
        if path == (".well-known", "core"):
            if message.code is not Code.GET:
                return self._answer(key, Code.METHOD_NOT_ALLOWED)
            return self._answer(key, Code.CONTENT, LINKS, content_format=LINK_FORMAT)
        if path[:1] != (PATH,):
            return self._answer(key, Code.NOT_FOUND)
        if message.code not in (Code.POST, Code.PUT):
            return self._answer(key, Code.METHOD_NOT_ALLOWED)
        block = message.opt.block1
        if block is not None and (block.more or block.block_number):
            return self.refuse(key, Oversized("readings come in one datagram"))
        content_format = message.opt.content_format
        tokens = [query.removeprefix(TOKEN_QUERY) for query in message.opt.uri_query if query.startswith(TOKEN_QUERY)]
        return Request(
            key,
            "/".join(path[1:]),
            None if content_format is None else int(content_format),
            tokens[0].encode() if tokens else b"",
            message.payload,
        )

    def _forget(self, now_ms: float) -> None:
        while self._known:
            oldest = next(iter(self._known.values()))
            if len(self._known) < REMEMBERED and oldest.begun_ms + LIFETIME_MS > now_ms:
                return
            self._known.popitem(last=False)

    def accept(self, key: tuple[Peer, int]) -> bytes | None:
        """The readings are durable: the datagram to send. None if the exchange is forgotten."""
        return self._answer(key, Code.CHANGED)

    def refuse(self, key: tuple[Peer, int], error: BlockCloudError) -> bytes | None:
        """The readings are refused: the datagram to send. None if the exchange is forgotten."""
        busy = isinstance(error, Busy | OutboxFull)
        return self._answer(key, _code(error), error.code.encode(), max_age=RETRY_SECONDS if busy else None)

    def _answer(
        self,
        key: tuple[Peer, int],
        code: Code,
        payload: bytes = b"",
        *,
        content_format: int | None = None,
        max_age: int | None = None,
    ) -> bytes | None:
        exchange = self._known.get(key)
        if exchange is None:
            return None
        request = exchange.request
        answer = Message(code=code, payload=payload)
        answer.token = request.token
        if request.mtype is Type.CON:
            answer.mtype, answer.mid = Type.ACK, request.mid
        else:
            self._message_id = (self._message_id + 1) & 0xFFFF
            answer.mtype, answer.mid = Type.NON, self._message_id
        if content_format is not None:
            answer.opt.content_format = ContentFormat(content_format)
        if max_age is not None:
            answer.opt.max_age = max_age
        exchange.answer = bytes(answer.encode())
        return exchange.answer


def _empty(kind: Type, message_id: int) -> bytes:
    message = Message(code=Code.EMPTY)
    message.mtype, message.mid = kind, message_id
    return bytes(message.encode())


def _code(error: BlockCloudError) -> Code:
    match error:
        case BadToken():
            return Code.UNAUTHORIZED
        case UnknownFormat():
            return Code.UNSUPPORTED_CONTENT_FORMAT
        case Oversized():
            return Code.REQUEST_ENTITY_TOO_LARGE
        case Busy() | OutboxFull():
            return Code.SERVICE_UNAVAILABLE
        case BadReading() | PeerFault():
            return Code.BAD_REQUEST
    return Code.INTERNAL_SERVER_ERROR
