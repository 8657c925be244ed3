"""Runs of the simulator: one seed, or many, and their reports.

`run` gives a report that fits into JSON; the same arguments give the same report. From the shell:
`blockcloud sim --seed 7`, or many seeds: `blockcloud sim --seeds 1..200 --levels 50`.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from time import process_time

import structlog

from blockcloud.primitives.certificates import HANDOVER
from blockcloud.primitives.errors import BadConfiguration, LocalFault
from blockcloud.simulation.dag_builder import AUTHORS
from blockcloud.simulation.hash_machine import HashMachine
from blockcloud.simulation.judge import SafetyBroken
from blockcloud.simulation.ledger import Ledger
from blockcloud.simulation.network import Network, PayloadFactory, Tracer
from blockcloud.simulation.options import Length, draw_options
from blockcloud.simulation.simulated_node import MachineFactory

PASS, NO_PROGRESS, DIVERGED = "Pass", "NoProgress", "Diverged"
SEEDS_A_TASK = 4
SHOWN = ("validators", "leader_slots", "machine", "levels", "commits", "eras", "events", "crashes")

Report = dict[str, object]


@dataclass(frozen=True)
class Timed:
    """A report, and the processor time that the run took."""

    report: Report
    cpu_s: float

    @property
    def passed(self) -> bool:
        """Whether nothing was broken."""
        return self.report["verdict"] == PASS


@dataclass
class Summary:
    """What many runs come to."""

    last: Report = field(default_factory=dict)
    failed: list[Report] = field(default_factory=list)
    runs: int = 0
    cpu_s: float = 0.0
    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("levels", "commits", "events"), 0))

    def add(self, timed: Timed) -> None:
        """Count a run."""
        self.last = timed.report
        self.runs += 1
        self.cpu_s += timed.cpu_s
        for name in self.totals:
            value = timed.report[name]
            assert isinstance(value, int)
            self.totals[name] += value
        if not timed.passed:
            self.failed.append(timed.report)

    def as_object(self) -> Report:
        """The report over all runs: the worst verdict, and the whole reports of those that failed."""
        verdicts = [report["verdict"] for report in self.failed]
        verdict = DIVERGED if DIVERGED in verdicts else NO_PROGRESS if verdicts else PASS
        return {
            "verdict": verdict,
            "runs": self.runs,
            "passed": self.runs - len(self.failed),
            **self.totals,
            "cpu_s": round(self.cpu_s, 1),
            "events_per_cpu_second": round(self.totals["events"] / self.cpu_s) if self.cpu_s else 0,
            "failed": self.failed,
        }


@contextmanager
def quiet_logs() -> Iterator[None]:
    """The production code logs what it meets; a simulated committee of liars would fill the screen with it."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def plain_payload(number: int) -> bytes:
    """A payload for a machine that takes anything."""
    return f"payload {number}".encode()


def make_network(
    seed: int,
    validators: int | None,
    length: Length,
    *,
    machine: MachineFactory | None = None,
    payload: PayloadFactory = plain_payload,
    tracer: Tracer | None = None,
) -> Network:
    """The world of a run, before its first event. `machine` None: the ledger or a hash, as the seed says. Raises
    BadConfiguration."""
    if validators is not None and not 1 <= validators <= AUTHORS:
        raise BadConfiguration("a run has 1 to 26 validators", validators=validators)
    random = Random(seed)
    options = draw_options(random, validators, length)
    if machine is None:
        machine = Ledger if options.ledger else HashMachine
    return Network(random, options, machine, payload, tracer)


def run(
    seed: int,
    validators: int | None = None,
    *,
    seconds: int | None = None,
    levels: int | None = None,
    machine: MachineFactory | None = None,
    payload: PayloadFactory = plain_payload,
    tracer: Tracer | None = None,
) -> Report:
    """One simulated run; the end of it is without faults. It goes on for `seconds` of virtual time, or until every
    honest member has seen `levels` (100 if neither is given). `validators` None: 4 to 10, as the seed says.

    `verdict` is Pass, NoProgress (it is safe but did not go on) or Diverged (it is not safe, or a member broke down),
    with a `reason`. Raises BadConfiguration.
    """
    length = Length.of(seconds, levels)
    network = make_network(seed, validators, length, machine=machine, payload=payload, tracer=tracer)
    try:
        with quiet_logs():
            network.play()
    except SafetyBroken as broken:
        verdict, reason = DIVERGED, str(broken)
    except (AssertionError, LocalFault, LookupError) as broken:
        verdict, reason = DIVERGED, f"a member broke down: {type(broken).__name__}: {broken}"
    else:
        reason = network.complaint()
        verdict = NO_PROGRESS if reason else PASS
    return _report(network, verdict, reason, seed, _command(seed, validators, seconds, levels))


