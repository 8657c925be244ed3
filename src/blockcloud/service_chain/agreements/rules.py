"""Agreements on the ledger: how they come about, what moves their money, how they end.

An agreement IS a payment channel (DESIGN section 6.2). The client's deposit is locked in it, and only what the client's
voucher key signed moves it: anybody may post a voucher, it pays the provider what it promises beyond what was paid. A
part of each payment, the levy, goes into the pot of the name's verification.

The highest amount wins. So a voucher with a lower number may still be claimed if it promises more: were numbers to
decide, a client could sign a high number over nothing, post it, and void what it had paid. Of two vouchers with one
number the higher pays, which is all that a client gains by signing both.

`TRANSITIONS` is the whole life cycle. A status is not stored: it follows from the record and the time of the commit.
Who is owed money must come for it while the status lets vouchers through; then the rest is the client's. The provider's
time is never shorter than its declared sleep plus finality.

The bond of a provider stands for all its agreements under a name, and for a while after the last of them is closed, so
that nobody escapes a verdict (`pay_breach`) by closing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from msgspec.structs import replace

from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC
from blockcloud.primitives.hash_onion import verify_reveal
from blockcloud.service_chain.accounts import Context, Event, credit, debit
from blockcloud.service_chain.agreements.keys import agreement_id, agreement_key, matched_id, pot_key, provider_key
from blockcloud.service_chain.agreements.operations import (
    ClaimPayWord,
    ClaimVoucher,
    CloseAgreement,
    ExtendAgreement,
    OpenAgreement,
    PostOffer,
    SettleAgreement,
    TopUpAgreement,
    WithdrawOffer,
)
from blockcloud.service_chain.agreements.parameters import PARTS_PER_MILLION
from blockcloud.service_chain.agreements.records import Agreement, Offer, PotRecord, ProviderRecord
from blockcloud.service_chain.agreements.rejections import (
    AgreementClosed,
    AgreementClosing,
    AgreementDue,
    AgreementExists,
    AgreementExpired,
    AgreementNotBegun,
    AgreementNotDue,
    BondHeld,
    ClaimAboveDeposit,
    ClaimOfAnotherChain,
    DepositTooLarge,
    DepositTooSmall,
    NoOffer,
    NoTail,
    NotAParty,
    NotExtendable,
    NothingToClaim,
    NotTheClient,
    NotTheProvider,
    OfferDiffers,
    OfferOutOfBounds,
    OwnCustomer,
    ProviderBondTooSmall,
    StaleClaim,
    UnknownAgreement,
    WindowTooLong,
    WrongTailReveal,
    WrongVoucherSigner,
)
from blockcloud.service_chain.agreements.vouchers import TAIL_STEPS
from blockcloud.service_chain.proof_of_service.standing import check_standing, is_held
from blockcloud.service_chain.records import NameRecord
from blockcloud.service_chain.rejections import Failed
from blockcloud.service_chain.state_keys import name_key
from blockcloud.service_chain.working_state import WorkingState


class AgreementStatus(Enum):
    """Where an agreement is in its life."""

    UNKNOWN = "unknown"
    AHEAD = "ahead"  # matched for a window that has not begun
    OPEN = "open"
    EXPIRED = "expired"  # its window is over, the time for claims is not
    CLOSING = "closing"  # its client wants it to end, the time for claims is not over
    DUE = "due"  # what is left is the client's
    CLOSED = "closed"


_OVER: Final[Mapping[type, type[Failed] | None]] = {
    TopUpAgreement: AgreementDue,
    ExtendAgreement: AgreementDue,
    ClaimVoucher: AgreementDue,
    ClaimPayWord: AgreementDue,
    CloseAgreement: AgreementDue,
    SettleAgreement: None,
}
# What may be done to an agreement in which status: None where it may, else why not.
TRANSITIONS: Final[Mapping[AgreementStatus, Mapping[type, type[Failed] | None]]] = {
    AgreementStatus.UNKNOWN: dict.fromkeys(_OVER, UnknownAgreement),
    AgreementStatus.AHEAD: {
        TopUpAgreement: None,
        ExtendAgreement: AgreementNotBegun,
        ClaimVoucher: AgreementNotBegun,
        ClaimPayWord: AgreementNotBegun,
        CloseAgreement: None,
        SettleAgreement: AgreementNotDue,
    },
    AgreementStatus.OPEN: {
        TopUpAgreement: None,
        ExtendAgreement: None,
        ClaimVoucher: None,
        ClaimPayWord: None,
        CloseAgreement: None,
        SettleAgreement: AgreementNotDue,
    },
    AgreementStatus.EXPIRED: {
        TopUpAgreement: AgreementExpired,
        ExtendAgreement: AgreementExpired,
        ClaimVoucher: None,
        ClaimPayWord: None,
        CloseAgreement: None,
        SettleAgreement: AgreementNotDue,
    },
    AgreementStatus.CLOSING: {
        TopUpAgreement: AgreementClosing,
        ExtendAgreement: AgreementClosing,
        ClaimVoucher: None,
        ClaimPayWord: None,
        CloseAgreement: None,
        SettleAgreement: AgreementNotDue,
    },
    AgreementStatus.DUE: _OVER,
    AgreementStatus.CLOSED: dict.fromkeys(_OVER, AgreementClosed),
}


@dataclass(frozen=True, slots=True)
class MatchedTerms:
    """What an auction agreed on. Deposit and bond have left the accounts of client and provider already: the caller
    took them, and hands them over. `match` (32 bytes) names the match, once in a commit."""

    match: bytes
    name: str
    client: bytes
    provider: bytes
    voucher_key: bytes
    unit: str
    unit_price: int
    quality_ppm: int
    start_ms: int
    end_ms: int
    sleep_ms: int
    deposit: int
    bond: int


def status_of(record: Agreement | None, time_ms: int) -> AgreementStatus:
    """The status of an agreement in a commit of this time."""
    if record is None:
        return AgreementStatus.UNKNOWN
    if record.closed_ms:
        return AgreementStatus.CLOSED
    if time_ms >= claims_until_ms(record):
        return AgreementStatus.DUE
    if record.closes_ms:
        return AgreementStatus.CLOSING
    if time_ms >= record.end_ms:
        return AgreementStatus.EXPIRED
    return AgreementStatus.OPEN if time_ms >= record.start_ms else AgreementStatus.AHEAD


def claims_until_ms(record: Agreement) -> int:
    """Up to when, exclusively, the provider may claim."""
    return record.closes_ms or record.end_ms + record.close_timer_ms


def apply_post_offer(state: WorkingState, sender: bytes, operation: PostOffer, context: Context) -> Sequence[Event]:
    """Post a price, or change it. Agreements that run keep theirs."""
    name, limits = operation.name, context.agreements
    _check_owner(state, name, sender, context)
    check_standing(state, sender, context.plan.era)
    if operation.longest_ms > limits.window_max_ms or operation.sleep_ms > limits.sleep_max_ms:
        raise OfferOutOfBounds(longest_ms=operation.longest_ms, sleep_ms=operation.sleep_ms)
    key = provider_key(sender, name)
    before = state.get(key, ProviderRecord) or ProviderRecord(name, sender, 0)
    bond = before.bond + operation.bond
    if not limits.bond_min <= bond <= MAXIMUM_MICRO_BLOC:
        raise ProviderBondTooSmall(bond=bond, least=limits.bond_min)
    debit(state, sender, operation.bond)
    offer = Offer(operation.unit, operation.unit_price, operation.longest_ms, operation.quality_ppm, operation.sleep_ms)
    state.put(key, replace(before, bond=bond, offer=offer))
    return [("offer", name.encode("ascii"))]


def apply_withdraw_offer(
    state: WorkingState, sender: bytes, operation: WithdrawOffer, context: Context
) -> Sequence[Event]:
    """Take the offer back, and the bond with it as soon as nothing needs it. Whoever has lost the name may too."""
    key = provider_key(sender, operation.name)
    before = state.get(key, ProviderRecord)
    if before is None:
        raise NoOffer(name=operation.name)
    held = before.live > 0 or context.time_ms < before.held_until_ms
    held = held or is_held(state, sender, operation.name)
    if held and before.offer is None:
        raise BondHeld(live=before.live, until_ms=before.held_until_ms)
    if held:
        state.put(key, replace(before, offer=None))
    else:
        state.delete(key)
        credit(state, sender, before.bond)
    return [("offer", operation.name.encode("ascii"))]


def apply_open(state: WorkingState, sender: bytes, operation: OpenAgreement, context: Context) -> Sequence[Event]:
    """Open an agreement at a posted price."""
    limits, provider, name = context.agreements, operation.provider, operation.name
    _check_owner(state, name, provider, context)
    check_standing(state, provider, context.plan.era)
    if sender == provider:
        raise OwnCustomer(name=name)
    standing = state.get(provider_key(provider, name), ProviderRecord)
    if standing is None or standing.offer is None:
        raise NoOffer(name=name)
    offer = standing.offer
    if standing.bond < limits.bond_min:
        raise ProviderBondTooSmall(bond=standing.bond, least=limits.bond_min)
    if offer.unit_price > operation.price_limit or offer.quality_ppm < operation.quality_ppm:
        raise OfferDiffers(unit_price=offer.unit_price, quality_ppm=offer.quality_ppm)
    if operation.duration_ms > offer.longest_ms:
        raise WindowTooLong(duration_ms=operation.duration_ms, longest_ms=offer.longest_ms)
    if operation.deposit < limits.deposit_min:
        raise DepositTooSmall(deposit=operation.deposit, least=limits.deposit_min)
    identity = agreement_id(sender, operation.salt, context.height)
    if state.get(agreement_key(identity), Agreement) is not None:
        raise AgreementExists(agreement=identity.hex())
    debit(state, sender, operation.deposit)
    record = Agreement(
        name,
        sender,
        provider,
        operation.voucher_key,
        offer.unit,
        offer.unit_price,
        offer.quality_ppm,
        context.time_ms,
        context.time_ms + operation.duration_ms,
        offer.sleep_ms + limits.finality_ms,
        operation.deposit,
        operation.tail_tip,
        operation.tail_unit,
    )
    return _begin(state, identity, record, 0)


def open_matched(state: WorkingState, context: Context, terms: MatchedTerms) -> bytes:
    """Open what an auction agreed on; its id. The auction has checked the terms and locked the money."""
    identity = matched_id(terms.match, context.height)
    earlier = state.get(agreement_key(identity), Agreement)
    assert earlier is None, "a match opens one agreement"
    assert terms.client != terms.provider, "the auction matches two accounts"
    assert terms.start_ms < terms.end_ms, "an agreement lasts"
    assert min(terms.deposit, terms.bond, terms.sleep_ms) >= 0, "the auction checks amounts"
    record = Agreement(
        terms.name,
        terms.client,
        terms.provider,
        terms.voucher_key,
        terms.unit,
        terms.unit_price,
        terms.quality_ppm,
        terms.start_ms,
        terms.end_ms,
        terms.sleep_ms + context.agreements.finality_ms,
        terms.deposit,
        matched=True,
    )
    _begin(state, identity, record, terms.bond)
    return identity


def apply_top_up(state: WorkingState, sender: bytes, operation: TopUpAgreement, context: Context) -> Sequence[Event]:
    """Put more into a channel."""
    record = _allowed(state, operation.agreement, operation, context)
    if record.deposited + operation.amount > MAXIMUM_MICRO_BLOC:
        raise DepositTooLarge(deposited=record.deposited, amount=operation.amount)
    debit(state, sender, operation.amount)
    return _put(state, operation.agreement, replace(record, deposited=record.deposited + operation.amount))


def apply_extend(state: WorkingState, sender: bytes, operation: ExtendAgreement, context: Context) -> Sequence[Event]:
    """Let an agreement last longer. From now on it may last as long as a new one could."""
    record = _allowed(state, operation.agreement, operation, context)
    if sender != record.client:
        raise NotTheClient(agreement=operation.agreement.hex())
    if record.matched:
        raise NotExtendable(agreement=operation.agreement.hex())
    _check_owner(state, record.name, record.provider, context)
    standing = state.get(provider_key(record.provider, record.name), ProviderRecord)
    offer = standing.offer if standing is not None else None
    if offer is None:
        raise NoOffer(name=record.name)
    if offer.unit != record.unit or offer.unit_price > record.unit_price:
        raise OfferDiffers(unit_price=offer.unit_price, quality_ppm=offer.quality_ppm)
    end_ms = record.end_ms + operation.duration_ms
    if end_ms - context.time_ms > offer.longest_ms:
        raise WindowTooLong(duration_ms=end_ms - context.time_ms, longest_ms=offer.longest_ms)
    return _put(state, operation.agreement, replace(record, end_ms=end_ms))


def apply_claim(state: WorkingState, sender: bytes, operation: ClaimVoucher, context: Context) -> Sequence[Event]:
    """Pay what a voucher promises beyond what was paid. Its signature was checked with the transaction."""
    signed = operation.voucher
    voucher = signed.voucher
    if voucher.chain_id != context.chain_id:
        raise ClaimOfAnotherChain(chain=voucher.chain_id.hex()[:16])
    record = _allowed(state, voucher.agreement, operation, context)
    if signed.key != record.voucher_key:
        raise WrongVoucherSigner(key=signed.key.hex()[:16])
    last = (record.epoch, record.sequence)
    if voucher.amount <= record.voucher_amount:
        reason = StaleClaim if voucher.number < last else NothingToClaim
        raise reason(amount=voucher.amount, claimed=record.voucher_amount)
    epoch, sequence = max(voucher.number, last)
    after = replace(record, voucher_amount=voucher.amount, epoch=epoch, sequence=sequence)
    return _pay(state, voucher.agreement, record, after, context)


def apply_claim_payword(
    state: WorkingState, sender: bytes, operation: ClaimPayWord, context: Context
) -> Sequence[Event]:
    """Pay further layers of the PayWord tail, at most TAIL_STEPS of them at once."""
    record = _allowed(state, operation.agreement, operation, context)
    if not record.tail_tip:
        raise NoTail(agreement=operation.agreement.hex())
    further = operation.steps - record.tail_steps
    if further < 1:
        raise NothingToClaim(steps=operation.steps, claimed=record.tail_steps)
    if further > TAIL_STEPS or not verify_reveal(record.tail_tip, operation.reveal, further):
        raise WrongTailReveal(steps=operation.steps, claimed=record.tail_steps)
    after = replace(record, tail_tip=operation.reveal, tail_steps=operation.steps)
    return _pay(state, operation.agreement, record, after, context)


def apply_close(state: WorkingState, sender: bytes, operation: CloseAgreement, context: Context) -> Sequence[Event]:
    """The provider ends the agreement now. The client ends it when the timer does, and asks for that once."""
    record = _allowed(state, operation.agreement, operation, context)
    if sender == record.provider:
        return _end(state, operation.agreement, record, context)
    if sender != record.client:
        raise NotAParty(agreement=operation.agreement.hex())
    if record.closes_ms:
        raise AgreementClosing(agreement=operation.agreement.hex(), closes_ms=record.closes_ms)
    if context.time_ms >= record.end_ms:
        raise AgreementExpired(agreement=operation.agreement.hex(), claims_until_ms=claims_until_ms(record))
    closes_ms = context.time_ms + record.close_timer_ms
    return _put(state, operation.agreement, replace(record, closes_ms=closes_ms))


def apply_settle(state: WorkingState, sender: bytes, operation: SettleAgreement, context: Context) -> Sequence[Event]:
    """Pay out an agreement whose time for claims is over."""
    record = _allowed(state, operation.agreement, operation, context)
    return _end(state, operation.agreement, record, context)


def pay_breach(state: WorkingState, context: Context, agreement: bytes, amount: int) -> int:
    """Pay the client of an agreement up to `amount` from its provider's bond, for a promise that was not kept; what
    was paid. The agreement may be over, as long as the bond is there."""
    record = state.get(agreement_key(agreement), Agreement)
    assert record is not None, "the caller knows the agreement"
    assert amount >= 0, "a breach costs the provider"
    key = provider_key(record.provider, record.name)
    standing = state.get(key, ProviderRecord)
    paid = min(amount, standing.bond) if standing is not None else 0
    if standing is None or paid == 0:
        return 0
    state.put(key, replace(standing, bond=standing.bond - paid))
    credit(state, record.client, paid)
    _put(state, agreement, replace(record, breach_paid=record.breach_paid + paid))
    return paid


def _allowed(state: WorkingState, agreement: bytes, operation: object, context: Context) -> Agreement:
    """The agreement, if its status lets the operation through. Raises what `TRANSITIONS` says."""
    record = state.get(agreement_key(agreement), Agreement)
    refusal = TRANSITIONS[status_of(record, context.time_ms)][type(operation)]
    if refusal is not None:
        raise refusal(agreement=agreement.hex())
    assert record is not None, "an unknown agreement lets nothing through"
    return record


def _check_owner(state: WorkingState, name: str, provider: bytes, context: Context) -> None:
    """Raise NotTheProvider unless `name` is active and `provider` owns it."""
    record = state.get(name_key(name), NameRecord)
    if record is None or not record.is_active(context.height) or record.owner != provider:
        raise NotTheProvider(name=name)


def _begin(state: WorkingState, agreement: bytes, record: Agreement, bond: int) -> Sequence[Event]:
    key = provider_key(record.provider, record.name)
    standing = state.get(key, ProviderRecord) or ProviderRecord(record.name, record.provider, 0)
    state.put(key, replace(standing, bond=standing.bond + bond, live=standing.live + 1))
    return _put(state, agreement, record)


def _pay(
    state: WorkingState, agreement: bytes, before: Agreement, after: Agreement, context: Context
) -> Sequence[Event]:
    """Pay what `after` has claimed beyond `before`, less the levy. The levy is of the sum of all payments, so it is
    the same however they are split."""
    if after.paid > before.deposited:
        raise ClaimAboveDeposit(claimed=after.paid, deposited=before.deposited)
    levied = after.paid * context.agreements.levy_ppm // PARTS_PER_MILLION
    levy = levied - before.levied
    credit(state, before.provider, after.paid - before.paid - levy)
    if levy:
        key = pot_key(before.name)
        pot = state.get(key, PotRecord)
        state.put(key, PotRecord(before.name, levy + (pot.balance if pot is not None else 0)))
    return _put(state, agreement, replace(after, levied=levied))


def _end(state: WorkingState, agreement: bytes, record: Agreement, context: Context) -> Sequence[Event]:
    """What is left to the client; the bond stays for a while."""
    credit(state, record.client, record.balance)
    key = provider_key(record.provider, record.name)
    standing = state.get(key, ProviderRecord)
    assert standing is not None, "a bond stays while agreements run"
    held = max(standing.held_until_ms, context.time_ms + context.agreements.bond_hold_ms)
    state.put(key, replace(standing, live=standing.live - 1, held_until_ms=held))
    return _put(state, agreement, replace(record, closed_ms=context.time_ms))


def _put(state: WorkingState, agreement: bytes, record: Agreement) -> Sequence[Event]:
    state.put(agreement_key(agreement), record)
    return [("agreement", agreement)]


AGREEMENT_RULES: Final[Mapping[type, Callable[[WorkingState, bytes, Any, Context], Sequence[Event]]]] = {
    PostOffer: apply_post_offer,
    WithdrawOffer: apply_withdraw_offer,
    OpenAgreement: apply_open,
    TopUpAgreement: apply_top_up,
    ExtendAgreement: apply_extend,
    ClaimVoucher: apply_claim,
    ClaimPayWord: apply_claim_payword,
    CloseAgreement: apply_close,
    SettleAgreement: apply_settle,
}
