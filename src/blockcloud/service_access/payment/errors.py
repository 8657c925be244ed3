"""Why a session is not paid for, or may not be: one class for each reason."""

from __future__ import annotations

from blockcloud.primitives.errors import BlockCloudError, LocalFault, PeerFault


class NotPaid(PeerFault):
    """The consumer has not paid for what it wants to go on with."""

    code = "not_paid"
    hint = "Connect with a budget: `blockcloud forward NAME --budget BLOC`."


class UnboundAgreement(PeerFault):
    """The agreement was not made for this session, or not for this instance of the provider."""

    code = "unbound_agreement"


class WrongAgreement(PeerFault):
    """The agreement is with somebody else, about something else, or over."""

    code = "wrong_agreement"


class PaymentRefused(BlockCloudError):
    """The provider does not take what this side pays with."""

    code = "payment_refused"


class BudgetSpent(LocalFault):
    """What the service costs further is more than the budget allows."""

    code = "budget_spent"
    hint = "Begin again with a larger --budget."


class TermsDiffer(PeerFault):
    """The provider asks for another price or unit than it has posted on the ledger."""

    code = "terms_differ"
