"""The error tree: one class for each reason, with a stable `code` that clients and scripts may rely on.

Two families must never be mixed. `PeerFault` and its children blame the input: somebody sent bytes that break a rule,
and the answer is a typed rejection. `LocalFault` blames this node: its disk, its configuration, its state. Rules of
the ledger live with the ledger (`service_chain/rejections.py`) and derive from `Rejected`.
"""

from __future__ import annotations

from typing import ClassVar


class BlockCloudError(Exception):
    """Root of the tree. `values` are the offending values, shown after the message; `hint` says what to do."""

    code: ClassVar[str] = "error"
    hint: ClassVar[str] = ""

    def __init__(self, message: str = "", **values: object) -> None:
        self.message = message or (type(self).__doc__ or "").strip().split("\n")[0]
        self.values = values
        super().__init__(message)

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        return f"{self.message} ({shown})" if shown else self.message


class PeerFault(BlockCloudError):
    """The input breaks a rule; whoever sent it is to blame."""

    code = "invalid"


class Malformed(PeerFault):
    """The bytes do not decode to the expected shape."""

    code = "malformed"


class NonCanonical(PeerFault):
    """The bytes decode, but are not the one canonical encoding of their value."""

    code = "non_canonical"


class Oversized(PeerFault):
    """The input is larger than its limit."""

    code = "oversized"


class BadSignature(PeerFault):
    """A signature does not verify under the key it names."""

    code = "bad_signature"


class WrongChain(PeerFault):
    """The input was made for another chain."""

    code = "wrong_chain"


class WrongKey(PeerFault):
    """The peer does not hold the key that was expected of it."""

    code = "wrong_key"
    hint = "Someone else answers under this identity. Do not continue; check the name's keys on the ledger."


class BadProof(PeerFault):
    """A proof does not lead to the root it claims."""

    code = "bad_proof"


class BadCertificate(PeerFault):
    """A certificate lacks the signatures it needs, or carries some it must not have."""

    code = "bad_certificate"


class DoubledSigner(BadCertificate):
    """A certificate has a signer twice, or its signers out of order."""

    code = "doubled_signer"


class BelowQuorum(BadCertificate):
    """The signers of a certificate have less weight than a quorum."""

    code = "below_quorum"


class UnknownSigner(PeerFault):
    """A statement is signed by a key outside the committee."""

    code = "unknown_signer"


class InvalidName(PeerFault):
    """The text is not a service name: LDH labels, lower case, at most 63 bytes each and 253 in all."""

    code = "invalid_name"


class InvalidAddress(PeerFault):
    """The text is not an account address."""

    code = "invalid_address"


class InvalidAmount(PeerFault):
    """The text or number is not an amount of BLOC."""

    code = "invalid_amount"


class Rejected(BlockCloudError):
    """A rule of the ledger refuses a transaction."""

    code = "rejected"


class Unreachable(BlockCloudError):
    """Nobody answered at any of the known addresses."""

    code = "unreachable"


class TimedOut(BlockCloudError):
    """The answer did not come within the time allowed."""

    code = "timed_out"


class Busy(BlockCloudError):
    """The node works at its capacity; try again after `retry_after_ms`."""

    code = "busy"

    def __init__(self, message: str = "", *, retry_after_ms: int, **values: object) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms, **values)
        self.retry_after_ms = retry_after_ms


class NotTakingPart(BlockCloudError):
    """The node follows the ledger and makes no blocks, so it can get nothing committed."""

    code = "not_taking_part"
    hint = "Send the same bytes to another validator."


class LocalFault(BlockCloudError):
    """This node cannot go on: its disk, its configuration or its own state is wrong."""

    code = "local_fault"


class BadConfiguration(LocalFault):
    """A configuration value is unknown or out of range."""

    code = "bad_configuration"


class StorageFault(LocalFault):
    """The store refused to read or write."""

    code = "storage_fault"


class Diverged(LocalFault):
    """This node's result differs from one that a quorum certified; it must not go on."""

    code = "diverged"
