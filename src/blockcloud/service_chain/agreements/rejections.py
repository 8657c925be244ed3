"""Why the ledger refuses an operation on agreements: one class for each reason, with a stable code."""

from __future__ import annotations

from blockcloud.service_chain.rejections import Failed


class NoOffer(Failed):
    """The provider has posted no price under this name."""

    code = "no_offer"


class NotTheProvider(Failed):
    """The name is not, or no longer, that of the provider."""

    code = "not_the_provider"
    hint = "Look the name up again: it may have a new owner."


class OfferOutOfBounds(Failed):
    """A time of the offer is beyond what the chain allows."""

    code = "offer_out_of_bounds"


class ProviderBondTooSmall(Failed):
    """The bond behind the offer would be, or has become, less than the chain asks for."""

    code = "provider_bond_too_small"


class BondHeld(Failed):
    """The bond stands for agreements that are not closed, or were not long ago, or for what is being verified."""

    code = "bond_held"


class OfferDiffers(Failed):
    """The offer is dearer, or promises less, than the sender asked for."""

    code = "offer_differs"
    hint = "Read the offer again; the provider may have changed it."


class WindowTooLong(Failed):
    """The agreement would last longer than the provider offers, or than the chain allows."""

    code = "window_too_long"


class DepositTooSmall(Failed):
    """The deposit is less than the chain asks for."""

    code = "deposit_too_small"


class DepositTooLarge(Failed):
    """The deposits of one agreement are more than any amount may be."""

    code = "deposit_too_large"


class OwnCustomer(Failed):
    """Client and provider are the same account."""

    code = "own_customer"


class AgreementExists(Failed):
    """The sender has opened an agreement with this salt in this commit."""

    code = "agreement_exists"


class UnknownAgreement(Failed):
    """There is no such agreement."""

    code = "unknown_agreement"


class AgreementNotBegun(Failed):
    """The window of the agreement has not begun."""

    code = "agreement_not_begun"


class AgreementExpired(Failed):
    """The window of the agreement is over; vouchers can still be claimed until the timer ends."""

    code = "agreement_expired"


class AgreementClosing(Failed):
    """The client is closing the agreement."""

    code = "agreement_closing"


class AgreementDue(Failed):
    """The time for claims is over: what is left is the client's."""

    code = "agreement_due"
    hint = "Claim before the close timer ends; anybody may do so for a provider that sleeps."


class AgreementClosed(Failed):
    """The agreement is over and paid out."""

    code = "agreement_closed"


class AgreementNotDue(Failed):
    """The provider may still claim."""

    code = "agreement_not_due"


class NotTheClient(Failed):
    """Only the client of the agreement may do that."""

    code = "not_the_client"


class NotAParty(Failed):
    """Only the client and the provider of the agreement may do that."""

    code = "not_a_party"


class NotExtendable(Failed):
    """The agreement comes from an auction: a further window is bought there."""

    code = "not_extendable"


class ClaimOfAnotherChain(Failed):
    """The voucher was signed for another chain."""

    code = "claim_of_another_chain"


class WrongVoucherSigner(Failed):
    """The voucher is not signed by the agreement's voucher key."""

    code = "wrong_voucher_signer"


class ClaimAboveDeposit(Failed):
    """The claim is for more than the channel holds."""

    code = "claim_above_deposit"


class StaleClaim(Failed):
    """A later voucher was claimed, and it pays as much or more."""

    code = "stale_claim"


class NothingToClaim(Failed):
    """As much or more was claimed already."""

    code = "nothing_to_claim"


class NoTail(Failed):
    """The agreement has no PayWord tail."""

    code = "no_payword_tail"


class WrongTailReveal(Failed):
    """The value is no layer of the agreement's PayWord onion at this depth."""

    code = "wrong_payword_reveal"
