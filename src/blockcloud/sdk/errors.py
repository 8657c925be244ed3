"""Why the SDK refuses an answer, and how a node's refusal becomes an exception here."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from blockcloud.primitives.errors import BadProof, BlockCloudError, Busy, NotTakingPart, PeerFault, Rejected, TimedOut
from blockcloud.service_chain import namespace_rejections, rejections
from blockcloud.service_chain.agreements import rejections as agreement_rejections
from blockcloud.service_chain.contracts import failures
from blockcloud.service_chain.handover import WrongEra
from blockcloud.service_chain.market import refusals as market_refusals
from blockcloud.service_chain.market import rejections as market_rejections

_CODE = re.compile(r"[a-z][a-z0-9_]{0,47}", re.ASCII)
_TEXT_CHARACTERS: Final = 400


class StaleProof(PeerFault):
    """The proof is older than allowed."""

    code = "stale_proof"
    hint = "The node is behind, the ledger stands still, or this machine's clock is wrong."


class Rollback(StaleProof):
    """The proof is older than what this client has seen already, by more than allowed."""

    code = "rollback"
    hint = (
        "The node is behind, or hides what is newer: ask another one (`--api URL`). If the ledger itself was set back, "
        "`blockcloud trust reset` forgets what this home has verified."
    )


class ProofFromFuture(PeerFault):
    """The ledger's time in the proof is ahead of this machine's clock by more than clocks may differ."""

    code = "proof_from_future"
    hint = "Set this machine's clock."


class WrongStateKey(BadProof):
    """The proof is about another key than the one that was asked for."""

    code = "wrong_state_key"


class WrongHeight(BadProof):
    """The proof is of another height than the one that was asked for."""

    code = "wrong_height"


class ConflictingCertificates(PeerFault):
    """A quorum has certified two different histories; more than a third of the weight lies."""

    code = "conflicting_certificates"
    hint = (
        "Do not rely on this ledger, unless it was begun anew from the same genesis; the evidence is kept "
        "(`blockcloud trust show`). To go on with the history that somebody you trust vouches for: "
        "`blockcloud trust set FILE`; to begin again from the genesis: `blockcloud trust reset`."
    )


class ConflictingHandovers(ConflictingCertificates):
    """A quorum has handed over to two different committees; more than a third of the weight lies."""

    code = "conflicting_handovers"


class UnknownEra(PeerFault):
    """The certificate is of an era whose committee this client does not know; it lacks hand-overs."""

    code = "unknown_era"
    hint = "Fetch the hand-overs of the eras between (`GET /v1/handovers/{era}`) and try again."

    def __init__(self, message: str = "", *, era: int, **values: object) -> None:
        super().__init__(message, era=era, **values)
        self.era = era


class ForgottenEra(WrongEra):
    """The certificate is of an era before those whose committees this client keeps."""

    code = "forgotten_era"
    hint = "What is proven now does not need it; of the past, the plan of that era has to be proven first."

    def __init__(self, message: str = "", *, era: int, **values: object) -> None:
        super().__init__(message, era=era, **values)
        self.era = era


class SkippedEra(PeerFault):
    """The hand-over leads to an era behind the next one; hand-overs are followed one after another."""

    code = "skipped_era"


class TrustExpired(BlockCloudError):
    """The newest certificate that this client trusts is older than the trusting period.

    Members of its era may have their bonds back and can no longer be punished for signing a second history.
    """

    code = "trust_expired"
    hint = (
        "Get a fresh certificate from somebody you trust (`blockcloud trust export FILE` there) and give it to this "
        "home with `blockcloud trust set FILE`. `blockcloud trust reset` begins again from the genesis instead, which "
        "relies on former validators not having sold their keys."
    )


class BadAnswer(PeerFault):
    """The node's answer is not what its API promises."""

    code = "bad_answer"


class Refused(BlockCloudError):
    """The node refuses the request; `code` says why."""

    code = "refused"


class NotFound(Refused):
    """There is no such thing on this ledger, as far as the node knows."""

    code = "not_found"


@lru_cache(maxsize=256)
def _refused(code: str, hint: str) -> type[Refused]:
    """A class for a code that only nodes raise, so that every exception has the code it came with."""
    return type("Refused", (Refused,), {"code": code, "hint": hint, "__doc__": Refused.__doc__})


# Where the ledger's reasons are.
_REASONS: Final = (
    rejections,
    namespace_rejections,
    failures,
    agreement_rejections,
    market_refusals,
    market_rejections,
)


def _all_rejections() -> dict[str, type[Rejected]]:
    found: dict[str, type[Rejected]] = {}
    for item in [item for module in _REASONS for item in vars(module).values()]:
        if isinstance(item, type) and issubclass(item, Rejected):
            found.setdefault(item.code, item)
    return found


REJECTIONS: Final = _all_rejections()


def rejection(code: str, **values: object) -> Rejected:
    """The ledger's rejection with this code."""
    kind = REJECTIONS.get(code)
    if kind is None:
        return Rejected(f"the ledger refused the transaction: {code[:48]}", **values)
    return kind("", **values)


def refusal(problem: dict[str, Any], status: int) -> BlockCloudError:
    """The exception for a problem+json document (RFC 9457) of a node. Nothing in it is trusted to have a type."""
    code, detail, hint = (_text(problem.get(field)) for field in ("code", "detail", "hint"))
    retry = problem.get("retry_after_ms")
    if code == Busy.code:
        return Busy(detail, retry_after_ms=retry if isinstance(retry, int) and 0 <= retry <= 60_000 else 1_000)
    if code == NotFound.code:
        return NotFound(detail)
    if code == NotTakingPart.code:
        return NotTakingPart(detail)
    if code == TimedOut.code:
        return TimedOut(detail)
    if code in REJECTIONS:
        return REJECTIONS[code](detail)
    if not _CODE.fullmatch(code):
        return BadAnswer("a refusal without a code", status=status)
    return _refused(code, hint)(detail or f"the node answered {status}")


def _text(value: object) -> str:
    return value[:_TEXT_CHARACTERS] if isinstance(value, str) else ""
