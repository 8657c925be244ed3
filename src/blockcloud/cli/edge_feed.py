"""`blockcloud edge feed|read`: the IoT edge node, and readers of it."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from blockcloud.cli.context import (
    address_argument,
    chosen_account,
    home,
    home_folder,
    load_cosigners,
    options,
)
from blockcloud.cli.output import say, show
from blockcloud.primitives.errors import Unreachable
from blockcloud.primitives.names import parse_name

if TYPE_CHECKING:
    from blockcloud.primitives.keys import SigningKey
    from blockcloud.service_access.edge.feed.core import Settings
    from blockcloud.service_access.edge.feed.lines import Request
    from blockcloud.service_access.edge.feed.node import Feed
    from blockcloud.service_access.edge.feed.secret_files import Login

FOLDER: Final = "feeds"
MEBIBYTE: Final = 1024 * 1024
READ_KINDS: Final = ("newest", "last", "windows", "live", "follow")


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    app.command()(feed)
    app.command()(read)


def feed(
    name: str,
    mqtt: Annotated[str, typer.Option(help="HOST:PORT of an MQTT broker to take readings from.")] = "",
    topic: Annotated[list[str] | None, typer.Option(help="Topic filter to subscribe to there; repeat.")] = None,
    mqtt_login: Annotated[
        Path | None, typer.Option(help="File with the user's name and the password for the broker, each a line.")
    ] = None,
    http: Annotated[str, typer.Option(help="HOST:PORT to take readings at by HTTP; 0 takes a free port.")] = "",
    coap: Annotated[str, typer.Option(help="HOST:PORT to take readings at by CoAP; 0 takes a free port.")] = "",
    source: Annotated[list[str] | None, typer.Option("--from", help="Name of a feed to take over; repeat.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a token that devices must show over HTTP and CoAP.")
    ] = None,
    window: Annotated[int, typer.Option(help="Seconds of a window of aggregates.")] = 10,
    keep: Annotated[int, typer.Option(min=1, help="MiB of samples to keep; beyond that the oldest go.")] = 256,
    keep_windows: Annotated[int, typer.Option(min=1, help="MiB of aggregates to keep.")] = 64,
    home_assistant: Annotated[
        bool, typer.Option("--home-assistant", help="Publish the series at the broker for Home Assistant.")
    ] = False,
    listen: Annotated[str, typer.Option(help="HOST:PORT to be reached at by readers.")] = "127.0.0.1:0",
    title: Annotated[str, typer.Option(help="Title for the service file.")] = "",
    status: Annotated[bool, typer.Option("--status", help="Start nothing; show the running feed.")] = False,
    forget: Annotated[
        str, typer.Option(help="Start nothing; let the running feed wait for this consumer no longer.")
    ] = "",
) -> None:
    """Take readings from devices, keep newest values and windows, and serve readers under a name until stopped."""
    wanted = parse_name(name)
    if status or forget:
        operation = {"op": "forget", "consumer": forget} if forget else {"op": "status"}
        show(asyncio.run(_ask(wanted, operation)), as_json=options.as_json)
        return
    if not (mqtt or http or coap or source):
        raise typer.BadParameter("say where readings come from: --mqtt, --http, --coap or --from")
    if bool(mqtt) != bool(topic):
        raise typer.BadParameter("--mqtt HOST:PORT goes with at least one --topic FILTER")
    if (home_assistant or mqtt_login) and not mqtt:
        raise typer.BadParameter("--home-assistant and --mqtt-login are about the broker of --mqtt")
    from blockcloud.cli.service import serve_until_stopped
    from blockcloud.service_access.edge.feed.core import Settings
    from blockcloud.service_access.edge.feed.secret_files import read_login, read_token

    settings = Settings(window_seconds=window)
    settings.check()
    inputs = _Inputs(
        mqtt=address_argument(mqtt) if mqtt else None,
        topics=tuple(topic or ()),
        login=read_login(mqtt_login) if mqtt_login is not None else None,
        http=address_argument(http) if http else None,
        coap=address_argument(coap) if coap else None,
        upstreams=tuple(parse_name(each) for each in source or ()),
        token=read_token(token_file) if token_file is not None else b"",
        home_assistant=home_assistant,
    )
    kept = keep * MEBIBYTE, keep_windows * MEBIBYTE
    serve_until_stopped(_feed(wanted, address_argument(listen), title, settings, kept, inputs))


@dataclass(frozen=True)
class _Inputs:
    """Where readings come from."""

    mqtt: tuple[str, int] | None
    topics: tuple[str, ...]
    login: Login | None
    http: tuple[str, int] | None
    coap: tuple[str, int] | None
    upstreams: tuple[str, ...]
    token: bytes
    home_assistant: bool


async def _feed(
    name: str,
    place: tuple[str, int],
    title: str,
    settings: Settings,
    kept_bytes: tuple[int, int],
    inputs: _Inputs,
) -> None:
    from blockcloud.cli.service import Control, listening
    from blockcloud.sdk.services import listen
    from blockcloud.service_access.edge.feed.node import READER_PARAMETERS, open_feed
    from blockcloud.service_access.edge.feed.serving import READERS
    from blockcloud.service_access.endpoint import ServiceEndpoint

    here = home()
    (here.path / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
    running: list[Feed] = []

    async def forget(request: dict[str, Any]) -> dict[str, Any]:
        return await running[0].forget(request)

    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(ServiceEndpoint(here.instance_key(), parameters=READER_PARAMETERS))
        await listening(endpoint.start(*place))
        # The control socket first: a second process for the same outbox is refused before it touches it.
        control = Control(endpoint, f"feed-{name}", lambda: running[0].status() if running else {}, {"forget": forget})
        await stack.enter_async_context(control)
        samples, aggregates = kept_bytes
        path = here.path / FOLDER / f"{name}.sqlite"
        opened = open_feed(name, path, settings, sample_bytes=samples, aggregate_bytes=aggregates)
        feed = await stack.enter_async_context(opened)
        running.append(feed)
        places = await _start_inputs(feed, stack, inputs)
        served = listen(
            name,
            home=here,
            key=options.key,
            account=chosen_account(),
            cosigners=load_cosigners(),
            api=options.api,
            endpoint=endpoint,
            title=title,
            capacity=READERS,
        )
        listener = await stack.enter_async_context(served)
        report = {"name": name, "listening": str(endpoint.addresses[0]), "control": str(control.path), **places}
        show(report, as_json=options.as_json)
        folder = shlex.quote(str(home_folder()))
        say(f"ready; Ctrl-C stops it. read it with: blockcloud --home {folder} edge read {name} live")
        await feed.serve(listener)


async def _start_inputs(feed: Feed, stack: AsyncExitStack, inputs: _Inputs) -> dict[str, Any]:
    """Open what was asked for; where it is, for the ready line."""
    from blockcloud.cli.service import listening
    from blockcloud.sdk.feed import feed_connection

    identity = home().instance_key()
    places: dict[str, Any] = {}
    if inputs.http is not None:
        places["http"] = "{}:{}".format(*await listening(feed.take_http(inputs.http, inputs.token)))
    if inputs.coap is not None:
        places["coap"] = "{}:{}".format(*await listening(feed.take_coap(inputs.coap, inputs.token)))
    if inputs.mqtt is not None:
        identifier = f"blockcloud-{feed.name}-{identity.public.hex()[:16]}"
        feed.take_mqtt(inputs.mqtt, inputs.topics, identifier, inputs.login)
        places["mqtt"] = {"broker": "{}:{}".format(*inputs.mqtt), "topics": list(inputs.topics)}
        if inputs.home_assistant:
            feed.show_home_assistant(inputs.mqtt, inputs.login)
    for upstream in inputs.upstreams:
        connection = feed_connection(upstream, home=home(), api=options.api, identity=identity)
        feed.collect(upstream, await stack.enter_async_context(connection))
    if inputs.upstreams:
        places["from"] = list(inputs.upstreams)
    return places


async def _ask(name: str, operation: dict[str, str]) -> dict[str, Any]:
    from blockcloud.sdk.errors import refusal
    from blockcloud.service_access.control import request

    path = home().control_path(f"feed-{name}")
    if not path.exists():
        raise Unreachable("no feed of this name runs with this home folder", control=str(path))
    answer = await request(path, operation)
    if not answer.pop("ok"):
        raise refusal({"code": answer.get("code"), "detail": answer.get("error"), "hint": answer.get("hint")}, 0)
    return answer


def read(
    name: str,
    what: Annotated[
        str, typer.Argument(help="newest, last or windows; live (newest values as they come) or follow (everything).")
    ] = "newest",
    series: Annotated[str, typer.Option(help="Only series whose names begin so.")] = "",
    after: Annotated[str, typer.Option(help="follow: go on after LOG:OFFSET, as the last line on stderr says.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many lines of an answer that ends.")] = 1_000,
    count: Annotated[int, typer.Option(min=0, help="live, follow: end after so many lines; 0: never.")] = 0,
    identity: Annotated[
        Path | None, typer.Option("--as", help="Key file to connect as, where a policy asks who you are.")
    ] = None,
) -> None:
    """Read a feed: newest values, closed windows, or a stream of one JSON object a line."""
    from blockcloud.primitives.keys import SigningKey
    from blockcloud.service_access.edge.feed.lines import Request

    if what not in READ_KINDS:
        raise typer.BadParameter(f"read one of {', '.join(READ_KINDS)}")
    key = SigningKey.load(identity) if identity is not None else None
    request = Request(what, series, limit=limit)  # type: ignore[arg-type]  # one of READ_KINDS
    if what in ("live", "follow"):
        asyncio.run(_stream(parse_name(name), request, _cursor(after), count, key))
    else:
        show(asyncio.run(_answer(parse_name(name), request, key)), as_json=options.as_json)


def _cursor(after: str) -> dict[str, int]:
    if not after:
        return {}
    log, separator, offset = after.partition(":")
    if not (separator and log and offset.isdecimal()):
        raise typer.BadParameter("--after takes LOG:OFFSET")
    return {log: int(offset)}


async def _answer(name: str, request: Request, key: SigningKey | None) -> dict[str, Any]:
    from blockcloud.sdk.feed import feed_connection
    from blockcloud.service_access.edge.feed.following import ask_once
    from blockcloud.service_access.edge.feed.lines import describe

    async with feed_connection(name, home=home(), api=options.api, identity=key) as connect:
        found = await ask_once(connect, request)
    return {"name": name, request.op: [describe(entry) for _, entry in found]}


async def _stream(name: str, request: Request, reached: dict[str, int], count: int, key: SigningKey | None) -> None:
    from blockcloud.sdk.feed import feed_connection
    from blockcloud.service_access.edge.feed.following import Cursor, follow
    from blockcloud.service_access.edge.feed.lines import Dropped, describe

    cursor, given = Cursor(reached), 0
    live = request.op == "live"
    async with (
        feed_connection(name, home=home(), api=options.api, identity=key) as connect,
        contextlib.aclosing(follow(connect, cursor, series=request.series, live=live)) as entries,
    ):
        async for entry in entries:
            if given and given == count:
                break
            if isinstance(entry, Dropped):
                say(f"{entry.dropped} entries are gone: the feed had no room for them any more")
                continue
            show({"offset": entry[0], **describe(entry[1])}, as_json=True)
            given += 1
    for log, offset in cursor.reached.items():
        say(f"go on with: --after {log}:{offset}")
