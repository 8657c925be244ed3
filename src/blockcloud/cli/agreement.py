"""`blockcloud offer post|withdraw|show`, `blockcloud agreement open|show|list|topup|extend|close|claim|settle`,
`blockcloud pay`: what is sold under a name, and the channels that pay for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from blockcloud.cli.context import command_group, home, load_account, load_key, open_client, options, public_key
from blockcloud.cli.output import show
from blockcloud.primitives.amounts import format_amount, parse_amount
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.names import parse_name
from blockcloud.routing.posted_price import parse_price

if TYPE_CHECKING:
    from blockcloud.sdk import AsyncClient
    from blockcloud.service_chain.operations import Operation

offers = command_group("What is sold under a name, at which price, and the bond that stands for it.")
agreements = command_group("Agreements: each one is a channel, out of which vouchers pay for what was served.")
AGREEMENTS_SHOWN: Final = 200

Name = Annotated[str, typer.Argument(help="The service name.")]
Which = Annotated[str, typer.Argument(help="The agreement: its id, its first digits; left out: your only one.")]


def _run(work: Callable[[AsyncClient], Coroutine[Any, Any, object]]) -> None:
    """Do `work` with a client, and show what comes of it."""

    async def run() -> object:
        async with open_client() as client:
            return await work(client)

    show(asyncio.run(run()), as_json=options.as_json)


# Offers


@offers.command("post")
def post(
    name: Name,
    price: Annotated[str, typer.Option("--price", help="BLOC for a unit, as in 0.001/mib.")],
    bond: Annotated[str, typer.Option("--bond", help="BLOC to put up, beyond what stands there.")] = "0",
    longest: Annotated[float, typer.Option("--longest", min=0.001, help="Seconds that an agreement may last.")] = 3_600,
    quality: Annotated[
        int, typer.Option("--quality", min=0, max=1_000_000, help="Parts per million that are served well.")
    ] = 990_000,
    sleep: Annotated[
        float, typer.Option("--sleep", min=0, help="Seconds for which you may not see that a client closes.")
    ] = 10,
) -> None:
    """Offer what a name of yours delivers, or change the offer. A breach of the quality is paid from the bond."""
    from blockcloud.sdk import agreements as sdk

    asked, key = parse_price(price), load_key()

    async def work(client: AsyncClient) -> dict[str, Any]:
        receipt = await sdk.post_offer(
            client,
            key,
            name,
            unit=asked.unit,
            unit_price=asked.micro_bloc,
            bond=parse_amount(bond),
            longest_ms=round(longest * 1_000),
            quality_ppm=quality,
            sleep_ms=round(sleep * 1_000),
        )
        return await _offer(client, name, receipt.height)

    _run(work)


@offers.command("withdraw")
def withdraw(name: Name) -> None:
    """Offer nothing more under a name. Say it again when no agreement needs the bond any more: then it comes back."""
    from blockcloud.service_chain.agreements.operations import WithdrawOffer

    async def work(client: AsyncClient) -> dict[str, Any]:
        receipt = await client.transact(load_key(), WithdrawOffer(parse_name(name)))
        return await _offer(client, name, receipt.height)

    _run(work)


@offers.command("show")
def show_offer(name: Name) -> None:
    """What is offered under a name, and what proof of service has found of it; proven."""
    _run(lambda client: _offer(client, name))


async def _offer(client: AsyncClient, name: str, height: int = 0) -> dict[str, Any]:
    from blockcloud.api.agreements import offer_view, quality_view
    from blockcloud.sdk import agreements as sdk

    offered = await sdk.offering(client, name, at_least_height=height)
    service, standing = await sdk.quality(client, offered)
    found = quality_view(offered.provider, service, standing, client.light_client.era)
    return {**offer_view(offered.name, offered.provider, offered.record), **found, "verified": True}


# Agreements


@agreements.command("open")
def open_agreement(
    name: Name, deposit: Annotated[str, typer.Option("--deposit", help="BLOC to put into the channel.")]
) -> None:
    """Agree to what is offered under a name. `forward --budget` does this by itself when it is needed."""
    import os

    from blockcloud.sdk import agreements as sdk

    async def work(client: AsyncClient) -> dict[str, Any]:
        offered = await sdk.offering(client, name)
        identity, _, _ = await sdk.open_agreement(
            client,
            load_key(),
            offered,
            deposit=parse_amount(deposit),
            salt=os.urandom(32),
            voucher_key=sdk.voucher_key(home()).public,
        )
        return await _agreement(client, identity)

    _run(work)


@agreements.command("show")
def show_agreement(which: Which = "") -> None:
    """An agreement, proven."""

    async def work(client: AsyncClient) -> dict[str, Any]:
        return await _agreement(client, await _chosen(client, which))

    _run(work)


@agreements.command("list")
def list_agreements(
    every: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
) -> None:
    """Your agreements, as client and as provider, as a node has them."""

    async def work(client: AsyncClient) -> dict[str, Any]:
        return {"agreements": [each for each in await _own(client) if every or each["status"] != "closed"]}

    _run(work)


@agreements.command("topup")
def top_up(amount: Annotated[str, typer.Argument(help="BLOC.")], which: Which = "") -> None:
    """Put more into a channel."""
    from blockcloud.service_chain.agreements.operations import TopUpAgreement

    _change(which, lambda identity: TopUpAgreement(identity, parse_amount(amount)))


@agreements.command("extend")
def extend(seconds: Annotated[float, typer.Argument(min=0.001)], which: Which = "") -> None:
    """Let an agreement last longer, while the provider still offers it at this price."""
    from blockcloud.service_chain.agreements.operations import ExtendAgreement

    _change(which, lambda identity: ExtendAgreement(identity, round(seconds * 1_000)))


@agreements.command("close")
def close(which: Which = "") -> None:
    """End an agreement: at once as its provider; as its client once the provider has had its time for claims."""
    from blockcloud.service_chain.agreements.operations import CloseAgreement

    _change(which, CloseAgreement)


@agreements.command("settle")
def settle() -> None:
    """Bring home what is left in your agreements whose time for claims is over."""
    from blockcloud.sdk import agreements as sdk

    async def work(client: AsyncClient) -> dict[str, Any]:
        due = [bytes.fromhex(each["agreement"]) for each in await _own(client) if each["status"] == "due"]
        settled = await sdk.settle_due(client, load_key(), due)
        return {"settled": settled, "agreements": [each.hex() for each in due]}

    _run(work)


@agreements.command("claim")
def claim() -> None:
    """Claim all that vouchers in this home's books promise. A running `publish --paid` does this by itself."""
    from blockcloud.sdk import agreements as sdk

    async def work(client: AsyncClient) -> dict[str, Any]:
        claimed = await sdk.claim_books(client, load_key(), home())
        return {"claimed": format_amount(claimed), "claimed_micro_bloc": claimed}

    _run(work)


