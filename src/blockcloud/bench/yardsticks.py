"""Other replicated ledgers beside ours, in the same run and on the same cores: etcd and CometBFT.

Both run as they come from their makers, each node a process on loopback with files of its own, all synced as they see
fit. Load: closed loop, so many in flight as `bench ledger` has at its peak, for a few seconds; the client is this
process, so it is part of the figure as it is for ours.

    etcd       three nodes, one put of 128 bytes a request: JSON over HTTP/1.1 keep-alive to the gateway of each node in
               turn (`/v3/kv/put`). It trusts its nodes: no signatures, no Byzantine faults.
    CometBFT   four validators with the built-in kvstore: batches of `broadcast_tx_sync` over JSON-RPC, one `key=value`
               a transaction, counted when a block brings them. Its validators sign blocks; transactions carry no
               signature. `timeout_commit` is off and batches of 100 requests are allowed; else defaults.

What is not on this machine is skipped, with a line that says so.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
import uvloop

from blockcloud.bench.payments import percentiles_ms
from blockcloud.node.devnet import HOST, STOP_SECONDS, free_port
from blockcloud.primitives.errors import BlockCloudError

ETCD_NODES: Final = 3
ETCD_IN_FLIGHT: Final = 256  # puts, each on a connection of its own
VALUE_BYTES: Final = 128
COMET_NODES: Final = 4
COMET_BATCH: Final = 100
COMET_IN_FLIGHT: Final = 9  # batches, as many as `bench ledger` has
COMET_MODULE: Final = "github.com/cometbft/cometbft/cmd/cometbft@v0.38.17"
INSTALL_S: Final = 300
START_S: Final = 30.0
BLOCK_POLL_S: Final = 0.01
WARM_UP_S: Final = 1.0
ANSWER_BYTES: Final = 8 * 1024 * 1024


class YardstickFailed(BlockCloudError):
    """A program to compare with did not start, or does not answer as expected."""

    code = "yardstick_failed"


@dataclass
class Window:
    """Operations that were finished in the time that is measured, with what each took."""

    seconds: float
    opens_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    def begin(self) -> None:
        """Measure from WARM_UP_S on."""
        self.opens_s = time.perf_counter() + WARM_UP_S

    @property
    def is_over(self) -> bool:
        return time.perf_counter() >= self.opens_s + self.seconds

    def done(self, began_s: float, count: int = 1) -> None:
        """`count` operations that began at `began_s` are finished."""
        now_s = time.perf_counter()
        if self.opens_s <= now_s < self.opens_s + self.seconds:
            self.latencies_s += [now_s - began_s] * count

    def report(self) -> dict[str, Any]:
        p50_ms, p95_ms = percentiles_ms(self.latencies_s)
        return {
            "per_s": round(len(self.latencies_s) / self.seconds),
            "p50_ms": p50_ms,
            "p95_ms": p95_ms,
            "seconds": self.seconds,
        }


def beside(seconds: float = 10.0) -> dict[str, Any]:
    """What is on this machine, one after the other, `seconds` each: a report, or why there is none."""
    return {"etcd": _or_why(etcd, seconds), "cometbft": _or_why(cometbft, seconds)}


def _or_why(measure: Callable[[float], dict[str, Any]], seconds: float) -> dict[str, Any]:
    try:
        return measure(seconds)
    except YardstickFailed as failure:
        return {"skipped": str(failure)}
    except (OSError, httpx2.HTTPError, ValueError, KeyError, TimeoutError) as error:
        # Our own figures were measured before, and are worth more than these.
        return {"skipped": f"it failed under the load: {error!r}"}


# etcd


def etcd(seconds: float) -> dict[str, Any]:
    """Puts a second into a cluster of three. Raises YardstickFailed."""
    program = shutil.which("etcd")
    if program is None:
        raise YardstickFailed("there is no etcd on the PATH (Debian: etcd-server)")
    with tempfile.TemporaryDirectory(prefix="blockcloud-etcd-") as name:
        folder = Path(name)
        clients = [free_port() for _ in range(ETCD_NODES)]
        peers = [free_port() for _ in range(ETCD_NODES)]
        commands = [etcd_command(program, folder, number, clients, peers) for number in range(ETCD_NODES)]
        with running(commands, folder):
            window = uvloop.run(_etcd_load(clients, seconds))
    return {
        **window.report(),
        "nodes": ETCD_NODES,
        "in_flight": ETCD_IN_FLIGHT,
        "client": "one put a request, JSON over HTTP keep-alive, from this process",
        "version": _first_line(program, "--version"),
    }


def etcd_command(program: str, folder: Path, number: int, clients: Sequence[int], peers: Sequence[int]) -> list[str]:
    """The command of one node; ports by node."""
    cluster = ",".join(f"n{i}=http://{HOST}:{port}" for i, port in enumerate(peers))
    own = {"client": f"http://{HOST}:{clients[number]}", "peer": f"http://{HOST}:{peers[number]}"}
    return [
        program,
        f"--name=n{number}",
        f"--data-dir={folder / f'n{number}'}",
        f"--listen-client-urls={own['client']}",
        f"--advertise-client-urls={own['client']}",
        f"--listen-peer-urls={own['peer']}",
        f"--initial-advertise-peer-urls={own['peer']}",
        f"--initial-cluster={cluster}",
        "--initial-cluster-state=new",
        "--log-level=error",
    ]


async def _etcd_load(ports: Sequence[int], seconds: float) -> Window:
    window = Window(seconds)

    def put(number: int) -> bytes:
        # Keys come again after 100,000 puts, as the accounts of `bench ledger` do.
        key = base64.b64encode(f"k{number % 100_000:015}".encode()).decode()
        value = base64.b64encode(number.to_bytes(8) * (VALUE_BYTES // 8)).decode()
        return json.dumps({"key": key, "value": value}).encode()

    async def ready() -> bool:
        async with Connection(ports[0]) as connection:
            status, _ = await connection.post("/v3/kv/put", put(0))
        return status == 200

    await _until(ready, "etcd")
    window.begin()

    async def worker(number: int) -> None:
        async with Connection(ports[number % len(ports)]) as connection:
            while not window.is_over:
                began_s = time.perf_counter()
                status, body = await connection.post("/v3/kv/put", put(number))
                if status != 200:
                    raise YardstickFailed(f"etcd answered {status}: {body[:100]!r}")
                window.done(began_s)
                number += ETCD_IN_FLIGHT

    await asyncio.gather(*(worker(number) for number in range(ETCD_IN_FLIGHT)))
    return window


# CometBFT


def cometbft(seconds: float) -> dict[str, Any]:
    """Transactions a second through four validators with the kvstore. Raises YardstickFailed."""
    with tempfile.TemporaryDirectory(prefix="blockcloud-comet-") as name:
        folder = Path(name)
        program = shutil.which("cometbft") or _install_cometbft()
        made = ["testnet", "--v", str(COMET_NODES), "--o", str(folder / "net"), "--populate-persistent-peers=false"]
        _checked([program, *made], "cometbft testnet")
        homes = [folder / "net" / f"node{number}" for number in range(COMET_NODES)]
        rpc = [free_port() for _ in homes]
        links = [free_port() for _ in homes]
        ids = [_checked([program, "show-node-id", "--home", str(home)], "cometbft show-node-id") for home in homes]
        peers = [f"{identity}@{HOST}:{port}" for identity, port in zip(ids, links, strict=True)]
        for number, home in enumerate(homes):
            path = home / "config" / "config.toml"
            others = ",".join(peer for i, peer in enumerate(peers) if i != number)
            text = comet_config(path.read_text(encoding="utf-8"), rpc[number], links[number], others)
            path.write_text(text, encoding="utf-8")
        commands = [[program, "node", "--home", str(home), "--proxy_app=kvstore"] for home in homes]
        with running(commands, folder):
            window = uvloop.run(_comet_load(rpc, seconds))
        version = _first_line(program, "version")
    return {
        **window.report(),
        "nodes": COMET_NODES,
        "in_flight": COMET_IN_FLIGHT * COMET_BATCH,
        "client": "batches of 100 broadcast_tx_sync over JSON-RPC, from this process; counted in blocks",
        "version": version,
    }


def comet_config(text: str, rpc: int, link: int, peers: str) -> str:
    """A node's config.toml with its ports and peers, several nodes on one address, batches of our size, and no pause
    after a commit. Raises YardstickFailed if a setting is not there."""
    settings = {
        ("rpc", "laddr"): f'"tcp://{HOST}:{rpc}"',
        ("rpc", "max_request_batch_size"): str(COMET_BATCH),
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
    folder = cache / "blockcloud" / COMET_MODULE.rpartition("@")[2]
    program = folder / "cometbft"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _checked([go, "install", COMET_MODULE], "go install", {**os.environ, "GOBIN": str(folder)})
    return str(program)


async def _comet_load(ports: Sequence[int], seconds: float) -> Window:
    window = Window(seconds)
    waiting: dict[str, tuple[float, _Batch]] = {}  # base64 of a transaction -> when it was sent, with which others

    async def ready() -> bool:
        return await _height(client, ports[0]) >= 1

    async with httpx2.AsyncClient(timeout=30) as client:
        await _until(ready, "cometbft")
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
    senders = (_comet_sender(client, ports, number, waiting, window) for number in range(COMET_IN_FLIGHT))
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
        sent = [
            base64.b64encode(f"{number}.{turn}.{i}={'x' * VALUE_BYTES}".encode()).decode() for i in range(COMET_BATCH)
        ]
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


# Processes and connections


@contextmanager
def running(commands: Sequence[Sequence[str]], folder: Path) -> Iterator[None]:
    """These programs run, with their output in `folder`, until the context ends."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            with (folder / f"log{number}").open("wb") as log:
                processes.append(
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
                )
        yield
        ended = [process for process in processes if process.poll() is not None]
        if ended:
            raise YardstickFailed(f"{ended[0].args!r} ended with {ended[0].returncode}")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Connection:
    """One HTTP/1.1 keep-alive connection that posts JSON: a general client would cost more than what is measured."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection(HOST, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer. Raises YardstickFailed for what is not HTTP as expected."""
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self._writer.write(head.encode() + b"\r\n\r\n" + body)
        try:
            answer = await self._reader.readuntil(b"\r\n\r\n")
            status, length = parse_head(answer)
            return status, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise YardstickFailed(f"an answer was cut off: {error}") from None


