"""`blockcloud devnet up|down`: a development network of validator processes on this machine."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from blockcloud.cli.context import command_group, options
from blockcloud.cli.output import say, show
from blockcloud.cli.ports import host_port, taken, url_address
from blockcloud.primitives.errors import BadConfiguration, LocalFault

if TYPE_CHECKING:
    from blockcloud.node.devnet import Devnet

app = command_group("A development network on this machine.")
READY_SECONDS: Final = 30
VALIDATORS: Final = 4
HIGHEST_PORT: Final = 65_535
WATCH_SECONDS: Final = 1.0
LOG_TAIL_BYTES: Final = 4_096

Folder = Annotated[Path, typer.Option("--dir", help="Folder of the network.")]


@app.command()
def up(
    folder: Folder,
    validators: Annotated[
        int | None, typer.Option(help=f"Number of validator processes; default {VALIDATORS}.")
    ] = None,
    base_port: Annotated[int | None, typer.Option(help="First port; default: the first free range from 8700.")] = None,
    era_length: Annotated[int | None, typer.Option(help="Commits in an era of a new devnet; default 600.")] = None,
    unbonding: Annotated[
        int | None, typer.Option(help="Seconds that an unbonded amount waits in a new devnet; default 604800 (a week).")
    ] = None,
    stake: Annotated[
        bool, typer.Option("--stake", help="Every validator of a new devnet stakes a little disk, processor and rate.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it runs, and leave it running.")] = False,
) -> None:
    """Start a devnet, a new one or the one that the folder holds, and wait for its first commit."""
    from blockcloud.node.launcher import Launcher

    with ExitStack() as starting:
        with Launcher() as launcher:  # before the import that follows: the launcher's own imports take longest of all
            from blockcloud.node import devnet as network

            starting.enter_context(network.taking_ports())
            folder = folder.absolute()
            devnet = _look_at(folder, validators, base_port)
            before = [each.id for each in devnet.validators if network.is_running(each)] if devnet else []
            if devnet is not None and len(before) == len(devnet.validators):
                _show_ready(folder, devnet, "runs already")
                say(f"stop it with: blockcloud devnet down --dir {shlex.quote(str(folder))}")
                return
            with _ending_in_order():
                if devnet is None:
                    devnet = network.create_devnet(
                        folder,
                        validators or VALIDATORS,
                        base_port,
                        era_length,
                        unbonding_s=unbonding,
                        resources=network.SMALL_STAKE if stake else None,
                    )
                network.start_devnet(folder, devnet, launcher)
        with _ending_in_order():
            try:
                _wait_ready(devnet)
                starting.close()
                _show_ready(folder, devnet, "ready")
                if not detach:
                    _watch(devnet)
            except BaseException:
                if not before:  # what others started keeps running
                    network.stop_devnet(folder, devnet)
                raise
            if not detach:
                network.stop_devnet(folder, devnet)


@app.command()
def down(folder: Folder) -> None:
    """Stop the validators of a devnet. Its ledger stays; `up` continues it."""
    from blockcloud.node import devnet as network

    folder = folder.absolute()
    devnet = network.read_devnet(folder)
    for validator in devnet.validators:
        if not network.is_running(validator):
            validator.pid = 0  # it ended by itself; the number may be somebody else's by now
    stopped = network.stop_devnet(folder, devnet)
    show({"stopped": stopped}, as_json=options.as_json)


def _look_at(folder: Path, validators: int | None, base_port: int | None) -> Devnet | None:
    """The devnet in `folder`, None for a new one; refuses early what cannot work."""
    from blockcloud.node import devnet as network

    if not (folder / network.DEVNET_FILE).exists():
        if (folder / network.GENESIS_FILE).exists():
            raise BadConfiguration(
                "the folder holds something else, or a devnet whose making was cut short", dir=folder
            )
        if base_port is not None:
            _check_ports(network.HOST, base_port, validators or VALIDATORS, network.PORT_STEP)
        return None
    devnet = network.read_devnet(folder)
    if validators not in (None, len(devnet.validators)):
        raise BadConfiguration(
            "the folder holds a devnet of another size; leave --validators out, or choose another --dir",
            validators=len(devnet.validators),
        )
    if base_port is not None and url_address(devnet.validators[0].api)[1] != base_port:
        raise BadConfiguration(
            "the folder holds a devnet with other ports; leave --base-port out, or choose another --dir",
            first=devnet.validators[0].api,
        )
    stopped = [each for each in devnet.validators if not network.is_running(each)]
    _refuse_taken([place for each in stopped for place in (url_address(each.api), host_port(each.link))])
    return devnet


def _check_ports(host: str, base: int, validators: int, step: int) -> None:
    if not 1 <= base <= HIGHEST_PORT - step * (validators - 1) - 1:
        raise BadConfiguration(f"the ports of a devnet lie between 1 and {HIGHEST_PORT}", base_port=base)
    _refuse_taken([(host, base + step * number + offset) for number in range(validators) for offset in (0, 1)])


def _refuse_taken(addresses: list[tuple[str, int]]) -> None:
    used = taken(addresses)
    if used:
        raise BadConfiguration(
            "a port that the devnet needs is in use; stop the program that has it, or leave --base-port out",
            ports=[f"{host}:{port}" for host, port in used],
        )


def _wait_ready(devnet: Devnet) -> None:
    from blockcloud.node import devnet as network

    try:
        network.wait_ready(devnet, READY_SECONDS)
    except LocalFault as error:
        if log := error.values.get("log"):
            say(f"last words: {_last_line(Path(str(log)))}")
        raise


def _last_line(path: Path) -> str:
    """The last line of a log file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return "-"
    return next((line for line in reversed(lines) if line.strip()), "-")


def _show_ready(folder: Path, devnet: Devnet, how: str) -> None:
    """The report, the addresses for a person, and what to type next."""
    from blockcloud.node import devnet as network

    show(network.as_report(devnet), as_json=options.as_json)
    for validator in devnet.validators:
        say(f"validator {validator.id}  {validator.api}/docs")
    say(f"{how}. next: blockcloud --home {shlex.quote(str(folder))} status")


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """SIGTERM ends the body as Ctrl-C does, so that no process is left behind."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _watch(devnet: Devnet) -> None:
    """Until somebody ends it; tells when a validator has ended by itself."""
    from blockcloud.node import devnet as network

    watched = list(devnet.validators)
    # Not `sigwait`: libraries have threads, and a signal to the process may go to one of them.
    with suppress(KeyboardInterrupt):
        say("Ctrl-C stops the network")
        for _ in network.poll_until(inf, WATCH_SECONDS):
            for validator in [each for each in watched if not network.is_running(each)]:
                watched.remove(validator)
                log = Path(validator.home) / network.LOG_FILE
                say(f"validator {validator.id} has ended: {_last_line(log)}  (log: {log})")
    for number in (signal.SIGINT, signal.SIGTERM):  # a second one must not leave half of the network behind
        signal.signal(number, signal.SIG_IGN)
