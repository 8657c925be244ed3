"""Why a relay refuses: one class for each reason, and its number on the wire. DESIGN section 11."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Final

from blockcloud.primitives.errors import PeerFault, Unreachable


class Status(IntEnum):
    """The relay's answer to a preamble. Everything but OK is the end of the connection."""

    OK = 0
    REFUSED = 1
    UNKNOWN_INSTANCE = 2
    RATE_LIMITED = 3
    RELAY_FULL = 4
    PAIR_TIMEOUT = 5
    BAD_TOKEN = 6


class RelayRefusal(PeerFault):
    """The peer asked the relay for something that it does not do."""

    code = "relay_refusal"
    status: ClassVar[Status] = Status.REFUSED


class UnknownInstance(RelayRefusal):
    """No instance with this key is registered at the relay."""

    code = "unknown_instance"
    status = Status.UNKNOWN_INSTANCE


class RateLimited(RelayRefusal):
    """More than the relay's rate limit allows."""

    code = "rate_limited"
    hint = "Try again in a moment, or through another relay."
    status = Status.RATE_LIMITED


class RelayFull(RelayRefusal):
    """The relay serves as many as it may."""

    code = "relay_full"
    hint = "Try again later, or through another relay."
    status = Status.RELAY_FULL


class PairTimeout(RelayRefusal):
    """The instance did not come to meet the dialler in time."""

    code = "pair_timeout"
    status = Status.PAIR_TIMEOUT


class BadToken(RelayRefusal):
    """Nobody waits for whoever shows this token: it is forged, used already, or too old."""

    code = "bad_token"
    status = Status.BAD_TOKEN


class NotAllowed(RelayRefusal):
    """The relay serves other instances than this one."""

    code = "not_allowed"
    hint = "Whoever runs the relay chooses its users: blockcloud relay serve --allow."


class SpokeTooSoon(RelayRefusal):
    """A dialler sent something, or left, before anybody had come to meet it."""

    code = "spoke_too_soon"


class UnexpectedMessage(RelayRefusal):
    """The message may not come at this point of a control connection."""

    code = "unexpected_message"


class Replaced(RelayRefusal):
    """A newer connection has registered the same instance."""

    code = "replaced"


class NotHeard(RelayRefusal):
    """The peer was silent for too long."""

    code = "not_heard"


class NotRelayed(Unreachable):
    """The relay did not connect us; `reason` is the code of its refusal."""

    code = "not_relayed"

    def __init__(self, message: str = "", *, reason: str, **values: object) -> None:
        super().__init__(message, reason=reason, **values)
        self.reason = reason


REFUSALS: Final[dict[Status, type[RelayRefusal]]] = {
    refusal.status: refusal
    for refusal in (RelayRefusal, UnknownInstance, RateLimited, RelayFull, PairTimeout, BadToken)
}
