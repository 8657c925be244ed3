"""Why a payee does not take a voucher or a receipt: one class for each reason, with a stable code."""

from __future__ import annotations

from blockcloud.primitives.errors import PeerFault, WrongChain


class VoucherOfAnotherChain(WrongChain):
    """The voucher was signed for another chain."""

    code = "voucher_of_another_chain"


class VoucherOfAnotherAgreement(PeerFault):
    """The voucher belongs to another agreement."""

    code = "voucher_of_another_agreement"


class WrongVoucherKey(PeerFault):
    """The key that signed is not the agreement's voucher key."""

    code = "wrong_voucher_key"


class StaleVoucher(PeerFault):
    """The payee has a voucher with this number, or a later one."""

    code = "stale_voucher"


class ShrinkingVoucher(PeerFault):
    """The amount or the units are less than those of the voucher before."""

    code = "shrinking_voucher"


class VoucherAboveDeposit(PeerFault):
    """The voucher promises more than the channel holds."""

    code = "voucher_above_deposit"
    hint = "Top the agreement up: `blockcloud agreement topup`."


class VoucherTooLow(PeerFault):
    """The units that were served cost more than the voucher pays, and the credit does not cover the rest."""

    code = "voucher_too_low"


class CreditExhausted(PeerFault):
    """What is asked for costs more than was paid, and the credit does not cover the rest."""

    code = "credit_exhausted"
    hint = "Send a voucher for what was served."


class WrongPayWord(PeerFault):
    """The value is no layer of the agreement's PayWord onion, or one that was spent."""

    code = "wrong_payword"


class BadReceipt(PeerFault):
    """The receipt is not about this request, or not signed by both sides."""

    code = "bad_receipt"
