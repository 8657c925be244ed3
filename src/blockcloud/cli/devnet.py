"""`blockcloud devnet up|down`: a development network of validator processes on this machine."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from blockcloud.cli.context import options
from blockcloud.cli.output import say, show

app = typer.Typer(no_args_is_help=True, help="A development network on this machine.")
READY_SECONDS = 30

Folder = Annotated[Path, typer.Option("--dir", help="Folder of the network.")]


@app.command()
def up(
    folder: Folder,
    validators: Annotated[int, typer.Option(help="Number of validator processes.")] = 4,
    base_port: Annotated[int | None, typer.Option(help="First port; default: the first free range from 8700.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it runs, and leave it running.")] = False,
) -> None:
    """Start a devnet, a new one or the one that the folder holds, and wait for its first commit."""
    from blockcloud.node import devnet as network

    folder = folder.absolute()
    with network.Launcher() as launcher:
        exists = (folder / network.DEVNET_FILE).exists()
        devnet = network.read_devnet(folder) if exists else network.create_devnet(folder, validators, base_port)
        network.start_devnet(folder, devnet, launcher)
    try:
        network.wait_ready(devnet, READY_SECONDS)
        show(network.as_report(devnet), as_json=options.as_json)
        for validator in devnet.validators:
            say(f"validator {validator.id}  {validator.api}/docs")
        say(f"ready. next: blockcloud --home {folder} status")
        if detach:
            return
        say("Ctrl-C stops the network")
        ends = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        signal.sigwait(ends)
    except BaseException:
        network.stop_devnet(folder, devnet)
        raise
    network.stop_devnet(folder, devnet)


@app.command()
def down(folder: Folder) -> None:
    """Stop the validators of a devnet. Its ledger stays; `up` continues it."""
    from blockcloud.node import devnet as network

    folder = folder.absolute()
    stopped = network.stop_devnet(folder, network.read_devnet(folder))
    show({"stopped": stopped}, as_json=options.as_json)
