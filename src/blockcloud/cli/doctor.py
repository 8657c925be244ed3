"""`blockcloud doctor`: ports, clock, disk, peers: one line each, with cause and mend.

It looks at whatever the home folder is: a devnet, a node, or a client of somebody else's network.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import typer

from blockcloud.cli.context import home_folder, load_genesis, options
from blockcloud.cli.output import EXIT_FAILURE, show
from blockcloud.cli.ports import Address, host_port, taken, url_address
from blockcloud.primitives.errors import BlockCloudError

ANSWER_SECONDS: Final = 3.0
CLOCK_TOLERANCE_MS: Final = 2_000
STANDSTILL_MS: Final = 10_000
FREE_BYTES_MIN: Final = 1024**3
SYNC_MS_MAX: Final = 20.0
SYNC_SAMPLES: Final = 5
SYNC_BYTES: Final = 4_096


@dataclass(frozen=True)
class Node:
    """A node to look at: where its API is and, if it is to run on this machine, all its ports and how to start it."""

    label: str
    api: str
    ports: tuple[Address, ...] = ()
    start: str = ""


def register(app: typer.Typer) -> None:
    """Add the command to the tree."""
    app.command()(doctor)


def doctor() -> None:
    """What could be wrong here: ports, clock, disk, peers; for each its cause and what mends it."""
    nodes = find_nodes()
    statuses = asyncio.run(_statuses(nodes))
    checks = [check_ports(nodes, statuses), check_clock(statuses), check_disk(home_folder()), check_peers(statuses)]
    checks += [_bad(item["code"], item["cause"], item["mend"]) for item in _complaints(statuses)]
    report = {"ok": all(check["ok"] for check in checks), "checks": checks}
    show(report, as_json=options.as_json)
    if not report["ok"]:
        raise typer.Exit(EXIT_FAILURE)


def find_nodes() -> list[Node]:
    """The nodes that the home folder, or --api, speaks of. Raises BadConfiguration."""
    from blockcloud.node.config import CONFIG_FILE, read_config
    from blockcloud.node.devnet import DEVNET_FILE, read_devnet

    folder = home_folder().absolute()
    if options.api:
        return [Node("node", options.api)]
    if (folder / DEVNET_FILE).exists():
        start = f"blockcloud devnet up --dir {shlex.quote(str(folder))}"
        return [
            Node(f"validator {each.id}", each.api, (url_address(each.api), host_port(each.link)), start)
            for each in read_devnet(folder).validators
        ]
    if (folder / CONFIG_FILE).exists():
        config = read_config(folder)
        ports = ((config.api_host, config.api_port), (config.link_host, config.link_port))
        start = f"blockcloud --home {shlex.quote(str(folder))} node run"
        return [Node("node", f"http://{config.api_host}:{config.api_port}", ports, start)]
    return [Node(f"validator {i}", each.api_url) for i, each in enumerate(load_genesis().validators)]


async def _statuses(nodes: list[Node]) -> dict[str, dict[str, Any] | None]:
    """What each node says of itself, by its label; None where none answers."""
    from blockcloud.sdk.transport import Transport, decode_object

    transport = Transport([node.api for node in nodes])

    async def ask(node: Node) -> dict[str, Any] | None:
        try:
            return decode_object(await transport.once(node.api, "GET", "/v1/status", timeout_s=ANSWER_SECONDS))
        except BlockCloudError:
            return None

    try:
        answers = await asyncio.gather(*(ask(node) for node in nodes))
    finally:
        await transport.close()
    return {node.label: answer for node, answer in zip(nodes, answers, strict=True)}


def check_ports(nodes: list[Node], statuses: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    """Whether every node answers where it should; if not, who has its ports."""
    silent = [node for node in nodes if statuses[node.label] is None]
    if not silent:
        return _good("ports", f"{len(nodes)} of {len(nodes)} nodes answer: " + ", ".join(node.api for node in nodes))
    foreign = [f"{host}:{port}" for node in silent for host, port in taken(node.ports)]
    if foreign:
        return _bad(
            "ports",
            f"something else uses {', '.join(foreign)}, or a node is still starting",
            "Stop that program, or change the ports in blockcloud.toml.",
        )
    who = ", ".join(f"{node.label} at {node.api}" for node in silent)
    mend = f"Start it: {silent[0].start}" if silent[0].start else "Ask who runs it; or name another node with --api."
    return _bad("ports", f"no answer from {who}", mend)


def check_clock(statuses: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    """This machine's clock against the newest commit's time, which is the median of the validators' clocks."""
    times = [answer["commit_time_ms"] for answer in statuses.values() if answer and "commit_time_ms" in answer]
    if not times:
        return _bad("clock", "no node answers, so there is nothing to compare with", "Mend the ports first.")
    ahead_ms = time.time_ns() // 1_000_000 - max(times)
    if ahead_ms < -CLOCK_TOLERANCE_MS:
        return _bad("clock", f"this clock is {-ahead_ms} ms behind the ledger's", "Run a time service (NTP).")
    if ahead_ms > STANDSTILL_MS:
        return _bad(
            "clock",
            f"the newest commit is {ahead_ms} ms old by this clock: the ledger stands still, or the clock is ahead",
            "Look at the peers; if they are well, run a time service (NTP).",
        )
    return _good("clock", f"the newest commit is {max(ahead_ms, 0)} ms old")


