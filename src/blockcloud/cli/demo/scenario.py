"""The demo's scenario: one act after another, each with its verdicts.

Everything a person would run by hand runs here as the same command in a process of its own; only the traffic of
transactions, the adversaries and the final comparison run in the demo's process.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import uvloop

from blockcloud.api.server import ApiServer
from blockcloud.cli.demo.adversary import Lie, altered_service_file, forged_owner, lying_node
from blockcloud.cli.demo.impostor import impostor_is_refused
from blockcloud.cli.demo.report import Report
from blockcloud.cli.demo.stage import Stage, download_command, until
from blockcloud.cli.demo.traffic import Traffic
from blockcloud.cli.output import show_error
from blockcloud.node import devnet as network
from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.client import AsyncClient
from blockcloud.service_chain.genesis import Genesis

NAME: Final = "files.demo"
FILE_BYTES: Final = 256 * 1024 * 1024
SMALL_FILE: Final = b"the service answers\n"
PROVIDER_MOVE_AT: Final = 0.2
CONSUMER_MOVE_AT: Final = 0.4
DOWNLOAD_COMMANDS: Final = 8  # that it lasts at least: four fall into the last four fifths of it
CATCH_UP_SECONDS: Final = 30
HEARTBEAT_SECONDS: Final = 3


@dataclass
class Replica:
    """One instance of the service: an unmodified HTTP server, and the `publish` in front of it."""

    home: Path
    server: asyncio.subprocess.Process
    publish: asyncio.subprocess.Process
    ready: dict[str, Any]


@dataclass
class Cast:
    """Who is on stage."""

    report: Report
    stage: Stage
    devnet: network.Devnet
    genesis: Genesis
    client: AsyncClient
    consumer_home: Path
    replicas: list[Replica]
    forward: dict[str, Any]


def run_demo(*, seconds: float, folder: Path | None, quiet: bool) -> Report:
    """Run the whole scenario in `folder` (None: a temporary one, removed afterwards) and return its report."""
    report = Report(quiet)
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            uvloop.run(_play(report, folder.absolute(), seconds))
        else:
            with tempfile.TemporaryDirectory(prefix="blockcloud-demo-") as name:
                uvloop.run(_play(report, Path(name), seconds))
    except BlockCloudError as error:
        show_error(error)
        report.verdict("scenario_completed", False, f"the scenario stopped: {error}")
    return report


async def _play(report: Report, folder: Path, seconds: float) -> None:
    stage = Stage(folder)
    starting = ExitStack()
    starting.enter_context(network.taking_ports())
    devnet = network.create_devnet(folder / "net", 4)
    heartbeat = asyncio.create_task(_heartbeat(report, devnet))
    try:
        genesis = await _raise_network(report, folder, devnet)
        starting.close()
        async with AsyncClient(genesis) as client:
            cast = Cast(report, stage, devnet, genesis, client, folder / "consumer", [], {})
            await _publish_service(cast)
            await _download_while_moving(cast, seconds)
            await _kill_replica(cast)
            await _kill_validator(cast)
            await _adversaries(cast)
            if not report.quiet:
                report.line(f"next: blockcloud devnet up --validators 4 --dir net   (all acts: {folder})")
    finally:
        starting.close()
        heartbeat.cancel()
        await stage.end()
        network.stop_devnet(folder / "net", devnet)


async def _heartbeat(report: Report, devnet: network.Devnet) -> None:
    """A line every few seconds: where each validator's ledger is."""
    async with httpx2.AsyncClient(timeout=2) as client:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            heights = await asyncio.gather(*(_height(client, validator.api) for validator in devnet.validators))
            report.line("      ledger heights  " + "  ".join("down" if h is None else str(h) for h in heights))


async def _height(client: httpx2.AsyncClient, api: str) -> int | None:
    try:
        return int((await client.get(api + "/v1/status")).json()["height"])
    except (httpx2.HTTPError, ValueError, KeyError):
        return None


