"""Planted bugs of the auction: each must be seen by the search for lies, the obvious models or the refusals."""

from __future__ import annotations

from tests.transaction_chain.mutants import PYTEST, TESTS, Mutant

CHOSEN = ("-m", "not long", "--hypothesis-seed=1")
FOLDER = TESTS / "service_chain/market"
LIES = (*PYTEST, *CHOSEN, "--import-mode=importlib", str(FOLDER / "test_market_lies.py"))
RATCHET = (*PYTEST, *CHOSEN, "--import-mode=importlib", str(FOLDER / "test_market_ratchet.py"))
SEALED = (*PYTEST, *CHOSEN, "--import-mode=importlib", str(FOLDER / "test_market_sealed.py"))

ENGINE = "service_chain/market/ratchet.py"
LOTTERY = "service_chain/market/lottery.py"
PRICE = "service_chain/market/price.py"
MCAFEE = "service_chain/market/mcafee.py"

MARKET = [
    Mutant(
        "who trades pays the price of the round",
        ENGINE,
        "Trade(bid.id, ask.id, quantity, highest[bid.expiry - now], lowest[ask.expiry - now])",
        "Trade(bid.id, ask.id, quantity, price, price)",
        LIES,
    ),
    Mutant(
        "the window of prices begins with the arrival",
        ENGINE,
        "        for price in reversed(self._prices):\n",
        "        for price in [self.price] * len(self._prices):\n",
        LIES,
    ),
    Mutant(
        "live orders move the price",
        ENGINE,
        "        departed = [waiting for waiting, _ in gone]\n",
        "        departed = [*(waiting for waiting, _ in gone), *self._live.values()]\n",
        LIES,
    ),
    Mutant(
        "a ticket depends on the order",
        LOTTERY,
        "hasher.update(one.order.identity)",
        "hasher.update(one.order.identity + one.order.limit.to_bytes(8))",
        LIES,
    ),
    Mutant(
        "who comes first is served first",
        LOTTERY,
        "    return sorted(waiting, key=ticket)",
        "    return sorted(waiting, key=lambda one: (one.order.arrival, ticket(one)))",
        RATCHET,
    ),
    Mutant(
        "who is in a hurry is served first",
        LOTTERY,
        "    return sorted(waiting, key=ticket)",
        "    return sorted(waiting, key=lambda one: (one.order.expiry, ticket(one)))",
        LIES,
    ),
    Mutant(
        "a seller stays in though his window pays less than he asks",
        ENGINE,
        "elif order.limit <= lowest[order.expiry - now]:",
        "elif order.limit <= price:",
        LIES,
    ),
    Mutant(
        "whoever cancels may order again",
        ENGINE,
        "        del self._live[order_id]\n",
        "        del self._live[order_id]\n        del self._known[identity]\n",
        RATCHET,
    ),
    Mutant(
        "whoever was priced out may order again",
        ENGINE,
        "            if why is Why.FILLED:\n",
        "            if why is not Why.EXPIRED:\n",
        RATCHET,
    ),
    Mutant(
        "the price goes all the way at once",
        PRICE,
        "max(abs(way) // PACE_PARTS, 1), max(price // STEP_PARTS, 1))",
        "max(abs(way) // PACE_PARTS, 1), abs(way))",
        RATCHET,
    ),
    Mutant(
        "a large order moves the price as far as it likes",
        PRICE,
        "min(order.quantity, COUNTED_UNITS)",
        "order.quantity",
        RATCHET,
    ),
    Mutant(
        "what was left out of a filled order is lost at a restart",
        ENGINE,
        "Waiting(order, quantity_left) for",
        "Waiting(order, order.quantity) for",
        RATCHET,
    ),
    Mutant(
        "an unbonded identity gets a ticket",
        "service_chain/market/orders.py",
        "if backing.bond < rules.identity_bond:",
        "if backing.bond < 0:",
        RATCHET,
    ),
    Mutant(
        "the last pair sets its own price",
        MCAFEE,
        "last_bid, last_ask, pairs - 1",
        "last_bid, last_ask, pairs",
        LIES,
    ),
    Mutant(
        "the price is the middle of the last pair",
        MCAFEE,
        "middle = (next_bid + next_ask) // 2",
        "middle = (last_bid + last_ask) // 2",
        LIES,
    ),
    Mutant(
        "a commitment is anybody's",
        "service_chain/market/sealed.py",
        "codec.encode((identity, order, salt))",
        "codec.encode((order, salt))",
        SEALED,
    ),
    Mutant(
        "a buyer at the place of the price wins",
        "service_chain/market/m1.py",
        "above = first_units(ranking, units_on_sale)",
        "above = first_units(ranking, units_on_sale + 1)",
        SEALED,
    ),
]  # fmt: skip
