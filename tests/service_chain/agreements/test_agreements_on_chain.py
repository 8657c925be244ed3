"""Agreements on the ledger: what each operation does, what is refused and why, and that no micro-BLOC is lost."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from blockcloud.primitives.errors import BadConfiguration, BadSignature, Malformed
from blockcloud.service_chain.agreements import rules
from blockcloud.service_chain.agreements.operations import (
    ClaimPayWord,
    ClaimVoucher,
    CloseAgreement,
    ExtendAgreement,
    SettleAgreement,
    TopUpAgreement,
    WithdrawOffer,
)
from blockcloud.service_chain.agreements.parameters import AgreementParameters
from blockcloud.service_chain.agreements.rules import (
    TRANSITIONS,
    AgreementStatus,
    MatchedTerms,
    open_matched,
    pay_breach,
)
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.operations import Operation, RevokeName, check_operation
from tests.service_chain.agreements.channel_world import (
    BOND,
    CLIENT,
    DEPOSIT,
    NAME,
    ONION,
    PRICE,
    PROVIDER,
    STRANGER,
    TIMER_MS,
    VOUCHER_KEY,
    WINDOW_MS,
    ChannelWorld,
    offer,
    opening,
)
from tests.service_chain.ledger_in_memory import RICH, SALT, Ledger, small_genesis


@pytest.fixture
def world() -> ChannelWorld:
    return ChannelWorld()


def test_a_voucher_pays_the_provider_less_the_levy_and_anybody_may_post_it(world: ChannelWorld) -> None:
    agreement = world.open()
    before = world.balance(PROVIDER)
    assert world.claim(agreement, 1_000) == "ok"
    assert (world.balance(PROVIDER) - before, world.pot()) == (980, 20)
    assert world.claim(agreement, 1_049, 2) == "ok"
    # The levy is of the sum: 2 % of 1,049 is 20, which is paid already.
    assert (world.balance(PROVIDER) - before, world.pot()) == (1_029, 20)
    assert world.record(agreement).balance == DEPOSIT - 1_049
    assert world.ledger.money() == world.ledger.chain.fees.supply


def test_the_highest_amount_wins_whatever_the_numbers(world: ChannelWorld) -> None:
    agreement = world.open()
    # Were numbers to decide, this one would void all that the client has paid.
    assert world.claim(agreement, 1, 2**60) == "ok"
    assert world.claim(agreement, 500, 3) == "ok"
    assert world.claim(agreement, 700, 3) == "ok"
    assert world.claim(agreement, 600, 3) == "stale_claim"
    assert world.claim(agreement, 700, 2**60) == "nothing_to_claim"
    assert world.record(agreement).paid == 700


def test_claims_that_are_not_good(world: ChannelWorld) -> None:
    agreement, other = world.open(), world.open(STRANGER)
    assert world.claim(agreement, DEPOSIT + 1) == "claim_above_deposit"
    assert world.claim(agreement, 5, chain_id=bytes(32)) == "claim_of_another_chain"
    assert world.claim(bytes(32), 5) == "unknown_agreement"
    assert world.claim(agreement, 5, key=CLIENT) == "wrong_voucher_signer"
    good = world.voucher(agreement, 5)
    for forged in (
        replace(good, voucher=replace(good.voucher, amount=6)),
        replace(good, voucher=replace(good.voucher, agreement=other)),
        replace(good, key=CLIENT.public),
    ):
        with pytest.raises(BadSignature):
            check_operation(ClaimVoucher(forged))
    assert world.ledger.run(STRANGER, ClaimVoucher(good)) == "ok"


def test_the_payee_closes_at_once_and_the_rest_is_the_clients(world: ChannelWorld) -> None:
    agreement = world.open()
    last = ClaimVoucher(world.voucher(agreement, 4_000))
    before = world.balance(CLIENT)
    assert world.ledger.run(PROVIDER, last, CloseAgreement(agreement)) == "ok"
    assert world.balance(CLIENT) - before == DEPOSIT - 4_000
    assert world.claim(agreement, 5_000, 2) == "agreement_closed"
    assert world.ledger.run(CLIENT, CloseAgreement(agreement)) == "agreement_closed"


def test_the_payer_waits_while_the_payee_may_claim_more(world: ChannelWorld) -> None:
    agreement = world.open()
    assert world.claim(agreement, 100) == "ok"
    assert world.ledger.run(STRANGER, CloseAgreement(agreement)) == "not_a_party"
    assert world.ledger.run(CLIENT, CloseAgreement(agreement)) == "ok"
    assert world.ledger.run(CLIENT, CloseAgreement(agreement)) == "agreement_closing"
    assert world.ledger.run(CLIENT, TopUpAgreement(agreement, 1)) == "agreement_closing"
    assert world.ledger.run(CLIENT, SettleAgreement(agreement)) == "agreement_not_due"
    # The last commit in which the dispute is heard.
    assert world.record(agreement).closes_ms == (world.ledger.height + 2) * 100
    assert world.claim(agreement, 5_000, 2) == "ok"
    assert world.claim(agreement, 6_000, 3) == "agreement_due"
    assert world.ledger.run(PROVIDER, CloseAgreement(agreement)) == "agreement_due"
    before = world.balance(CLIENT)
    assert world.ledger.run(STRANGER, SettleAgreement(agreement)) == "ok"
    assert world.balance(CLIENT) - before == DEPOSIT - 5_000
    assert world.ledger.run(STRANGER, SettleAgreement(agreement)) == "agreement_closed"
    assert world.ledger.money() == world.ledger.chain.fees.supply


def test_a_window_ends_and_claims_end_a_timer_later(world: ChannelWorld) -> None:
    agreement = world.open()
    world.ledger.advance(WINDOW_MS // 100)
    assert world.ledger.run(CLIENT, CloseAgreement(agreement)) == "agreement_expired"
    assert world.ledger.run(CLIENT, ExtendAgreement(agreement, 100)) == "agreement_expired"
    assert world.ledger.run(STRANGER, SettleAgreement(agreement)) == "agreement_not_due"
    assert world.claim(agreement, 100) == "ok"
    world.ledger.advance(TIMER_MS // 100 - 5)
    assert world.claim(agreement, 200, 2) == "agreement_due"
    assert world.ledger.run(STRANGER, SettleAgreement(agreement)) == "ok"


def test_top_up_and_extend(world: ChannelWorld) -> None:
    agreement = world.open(duration_ms=900)
    assert world.ledger.run(STRANGER, TopUpAgreement(agreement, 900)) == "ok"
    assert world.claim(agreement, DEPOSIT + 900) == "ok"
    assert world.ledger.run(PROVIDER, ExtendAgreement(agreement, 100)) == "not_the_client"
    assert world.ledger.run(CLIENT, ExtendAgreement(agreement, WINDOW_MS)) == "window_too_long"
    end_ms = world.record(agreement).end_ms
    assert world.ledger.run(CLIENT, ExtendAgreement(agreement, 1_000)) == "ok"
    assert world.record(agreement).end_ms == end_ms + 1_000
    assert world.ledger.run(PROVIDER, offer(unit_price=PRICE + 1, bond=0)) == "ok"
    assert world.ledger.run(CLIENT, ExtendAgreement(agreement, 100)) == "offer_differs"
    assert world.ledger.run(PROVIDER, offer(unit="byte", bond=0)) == "ok"
    assert world.ledger.run(CLIENT, ExtendAgreement(agreement, 100)) == "offer_differs"
    assert world.ledger.run(CLIENT, TopUpAgreement(agreement, 2**62)) == "deposit_too_large"


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (opening(price_limit=PRICE - 1), "offer_differs"),
        (opening(quality_ppm=990_001), "offer_differs"),
        (opening(duration_ms=WINDOW_MS + 1), "window_too_long"),
        (opening(deposit=9_999), "deposit_too_small"),
        (opening(deposit=2 * RICH), "insufficient_balance"),
        (opening(provider=STRANGER.public), "not_the_provider"),
        (opening(name="nobody"), "not_the_provider"),
    ],
)
def test_openings_that_are_refused(world: ChannelWorld, operation: Operation, code: str) -> None:
    assert world.ledger.run(CLIENT, operation) == code


def test_offers(world: ChannelWorld) -> None:
    ledger = world.ledger
    assert ledger.run(STRANGER, offer()) == "not_the_provider"
    assert ledger.run(PROVIDER, offer(sleep_ms=8 * 24 * 3_600_000)) == "offer_out_of_bounds"
    assert ledger.run(PROVIDER, opening()) == "own_customer"
    assert ledger.run(STRANGER, WithdrawOffer(NAME)) == "no_offer"
    twice = ledger.sign(CLIENT, opening(), opening())
    assert ledger.commit(twice) == ["agreement_exists"]
    agreement = world.open()
    assert ledger.run(PROVIDER, WithdrawOffer(NAME)) == "ok"
    assert ledger.run(CLIENT, opening()) == "no_offer"
    assert ledger.run(CLIENT, ExtendAgreement(agreement, 100)) == "no_offer"
    assert ledger.run(PROVIDER, WithdrawOffer(NAME)) == "bond_held"
    assert ledger.run(PROVIDER, CloseAgreement(agreement)) == "ok"
    assert ledger.run(PROVIDER, WithdrawOffer(NAME)) == "bond_held"
    ledger.advance(9)
    before = world.balance(PROVIDER)
    assert ledger.run(PROVIDER, WithdrawOffer(NAME)) == "ok"
    assert world.provider() is None
    assert BOND - 1_000 < world.balance(PROVIDER) - before <= BOND
    assert ledger.run(PROVIDER, offer(bond=999)) == "provider_bond_too_small"
    assert ledger.run(PROVIDER, RevokeName(NAME)) == "ok"
    assert ledger.run(PROVIDER, offer()) == "not_the_provider"
    assert ledger.money() == ledger.chain.fees.supply


def test_a_payword_tail(world: ChannelWorld) -> None:
    agreement, plain = world.open(tail_tip=ONION.tip, tail_unit=10), world.open(STRANGER)
    run = world.ledger.run
    assert run(STRANGER, ClaimPayWord(plain, ONION.reveal(1), 1)) == "no_payword_tail"
    assert run(STRANGER, ClaimPayWord(agreement, ONION.reveal(2), 1)) == "wrong_payword_reveal"
    assert run(STRANGER, ClaimPayWord(agreement, ONION.reveal(1_025), 1_025)) == "wrong_payword_reveal"
    assert run(STRANGER, ClaimPayWord(agreement, ONION.reveal(1_024), 1_024)) == "ok"
    assert run(STRANGER, ClaimPayWord(agreement, ONION.reveal(1_000), 1_000)) == "nothing_to_claim"
    # Voucher and tail add up, and stay below the deposit together.
    assert world.claim(agreement, DEPOSIT - 10_239) == "claim_above_deposit"
    assert world.claim(agreement, DEPOSIT - 10_250) == "ok"
    assert run(STRANGER, ClaimPayWord(agreement, ONION.reveal(1_026), 1_026)) == "claim_above_deposit"
    assert run(STRANGER, ClaimPayWord(agreement, ONION.reveal(1_025), 1_025)) == "ok"
    assert world.record(agreement).balance == 0
    for tip, unit in ((b"", 5), (ONION.tip, 0), (b"short", 5)):
        with pytest.raises(Malformed):
            check_operation(opening(tail_tip=tip, tail_unit=unit))
    assert world.ledger.money() == world.ledger.chain.fees.supply


def at_work(world: ChannelWorld) -> tuple[rules.WorkingState, rules.Context]:
    """What another rule of the next commit would be called with."""
    chain, known = world.ledger.chain, []
    original = chain._context

    def spy(commit: object) -> rules.Context:
        known.append(original(commit))  # type: ignore[arg-type]
        return known[-1]

    chain._context = spy  # type: ignore[method-assign,assignment]
    world.ledger.advance(1)
    return chain._working, known[-1]


def test_a_breach_is_paid_from_the_bond_even_after_the_end(world: ChannelWorld) -> None:
    agreement = world.open()
    assert world.ledger.run(PROVIDER, CloseAgreement(agreement)) == "ok"
    before = world.balance(CLIENT)
    state, context = at_work(world)
    assert pay_breach(state, context, agreement, 20_000) == 20_000
    assert pay_breach(state, context, agreement, BOND) == BOND - 20_000
    assert pay_breach(state, context, agreement, 1) == 0
    world.ledger.advance(1)
    assert world.balance(CLIENT) - before == BOND
    assert world.record(agreement).breach_paid == BOND
    assert world.ledger.run(CLIENT, opening()) == "provider_bond_too_small"
    assert world.ledger.money() == world.ledger.chain.fees.supply


def test_a_match_opens_an_agreement_with_money_that_is_locked_already(world: ChannelWorld) -> None:
    state, context = at_work(world)
    start = context.time_ms + 300
    terms = MatchedTerms(
        match=SALT,
        name="other",
        client=CLIENT.public,
        provider=PROVIDER.public,
        voucher_key=VOUCHER_KEY.public,
        unit="request",
        unit_price=7,
        quality_ppm=0,
        start_ms=start,
        end_ms=start + 500,
        sleep_ms=0,
        deposit=9_000,
        bond=800,
    )
    rules.debit(state, CLIENT.public, terms.deposit)
    rules.debit(state, PROVIDER.public, terms.bond)
    agreement = open_matched(state, context, terms)
    world.ledger.advance(1)
    assert world.ledger.money() == world.ledger.chain.fees.supply
    assert world.claim(agreement, 50) == "agreement_not_begun"
    assert world.ledger.run(CLIENT, TopUpAgreement(agreement, 5)) == "ok"
    assert world.claim(agreement, 50) == "ok"
    assert world.ledger.run(CLIENT, ExtendAgreement(agreement, 5)) == "not_extendable"
    assert world.ledger.run(PROVIDER, WithdrawOffer("other")) == "bond_held"
    assert world.ledger.run(PROVIDER, CloseAgreement(agreement)) == "ok"
    world.ledger.advance(10)
    assert world.ledger.run(PROVIDER, WithdrawOffer("other")) == "ok"
    assert world.ledger.money() == world.ledger.chain.fees.supply


def test_the_table_of_transitions_is_complete() -> None:
    kinds = {TopUpAgreement, ExtendAgreement, ClaimVoucher, ClaimPayWord, CloseAgreement, SettleAgreement}
    assert list(TRANSITIONS) == list(AgreementStatus)
    assert all(set(row) == kinds for row in TRANSITIONS.values())


@pytest.mark.parametrize(
    "changes",
    [{"levy_ppm": 1_000_000}, {"levy_ppm": -1}, {"finality_ms": 0}, {"bond_hold_ms": 2**60}, {"bond_min": 0}],
)
def test_parameters_that_do_not_fit(changes: dict[str, int]) -> None:
    genesis = replace(small_genesis(), agreements=AgreementParameters(**changes))
    with pytest.raises(BadConfiguration):
        genesis.check()


def test_the_genesis_file_carries_them() -> None:
    genesis = replace(small_genesis(), agreements=AgreementParameters(levy_ppm=7))
    assert Genesis.from_json(genesis.to_json()) == genesis


def test_a_ledger_goes_on_after_a_restart(world: ChannelWorld) -> None:
    agreement = world.open()
    ledger: Ledger = world.ledger
    assert world.claim(agreement, 100) == "ok"
    ledger.restart()
    assert world.claim(agreement, 200, 2) == "ok"
    assert world.record(agreement).paid == 200
