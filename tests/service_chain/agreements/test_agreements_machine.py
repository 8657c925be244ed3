"""Agreements against a slow obvious model: a list of what was said, from which every balance is worked out anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from blockcloud.service_chain.agreements.operations import (
    ClaimPayWord,
    CloseAgreement,
    ExtendAgreement,
    SettleAgreement,
    TopUpAgreement,
)
from tests.service_chain.agreements.channel_world import (
    CLIENT,
    ONION,
    PROVIDER,
    STRANGER,
    TIMER_MS,
    WINDOW_MS,
    ChannelWorld,
)

PEOPLE = {"client": CLIENT, "provider": PROVIDER, "stranger": STRANGER}
TAIL_UNIT = 70


@dataclass
class Told:
    """One agreement, as somebody with paper and pencil would keep it."""

    deposits: list[int]
    begins: int
    ends: int
    vouchers: list[int] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    closing_since: int | None = None
    over: bool = False

    def owed(self) -> int:
        return max([0, *self.vouchers]) + max([0, *self.layers]) * TAIL_UNIT

    def refusal_of_claim(self, now: int) -> str | None:
        if self.over:
            return "agreement_closed"
        deadline = self.ends + TIMER_MS if self.closing_since is None else self.closing_since + TIMER_MS
        return None if now < deadline else "agreement_due"


class AgreementMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = ChannelWorld()
        self.told: dict[bytes, Told] = {}

    @property
    def next_ms(self) -> int:
        """The time of the next commit."""
        return (self.world.ledger.height + 1) * 100

    def draw(self, number: int) -> tuple[bytes, Told]:
        return list(self.told.items())[number % len(self.told)]

    @precondition(lambda self: len(self.told) < 3)
    @rule(deposit=st.sampled_from([10_000, 30_000]), duration=st.sampled_from([300, 1_000, WINDOW_MS]))
    def open(self, deposit: int, duration: int) -> None:
        now = self.next_ms
        agreement = self.world.open(deposit=deposit, duration_ms=duration, tail_tip=ONION.tip, tail_unit=TAIL_UNIT)
        self.told[agreement] = Told([deposit], now, now + duration)

    @precondition(lambda self: len(self.told) > 0)
    @rule(
        number=st.integers(0, 9),
        amount=st.sampled_from([1, 77, 5_000, 9_999, 10_000, 30_000, 30_001]),
        sequence=st.integers(1, 4),
    )
    def claim(self, number: int, amount: int, sequence: int) -> None:
        agreement, told = self.draw(number)
        expected = told.refusal_of_claim(self.next_ms)
        best = max([0, *told.vouchers])
        code = self.world.claim(agreement, amount, sequence)
        if expected is None and amount <= best:
            assert code in ("stale_claim", "nothing_to_claim")
        elif expected is None and amount + told.owed() - best > sum(told.deposits):
            assert code == "claim_above_deposit"
        else:
            assert code == (expected or "ok")
        if code == "ok":
            told.vouchers.append(amount)

    @precondition(lambda self: len(self.told) > 0)
    @rule(number=st.integers(0, 9), steps=st.sampled_from([1, 5, 60, 140, 400]), honest=st.booleans())
    def claim_tail(self, number: int, steps: int, honest: bool) -> None:
        agreement, told = self.draw(number)
        expected = told.refusal_of_claim(self.next_ms)
        before = max([0, *told.layers])
        reveal = ONION.reveal(steps if honest else steps + 1)
        code = self.world.ledger.run(STRANGER, ClaimPayWord(agreement, reveal, steps))
        if expected is None and steps <= before:
            expected = "nothing_to_claim"
        elif expected is None and not honest:
            expected = "wrong_payword_reveal"
        elif expected is None and told.owed() + (steps - before) * TAIL_UNIT > sum(told.deposits):
            expected = "claim_above_deposit"
        assert code == (expected or "ok")
        if code == "ok":
            told.layers.append(steps)

    @precondition(lambda self: len(self.told) > 0)
    @rule(number=st.integers(0, 9), who=st.sampled_from(list(PEOPLE)))
    def close(self, number: int, who: str) -> None:
        agreement, told = self.draw(number)
        now = self.next_ms
        expected = told.refusal_of_claim(now)
        if expected is None and who == "stranger":
            expected = "not_a_party"
        elif expected is None and who == "client" and told.closing_since is not None:
            expected = "agreement_closing"
        elif expected is None and who == "client" and now >= told.ends:
            expected = "agreement_expired"
        assert self.world.ledger.run(PEOPLE[who], CloseAgreement(agreement)) == (expected or "ok")
        if expected is None and who == "provider":
            told.over = True
        elif expected is None:
            told.closing_since = now

    @precondition(lambda self: len(self.told) > 0)
    @rule(number=st.integers(0, 9))
    def settle(self, number: int) -> None:
        agreement, told = self.draw(number)
        refusal = told.refusal_of_claim(self.next_ms)
        expected = {None: "agreement_not_due", "agreement_due": "ok", "agreement_closed": "agreement_closed"}[refusal]
        assert self.world.ledger.run(STRANGER, SettleAgreement(agreement)) == expected
        told.over = told.over or expected == "ok"

    @precondition(lambda self: len(self.told) > 0)
    @rule(number=st.integers(0, 9), amount=st.sampled_from([1, 25_000]), extend=st.booleans())
    def more(self, number: int, amount: int, extend: bool) -> None:
        agreement, told = self.draw(number)
        now = self.next_ms
        expected = told.refusal_of_claim(now)
        if expected is None and told.closing_since is not None:
            expected = "agreement_closing"
        elif expected is None and now >= told.ends:
            expected = "agreement_expired"
        elif expected is None and extend and told.ends + 500 - now > WINDOW_MS:
            expected = "window_too_long"
        operation: Any = ExtendAgreement(agreement, 500) if extend else TopUpAgreement(agreement, amount)
        assert self.world.ledger.run(CLIENT, operation) == (expected or "ok")
        if expected is None and extend:
            told.ends += 500
        elif expected is None:
            told.deposits.append(amount)

    @rule(commits=st.sampled_from([1, 3, 8]))
    def wait(self, commits: int) -> None:
        self.world.ledger.advance(commits)

    @invariant()
    def the_money_is_where_it_should_be(self) -> None:
        assert self.world.pot() == sum(told.owed() * 2 // 100 for told in self.told.values())
        for agreement, told in self.told.items():
            record = self.world.record(agreement)
            assert (record.paid, record.deposited) == (told.owed(), sum(told.deposits))
            assert record.balance == (0 if told.over else sum(told.deposits) - told.owed())
        provider = self.world.provider()
        assert provider is not None
        assert provider.live == sum(not told.over for told in self.told.values())

    def teardown(self) -> None:
        ledger = self.world.ledger
        assert ledger.money() == ledger.chain.fees.supply


TestAgreements = AgreementMachine.TestCase
TestAgreements.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
