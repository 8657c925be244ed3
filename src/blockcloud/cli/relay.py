"""`blockcloud relay serve|status`: a node at which peers meet that cannot reach each other."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import typer

from blockcloud.cli.context import (
    address_argument,
    chosen_account,
    command_group,
    home,
    load_cosigners,
    options,
)
from blockcloud.cli.output import say, show
from blockcloud.cli.service import draft_instance, serve_until_stopped
from blockcloud.cli.table import ask
from blockcloud.primitives.errors import Unreachable
from blockcloud.primitives.names import parse_name

MIB: Final = 1024 * 1024

app = command_group("Relays: nodes at which peers meet that cannot reach each other. They see only ciphertext.")


@app.command()
def serve(
    name: str,
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT to listen at; 0 takes a free port.")],
    public: Annotated[str, typer.Option("--public", help="HOST:PORT where others reach it, if not there.")] = "",
    rate: Annotated[float, typer.Option("--rate", min=0.001, help="MiB/s for each instance.")] = 32,
    total_rate: Annotated[float, typer.Option("--total-rate", min=0.001, help="MiB/s in all.")] = 128,
    dial_rate: Annotated[float, typer.Option("--dial-rate", min=0.001, help="Dials/s of each instance.")] = 20,
    total_dial_rate: Annotated[float, typer.Option("--total-dial-rate", min=0.001, help="Dials/s in all.")] = 200,
    connections: Annotated[int, typer.Option("--connections", min=1, help="Connections at once, in all.")] = 2_048,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="Instance key, or a name whose instances may register; repeat. None: everybody."),
    ] = None,
) -> None:
    """Run a relay under a name until stopped. The key of --key must own the name, the first time."""
    from blockcloud.service_access.relay.buckets import Rate
    from blockcloud.service_access.relay.rendezvous import RelayLimits

    limits = RelayLimits(
        splices=connections,
        byte_rate_of_instance=Rate(rate * MIB, rate * MIB),
        byte_rate=Rate(total_rate * MIB, total_rate * MIB),
        dial_rate_of_instance=Rate(dial_rate, 5 * dial_rate + 1),
        dial_rate=Rate(total_dial_rate, 5 * total_dial_rate + 1),
    )
    place, reached = address_argument(listen), address_argument(public) if public else None
    serve_until_stopped(_serve(parse_name(name), place, reached, limits, tuple(allow or ())))


async def _serve(
    name: str, place: tuple[str, int], public: tuple[str, int] | None, limits: Any, allowed: tuple[str, ...]
) -> None:
    from blockcloud.sdk.relays import serve_relay
    from blockcloud.service_access.control import ControlServer
    from blockcloud.service_access.relay.server import RelayServer

    here = home()
    if options.draft:
        await draft_instance(name, here.instance_key().public, name)
    running: list[RelayServer] = []

    async def status(_: dict[str, Any]) -> dict[str, Any]:
        return running[0].status() if running else {"name": name}

    path = here.control_path(f"relay-{name}")
    control = ControlServer(path, {"status": status})
    await control.start()  # first: a second relay of the name from this home is refused before it announces
    try:
        async with serve_relay(
            name,
            home=here,
            key=options.key,
            account=chosen_account(),
            cosigners=load_cosigners(),
            api=options.api,
            listen=place,
            public=public,
            limits=limits,
            allowed=allowed,
        ) as server:
            running.append(server)
            report = {"name": name, "listening": server.status()["listening"], "control": str(path)}
            show({**report, "instance": here.instance_key().public.hex()}, as_json=options.as_json)
            say("ready; Ctrl-C stops it. be reached through it with: blockcloud publish NAME --relay " + name)
            await asyncio.get_running_loop().create_future()
    finally:
        await control.close()


@app.command()
def status(name: str) -> None:
    """What a running relay of this home has done: registrations, dials, connections, refusals by reason."""
    path = home().control_path(f"relay-{parse_name(name)}")
    if not path.exists():
        raise Unreachable("no relay of this name runs with this home folder", control=str(path))
    show(asyncio.run(ask(path, {"op": "status"})), as_json=options.as_json)
