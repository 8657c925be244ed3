"""Content formats of readings, by their names in HTTP and their numbers in CoAP; and who may send them."""

from __future__ import annotations

import hmac
from typing import Final

from blockcloud.service_access.edge.feed import plain, senml
from blockcloud.service_access.edge.feed.errors import BadToken, UnknownFormat
from blockcloud.service_access.edge.feed.readings import Batch

PLAIN_JSON, SENML_JSON, SENML_CBOR = 50, 110, 112  # IANA's CoAP content formats
MEDIA_TYPES: Final = {
    "application/json": PLAIN_JSON,
    "application/senml+json": SENML_JSON,
    "application/senml+cbor": SENML_CBOR,
}
UNNAMED_SERIES: Final = ""


def parse(payload: bytes, content_format: int | None, now_us: int, source: str, series: str) -> Batch:
    """The readings in `payload`. Raises UnknownFormat, BadReading, BadPack and its children."""
    match content_format:
        case 50:
            return plain.parse_plain(payload, now_us, source, series)
        case 110:
            return senml.parse_json(payload, now_us, source)
        case 112:
            return senml.parse_cbor(payload, now_us, source)
    raise UnknownFormat(content_format=content_format)


def check_token(wanted: bytes, given: bytes) -> None:
    """Raises BadToken unless no token is asked for, or this one."""
    if wanted and not hmac.compare_digest(wanted, given):
        raise BadToken