def _command(seed: int, validators: int | None, seconds: int | None, levels: int | None) -> str:
    given = {"seed": seed, "validators": validators, "seconds": seconds, "levels": levels}
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["blockcloud", "sim", *words])


def _report(network: Network, verdict: str, reason: str, seed: int, again: str) -> Report:
    options, judge = network.options, network.judge
    return {
        "verdict": verdict,
        "reason": reason,
        "seed": seed,
        "validators": options.members,
        "weights": list(options.weights),
        "leader_slots": options.parameters.leader_slots,
        "gc_depth_levels": options.parameters.gc_depth_levels,
        "era_length": options.parameters.era_length,
        "machine": "hash" if network.audit is None else "ledger",
        "outsiders": options.outsiders,
        "load": options.load,
        "liars": {str(member): sorted(lie.value for lie in lies) for member, lies in options.liars.items()},
        "faults": options.faults.kinds(),
        "seconds": network.now_ms / 1_000,
        "commits": min(judge.heights[member] for member in options.honest),
        "levels": network.level,
        "eras": max(judge.plans),
        "certificates": len(judge.certificates),
        "handovers_certified": sum(kind == HANDOVER for kind, _ in judge.certificates),
        "acknowledged": 0 if network.audit is None else len(network.audit.acknowledged),
        "reveals": 0 if network.audit is None else network.audit.reveals,
        "forfeits": 0 if network.audit is None else network.audit.forfeits,
        **network.counts,
        "heal_ms": options.faults.heal_ms,
        "heights": list(judge.heights),
        "complaints": sum(node.complaints for node in network.nodes),
        "trace": network.trace.hexdigest(),
        "again": again,
    }


def run_timed(seed: int, validators: int | None, length: Length, tracer: Tracer | None = None) -> Timed:
    """`run` with its processor time."""
    start = process_time()
    report = run(seed, validators, seconds=length.seconds, levels=length.levels, tracer=tracer)
    return Timed(report, process_time() - start)


def run_many(
    seeds: Sequence[int],
    validators: int | None,
    length: Length,
    *,
    processes: int = 1,
    tracer: Tracer | None = None,
) -> Iterator[Timed]:
    """One run for each seed, in their order, in so many processes; only one process has a tracer."""
    if processes == 1:
        yield from map(partial(run_timed, validators=validators, length=length, tracer=tracer), seeds)
        return
    with ProcessPoolExecutor(processes) as pool:
        one = partial(run_timed, validators=validators, length=length)
        yield from pool.map(one, seeds, chunksize=SEEDS_A_TASK)


def one_line(timed: Timed) -> str:
    """One run in one line; why, if it failed."""
    report = timed.report
    parts = [f"seed {report['seed']} {report['verdict']}", *(f"{name}={report[name]}" for name in SHOWN)]
    parts += [f"cpu_s={timed.cpu_s:.2f}", *([str(report["reason"])] if report["reason"] else [])]
    return " ".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds one after another and print their reports; 1 at the first that does not pass."""
    parser = argparse.ArgumentParser(prog="python -m blockcloud.simulation.runner", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="number of seeds to run")
    parser.add_argument("--validators", type=int, default=None)
    parser.add_argument("--seconds", type=int, default=None, help="virtual seconds a run")
    parser.add_argument("--levels", type=int, default=None, help="levels that a run must reach")
    options = parser.parse_args(arguments)
    seeds = range(options.seed, options.seed + options.count)
    for timed in run_many(seeds, options.validators, Length.of(options.seconds, options.levels)):
        sys.stdout.write(json.dumps(timed.report) + "\n")
        if not timed.passed:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
