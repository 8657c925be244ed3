"""CometBFT under load: four validators with the built-in kvstore, each a process on loopback.

Batches of `broadcast_tx_sync` over JSON-RPC, one `key=value` a transaction, counted when a block brings them. Its
validators sign blocks; transactions carry no signature. `timeout_commit` is off and batches of 100 requests are
allowed; else defaults.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
import uvloop

from blockcloud.bench.yardstick_programs import (
    START_S,
    VALUE_BYTES,
    Window,
    YardstickFailed,
    first_line,
    output_of,
    running,
    until_ready,
)
from blockcloud.node.devnet import HOST, free_port

NODES: Final = 4
BATCH: Final = 100
IN_FLIGHT: Final = 9  # batches, as many as `bench ledger` has
MODULE: Final = "github.com/cometbft/cometbft/cmd/cometbft@v0.38.17"
BLOCK_POLL_S: Final = 0.01


def cometbft(seconds: float) -> dict[str, Any]:
    """Transactions a second through four validators with the kvstore. Raises YardstickFailed."""
    with tempfile.TemporaryDirectory(prefix="blockcloud-comet-") as name:
        folder = Path(name)
        program = shutil.which("cometbft") or _install_cometbft()
        made = ["testnet", "--v", str(NODES), "--o", str(folder / "net"), "--populate-persistent-peers=false"]
        output_of([program, *made], "cometbft testnet")
        homes = [folder / "net" / f"node{number}" for number in range(NODES)]
        rpc = [free_port() for _ in homes]
        links = [free_port() for _ in homes]
        ids = [output_of([program, "show-node-id", "--home", str(home)], "cometbft show-node-id") for home in homes]
        peers = [f"{identity}@{HOST}:{port}" for identity, port in zip(ids, links, strict=True)]
        for number, home in enumerate(homes):
            path = home / "config" / "config.toml"
            others = ",".join(peer for i, peer in enumerate(peers) if i != number)
            text = comet_config(path.read_text(encoding="utf-8"), rpc[number], links[number], others)
            path.write_text(text, encoding="utf-8")
        commands = [[program, "node", "--home", str(home), "--proxy_app=kvstore"] for home in homes]
        with running(commands, folder):
            window = uvloop.run(_comet_load(rpc, seconds))
        version = first_line(program, "version")
    return {
        **window.report(),
        "nodes": NODES,
        "in_flight": IN_FLIGHT * BATCH,
        "client": "batches of 100 broadcast_tx_sync over JSON-RPC, from this process; counted in blocks",
        "version": version,
    }


def comet_config(text: str, rpc: int, link: int, peers: str) -> str:
    """A node's config.toml with its ports and peers, several nodes on one address, batches of our size, and no pause
    after a commit. Raises YardstickFailed if a setting is not there."""
    settings = {
        ("rpc", "laddr"): f'"tcp://{HOST}:{rpc}"',
        ("rpc", "max_request_batch_size"): str(BATCH),
        ("p2p", "laddr"): f'"tcp://{HOST}:{link}"',
        ("p2p", "persistent_peers"): f'"{peers}"',
        ("p2p", "allow_duplicate_ip"): "true",
        ("p2p", "addr_book_strict"): "false",
        ("consensus", "timeout_commit"): '"0s"',
        ("", "log_level"): '"error"',
    }
    section, lines, found = "", [], set()
    for line in text.splitlines():
        if (head := re.fullmatch(r"\[([a-z0-9_.]+)\]", line.strip())) is not None:
            section = head.group(1)
        place = section, line.partition("=")[0].strip()
        if place in settings:
            found.add(place)
            line = f"{place[1]} = {settings[place]}"
        lines.append(line)
    if missing := sorted(settings.keys() - found):
        raise YardstickFailed(f"this CometBFT has other settings: no {missing}")
    return "\n".join(lines) + "\n"


def _install_cometbft() -> str:
    """Build it with the Go toolchain, once, into a folder of our own."""
    go = shutil.which("go")
    if go is None:
        raise YardstickFailed("there is no cometbft on the PATH, and no go to install it with")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "blockcloud" / MODULE.rpartition("@")[2]
    program = folder / "cometbft"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        output_of([go, "install", MODULE], "go install", {**os.environ, "GOBIN": str(folder)})
    return str(program)


async def _comet_load(ports: Sequence[int], seconds: float) -> Window:
    window = Window(seconds)
    waiting: dict[str, tuple[float, _Batch]] = {}  # base64 of a transaction -> when it was sent, with which others

    async def ready() -> bool:
        return await _height(client, ports[0]) >= 1

    async with httpx2.AsyncClient(timeout=30) as client:
        await until_ready(ready, "cometbft")
        window.begin()
        tasks = [asyncio.create_task(_watch_blocks(client, ports[0], waiting, window))]
        tasks.append(asyncio.create_task(_comet_senders(client, ports, waiting, window)))
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
    return window


@dataclass
class _Batch:
    """Transactions that were sent together and are not all in blocks yet."""

    left: int
    whole: asyncio.Event = field(default_factory=asyncio.Event)


async def _comet_senders(
    client: httpx2.AsyncClient, ports: Sequence[int], waiting: dict[str, tuple[float, _Batch]], window: Window
) -> None:
    senders = (_comet_sender(client, ports, number, waiting, window) for number in range(IN_FLIGHT))
    await asyncio.gather(*senders)


async def _comet_sender(
    client: httpx2.AsyncClient,
    ports: Sequence[int],
    number: int,
    waiting: dict[str, tuple[float, _Batch]],
    window: Window,
) -> None:
    """Batches one after another, each when the one before is in blocks."""
    turn = 0
    while not window.is_over:
        turn += 1
        # As long as a signed transfer with one operation.
        sent = [base64.b64encode(f"{number}.{turn}.{i}={'x' * VALUE_BYTES}".encode()).decode() for i in range(BATCH)]
        batch, now_s = _Batch(len(sent)), time.perf_counter()
        waiting.update((one, (now_s, batch)) for one in sent)
        calls = [
            {"jsonrpc": "2.0", "id": i, "method": "broadcast_tx_sync", "params": {"tx": one}}
            for i, one in enumerate(sent)
        ]
        response = await client.post(f"http://{HOST}:{ports[number % len(ports)]}", json=calls)
        for one, answer in zip(sent, response.json(), strict=True):
            refused = "error" in answer or answer["result"]["code"]  # a full mempool; it is in no block then
            if refused and waiting.pop(one, None) is not None:
                batch.left -= 1
        if batch.left:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(batch.whole.wait(), START_S)


async def _watch_blocks(
    client: httpx2.AsyncClient, port: int, waiting: dict[str, tuple[float, _Batch]], window: Window
) -> None:
    """Look into each new block for what is waited for. Ends with its task."""
    seen = await _height(client, port)
    while True:
        newest = await _height(client, port)
        while seen < newest:
            seen += 1
            answer = (await client.get(f"http://{HOST}:{port}/block", params={"height": seen})).json()
            for one in answer["result"]["block"]["data"]["txs"] or ():
                if (found := waiting.pop(one, None)) is not None:
                    began_s, batch = found
                    window.done(began_s)
                    batch.left -= 1
                    if not batch.left:
                        batch.whole.set()
        await asyncio.sleep(BLOCK_POLL_S)


async def _height(client: httpx2.AsyncClient, port: int) -> int:
    answer = (await client.get(f"http://{HOST}:{port}/status")).json()
    return int(answer["result"]["sync_info"]["latest_block_height"])