def check_disk(folder: Path) -> dict[str, Any]:
    """Room, and how long a synced write takes: a validator makes one for each of its blocks."""
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(place).free
    if free < FREE_BYTES_MIN:
        return _bad("disk", f"{free // 1024**2} MiB free at {place}", "Make room, or move the home folder.")
    try:
        sync_ms = _sync_ms(place)
    except OSError as error:
        return _bad("disk", f"cannot write at {place}: {error.strerror}", "Mend the rights of the folder, or the disk.")
    if sync_ms > SYNC_MS_MAX:
        return _bad("disk", f"a synced write takes {sync_ms:.1f} ms at {place}", "Use a faster disk.")
    return _good("disk", f"{free // 1024**3} GiB free, a synced write takes {sync_ms:.1f} ms")


def _sync_ms(folder: Path) -> float:
    samples = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNC_SAMPLES):
            begin = time.perf_counter()
            file.write(bytes(SYNC_BYTES))
            file.flush()
            os.fsync(file.fileno())
            samples.append((time.perf_counter() - begin) * 1_000)
    return median(samples)


def check_peers(statuses: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    """Whether the validators are linked to each other. Nodes that only follow come and go."""
    answers = {label: answer for label, answer in statuses.items() if answer is not None}
    if not answers:
        return _bad("peers", "no node answers", "Mend the ports first.")
    missing = {
        label: [
            str(peer["member"])
            for peer in answer.get("peers", [])
            if peer["member"] is not None and not peer.get("connected")
        ]
        for label, answer in answers.items()
    }
    gaps = [f"{label} is not linked to {', '.join(members)}" for label, members in missing.items() if members]
    if gaps:
        return _bad("peers", "; ".join(gaps), "Start those validators, or open the network between them.")
    heights = [answer.get("height", 0) for answer in answers.values()]
    return _good("peers", f"all links are up, heights {min(heights)} to {max(heights)}")


def _complaints(statuses: dict[str, dict[str, Any] | None]) -> list[dict[str, str]]:
    """What the nodes themselves say is wrong."""
    return [
        {"code": f"{label}: {item['code']}", "cause": item["cause"], "mend": item["mend"]}
        for label, answer in statuses.items()
        if answer is not None
        for item in answer.get("health", [])
    ]


def _good(check: str, finding: str) -> dict[str, Any]:
    return {"check": check, "ok": True, "cause": finding, "mend": None}


def _bad(check: str, cause: str, mend: str) -> dict[str, Any]:
    return {"check": check, "ok": False, "cause": cause, "mend": mend}
