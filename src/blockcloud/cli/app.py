"""The command tree and the rules that hold for all commands: global options anywhere, errors to exit codes."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final

import typer

from blockcloud import __version__
from blockcloud.cli import account as accounts
from blockcloud.cli import (
    agreement,
    chain,
    contract,
    devnet,
    doctor,
    edge,
    fetching,
    labs,
    lane,
    market,
    name,
    namespace,
    node,
    policy,
    proxy,
    relay,
    service,
    state,
    table,
    trust,
    validator,
)
from blockcloud.cli.context import GLOBAL_FLAGS, GLOBAL_OPTIONS, Drafted, options
from blockcloud.cli.output import EXIT_FAILURE, exit_code, say, show, show_bug, show_error, show_system_error
from blockcloud.primitives.errors import BlockCloudError

INTERRUPTED: Final = 130

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Reach a service by its name, pay a fair price, and prove afterwards what was served.",
    epilog="Start here: blockcloud demo",
)
GROUPS: Final = (
    (devnet.app, "devnet"),
    (node.app, "node"),
    (validator.app, "validator"),
    (accounts.app, "account"),
    (lane.app, "lane"),
    (name.app, "name"),
    (namespace.app, "namespace"),
    (state.app, "state"),
    (trust.app, "trust"),
    (contract.app, "contract"),
    (market.app, "market"),
    (policy.app, "policy"),
    (policy.grant, "grant"),
    (policy.role, "role"),
    (table.app, "table"),
    (edge.app, "edge"),
    (relay.app, "relay"),
)
for group, group_name in GROUPS:
    app.add_typer(group, name=group_name)
chain.register(app)
service.register(app)
fetching.register(app)
proxy.register(app)
doctor.register(app)
labs.register(app)
agreement.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"blockcloud {__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    api: Annotated[str, typer.Option("--api", envvar="BLOCKCLOUD_API", help="URL of a node's API.")] = "",
    key: Annotated[str, typer.Option("--key", envvar="BLOCKCLOUD_KEY", help="File of the key that signs.")] = "",
    home: Annotated[str, typer.Option("--home", envvar="BLOCKCLOUD_HOME", help="Folder of a devnet or node.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    account: Annotated[
        str,
        typer.Option(
            "--account", envvar="BLOCKCLOUD_ACCOUNT", help="Address (or key file) to act for, if not the key's own."
        ),
    ] = "",
    cosign: Annotated[list[str] | None, typer.Option("--cosign", help="File of a key that signs too; repeat.")] = None,
    draft: Annotated[str, typer.Option("--draft", help="Send nothing: write the transaction to this file.")] = "",
    number: Annotated[
        int,
        typer.Option("--lane", envvar="BLOCKCLOUD_LANE", help="Lane that --key acts on (`blockcloud lane`).", min=0),
    ] = 0,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Options that every command takes, before or after its name."""
    del version  # its callback has done the work
    options.api, options.key, options.home, options.as_json = api, key, home, as_json
    options.account, options.cosign, options.draft, options.lane = account, tuple(cosign or ()), draft, number


def hoist(arguments: list[str]) -> list[str]:
    """`arguments` with the global options in front, where the parser expects them; nothing after `--` is touched."""
    front: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--":
            rest += arguments[position:]
            break
        if argument in GLOBAL_FLAGS or (argument.partition("=")[0] in GLOBAL_OPTIONS and "=" in argument):
            front.append(argument)
        elif argument in GLOBAL_OPTIONS:
            if position + 1 == len(arguments):
                return [*front, argument]  # its value is missing, and the parser says so
            front += arguments[position : position + 2]
            position += 1
        else:
            rest.append(argument)
        position += 1
    return front + rest


def run(arguments: list[str]) -> int:
    """Run one command line; returns the process's exit code. Whatever happens, nobody sees a trace unasked."""
    try:
        app(args=hoist(arguments), prog_name="blockcloud")
    except Drafted as drafted:
        show(drafted.report, as_json=options.as_json)
        say(drafted.next_step)
    except BlockCloudError as error:
        show_error(error)
        return exit_code(error)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else EXIT_FAILURE if done.code else 0
    except BrokenPipeError:
        return _reader_has_gone()
    except OSError as error:
        show_system_error(error)
        return EXIT_FAILURE
    except Exception as error:  # noqa: BLE001  a person gets a line, not a trace
        show_bug(error)
        return EXIT_FAILURE
    return 0


def _reader_has_gone() -> int:
    """Whoever read our output wants no more; what is still buffered must not raise again at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_FAILURE