def parse_head(head: bytes) -> tuple[int, int]:
    """Status and body length in bytes of an answer. Raises YardstickFailed."""
    status = re.match(rb"HTTP/1\.1 (\d{3})", head)
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)\r\n", head)
    if status is None or length is None or int(length.group(1)) > ANSWER_BYTES:
        raise YardstickFailed(f"not an answer of a known length: {head[:100]!r}")
    return int(status.group(1)), int(length.group(1))


async def _until(ready: Callable[[], Awaitable[bool]], name: str) -> None:
    """Until a program answers as it should. Raises YardstickFailed after START_S."""
    end = time.perf_counter() + START_S
    while time.perf_counter() < end:
        with contextlib.suppress(OSError, httpx2.HTTPError, YardstickFailed, KeyError, ValueError):
            if await ready():
                return
        await asyncio.sleep(0.1)
    raise YardstickFailed(f"{name} did not start within {START_S:.0f} s")


def _checked(command: Sequence[str], what: str, environment: dict[str, str] | None = None) -> str:
    """What a program prints. Raises YardstickFailed."""
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S, env=environment)
    except (OSError, subprocess.SubprocessError) as error:
        raise YardstickFailed(f"{what} failed: {error}") from None
    return done.stdout.strip()


def _first_line(program: str, option: str) -> str:
    return _checked([program, option], program).partition("\n")[0]