async def _raise_network(report: Report, folder: Path, devnet: network.Devnet) -> Genesis:
    for validator in devnet.validators:
        report.line(f"      validator {validator.id}  {validator.api}/docs")
    network.start_devnet(folder / "net", devnet)
    await asyncio.to_thread(network.wait_ready, devnet, CATCH_UP_SECONDS)
    genesis_text = Path(devnet.genesis).read_text(encoding="utf-8")
    consumer = folder / "consumer"
    consumer.mkdir()
    (consumer / "genesis.json").write_text(genesis_text, encoding="utf-8")
    report.verdict("ledger_commits", True, "four validator processes agree on a first commit")
    return Genesis.from_json(genesis_text)


# Act one: a name, two replicas, a proof


async def _publish_service(cast: Cast) -> None:
    stage, report = cast.stage, cast.report
    content = stage.folder / "content"
    content.mkdir()
    (content / "small.txt").write_bytes(SMALL_FILE)
    await asyncio.to_thread(_write_random, content / "large.bin")
    owner = _key_file(cast, "provider")
    code, registered = await stage.run_blockcloud(stage.folder / "net", "name", "register", NAME, "--key", owner)
    report.verdict("name_registered", code == 0, f"{NAME} is preordered and registered to {_short(registered)}")
    for letter in ("a", "b"):
        cast.replicas.append(await _start_replica(cast, content, letter, owner))
    report.verdict("service_published", True, "two replicas of an unmodified http.server are published")
    code, resolved = await stage.run_blockcloud(cast.consumer_home, "resolve", NAME)
    holds = code == 0 and resolved["verified"] is True and len(resolved["instances"]) == 2
    report.verdict("resolved_with_proof", holds, "a process that has only the genesis resolves the name with proofs")


async def _start_replica(cast: Cast, content: Path, letter: str, owner: str) -> Replica:
    stage = cast.stage
    home = stage.folder / f"replica-{letter}"
    home.mkdir()
    shutil.copy(cast.devnet.genesis, home / "genesis.json")
    port = network.free_port()
    server = await stage.start(
        f"http-{letter}",
        *(sys.executable, "-m", "http.server", str(port), "--bind", network.HOST, "--directory", str(content)),
    )
    publish, ready = await stage.start_blockcloud(
        f"publish-{letter}", home, "publish", NAME, "--to", f"{network.HOST}:{port}", "--key", owner
    )
    cast.report.line(f"      replica {letter}  {ready['listening']} -> http.server on port {port}")
    return Replica(home, server, publish, ready)


