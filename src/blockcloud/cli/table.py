"""`blockcloud table`: the service table of a running publish, forward or proxy, over its control socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from blockcloud.cli.context import command_group, home, options
from blockcloud.cli.output import show
from blockcloud.primitives.errors import BadConfiguration, Unreachable
from blockcloud.primitives.names import parse_name

PUBLISH: Final = "publish-"
Of = Annotated[
    str,
    typer.Option("--of", help="NAME of a running publish, publish-NAME, `forward` or `proxy`; default: the only one."),
]

app = command_group("Rules for connections by name, their counters, and what happens.")
app.info.no_args_is_help = False


@app.callback(invoke_without_command=True)
def table(context: typer.Context, of: Of = "") -> None:
    """Show the service table: rules with counters and ages, what is measured of instances, what waits for a verdict."""
    if context.invoked_subcommand is None:
        show(asyncio.run(_table(of)), as_json=options.as_json)
    elif of:
        raise typer.BadParameter("put --of behind the command: blockcloud table COMMAND --of ...")


async def _table(of: str) -> dict[str, Any]:
    path = await control_socket(of)
    rules: list[dict[str, Any]] = []
    while True:
        page = await ask(path, {"op": "rules", "after": rules[-1]["rule"] if rules else 0})
        rules += page["rules"]
        if not page["more"]:
            break
    instances, waiting = await ask(path, {"op": "instances"}), await ask(path, {"op": "waiting"})
    return {"of": path.stem, "rules": rules, **instances, **waiting, "last_event": page["last_event"]}


@app.command()
def add(
    pattern: Annotated[str, typer.Argument(help="A name, *.NAME for all below it, or * for all.")],
    action: Annotated[str, typer.Argument(help="forward, delay or drop.")],
    to: Annotated[list[str] | None, typer.Option("--to", help="HOST:PORT to forward to; repeat.")] = None,
    priority: Annotated[int, typer.Option(help="Lowest first, among rules of one pattern.")] = 0,
    weight: Annotated[int, typer.Option(help="Share among rules of one priority.")] = 1,
    idle_ms: Annotated[int | None, typer.Option("--idle-ms", help="End the rule when unused for so long.")] = None,
    hard_ms: Annotated[int | None, typer.Option("--hard-ms", help="End the rule after so long.")] = None,
    wait_ms: Annotated[int | None, typer.Option("--wait-ms", help="How long DELAY waits for a verdict.")] = None,
    of: Of = "",
) -> None:
    """Add a rule. It ends with the process whose table it is in, or by its own timeouts."""
    if pattern != "*":
        parse_name(pattern.removeprefix("*."))
    wanted: dict[str, Any] = {"pattern": pattern, "action": action, "to": to or [], "priority": priority}
    wanted |= {"weight": weight, "idle_ms": idle_ms, "hard_ms": hard_ms, "wait_ms": wait_ms}
    show(asyncio.run(_ask(of, {"op": "add-rule", **wanted})), as_json=options.as_json)


@app.command()
def remove(rule: Annotated[int, typer.Argument(help="Number of a rule that was added.", min=1)], of: Of = "") -> None:
    """Remove a rule that was added."""
    asyncio.run(_ask(of, {"op": "remove-rule", "rule": rule}))
    show({"removed": rule}, as_json=options.as_json)


@app.command()
def watch(
    events: Annotated[list[str] | None, typer.Option("--event", help="Only events of this kind; repeat.")] = None,
    since: Annotated[int | None, typer.Option(help="Begin after the event of this number.", min=0)] = None,
    of: Of = "",
) -> None:
    """Print events as they come, one a line, until stopped."""
    asyncio.run(_watch(of, events, since))


async def _watch(of: str, events: list[str] | None, since: int | None) -> None:
    from blockcloud.service_access.control import subscription

    path = await control_socket(of)
    operation: dict[str, Any] = {"op": "subscribe"}
    if events:
        operation["events"] = events
    if since is not None:
        operation["since"] = since
    lines = subscription(path, operation)
    accepted(await anext(lines))
    async for event in lines:
        if options.as_json:
            show(event, as_json=True)
        else:
            rest = {name: value for name, value in event.items() if name not in ("event", "number", "name", "time_ms")}
            details = " ".join(f"{name}={value}" for name, value in rest.items() if value not in (None, False))
            line = f"{event.get('number', ''):>6}  {event['event']:<7}  {event.get('name', '')}  {details}"
            show(line.rstrip(), as_json=False)


async def control_socket(of: str) -> Path:
    """The control socket of what runs under `of`, or of the only thing that runs. Raises Unreachable, or
    BadConfiguration if several do."""
    from blockcloud.service_access.control import is_served

    folder = home().control_path("any").parent
    if of:
        names = [of, f"{PUBLISH}{of}"]
        if not of.startswith(PUBLISH) and of not in ("forward", "proxy"):
            names = [f"{PUBLISH}{parse_name(of)}"]
        found = [path for path in map(home().control_path, names) if path.exists()]
        if not found:
            raise Unreachable("nothing of this name runs with this home folder", of=of, folder=str(folder))
        return found[0]
    running = [path for path in sorted(folder.glob("*.sock")) if await is_served(path)]
    if not running:
        raise Unreachable("no publish, forward or proxy runs with this home folder", folder=str(folder))
    if len(running) > 1:
        raise BadConfiguration("several run here: say which with --of", running=[path.stem for path in running])
    return running[0]


async def _ask(of: str, operation: dict[str, Any]) -> dict[str, Any]:
    return await ask(await control_socket(of), operation)


async def ask(path: Path, operation: dict[str, Any]) -> dict[str, Any]:
    """The answer of the process behind a control socket. Raises Unreachable, or its refusal."""
    from blockcloud.service_access.control import request

    return accepted(await request(path, operation))


def accepted(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer of a control socket without its `ok`. Raises what it refuses with."""
    from blockcloud.sdk.errors import refusal

    if not answer.pop("ok"):
        raise refusal({"code": answer.get("code"), "detail": answer.get("error"), "hint": answer.get("hint")}, 0)
    return answer
