"""Planted bugs of markets on the ledger, and the tests that must find them."""

from __future__ import annotations

from tests.transaction_chain.mutants import PYTEST, TESTS, Mutant

RULES = "service_chain/market/rules.py"
ROUNDS = "service_chain/market/rounds.py"
LISTING = "service_chain/market/listing.py"
FOLDER = TESTS / "service_chain/market"
CHAIN = (*PYTEST, "--import-mode=importlib", str(FOLDER / "test_markets_on_chain.py"))
LISTS = (*PYTEST, "--hypothesis-seed=1", "--import-mode=importlib", str(FOLDER / "test_market_listing.py"))
MODEL = (*PYTEST, "--hypothesis-seed=1", "--import-mode=importlib", str(FOLDER / "test_markets_machine.py"))

MARKETS_ON_CHAIN = [
    Mutant(
        "a buyer pays his limit",
        ROUNDS,
        "        changes.pay(buyer, promised - trade.paid * units)\n",
        "        changes.pay(buyer, 0)\n",
        CHAIN,
    ),
    Mutant(
        "the surplus is not burned",
        ROUNDS,
        "    changes.burned += outcome.surplus\n",
        "    changes.burned += 0\n",
        CHAIN,
    ),
    Mutant(
        "a cancelled order's money comes back at once",
        ROUNDS,
        "        if after.status is OrderStatus.CANCELLED and record.order.expiry <= outcome.round:\n",
        "        if after.status is OrderStatus.CANCELLED:\n",
        CHAIN,
    ),
    Mutant(
        "who rests may order again a round too early",
        ROUNDS,
        "        if after.status is not OrderStatus.LIVE and record.until <= outcome.round:\n",
        "        if after.status is not OrderStatus.LIVE and record.until <= outcome.round + 1:\n",
        MODEL,
    ),
    Mutant(
        "a cancelled order trades",
        RULES,
        "    state.put(place, replace(record, status=OrderStatus.CANCELLED))\n",
        "    state.put(place, record)\n",
        MODEL,
    ),
    Mutant(
        "an account has two orders",
        RULES,
        "    if earlier is not None and earlier.status is OrderStatus.LIVE:\n",
        "    if earlier is not None and earlier.status is OrderStatus.CANCELLED:\n",
        MODEL,
    ),
    Mutant(
        "a round is held with every commit",
        ROUNDS,
        "        if now <= calendar.round:\n",
        "        if now < calendar.round:\n",
        MODEL,
    ),
    Mutant(
        "a market that was idle goes on with old prices",
        RULES,
        "    return replace(book, coming_round=book.coming_round + skipped, prices=prices)\n",
        "    return replace(book, coming_round=book.coming_round + skipped)\n",
        CHAIN,
    ),
    Mutant(
        "the lottery is known before the round",
        ROUNDS,
        "codec.encode((context.plan.beacon, commit_digest, market.id))",
        "codec.encode((context.plan.beacon, bytes(32), market.id))",
        MODEL,
    ),
    Mutant(
        "a name that was lost still sells",
        ROUNDS,
        "        if record.name and record.status is OrderStatus.LIVE and not serves(",
        "        if not record.name and record.status is OrderStatus.LIVE and not serves(",
        CHAIN,
    ),
    Mutant(
        "who does not reveal loses nothing",
        ROUNDS,
        "            forfeit = record.bond - context.market.identity_bond\n",
        "            forfeit = 0 * record.bond\n",
        CHAIN,
    ),
    Mutant(
        "a list forgets who came last",
        LISTING,
        "    while state.get(page_key(listing, end - 1), Page) is None:\n",
        "    while end > first + 1:\n",
        LISTS,
    ),
    Mutant(
        "a reveal may be of something else",
        RULES,
        "    if order_commitment(sender, sealed, operation.salt) != hidden.commitment:\n",
        "    if not hidden.commitment:\n",
        CHAIN,
    ),
]
