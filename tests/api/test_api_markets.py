"""Markets, books and agreements over the API."""

from __future__ import annotations

from typing import Any

import pytest

from blockcloud.primitives.addresses import format_address
from blockcloud.service_chain.market.keys import market_id
from blockcloud.service_chain.market.operations import Bid, MarketKey, MarketMechanism, OpenMarket
from tests.api.api_world import Api, check_problem
from tests.node.cluster import USERS

pytestmark = pytest.mark.asyncio(loop_scope="session")

BUYERS = USERS[5:7]


def key(service_class: str) -> MarketKey:
    return MarketKey(service_class, "request", "u0", 50, 990_000, 0, 60_000, MarketMechanism.RATCHET, 1_000)


async def test_markets_are_listed_in_pages_and_shown_with_their_books(api: Api) -> None:
    keys = [key(f"api-{number}") for number in range(3)]
    ids = [market_id(each).hex() for each in keys]
    await api.sent(BUYERS[0], *[OpenMarket(each, 1_000) for each in keys])
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = await api.both("/v1/markets", limit="2", **after)
        seen += [market["market"] for market in page["markets"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert [each for each in seen if each in ids] == ids
    assert len(dict.fromkeys(seen)) == len(seen)
    market = bytes.fromhex(ids[1])
    for buyer, quantity in zip(BUYERS, (2, 3), strict=True):
        await api.sent(buyer, Bid(market, 5_000, quantity, 32, buyer.public))
    address = format_address(BUYERS[1].public)
    book = await api.both(f"/v1/markets/{ids[1]}", account=address)
    assert book["bids"] == [{"limit": "0.005", "limit_micro_bloc": 5_000, "units": 5, "orders": 2}]
    assert (book["asks"], book["live_orders"], book["complete"], book["last_clearing"]) == ([], 2, True, None)
    assert {name: book["order"][name] for name in ("account", "side", "left", "held_micro_bloc", "status")} == {
        "account": address,
        "side": "bid",
        "left": 3,
        "held_micro_bloc": 1_015_000,
        "status": "live",
    }
    assert "order" not in await api.both(f"/v1/markets/{ids[1]}")
    assert (await api.both("/v1/agreements", party=address))["agreements"] == []


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/v1/markets/{'0' * 64}", 404, "not_found"),
        ("/v1/markets/zz", 400, "malformed"),
        ("/v1/markets?limit=0", 400, "malformed"),
        ("/v1/markets?limit=100000", 400, "malformed"),
        ("/v1/markets?after=ab", 400, "malformed"),
        (f"/v1/markets/{'0' * 64}?account=me", 400, "invalid_address"),
        ("/v1/agreements", 400, "invalid_address"),
        ("/v1/agreements?party=you", 400, "invalid_address"),
        (f"/v1/agreements/{'0' * 64}", 404, "not_found"),
        ("/v1/agreements/zz", 400, "malformed"),
        ("/v1/names/nobody-has-it/offer", 404, "not_found"),
        ("/v1/names/-/offer", 400, "invalid_name"),
    ],
)
async def test_what_makes_no_sense_is_refused(api: Api, path: str, status: int, code: str) -> None:
    check_problem(await api.http.get(path), status, code)


async def test_a_page_behind_a_market_that_is_gone_is_empty(api: Api) -> None:
    page: Any = await api.both("/v1/markets", after="0" * 64)
    assert (page["markets"], page["next"]) == ([], None)
