"""`blockcloud market`: a market from its opening to the agreement that a match comes to, and how commands fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blockcloud.primitives.addresses import format_address
from blockcloud.sdk import Client
from blockcloud.service_chain.market.reading import find_market
from blockcloud.service_chain.market.records import Phase
from tests.cli.cli_world import Node, read_view, texts
from tests.node.cluster import USERS, until

SELLER = format_address(USERS[0].public)
BUYER = format_address(USERS[1].public)


@pytest.fixture
def buyer(node: Node, tmp_path: Path) -> tuple[str, str]:
    key = tmp_path / "buyer.pem"
    USERS[1].save(key)
    return ("--key", str(key))


def opened(node: Node, service_class: str, *options: str) -> Any:
    return node.ok("market", "open", service_class, "--price", "0.01", *options)


def phase(node: Node, market: bytes) -> Phase:
    found = find_market(node.api.validator.chain.get, market)
    assert found is not None
    return found.book.phase


def test_from_a_market_to_an_agreement(node: Node, buyer: tuple[str, str]) -> None:
    name = "sold.test"
    assert node.ok("name", "register", name)["owner"] == SELLER
    market = opened(node, "cli-thermometer", "--region", "u0", "--latency", "50", "--duration", "60")
    assert (market["price"], market["mechanism"], market["deposit"]) == ("0.01", "ratchet", "10")
    assert (market["opener"], market["latency_ms"], market["ends_ms"]) == (SELLER, 50, None)
    short = market["market"][:10]
    listed = node.ok("market", "list")["markets"]
    assert market["market"] in [each["market"] for each in listed]
    asked = node.ok("market", "ask", short, name, "0.008", "--quantity", "3")
    assert (asked["order"]["status"], asked["order"]["name"], asked["order"]["left"]) == ("live", name, 3)
    assert asked["order"]["held"] == "1.003"
    book = node.ok("market", "book", "cli-thermometer")
    assert book["asks"] == [{"limit": "0.008", "limit_micro_bloc": 8_000, "units": 3, "orders": 1}]
    bought = node.ok("market", "bid", "cli-thermometer", "0.02", "--quantity", "2", "--wait", "20", *buyer)
    (agreement,) = bought["agreements"]
    assert (agreement["client"], agreement["provider"], agreement["name"]) == (BUYER, SELLER, name)
    assert (agreement["status"], agreement["matched"], agreement["quality_ppm"]) == ("open", True, 990_000)
    assert agreement["deposited_micro_bloc"] == 2 * agreement["unit_price_micro_bloc"]
    book = node.ok("market", "book", short)
    assert (book["last_clearing"]["trades"], book["last_clearing"]["units"]) == (1, 2)
    # The seller's third unit waits on, and can be taken back.
    assert (book["order"]["left"], book["live_orders"]) == (1, 1)
    assert node.ok("market", "cancel", short)["order"]["status"] == "cancelled"
    for whose in ((), buyer, ("--of", BUYER)):
        found = node.ok("market", "agreements", *whose)["agreements"]
        assert [each["agreement"] for each in found] == [agreement["agreement"]]
    # For people it has what fits a line.
    columns = ("status", "name", "unit", "unit_price", "deposited", "paid", "left", "start_ms", "end_ms")
    short = {"agreement": agreement["agreement"][:12]} | {column: agreement[column] for column in columns}
    view = node.command("market", "agreements")
    assert read_view(view.out.splitlines(), {"agreements": [short]}) == texts({"agreements": [short]})


def test_what_a_command_refuses_says_what_to_do(node: Node, buyer: tuple[str, str], tmp_path: Path) -> None:
    first = opened(node, "cli-lamp")
    opened(node, "cli-lamp", "--region", "u1")
    refusals = [
        (("market", "book", "nothing"), 1, "no_such_market", "market list"),
        (("market", "book", "cli-lamp"), 1, "several_markets", "digits of the id"),
        (("market", "open", "cli-lamp", "--price", "1"), 4, "market_exists", "Order in it"),
        (("market", "open", "cli-lamp", "--price", "1", "--mechanism", "best"), 1, "malformed", ""),
        (("market", "open", "cli lamp", "--price", "1"), 1, "malformed", ""),
        (("market", "bid", first["market"], "0"), 1, "malformed", ""),
        (("market", "bid", first["market"], "-1"), 2, "", ""),
        (("market", "bid", first["market"], "x"), 2, "invalid_amount", ""),
        (("market", "bid", first["market"], "1", "--patience", "33"), 4, "order_too_patient", ""),
        (("market", "ask", first["market"], "nobody.test", "1"), 4, "not_the_provider", "Look the name up"),
        (("market", "cancel", first["market"]), 4, "unknown_order", ""),
        (("market", "reveal", first["market"], "--timeout", "0.1"), 5, "timed_out", ""),
        (("market", "close", first["market"], *buyer), 4, "not_market_opener", ""),
    ]
    for command, code, reason, hint in refusals:
        result = node.command(*command)
        assert (result.code, f"[{reason}]" in result.err or not reason) == (code, True), (command, result.err)
        assert hint in result.err
    assert node.ok("market", "close", first["market"])["receipt"]["code"] == "ok"
    assert first["market"] not in [each["market"] for each in node.ok("market", "list")["markets"]]


def test_programs_read_the_same(node: Node) -> None:
    market = bytes.fromhex(opened(node, "cli-program")["market"])
    with Client(node.api.net.genesis, [node.url]) as client:
        assert market.hex() in [each["market"] for each in client.markets()["markets"]]
        assert client.market(market, USERS[1].public)["order"] is None
        assert client.agreements(USERS[7].public)["agreements"] == []


@pytest.mark.long
def test_a_sealed_order_is_kept_and_revealed(node: Node, buyer: tuple[str, str], tmp_path: Path) -> None:
    name = "sealed.test"
    assert node.ok("name", "register", name)["owner"] == SELLER
    market = opened(node, "cli-sealed", "--mechanism", "m1")["market"]
    bought = node.ok("market", "bid", market, "0.3", *buyer)
    assert (bought["order"]["status"], bought["order"]["limit"]) == ("committed", None)
    kept = node.home / "sealed-orders" / bought["order"]["commitment"]
    assert kept.stat().st_mode & 0o777 == 0o600
    assert node.ok("market", "ask", market, name, "0.1")["order"]["status"] == "committed"
    node.call(until(lambda: phase(node, bytes.fromhex(market)) is Phase.REVEALS))
    assert node.ok("market", "reveal", market, *buyer)["order"]["limit"] == "0.3"
    assert not kept.exists()
    assert node.ok("market", "reveal", market, "--name", name)["order"]["status"] == "live"
    with Client(node.api.net.genesis, [node.url]) as client:
        node.call(until(lambda: phase(node, bytes.fromhex(market)) is Phase.COMMITMENTS))
        found = [each for each in client.agreements(USERS[1].public)["agreements"] if each["name"] == name]
        assert [each["deposited"] for each in found] == ["0.1"]
