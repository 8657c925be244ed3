"""`blockcloud market open|close|list|book|bid|ask|cancel|reveal|agreements`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from blockcloud.cli.context import (
    command_group,
    home_folder,
    load_account,
    load_key,
    open_client,
    options,
    public_key,
)
from blockcloud.cli.output import say, show
from blockcloud.primitives.addresses import parse_address
from blockcloud.primitives.amounts import format_amount, parse_amount
from blockcloud.primitives.errors import BadConfiguration, TimedOut

if TYPE_CHECKING:
    from blockcloud.sdk import AsyncClient
    from blockcloud.sdk.markets import Secret
    from blockcloud.service_chain.market.orders import Side
    from blockcloud.service_chain.receipts import Receipt

app = command_group("Markets: who wants a service and who offers it find each other, and a price.")
ORDERS_FOLDER: Final = "sealed-orders"
ORDER_BYTES: Final = 4_096
POLL_SECONDS: Final = 0.2
SETTLE_SECONDS: Final = 20.0
AGREEMENTS_SHOWN: Final = 1_000

Market = Annotated[str, typer.Argument(help="The market's id, its first digits, or its service class.")]
Limit = Annotated[str, typer.Argument(help="BLOC for a unit.")]
Quantity = Annotated[int, typer.Option("--quantity", min=1, help="Units; any part of them may be traded.")]
Patience = Annotated[
    int | None, typer.Option("--patience", min=0, help="Further rounds to wait; default: as many as may be.")
]
Waiting = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds to wait until the order has left, and show what it came to.")
]


@app.command("open")
def open_market(
    service_class: str,
    price: Annotated[str, typer.Option("--price", help="The first price: BLOC for a unit. Trade moves it.")],
    unit: Annotated[str, typer.Option("--unit", help="What is counted.")] = "request",
    region: Annotated[str, typer.Option("--region", help="Where it is delivered.")] = "any",
    latency: Annotated[int, typer.Option("--latency", min=0, help="Milliseconds; 0: none is promised.")] = 0,
    quality: Annotated[int, typer.Option("--quality", help="Parts per million that must be served well.")] = 990_000,
    duration: Annotated[float, typer.Option("--duration", min=0.001, help="Seconds that a match lasts.")] = 3_600,
    starts: Annotated[float, typer.Option("--starts", min=0, help="Unix time in seconds; 0: with the match.")] = 0,
    mechanism: Annotated[str, typer.Option("--mechanism", help="ratchet, or sealed rounds: mcafee or m1.")] = "ratchet",
    delivery_bond: Annotated[
        str, typer.Option("--delivery-bond", help="BLOC that a seller locks for a unit; default: the least.")
    ] = "",
) -> None:
    """Open a market for a class of services. A deposit comes back when it is closed.

    Whoever wants other terms (region, latency, quality, time, mechanism, bond) opens another market.
    """
    from blockcloud.sdk import markets

    key = load_key()

    async def run() -> dict[str, Any]:
        async with open_client() as client:
            market, receipt = await markets.open_market(
                client,
                key,
                service_class,
                parse_amount(price),
                unit=unit,
                region=region,
                latency_ms=latency,
                quality_ppm=quality,
                duration_ms=round(duration * 1_000),
                starts_ms=round(starts * 1_000),
                mechanism=mechanism,
                delivery_bond=parse_amount(delivery_bond) if delivery_bond else None,
            )
            deposit = format_amount(client.genesis.market.market_deposit)
            return {**await _seen(client, market, receipt), "deposit": deposit, **_receipt(receipt)}

    show(asyncio.run(run()), as_json=options.as_json)


@app.command()
def close(market: Market) -> None:
    """Close a market without orders. Its deposit goes back to who opened it; once its window is over anybody may."""
    from blockcloud.sdk import markets

    key = load_key()

    async def run() -> dict[str, Any]:
        async with open_client() as client:
            found = await markets.find(client, market)
            receipt = await markets.close_market(client, key, bytes.fromhex(found["market"]))
            return {"market": found["market"], "service_class": found["service_class"], **_receipt(receipt)}

    show(asyncio.run(run()), as_json=options.as_json)


@app.command("list")
def list_markets() -> None:
    """Open markets, with the price of the coming round."""
    from blockcloud.sdk import markets

    async def run() -> dict[str, Any]:
        async with open_client() as client:
            return {"markets": [_line(market) async for market in markets.all_markets(client)]}

    show(asyncio.run(run()), as_json=options.as_json)


@app.command()
def book(
    market: Market,
    account: Annotated[str, typer.Option("--of", help="Show this account's order; default: yours.")] = "",
) -> None:
    """A market: what is wanted and offered at which limits, the last round with trades, and your order."""
    from blockcloud.sdk import markets

    async def run() -> dict[str, Any]:
        async with open_client() as client:
            found = await markets.find(client, market)
            whose = parse_address(account) if account else _own_account()
            return await client.market(bytes.fromhex(found["market"]), whose)

    show(asyncio.run(run()), as_json=options.as_json)


@app.command()
def bid(
    market: Market,
    limit: Limit,
    quantity: Quantity = 1,
    patience: Patience = None,
    voucher: Annotated[
        str, typer.Option("--voucher-key", help="Address or key file that will sign vouchers; default: your key.")
    ] = "",
    wait: Waiting = 0,
) -> None:
    """Order units for at most so much each. The limit for all of them is locked; what is not spent comes back.

    In a market with sealed rounds the order is only committed to: reveal it with `blockcloud market reveal`.
    """
    from blockcloud.sdk import markets
    from blockcloud.service_chain.market.orders import Side

    key, price = load_key(), parse_amount(limit)
    signer = public_key(voucher) if voucher else key.public

    async def place(client: AsyncClient, found: bytes) -> Receipt:
        return await markets.bid(client, key, found, price, quantity, patience=patience, voucher_key=signer)

    _order(market, Side.BID, price, quantity, place, wait)


@app.command()
def ask(
    market: Market,
    name: Annotated[str, typer.Argument(help="The name of yours that delivers.")],
    limit: Limit,
    quantity: Quantity = 1,
    patience: Patience = None,
    sleep: Annotated[float, typer.Option("--sleep", min=0, help="Seconds for which you may be out of reach.")] = 0,
    wait: Waiting = 0,
) -> None:
    """Offer units of what a name delivers, for at least so much each. A bond for each unit is locked, and stays with
    the agreement when it is traded: `blockcloud agreement` says more about that."""
    from blockcloud.sdk import markets
    from blockcloud.service_chain.market.orders import Side

    key, price, sleep_ms = load_key(), parse_amount(limit), round(sleep * 1_000)

    async def place(client: AsyncClient, found: bytes) -> Receipt:
        return await markets.ask(client, key, found, name, price, quantity, patience=patience, sleep_ms=sleep_ms)

    _order(market, Side.ASK, price, quantity, place, wait)


@app.command()
def cancel(market: Market) -> None:
    """Take your order out of a market. Its money comes back when it would have expired."""
    from blockcloud.sdk import markets

    key = load_key()

    async def run() -> dict[str, Any]:
        async with open_client() as client:
            found = bytes.fromhex((await markets.find(client, market))["market"])
            receipt = await markets.cancel(client, key, found)
            view = await _seen(client, found, receipt, client.acts_for(key))
            return {"market": view["market"], "round": view["round"], "order": view["order"], **_receipt(receipt)}

    show(asyncio.run(run()), as_json=options.as_json)


@app.command()
def reveal(
    market: Market,
    name: Annotated[str, typer.Option("--name", help="Of a seller: the name of yours that delivers.")] = "",
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait until reveals are taken.")] = 60,
) -> None:
    """Reveal the sealed order that `bid` or `ask` has committed to. Who does not loses the forfeit."""
    from blockcloud.sdk import markets

    key = load_key()

    async def run() -> dict[str, Any]:
        async with open_client() as client:
            found = bytes.fromhex((await markets.find(client, market))["market"])
            account = client.acts_for(key)
            view = await _until(client, found, account, timeout, lambda seen: seen["phase"] == "reveals")
            if view["order"] is None or view["order"]["status"] != "committed":
                raise BadConfiguration("you have no sealed order in this market", market=view["market"])
            secret, path = _kept_order(view["order"]["commitment"])
            receipt = await markets.reveal(client, key, secret, name=name)
            path.unlink()
            view = await _seen(client, found, receipt, account)
            return {"market": view["market"], "order": view["order"], **_receipt(receipt)}

    show(asyncio.run(run()), as_json=options.as_json)


@app.command()
def agreements(
    account: Annotated[str, typer.Option("--of", help="The account's address; default: yours.")] = "",
) -> None:
    """Agreements in which an account is client or provider: what matches and posted prices have come to."""
    party = parse_address(account) if account else load_account()

    async def run() -> dict[str, Any]:
        async with open_client() as client:
            found = await _agreements_of(client, party)
            found.sort(key=lambda each: (each["start_ms"], each["agreement"]))
            return {"agreements": [_agreement_line(each) for each in found]}

    show(asyncio.run(run()), as_json=options.as_json)


def _order(
    market: str,
    side: Side,
    limit: int,
    quantity: int,
    place: Callable[[AsyncClient, bytes], Coroutine[Any, Any, Receipt]],
    wait_s: float,
) -> None:
    """Place an order, and show it; in a market with sealed rounds, commit to it."""
    from blockcloud.sdk import markets

    key = load_key()

    async def run() -> dict[str, Any]:
        async with open_client() as client:
            found = await markets.find(client, market)
            identity, account = bytes.fromhex(found["market"]), client.acts_for(key)
            if found["mechanism"] != "ratchet":
                secret = markets.seal(identity, account, side, limit, quantity)
                _keep_order(secret)
                receipt = await markets.commit(client, key, secret)
                view = await _seen(client, identity, receipt, account)
                say(f"committed; now: blockcloud market reveal {found['market'][:12]}")
                return {"market": found["market"], "order": view["order"], **_receipt(receipt)}
            before = {each["agreement"] for each in await _agreements_of(client, account)} if wait_s else set()
            receipt = await place(client, identity)
            view = await _seen(client, identity, receipt, account)
            report = {"market": found["market"], "price": view["price"], "order": view["order"], **_receipt(receipt)}
            if wait_s:
                await _until(client, identity, account, wait_s, _order_has_left)
                after = await _agreements_of(client, account)
                report["agreements"] = [_agreement_line(each) for each in after if each["agreement"] not in before]
            return report

    show(asyncio.run(run()), as_json=options.as_json)


def _order_has_left(view: dict[str, Any]) -> bool:
    return view["order"] is None or view["order"]["status"] != "live"


async def _until(
    client: AsyncClient, market: bytes, account: bytes, timeout_s: float, reached: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """A market with the account's order, once it is so. Raises TimedOut."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                view = await client.market(market, account)
                if reached(view):
                    return view
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise TimedOut("the market has not come to that yet", market=market.hex()[:12], seconds=timeout_s) from None


