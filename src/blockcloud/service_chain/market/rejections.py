"""Why the ledger refuses an operation on markets, beside what the auction itself refuses (`refusals`)."""

from __future__ import annotations

from blockcloud.service_chain.rejections import Failed


class UnknownMarket(Failed):
    """There is no such market."""

    code = "unknown_market"
    hint = "`blockcloud market list` shows those that are open; anybody may open one."


class MarketExists(Failed):
    """Somebody has opened this market."""

    code = "market_exists"
    hint = "Order in it: `blockcloud market list` shows its id."


class MarketOutOfBounds(Failed):
    """The window or the bond of the market is beyond what the chain allows."""

    code = "market_out_of_bounds"


class TooManyMarkets(Failed):
    """There are as many markets as there may be."""

    code = "too_many_markets"


class MarketOver(Failed):
    """The window of the market is over, or will be before an order could trade."""

    code = "market_over"
    hint = "Order in a market of a later window."


class MarketInUse(Failed):
    """The market has orders, or identities that rest."""

    code = "market_in_use"


class NotMarketOpener(Failed):
    """Only who opened the market may close it."""

    code = "not_market_opener"


class WrongMechanism(Failed):
    """A market with a ratchet takes orders; one with sealed rounds takes commitments and reveals."""

    code = "wrong_mechanism"


class OrderNotRevealable(Failed):
    """A revealed order has what its side needs: a seller a name that it owns, a buyer none."""

    code = "order_not_revealable"
