"""What the two ends of a new session tell each other inside the handshake, and how a refusal reads."""

from __future__ import annotations

import hmac
from typing import Final

from blockcloud.primitives.codec import Struct, decode
from blockcloud.primitives.errors import BlockCloudError, Malformed
from blockcloud.primitives.limits import NAME_BYTES
from blockcloud.service_access.addresses import Address, check_addresses
from blockcloud.service_access.admission import PolicyDenied
from blockcloud.service_access.errors import SessionReset
from blockcloud.service_access.frames import SESSION_ID_BYTES, Rst
from blockcloud.service_access.handshake import HANDSHAKE_PAYLOAD_BYTES

PURPOSE: Final = "session/v1"
WINDOW_BYTES_MAX: Final = 64 * 1024 * 1024


class SessionHello(Struct, frozen=True):
    """What each side adds to the handshake: how much it takes unacknowledged, and where it can be dialled. A provider
    says whether it will answer with ADMITTED, because a policy is bound; a consumer adds its credentials."""

    window: int
    addresses: tuple[Address, ...]
    guarded: bool = False
    role: str = ""
    grant: bytes = b""


def read_hello(payload: bytes) -> SessionHello:
    hello = decode(payload, SessionHello, limit=HANDSHAKE_PAYLOAD_BYTES)
    check_addresses(hello.addresses)
    if not 1 <= hello.window <= WINDOW_BYTES_MAX:
        raise Malformed("window of a session is out of range", window=hello.window)
    if len(hello.role) > NAME_BYTES:
        raise Malformed("a role is a name", characters=len(hello.role))
    return hello


def session_id_of(secret: bytes) -> bytes:
    return hmac.digest(secret, b"blockcloud/session-id/v1", "sha256")[:SESSION_ID_BYTES]


def refusal(frame: Rst) -> BlockCloudError:
    if frame.code == PolicyDenied.code:
        return PolicyDenied(frame.reason)
    return SessionReset(f"the peer refused: {frame.reason}", reset_code=frame.code)
