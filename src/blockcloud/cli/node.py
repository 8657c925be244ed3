"""`blockcloud node init|run`: the home folder of a node, and its process in the foreground, as a service manager starts
it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from blockcloud.cli.context import command_group, home_folder, options
from blockcloud.cli.output import say, show
from blockcloud.cli.state import Trusted, snapshot_view, trusted_statements

app = command_group("One node of the network.")


@app.callback()
def node() -> None:
    """One node of the network."""


@app.command()
def init(
    genesis: Annotated[Path, typer.Option("--genesis", help="Genesis file of the network to join.")],
    base_port: Annotated[
        int | None, typer.Option(help="Port of the API; links get the next one. Default: 8700.")
    ] = None,
    storage: Annotated[str, typer.Option(help="Disk to stake, such as 16MiB. Default: none.")] = "0",
    compute: Annotated[str, typer.Option(help="Part of one core to stake, such as 5%. Default: none.")] = "0%",
    data_rate: Annotated[str, typer.Option(help="Data rate to stake, such as 1MB/s. Default: none.")] = "0",
    snapshot: Annotated[
        Path | None, typer.Option("--snapshot", help="Begin with the state in this file of `state export`.")
    ] = None,
    trusted: Trusted = None,
) -> None:
    """Make the home folder (--home) of a new node: genesis, configuration, keys of its own, and empty data."""
    from blockcloud.node.config import BASE_PORT, CONFIG_FILE
    from blockcloud.node.homes import make_home
    from blockcloud.node.resource_config import ResourceConfig, parse_bytes, parse_permille, parse_rate
    from blockcloud.node.snapshot_archive import check_file, import_checked_file
    from blockcloud.primitives.addresses import format_address
    from blockcloud.sdk.home import read_genesis

    folder = home_folder().absolute()
    checked = read_genesis(genesis)
    permille = parse_permille(compute)
    resources = ResourceConfig(parse_bytes(storage), permille, max(1, -(-permille // 1_000)), parse_rate(data_rate))
    staked = resources if resources != ResourceConfig() else None
    statements = trusted_statements(checked, trusted)
    if snapshot is not None:
        check_file(checked, snapshot, statements)
    config, key = make_home(folder, checked, BASE_PORT if base_port is None else base_port, staked)
    report: dict[str, Any] = {
        "address": format_address(key.public),
        "home": str(folder),
        "key_file": str(config.key_path),
        "api": f"http://{config.api_host}:{config.api_port}",
        "link": f"{config.link_host}:{config.link_port}",
        "network": checked.name,
        "chain": checked.chain_id().hex(),
    }
    if snapshot is not None:
        report["snapshot"] = snapshot_view(import_checked_file(config, checked, snapshot, statements))
    if config.resources is not None:
        report["stakes"] = {
            "storage_bytes": resources.storage_bytes,
            "compute_permille": resources.compute_permille,
            "data_rate": resources.data_rate,
            "examination_port": config.resources.examination_port,
        }
    show(report, as_json=options.as_json)
    place = shlex.quote(str(folder))
    say("keep the key folder: the bond belongs to the node key, and nobody can make it again")
    say(f"to be reached from other machines, set link_host in {shlex.quote(str(folder / CONFIG_FILE))}")
    say(f"next: blockcloud node run --home {place}")
    say(f"then pay its address, and: blockcloud validator bond AMOUNT --link HOST:PORT --api-url URL --home {place}")


@app.command()
def run() -> None:
    """Run the node of the home folder (--home) until SIGTERM or Ctrl-C."""
    from blockcloud.api.process import run_node

    run_node(home_folder().absolute())


@app.command(hidden=True)
def launch() -> None:
    """Start a validator for each home folder read from standard input; print the process ids. `devnet up` uses it."""
    import gc

    gc.disable()  # nothing of what an import makes is garbage; each child enables it again
    from blockcloud.api.launcher import launch_nodes

    launch_nodes()