def _write_random(path: Path) -> None:
    with path.open("wb") as file:
        for _ in range(FILE_BYTES // (1024 * 1024)):
            file.write(os.urandom(1024 * 1024))


def _key_file(cast: Cast, name: str) -> str:
    return next(account.key_file for account in cast.devnet.accounts if account.name == name)


def _short(registered: Any) -> str:
    return str(registered["owner"])[:12] + "..." if isinstance(registered, dict) and "owner" in registered else "nobody"


# Act two: a download during which both sides move


async def _download_while_moving(cast: Cast, seconds: float) -> None:
    stage, report = cast.stage, cast.report
    _, cast.forward = await stage.start_blockcloud(
        "forward", cast.consumer_home, "forward", NAME, "--listen", f"{network.HOST}:0"
    )
    url, target = f"http://{cast.forward['listening']}/large.bin", stage.folder / "received.bin"
    report.line(f"      consumer uses {url}")
    seconds = max(seconds, DOWNLOAD_COMMANDS * stage.slowest_command_s)
    client = await stage.start("client", *download_command(url, target, int(FILE_BYTES / seconds)))
    await until(lambda: _received(target, PROVIDER_MOVE_AT), 60, "the first part of the download")
    serving = await _serving_replica(cast)
    code, moved = await stage.run_blockcloud(serving.home, "move", NAME, "--to", "127.0.0.7:0")
    report.verdict("provider_moved", code == 0, f"while bytes flow the provider moves: {_from_to(moved)}")
    await until(lambda: _received(target, CONSUMER_MOVE_AT), 60, "the middle of the download")
    code, moved = await stage.run_blockcloud(cast.consumer_home, "move", "forward", "--to", "127.0.0.8:0")
    report.verdict("consumer_moved", code == 0, f"the consumer moves too: {_from_to(moved)}")
    session = next(reversed((await _forward_status(cast))["sessions"]), {"longest_gap_ms": 0.0, "resumes": 0})
    outlasted = client.returncode is None
    done = await client.wait() == 0
    original = stage.folder / "content" / "large.bin"
    same = done and await asyncio.to_thread(_same_digest, original, target)
    gap_ms = round(session["longest_gap_ms"], 1)
    report.figures("sessions", longest_gap_ms=gap_ms, resumes=session["resumes"], bytes=FILE_BYTES)
    if not outlasted:
        report.line("      the download was over before both sides had moved; give it more --seconds")
    report.verdict("download_survives_moves", same and outlasted, f"SHA-256 is right; longest gap {gap_ms} ms")


async def _received(target: Path, share: float) -> bool:
    return target.exists() and target.stat().st_size >= share * FILE_BYTES


def _same_digest(one: Path, other: Path) -> bool:
    digests = []
    for path in (one, other):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").digest())
    return digests[0] == digests[1]


def _from_to(moved: Any) -> str:
    return f"{moved['from']} -> {moved['to']}" if isinstance(moved, dict) else "no answer"


async def _forward_status(cast: Cast) -> dict[str, Any]:
    """What the forward tells about its running sessions, oldest first."""
    _, status = await cast.stage.run_blockcloud(cast.consumer_home, "move", "forward", "--status")
    return dict(status)


async def _serving_replica(cast: Cast) -> Replica:
    """The replica that holds the forward's newest session."""
    status = await _forward_status(cast)
    instance = status["sessions"][-1]["peer"]
    return next(replica for replica in cast.replicas if replica.ready["instance"] == instance)


# Act three: a replica dies


async def _kill_replica(cast: Cast) -> None:
    stage, report = cast.stage, cast.report
    base = f"http://{cast.forward['listening']}"
    victim_client = await stage.start(
        "victim", *download_command(base + "/large.bin", stage.folder / "cut.bin", 4 * 1024 * 1024)
    )
    await until(lambda: _received(stage.folder / "cut.bin", 0.01), 30, "the second download")
    victim = await _serving_replica(cast)
    for process in (victim.publish, victim.server):
        process.send_signal(signal.SIGKILL)
    async with httpx2.AsyncClient(timeout=10) as client:
        answer = await client.get(base + "/small.txt")
    report.verdict("other_replica_serves", answer.content == SMALL_FILE, "new connections go to the other replica")
    async with asyncio.timeout(20):
        code = await victim_client.wait()
    status = await _forward_status(cast)
    reason = status["last_error"]
    report.verdict("crash_ends_session", code != 0 and bool(reason), f"the session that had it ends: {reason}")


# Act four: a validator dies and comes back


async def _kill_validator(cast: Cast) -> None:
    report, victim = cast.report, cast.devnet.validators[3]
    payer = SigningKey.load(Path(_key_file(cast, "alice")))
    receiver = SigningKey.load(Path(_key_file(cast, "bob")))
    traffic = Traffic(cast.client, payer, receiver.public)
    traffic.start()
    try:
        await until(_acknowledged(traffic, 50), 30, "the first transactions")
        os.kill(victim.pid, signal.SIGKILL)
        before = len(traffic.acknowledged)
        await until(_acknowledged(traffic, before + 100), 30, "transactions without the killed validator")
        report.verdict("ledger_survives_crash", True, "a validator is killed with SIGKILL and the ledger goes on")
        network.start_validator(victim)
        network.write_devnet(cast.stage.folder / "net", cast.devnet)
        await until(lambda: _in_step(cast), CATCH_UP_SECONDS, "the restarted validator to catch up")
        report.verdict("validator_catches_up", True, "the validator restarts from its disk and catches up")
    finally:
        await traffic.stop()
    await _compare_ledgers(cast, traffic)


def _acknowledged(traffic: Traffic, count: int) -> Any:
    async def enough() -> bool:
        return len(traffic.acknowledged) >= count

    return enough


async def _in_step(cast: Cast) -> bool:
    async with httpx2.AsyncClient(timeout=2) as client:
        heights = [await _height(client, validator.api) for validator in cast.devnet.validators]
    known = [height for height in heights if height is not None]
    return len(known) == len(heights) and max(known) - min(known) <= 5


async def _compare_ledgers(cast: Cast, traffic: Traffic) -> None:
    """The same root at the same height everywhere, and every acknowledged transaction in every ledger."""
    report = cast.report
    async with httpx2.AsyncClient(timeout=5) as client:
        height = max([await _height(client, validator.api) or 0 for validator in cast.devnet.validators])
        roots: dict[int, set[str]] = {}

        async def compared() -> bool:
            for validator in cast.devnet.validators:
                checkpoint = (await client.get(validator.api + "/v1/status")).json()["checkpoint"]
                if checkpoint and checkpoint["height"] >= height:
                    roots.setdefault(checkpoint["height"], set()).add(f"{validator.id} {checkpoint['state_root']}")
            return any(len(seen) >= len(cast.devnet.validators) for seen in roots.values())

        await until(compared, CATCH_UP_SECONDS, "a checkpoint of all four validators at one height")
        at, seen = next((at, seen) for at, seen in roots.items() if len(seen) >= len(cast.devnet.validators))
        equal = len({entry.partition(" ")[2] for entry in seen}) == 1
        root = next(iter(seen)).partition(" ")[2]
        missing = 0
        for validator in cast.devnet.validators:
            for transaction_id in traffic.acknowledged:
                answer = await client.get(f"{validator.api}/v1/transactions/{transaction_id.hex()}")
                missing += answer.status_code != 200
    count = len(traffic.acknowledged)
    report.figures("ledger", height=at, state_root=root, acknowledged=count, missing=missing, refused=traffic.refused)
    report.verdict("equal_state_roots", equal, f"all four have state root {root[:16]}... at height {at}")
    report.verdict("nothing_acknowledged_lost", missing == 0, f"{count} acknowledged transactions are in every ledger")


# Act five: those who lie


async def _adversaries(cast: Cast) -> None:
    report = cast.report
    refused, reason = await impostor_is_refused(cast.client, NAME)
    report.verdict("impostor_refused", refused, f"an impostor under the name, with another key: {reason}")
    code, altered = await _resolve_through(cast, altered_service_file, "--service-file")
    honest, true = await cast.stage.run_blockcloud(cast.consumer_home, "resolve", NAME, "--service-file")
    report.verdict(
        "altered_service_file_refused",
        code == honest == 0 and altered["service_file"] == true["service_file"],
        "a service file altered at the routing node is refused, and the true one found at those that placement names",
    )
    code, _ = await _resolve_through(cast, forged_owner)
    report.verdict("forged_state_refused", code == 1, "a forged state answer is refused")
    report.verdict("honest_answer_accepted", honest == 0, "the same questions to an honest node are answered")


async def _resolve_through(cast: Cast, lie: Lie, *more: str) -> tuple[int, Any]:
    """Exit code and answer of `blockcloud resolve` in a process that is told of one node only, which tells `lie`."""
    honest = next(v.api for v in cast.devnet.validators if network.is_running(v))
    server = ApiServer(lying_node(honest, lie), network.HOST, network.free_port())
    await server.start()
    try:
        url = f"http://{network.HOST}:{server.port}"
        return await cast.stage.run_blockcloud(cast.consumer_home, "resolve", NAME, "--api", url, *more)
    finally:
        await server.stop()
