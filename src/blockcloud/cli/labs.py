"""`blockcloud demo|sim|bench`: commands that show, try and measure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from blockcloud.cli.context import command_group, options
from blockcloud.cli.output import EXIT_FAILURE, say, show


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    app.command()(demo)
    app.add_typer(simulations, name="sim")
    app.add_typer(bench, name="bench")


BESIDE_SECONDS = 10.0
simulations = typer.Typer(rich_markup_mode=None)
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


@simulations.callback(invoke_without_command=True)
def sim(
    context: typer.Context,
    seed: Annotated[int | None, typer.Option(help="Everything that happens follows from it.")] = None,
    seeds: Annotated[str, typer.Option(help="Many seeds, FIRST..LAST, one after another.")] = "",
    validators: Annotated[int | None, typer.Option(help="Committee size; not given: 4 to 10, by the seed.")] = None,
    seconds: Annotated[int | None, typer.Option(help="Simulated seconds, instead of --levels.")] = None,
    levels: Annotated[int | None, typer.Option(help="Go on until every honest validator has so many [100].")] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Print a line for each event.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Run so many seeds at once.")] = 1,
) -> None:
    """Run production nodes, era after era, under a simulated clock, network and disk with faults and liars."""
    if context.invoked_subcommand is not None:
        if seed is not None or seeds:
            raise typer.BadParameter(f"the options of {context.invoked_subcommand} go behind its name")
        return
    if (seed is None) == (not seeds):
        raise typer.BadParameter("give --seed N or --seeds FIRST..LAST")
    if trace and processes > 1:
        raise typer.BadParameter("--trace follows one run at a time: leave --processes out")
    from blockcloud.simulation.options import Length
    from blockcloud.simulation.runner import Summary, Timed, one_line, run_many

    def ended(timed: Timed) -> None:
        """A run is over: say so, and how to repeat it if it failed."""
        summary.add(timed)
        if seed is None and not options.as_json:
            typer.echo(one_line(timed))
        if not timed.passed:
            say(f"repeat it: {timed.report['again']}")

    wanted = range(seed, seed + 1) if seed is not None else _seeds(seeds)
    length = Length.of(seconds, levels)
    summary = Summary()
    for timed in run_many(wanted, validators, length, processes=processes, tracer=_tracer() if trace else None):
        ended(timed)
    show(summary.last if seed is not None else summary.as_object(), as_json=options.as_json)
    if summary.failed:
        raise typer.Exit(EXIT_FAILURE)


@simulations.command("market")
def sim_market(
    agents: Annotated[int, typer.Option(help="Traders that come in all.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Everything that happens follows from it.")] = 1,
    scenario: Annotated[str, typer.Option(help="thin, thick or shock.")] = "thick",
    plot: Annotated[Path | None, typer.Option(help="Draw the price of each round into this file (.svg).")] = None,
) -> None:
    """Run the auction with thousands of traders, beside the most that they could have gained in all."""
    from blockcloud.simulation.market.drawing import price_path_svg
    from blockcloud.simulation.market.scenario import SCENARIOS
    from blockcloud.simulation.market.trial import run_trial

    if scenario not in SCENARIOS:
        raise typer.BadParameter("--scenario takes one of " + ", ".join(SCENARIOS))
    if plot is not None and plot.suffix != ".svg":
        raise typer.BadParameter("--plot draws SVG: name a file that ends in .svg")
    trial = run_trial(SCENARIOS[scenario], agents, seed)
    if plot is not None:
        plot.write_text(price_path_svg(trial), encoding="utf-8")
        say(f"price path: {plot}")
    show(trial.as_object(), as_json=options.as_json)


@simulations.command("verification")
def sim_verification(
    scenario: Annotated[str, typer.Option(help="Who cheats, or all.")] = "all",
    eras: Annotated[int, typer.Option(min=1, max=400, help="Eras of each run.")] = 40,
    seed: Annotated[int, typer.Option(help="Everything that happens follows from it.")] = 1,
) -> None:
    """Proof of service with liars among providers and verifiers: what each gained beside the honest, in BLOC."""
    from blockcloud.simulation.verification.scenario import SCENARIOS
    from blockcloud.simulation.verification.trial import run_trial

    if scenario not in (*SCENARIOS, "all"):
        raise typer.BadParameter("--scenario takes all or one of " + ", ".join(SCENARIOS))
    wanted = SCENARIOS if scenario == "all" else {scenario: SCENARIOS[scenario]}
    show({name: run_trial(each, eras, seed) for name, each in wanted.items()}, as_json=options.as_json)


def _tracer() -> Callable[[str], None]:
    """Events go where people read: stdout, unless that is for one JSON object."""
    return say if options.as_json else typer.echo


def _seeds(text: str) -> range:
    first, separator, last = text.partition("..")
    if not (first.isdecimal() and last.isdecimal() and separator and int(first) <= int(last)):
        raise typer.BadParameter("--seeds takes FIRST..LAST, such as 1..200")
    return range(int(first), int(last) + 1)


@bench.command("ledger")
def bench_ledger(
    seconds: Annotated[float, typer.Option(help="Length of the load at the peak.")] = 60,
    overload_seconds: Annotated[float, typer.Option(help="Length of the load at twice the peak.")] = 30,
    accounts: Annotated[int, typer.Option(help="Accounts that pay each other.")] = 100_000,
    in_flight: Annotated[int, typer.Option(help="Batches of 100 under way at the peak.")] = 9,
    idle_seconds: Annotated[float, typer.Option(help="Length of the idle measurement.")] = 20,
    beside: Annotated[bool, typer.Option("--beside", help="Then etcd and CometBFT, on the same machine.")] = False,
) -> None:
    """Transfers a second through four validator processes, at the peak and at twice the peak."""
    from blockcloud.bench.ledger import run

    report = run(
        seconds=seconds,
        overload_seconds=overload_seconds,
        idle_seconds=idle_seconds,
        accounts=accounts,
        in_flight=in_flight,
        beside_seconds=BESIDE_SECONDS if beside else 0,
    )
    show(report, as_json=options.as_json)


@bench.command("state")
def bench_state(
    keys: Annotated[int, typer.Option(help="Keys in the state.")] = 1_000_000,
    batch: Annotated[int, typer.Option(help="Updates in a batch.")] = 500,
    names: Annotated[
        int, typer.Option(help="Names in a second state, whose proofs are measured; 0: none.")
    ] = 1_000_000,
) -> None:
    """Processor time of an update of the state, the tree alone and everything written; then proofs of names."""
    from blockcloud.bench.state import run
    from blockcloud.node.storage import RocksStore

    show(run(keys=keys, batch=batch, names=names, store_factory=RocksStore), as_json=options.as_json)


@bench.command("sal")
def bench_sal(
    only: Annotated[str, typer.Option(help="Parts to measure, separated by commas; not given: all.")] = "",
    sessions: Annotated[int, typer.Option(help="Idle sessions that one process holds.")] = 5_000,
) -> None:
    """Sessions by name against plain TLS: connecting, requests, bulk, idle memory, resolving, and gaps of moves."""
    from blockcloud.bench.sal import PARTS, run

    chosen = [part.strip() for part in only.split(",")] if only else list(PARTS)
    if not set(chosen) <= set(PARTS):
        raise typer.BadParameter("--only takes some of " + ", ".join(PARTS))
    show(run(only=chosen, sessions=sessions), as_json=options.as_json)


@bench.command("roaming")
def bench_roaming(
    moves: Annotated[int, typer.Option(min=1, help="Moves of each kind.")] = 15,
    cases: Annotated[str, typer.Option(help="provider, consumer, both, fallback: separated by commas.")] = (
        "provider,consumer,both,fallback"
    ),
) -> None:
    """How long a session is silent when its ends change their networks, in namespaces (needs root)."""
    from blockcloud.bench.roaming import CASES, run

    chosen = [case.strip() for case in cases.split(",")]
    if not set(chosen) <= set(CASES):
        raise typer.BadParameter("--cases takes some of " + ", ".join(CASES))
    show(run(cases=chosen, moves=moves), as_json=options.as_json)


@bench.command("catchup")
def bench_catchup(
    legs: Annotated[str, typer.Option(help="dense, long, eras: separated by commas.")] = "dense,long,eras",
    commits: Annotated[int, typer.Option(help="Commits of the past in the long legs.")] = 100_000,
    dense_commits: Annotated[int, typer.Option(help="Commits of the past in the dense leg.")] = 5_000,
    transfers: Annotated[int | None, typer.Option(help="In each dense commit; not given: as the load gives.")] = None,
    load: Annotated[float, typer.Option(help="Transfers a second that the network carries.")] = 500,
    accounts: Annotated[int, typer.Option(help="Accounts that pay each other.")] = 10_000,
    deadline: Annotated[float, typer.Option(help="Give a leg up after so many seconds.")] = 300,
) -> None:
    """How fast a validator that was down gets back in step with a network under load."""
    from blockcloud.bench.catchup import LEGS, run

    chosen = [leg.strip() for leg in legs.split(",")]
    if not set(chosen) <= set(LEGS):
        raise typer.BadParameter("--legs takes some of " + ", ".join(LEGS))
    report = run(
        legs=chosen,
        commits=commits,
        dense_commits=dense_commits,
        transfers=transfers,
        load=load,
        accounts=accounts,
        deadline_s=deadline,
    )
    show(report, as_json=options.as_json)


@bench.command("replay")
def bench_replay(
    transfers: Annotated[int, typer.Option(min=1, help="Transfers in the past that is replayed.")] = 40_000,
    per_level: Annotated[int, typer.Option(min=1, help="Transfers in the blocks of one level.")] = 100,
    accounts: Annotated[int, typer.Option(min=1, help="Accounts that pay each other.")] = 20_000,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each kind; the median counts.")] = 3,
) -> None:
    """Transfers a second from the genesis, with all signatures and below a certificate; the cost of executing one."""
    from blockcloud.bench.replay import run

    show(run(transfers=transfers, per_level=per_level, accounts=accounts, runs=runs), as_json=options.as_json)


@bench.command("memory")
def bench_memory(
    keys: Annotated[int, typer.Option(help="Accounts in the state.")] = 1_000_000,
    operations: Annotated[int, typer.Option(help="Transfers, ten under each signature.")] = 10_000_000,
    validators: Annotated[int, typer.Option(min=1, max=4, help="Validator processes.")] = 1,
    every: Annotated[int, typer.Option(help="A row after so many operations.")] = 1_000_000,
) -> None:
    """What a validator with many accounts occupies, and whether that stays so under work."""
    from blockcloud.bench.memory import run

    show(run(keys=keys, operations=operations, validators_count=validators, every=every), as_json=options.as_json)


@bench.command("contracts")
def bench_contracts(
    calls: Annotated[int, typer.Option(help="Calls of each kind.")] = 2_000,
) -> None:
    """What a contract call costs beside its fuel, and what a unit of fuel and a deployment cost."""
    from blockcloud.bench.contracts import run

    show(run(calls=calls), as_json=options.as_json)


@bench.command("weights")
def bench_weights(
    members: Annotated[int, typer.Option(min=4, max=100, help="Members, and transactions in a measured commit.")] = 64,
    accounts: Annotated[int, typer.Option(min=1, help="Further accounts in the state.")] = 20_000,
    runs: Annotated[int, typer.Option(min=1, help="Runs of everything; the median counts.")] = 3,
) -> None:
    """What each kind of operation costs a node for a unit of the weight it pays for, beside a transfer."""
    from blockcloud.bench.weights import run

    show(run(members=members, accounts=accounts, runs=runs), as_json=options.as_json)


@bench.command("policy")
def bench_policy(
    decisions: Annotated[int, typer.Option(help="Decisions of each kind.")] = 5_000,
) -> None:
    """Time of a decision on who may connect: by role, with many rules, with a grant; and of binding a policy."""
    from blockcloud.bench.policy import run

    show(run(decisions=decisions), as_json=options.as_json)


@bench.command("edge")
def bench_edge(
    hits: Annotated[int, typer.Option(min=100, help="Verified hits of each kind.")] = 2_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of requests; the median counts.")] = 5,
    each: Annotated[int, typer.Option(min=1, help="Requests of each of 32 clients in a round without the edge.")] = 100,
) -> None:
    """A verified hit in the cache of an edge node, and requests a second with and without it."""
    from blockcloud.bench.edge import run

    show(run(hits=hits, rounds=rounds, each=each), as_json=options.as_json)


@bench.command("market")
def bench_market(
    per_round: Annotated[int, typer.Option(min=2, help="Orders that come in each round, 10,000 waiting.")] = 2_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that are measured.")] = 12,
    agents: Annotated[int, typer.Option(min=10, help="Traders in each market whose efficiency is measured.")] = 3_000,
    liars: Annotated[int, typer.Option(min=0, help="Traders of each kind of lie; 0: no lies.")] = 500,
    live: Annotated[int, typer.Option(min=2, help="Orders that wait in a book of the ledger.")] = 10_000,
) -> None:
    """Orders a second through the auction, its efficiency, and what liars gain, by mechanism and kind of lie."""
    from blockcloud.bench.market import run

    show(run(per_round=per_round, rounds=rounds, agents=agents, liars=liars, live=live), as_json=options.as_json)


@bench.command("verification")
def bench_verification(
    providers: Annotated[int, typer.Option(min=1, help="Providers of each kind that are tested.")] = 4_000,
    seed: Annotated[int, typer.Option(help="All probes follow from it.")] = 1,
) -> None:
    """Probes until a bad provider stands accused or a good one is cleared, and how many good ones are accused."""
    from blockcloud.bench.verification import run

    show(run(providers=providers, seed=seed), as_json=options.as_json)


@bench.command("vouchers")
def bench_vouchers(
    vouchers: Annotated[int, typer.Option(min=1, help="Vouchers of each of nine batches.")] = 2_000,
    requests: Annotated[int, typer.Option(min=0, help="Requests of each round through a session; 0: none.")] = 3_000,
) -> None:
    """What it costs to pay: a voucher signed, verified and recorded, a PayWord unit, and requests that are paid for."""
    from blockcloud.bench.vouchers import run

    show(run(vouchers=vouchers, requests=requests), as_json=options.as_json)


@bench.command("finality")
def bench_finality(
    validators: Annotated[str, typer.Option(help="Committee sizes, separated by commas.")] = "4,10,40,100",
    levels: Annotated[int, typer.Option(help="Levels of each run.")] = 60,
) -> None:
    """How long until a block is final, simulated: over the distances of cloud regions, and in message delays."""
    from blockcloud.bench.finality import run

    sizes = [int(size) for size in validators.split(",") if size.strip().isdecimal()]
    show(run(sizes=sizes, levels=levels), as_json=options.as_json)
