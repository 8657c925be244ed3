"""Why a session, a link or an access is refused or ends: one class for each reason. DESIGN sections 5.2 and 11."""

from __future__ import annotations

from blockcloud.primitives.errors import BlockCloudError, PeerFault


class SessionFault(PeerFault):
    """The peer broke a rule of the session protocol."""

    code = "session_fault"


class UnexpectedFrame(SessionFault):
    """The frame may not come at this point of the conversation."""

    code = "unexpected_frame"


class DataGap(SessionFault):
    """Data starts beyond what was received: bytes are missing."""

    code = "data_gap"


class BeyondEnd(SessionFault):
    """Data after the peer said that it had finished, or a second, different end."""

    code = "beyond_end"


class CreditExceeded(SessionFault):
    """The peer sent more than it was allowed to."""

    code = "credit_exceeded"


class AcknowledgedUnsent(SessionFault):
    """The peer claims to have bytes that were never sent."""

    code = "acknowledged_unsent"


class ResumeRefused(PeerFault):
    """A link may not take over the session."""

    code = "resume_refused"


class BadResumeMac(ResumeRefused):
    """The proof of a resume does not verify: not our peer, or not this link."""

    code = "bad_resume_mac"


class FencedLink(ResumeRefused):
    """A newer link has this session already; the resume is old or replayed."""

    code = "fenced_link"


class ImpossibleOffset(ResumeRefused):
    """The resume claims bytes that were never sent, or takes back an acknowledgement."""

    code = "impossible_offset"


class UnknownSession(ResumeRefused):
    """Nobody here knows the session."""

    code = "unknown_session"


class BadMove(PeerFault):
    """A notice of a move does not verify, or is an old one."""

    code = "bad_move"


class TooMany(PeerFault):
    """A limit on sessions or open handshakes has been reached."""

    code = "too_many"
    hint = "Try again later."


class Draining(PeerFault):
    """The instance takes no new sessions; those that it has go on."""

    code = "draining"
    hint = "Connect again: other instances of the name may be there, or come."


class NotLetIn(PeerFault):
    """A rule of the provider's service table holds sessions, and nobody has let this one in."""

    code = "not_let_in"


class SessionEnded(BlockCloudError):
    """The session is over; it cannot be read from or written to."""

    code = "session_ended"


class SessionReset(SessionEnded):
    """The peer, or this side, ended the session at once. `reset_code` says why."""

    code = "session_reset"

    def __init__(self, message: str = "", *, reset_code: str, **values: object) -> None:
        super().__init__(message, reset_code=reset_code, **values)
        self.reset_code = reset_code


class SessionLost(SessionEnded):
    """The peer could not be reached again at any known address: it crashed or is cut off."""

    code = "session_lost"
    hint = "The instance is gone. Connect again to reach another one."


class DatagramTooLarge(BlockCloudError):
    """The message does not fit into one datagram of a session."""

    code = "datagram_too_large"


class AccessDenied(BlockCloudError):
    """A rule of the service table drops connections to the name."""

    code = "access_denied"


class PriceAboveMaximum(BlockCloudError):
    """The service posts a higher price than the consumer wants to pay."""

    code = "price_above_maximum"


class OtherPriceUnit(BlockCloudError):
    """The service posts its price in another unit than the consumer's limit, so they cannot be compared."""

    code = "other_price_unit"
    hint = "Give the limit in the unit that `blockcloud resolve NAME --service-file` shows."


class AlreadyListening(BlockCloudError):
    """The name has a listener at this endpoint already."""

    code = "already_listening"
