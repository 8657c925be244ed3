"""Planted bugs of agreements and vouchers, and the tests that must find them."""

from __future__ import annotations

from tests.transaction_chain.mutants import PYTEST, TESTS, Mutant

RULES = "service_chain/agreements/rules.py"
VOUCHERS = "service_chain/agreements/vouchers.py"
RECEIPTS = "service_chain/agreements/receipts.py"
OPERATIONS = "service_chain/agreements/operations.py"
FOLDER = TESTS / "service_chain/agreements"
CHAIN = (*PYTEST, "--import-mode=importlib", str(FOLDER / "test_agreements_on_chain.py"))
PAYEE = (*PYTEST, "--import-mode=importlib", str(FOLDER / "test_vouchers.py"))

AGREEMENTS = [
    Mutant(
        "a voucher pays its whole amount again",
        RULES,
        "    credit(state, before.provider, after.paid - before.paid - levy)\n",
        "    credit(state, before.provider, after.paid - levy)\n",
        CHAIN,
    ),
    Mutant(
        "the number of a voucher decides, not its amount",
        RULES,
        "    if voucher.amount <= record.voucher_amount:\n",
        "    if voucher.amount <= record.voucher_amount or voucher.number < last:\n",
        CHAIN,
    ),
    Mutant(
        "the levy is of each payment by itself",
        RULES,
        "    levy = levied - before.levied\n",
        "    levy = (after.paid - before.paid) * context.agreements.levy_ppm // PARTS_PER_MILLION + 1\n",
        CHAIN,
    ),
    Mutant(
        "a channel pays more than it holds",
        RULES,
        "    if after.paid > before.deposited:\n",
        "    if after.voucher_amount > before.deposited:\n",
        CHAIN,
    ),
    Mutant(
        "anybody's vouchers count",
        RULES,
        "    if signed.key != record.voucher_key:\n",
        "    if signed.key == record.provider:\n",
        CHAIN,
    ),
    Mutant(
        "vouchers of another chain count",
        RULES,
        "    if voucher.chain_id != context.chain_id:\n",
        "    if not voucher.chain_id:\n",
        CHAIN,
    ),
    Mutant(
        "a dispute is heard for one moment too long",
        RULES,
        "    if time_ms >= claims_until_ms(record):\n",
        "    if time_ms > claims_until_ms(record):\n",
        CHAIN,
    ),
    Mutant(
        "a client closes at once",
        RULES,
        "    if sender == record.provider:\n",
        "    if sender in (record.provider, record.client):\n",
        CHAIN,
    ),
    Mutant(
        "a bond is free as soon as the agreement is closed",
        RULES,
        "    held = before.live > 0 or context.time_ms < before.held_until_ms\n",
        "    held = before.live > 0\n",
        CHAIN,
    ),
    Mutant(
        "a breach takes more than the bond",
        RULES,
        "    paid = min(amount, standing.bond) if standing is not None else 0\n",
        "    paid = amount if standing is not None else 0\n",
        CHAIN,
    ),
    Mutant(
        "a voucher's signature is not checked",
        OPERATIONS,
        "    operation.voucher.verify()\n",
        "    assert operation.voucher.signature\n",
        CHAIN,
    ),
    Mutant(
        "a payee takes a voucher of the same number again",
        VOUCHERS,
        "            if voucher.number <= last.number:\n",
        "            if voucher.number < last.number:\n",
        PAYEE,
    ),
    Mutant(
        "there is credit before the first payment",
        VOUCHERS,
        "        return self._credit_units * self.channel.unit_price if self.promised else 0\n",
        "        return self._credit_units * self.channel.unit_price\n",
        PAYEE,
    ),
    Mutant(
        "a payee forgets the tail when it looks at the deposit",
        VOUCHERS,
        "        amount = self.promised + further * channel.tail_unit\n",
        "        amount = further * channel.tail_unit\n",
        PAYEE,
    ),
    Mutant(
        "the sums of the receipt tree are not hashed",
        RECEIPTS,
        "left[0] + left[1].to_bytes(8) + right[0] + right[1].to_bytes(8)",
        "left[0] + right[0]",
        PAYEE,
    ),
    Mutant(
        "a payee takes an unsigned voucher",
        VOUCHERS,
        "        signed.verify()\n",
        "        assert signed.signature\n",
        PAYEE,
    ),
]