async def _seen(client: AsyncClient, market: bytes, receipt: Receipt, account: bytes | None = None) -> dict[str, Any]:
    """A market as a node has it that has executed the transaction of `receipt`."""
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                if (await client.status())["height"] >= receipt.height:
                    return await client.market(market, account)
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise TimedOut("the transaction is committed, but no node shows it yet", height=receipt.height) from None


async def _agreements_of(client: AsyncClient, party: bytes) -> list[dict[str, Any]]:
    """All agreements of an account, up to a bound."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while len(found) < AGREEMENTS_SHOWN:
        page = await client.agreements(party, after=after)
        found += page["agreements"]
        after = page["next"]
        if after is None:
            break
    return found


def _own_account() -> bytes | None:
    """The account of this run; None without a key, which nobody needs in order to look."""
    try:
        return load_account()
    except BadConfiguration:
        return None


def _agreement_line(agreement: dict[str, Any]) -> dict[str, Any]:
    """An agreement in a list; for people what fits a line."""
    if options.as_json:
        return agreement
    columns = ("status", "name", "unit", "unit_price", "deposited", "paid", "left", "start_ms", "end_ms")
    return {"agreement": agreement["agreement"][:12]} | {column: agreement[column] for column in columns}


def _line(market: dict[str, Any]) -> dict[str, Any]:
    """A market in a list; its id as far as people need it."""
    columns = ("service_class", "unit", "region", "latency_ms", "mechanism", "phase", "price", "live_orders")
    return {"market": market["market"] if options.as_json else market["market"][:12]} | {
        column: market[column] for column in columns
    }


def _receipt(receipt: Receipt) -> dict[str, Any]:
    from blockcloud.api.views import receipt_view

    return {"receipt": receipt_view(receipt)}


def _keep_order(secret: Secret) -> None:
    """Write what reveals a sealed order to the home folder, before anybody hears of it."""
    from blockcloud.primitives import codec

    folder = home_folder() / ORDERS_FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / secret.commitment.hex()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(codec.encode(secret))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadConfiguration(f"cannot keep the order: {error.strerror}", path=str(folder)) from None


def _kept_order(commitment: str) -> tuple[Secret, Path]:
    """What reveals the order of a commitment, and the file that it is in."""
    from blockcloud.primitives import codec
    from blockcloud.sdk.markets import Secret

    path = home_folder() / ORDERS_FOLDER / commitment
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadConfiguration(
            f"cannot read the sealed order: {error.strerror}; it is where it was made", path=str(path)
        ) from None
    return codec.decode(data, Secret, limit=ORDER_BYTES), path
