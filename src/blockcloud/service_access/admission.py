"""Admission: the question that a provider asks before a session opens, and what a refused consumer is told.

The handshake has proven by then who the consumer is: its signature covers the transcript. `Gate` is whoever knows the
rules; the endpoint asks it once for each new session. DESIGN section 4, "Security layer".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from blockcloud.primitives.errors import PeerFault
from blockcloud.service_access.stream import Session


class PolicyDenied(PeerFault):
    """The service's policy does not let this consumer in."""

    code = "policy_denied"
    hint = "The rules are public: blockcloud policy explain NAME --as YOUR_ADDRESS"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a consumer may show beside its key: a role to act in ("" for none) and a grant (`grants`, b"" for none)."""

    role: str = ""
    grant: bytes = b""


NO_CREDENTIALS = Credentials()


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """Who wants a session: the proven `key`, from which host, in which role, with which grant."""

    name: str
    key: bytes
    host: str
    role: str = ""
    grant: bytes = b""


class Gate(Protocol):
    """Decides who may open a session with a name."""

    @property
    def active(self) -> bool:
        """Whether consumers must wait for the answer: a policy is bound."""

    @property
    def digest(self) -> bytes:
        """Of the policy in force (32 bytes), empty for none."""

    def admit(self, request: AccessRequest) -> None:
        """Return if the session may open. Raises PolicyDenied."""

    def opened(self, request: AccessRequest, session: Session) -> None:
        """The session of an admitted request has begun; it is the gate's to end when access is lost."""
