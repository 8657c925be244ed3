"""Messages between routing nodes: a tagged union in canonical msgpack, each with its limits."""

from __future__ import annotations

from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import Malformed, Oversized
from blockcloud.primitives.hashes import DIGEST_BYTES
from blockcloud.primitives.limits import ADDRESS_RECORD_BYTES, SERVICE_FILE_BYTES
from blockcloud.routing.store import Entry

MESSAGE_BYTES: Final = 256 * 1024
PAGE_ENTRIES: Final = 1_000
FETCH_ITEMS: Final = 32
DELIVERY_BYTES: Final = 128 * 1024
_PLACE_BYTES: Final = 1 + DIGEST_BYTES
_SEQUENCE_MAX: Final = 2**63 - 1


class Summary(Struct, frozen=True, tag=1):
    """How many things the sender holds, and the exclusive or of their ids: equal means that nothing need be asked.
    `full`: it keeps everything."""

    count: int
    digest: bytes
    full: bool = True


class Ask(Struct, frozen=True, tag=2):
    """Please send the page of your inventory behind the place `after` (empty: the first). `mine`: only what is placed
    at me."""

    after: bytes
    mine: bool = False


class Page(Struct, frozen=True, tag=3):
    """The answer to Ask. `last` is true on the page behind which there is no other; else it goes on behind the place
    `reached`, up to which the sender has looked."""

    entries: tuple[Entry, ...]
    last: bool
    reached: bytes = b""


class Have(Struct, frozen=True, tag=4):
    """The sender has just taken these in."""

    entries: tuple[Entry, ...]


class Fetch(Struct, frozen=True, tag=5):
    """Please send these, by id."""

    ids: tuple[bytes, ...]


class Delivery(Struct, frozen=True, tag=6):
    """Files and records that were asked for."""

    files: tuple[bytes, ...]
    records: tuple[bytes, ...]


class Check(Struct, frozen=True, tag=7):
    """The sender holds these and is not to keep them. Please say which of them you hold, and fetch what you lack."""

    entries: tuple[Entry, ...]


class Held(Struct, frozen=True, tag=8):
    """The answer to Check, by id: what the sender holds, or something newer in its slot."""

    ids: tuple[bytes, ...]


RoutingMessage = Summary | Ask | Page | Have | Fetch | Delivery | Check | Held


class _Envelope(Struct, frozen=True):
    message: RoutingMessage


def encode_routing(message: RoutingMessage) -> bytes:
    """The canonical bytes of `message`."""
    return codec.encode(_Envelope(message))


def decode_routing(data: bytes) -> RoutingMessage:
    """The message in `data`. Raises Oversized, Malformed or NonCanonical."""
    message = codec.decode(data, _Envelope, limit=MESSAGE_BYTES).message
    match message:
        case Summary():
            _expect(0 <= message.count <= _SEQUENCE_MAX and len(message.digest) == DIGEST_BYTES)
        case Ask():
            _expect(len(message.after) in (0, _PLACE_BYTES))
        case Page() | Have() | Check():
            _limit(len(message.entries), PAGE_ENTRIES)
            _expect(all(_is_entry(entry) for entry in message.entries))
            if isinstance(message, Page):
                _expect(len(message.reached) in (0, _PLACE_BYTES))
        case Fetch() | Held():
            _limit(len(message.ids), FETCH_ITEMS if isinstance(message, Fetch) else PAGE_ENTRIES)
            _expect(all(len(identifier) == DIGEST_BYTES for identifier in message.ids))
        case Delivery():
            _limit(len(message.files) + len(message.records), FETCH_ITEMS)
            _limit(max(map(len, message.files), default=0), SERVICE_FILE_BYTES)
            _limit(max(map(len, message.records), default=0), ADDRESS_RECORD_BYTES)
    return message


def _is_entry(entry: Entry) -> bool:
    return (
        len(entry.id) == DIGEST_BYTES
        and len(entry.slot) in (0, DIGEST_BYTES)
        and 0 <= entry.sequence <= _SEQUENCE_MAX
        and (entry.slot != b"" or entry.sequence == 0)
    )


def _expect(holds: bool) -> None:
    if not holds:
        raise Malformed("a field of a routing message has a wrong length or range")


def _limit(value: int, limit: int) -> None:
    if value > limit:
        raise Oversized("a part of a routing message is larger than its limit", value=value, limit=limit)
