"""What an order costs in the ledger: entering the book, waiting in it for a round, and being traded.

The state is in memory, as it is for a node whose accounts and orders are in its cache of decoded records. Signatures,
fees and the writing of the commit are not counted; the records that an order changes are.
"""

from __future__ import annotations

import time
from typing import Final

from blockcloud.primitives.amounts import MICRO_PER_BLOC
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.service_chain.accounts import Context, credit
from blockcloud.service_chain.agreements.parameters import AgreementParameters
from blockcloud.service_chain.contracts.runtime import ContractRuntime
from blockcloud.service_chain.genesis import (
    ContractParameters,
    FeeParameters,
    NamingParameters,
    StakingParameters,
)
from blockcloud.service_chain.market.keys import book_key, market_id
from blockcloud.service_chain.market.operations import Ask, Bid, MarketKey, MarketMechanism, OpenMarket
from blockcloud.service_chain.market.parameters import MarketParameters
from blockcloud.service_chain.market.records import BookRecord
from blockcloud.service_chain.market.rounds import turn_markets
from blockcloud.service_chain.market.rules import apply_ask, apply_bid, apply_open_market
from blockcloud.service_chain.proof_of_service.parameters import ProofOfServiceParameters
from blockcloud.service_chain.records import REGISTERED, Fees, NameRecord
from blockcloud.service_chain.state_keys import FEES_KEY, name_key
from blockcloud.service_chain.working_state import WorkingState
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.era import EraPlan

WAITING_ROUNDS: Final = 5
FOREVER: Final = 2**40
KEY: Final = MarketKey("bench", "request", "any", 0, 990_000, 0, 60_000, MarketMechanism.RATCHET, 1_000)
PRICE: Final = 1_000


def in_execution(orders: int) -> dict[str, float]:
    """Microseconds of processor time: to enter an order, for each of `orders` that waits through a round, for a
    trade. Half as many buyers come in the end."""
    limits = MarketParameters(orders_per_market=2 * orders)
    state = WorkingState(dict[bytes, bytes]().get, cached_records=20 * orders)
    state.get(FEES_KEY, Fees)
    state.put(FEES_KEY, Fees(10, 0, 0, 0))
    people = [tagged_hash("bench/trader", number.to_bytes(4)) for number in range(orders + orders // 2)]
    for number, person in enumerate(people):
        credit(state, person, 1_000 * MICRO_PER_BLOC)
        name = f"n{number}"
        state.get(name_key(name), NameRecord)
        state.put(name_key(name), NameRecord(name, person, b"", (), 1, FOREVER, 1, REGISTERED, 0, 0, 0))
    market = market_id(KEY)
    apply_open_market(state, people[0], OpenMarket(KEY, PRICE), _context(1, limits))
    start = time.process_time()
    for number, person in enumerate(people[:orders]):
        apply_ask(state, person, Ask(market, PRICE, 1, 32, f"n{number}", 0), _context(1, limits))
    entered = time.process_time() - start
    waited = _rounds(state, limits, range(2, 2 + WAITING_ROUNDS))
    for person in people[orders:]:
        apply_bid(state, person, Bid(market, PRICE, 1, 32, person), _context(7, limits))
    traded = _rounds(state, limits, range(8, 9))
    book = state.get(book_key(market), BookRecord)
    assert book is not None, "the market is open"
    assert book.clearing is not None, "all who came have traded"
    return {
        "us_to_enter": round(entered * 1e6 / orders, 1),
        "us_to_wait_a_round": round(waited * 1e6 / orders / WAITING_ROUNDS, 1),
        "us_a_trade": round(traded * 1e6 / book.clearing.trades, 1),
    }


def _rounds(state: WorkingState, limits: MarketParameters, seconds: range) -> float:
    """Processor time of the rounds of these seconds."""
    spent = 0.0
    for second in seconds:
        state.take_changes()
        start = time.process_time()
        turn_markets(state, _context(second, limits), tagged_hash("bench/commit", second.to_bytes(4)))
        spent += time.process_time() - start
    return spent


def _context(second: int, limits: MarketParameters) -> Context:
    return Context(
        height=second,
        time_ms=second * 1_000,
        naming=NamingParameters(),
        fees=FeeParameters(),
        staking=StakingParameters(),
        chain_id=bytes(32),
        plan=EraPlan(0, 1, bytes(32), 1, ()),
        era_length=600,
        challenges=ChallengeParameters(),
        contracts=_RUNTIME,
        agreements=AgreementParameters(),
        market=limits,
        proof_of_service=ProofOfServiceParameters(),
    )


_RUNTIME: Final = ContractRuntime(ContractParameters())
