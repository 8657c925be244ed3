"""`blockcloud demo|sim|bench`: commands that show, try and measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blockcloud.cli.context import command_group, options
from blockcloud.cli.output import EXIT_FAILURE, say, show


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    app.command()(demo)
    app.command()(sim)
    app.add_typer(bench, name="bench")


bench = command_group("Measure this machine, each figure beside a yardstick of the same run.")


def demo(
    seconds: Annotated[float, typer.Option(help="Length of the download, at the least.")] = 12,
    folder: Annotated[Path | None, typer.Option("--dir", help="Keep everything in this folder.")] = None,
) -> None:
    """Show the whole promise on this machine: four validators, a service that moves, and adversaries."""
    from blockcloud.cli.demo.scenario import run_demo

    report = run_demo(seconds=seconds, folder=folder, quiet=options.as_json)
    if options.as_json:
        show(report.as_object(), as_json=True)
    if not report.passed:
        raise typer.Exit(EXIT_FAILURE)


def sim(
    seed: Annotated[int, typer.Option(help="Everything that happens follows from it.")],
    validators: Annotated[int, typer.Option(help="Committee size.")] = 4,
    seconds: Annotated[int, typer.Option(help="Simulated seconds.")] = 10,
) -> None:
    """Run the production consensus core under a simulated clock, network and disk with faults."""
    from blockcloud.simulation.network import run

    result = run(seed, validators=validators, seconds=seconds)
    show(result, as_json=options.as_json)
    if result["verdict"] != "Pass":
        say(f"repeat it: blockcloud sim --seed {seed} --validators {validators} --seconds {seconds}")
        raise typer.Exit(EXIT_FAILURE)


@bench.command("ledger")
def bench_ledger(
    seconds: Annotated[float, typer.Option(help="Length of the load at the peak.")] = 60,
    overload_seconds: Annotated[float, typer.Option(help="Length of the load at twice the peak.")] = 30,
    accounts: Annotated[int, typer.Option(help="Accounts that pay each other.")] = 100_000,
    in_flight: Annotated[int, typer.Option(help="Batches of 100 under way at the peak.")] = 10,
    idle_seconds: Annotated[float, typer.Option(help="Length of the idle measurement.")] = 20,
) -> None:
    """Transfers a second through four validator processes, at the peak and at twice the peak."""
    from blockcloud.bench.ledger import run

    report = run(
        seconds=seconds,
        overload_seconds=overload_seconds,
        idle_seconds=idle_seconds,
        accounts=accounts,
        in_flight=in_flight,
    )
    show(report, as_json=options.as_json)


@bench.command("state")
def bench_state(
    keys: Annotated[int, typer.Option(help="Keys in the state.")] = 1_000_000,
    batch: Annotated[int, typer.Option(help="Updates in a batch.")] = 500,
) -> None:
    """Processor time of an update of the authenticated state: the tree alone, and everything written."""
    from blockcloud.bench.state import run
    from blockcloud.node.storage import RocksStore

    show(run(keys=keys, batch=batch, store_factory=RocksStore), as_json=options.as_json)


@bench.command("sal")
def bench_sal() -> None:
    """Sessions by name against plain TLS: connecting, bulk, and the gap when a side moves."""
    from blockcloud.bench.sal import run

    show(run(), as_json=options.as_json)