def pay(
    to: Annotated[str, typer.Argument(help="A name, an address, or a key file.")],
    amount: Annotated[str, typer.Argument(help="BLOC.")],
) -> None:
    """Pay whoever stands behind a name or an address: through an open agreement with them, else by a transfer."""
    from blockcloud.sdk import agreements as sdk

    async def work(client: AsyncClient) -> dict[str, Any]:
        from blockcloud.primitives.addresses import PREFIX, format_address

        named = not to.startswith(f"{PREFIX}1") and "/" not in to
        payee = (await sdk.offering(client, to)).provider if named else public_key(to)
        paid = parse_amount(amount)
        identity = await sdk.pay(client, load_key(), home(), payee, paid, await _own(client))
        return {
            "to": format_address(payee),
            "amount": format_amount(paid),
            "amount_micro_bloc": paid,
            "agreement": identity.hex() if identity is not None else None,
        }

    _run(work)


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    app.add_typer(offers, name="offer")
    app.add_typer(agreements, name="agreement")
    app.command()(pay)


def _change(which: str, operation: Callable[[bytes], Operation]) -> None:
    async def work(client: AsyncClient) -> dict[str, Any]:
        identity = await _chosen(client, which)
        receipt = await client.transact(load_key(), operation(identity))
        return await _agreement(client, identity, receipt.height)

    _run(work)


async def _own(client: AsyncClient) -> list[dict[str, Any]]:
    page = await client.agreements(load_account(), limit=AGREEMENTS_SHOWN)
    found: list[dict[str, Any]] = page["agreements"]
    return found


async def _chosen(client: AsyncClient, which: str) -> bytes:
    """The agreement that a person means. Raises BadConfiguration."""
    if len(which) == 64:
        return _identity(which)
    own = [each for each in await _own(client) if each["agreement"].startswith(which.lower())]
    lasting = [each for each in own if each["status"] != "closed"] or own
    if len(lasting) == 1:
        return _identity(lasting[0]["agreement"])
    if not lasting:
        raise BadConfiguration("you have no such agreement; see `blockcloud agreement list`", which=which)
    shown = ", ".join(each["agreement"][:12] for each in lasting[:5])
    raise BadConfiguration(f"say which agreement: {len(lasting)} fit, such as {shown}")


def _identity(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise BadConfiguration("the id of an agreement has 64 hexadecimal digits", which=text) from None


async def _agreement(client: AsyncClient, identity: bytes, height: int = 0) -> dict[str, Any]:
    from blockcloud.api.agreements import agreement_view
    from blockcloud.sdk import agreements as sdk

    record = await sdk.agreement(client, identity, at_least_height=height)
    return {**agreement_view(identity, record, sdk.now_ms()), "verified": True}
