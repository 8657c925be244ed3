"""A development network: N validator processes on loopback with their own genesis, keys and funded accounts.

Its folder holds `devnet.json` (what outside scripts read), `genesis.json`, `accounts/NAME.pem`, and a home folder for
each validator (`node0` and so on) as `reference/parameters.md` describes it. Validator i listens from base + 20 i on.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from blockcloud.node.clock import unix_ms
from blockcloud.node.config import BASE_PORT, NodeConfig
from blockcloud.node.homes import EXAMINATION_OFFSET, fill_home, resources_at
from blockcloud.node.launcher import Launcher
from blockcloud.node.membership import onion_core
from blockcloud.node.resource_config import ResourceConfig
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC, MICRO_PER_BLOC
from blockcloud.primitives.errors import BadConfiguration, LocalFault, TimedOut
from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.genesis import Genesis, GenesisValidator, NamingParameters, StakingParameters
from blockcloud.transaction_chain.parameters import Parameters

DEVNET_FILE: Final = "devnet.json"
GENESIS_FILE: Final = "genesis.json"
PORT_STEP: Final = 20
LARGEST_DEVNET: Final = 40
# Ten times what a seat needs: a validator that misses a reveal pays, and keeps its seat.
BOND_MICRO_BLOC: Final = 10_000 * MICRO_PER_BLOC
FEES_MICRO_BLOC: Final = 100 * MICRO_PER_BLOC  # what a validator's account starts with
ACCOUNTS: Final = ("alice", "bob", "provider", "consumer", "faucet")
HOST: Final = "127.0.0.1"
STOP_SECONDS: Final = 10
# Long enough that who comes back after a weekend is still trusted by what its client kept (half of it).
UNBONDING_SECONDS: Final = 7 * 24 * 3_600
LOG_FILE: Final = "node.log"
# Less than a devnet may stake, so that plots are there soon: three seconds of processor time each.
SMALL_STAKE: Final = ResourceConfig(storage_bytes=2 * 1024 * 1024, compute_permille=20, data_rate=500_000)


class Validator(msgspec.Struct):
    """One validator process as `devnet.json` lists it; `pid` is 0 while it does not run."""

    id: int
    api: str
    link: str
    pid: int
    home: str
    data_dir: str


class DevnetAccount(msgspec.Struct):
    """A funded account and the file of its key."""

    name: str
    address: str
    key_file: str


class Devnet(msgspec.Struct):
    """The content of `devnet.json`."""

    validators: list[Validator]
    accounts: list[DevnetAccount]
    genesis: str


@dataclass(frozen=True, slots=True)
class _Place:
    key: SigningKey
    onion: SigningKey
    home: Path
    host: str
    port: int


def create_devnet(
    folder: Path,
    validators: int,
    base_port: int | None = None,
    era_length: int | None = None,
    hosts: Sequence[str] | None = None,
    unbonding_s: int | None = None,
    resources: ResourceConfig | None = None,
) -> Devnet:
    """Write genesis, keys and configurations of a new devnet. Raises BadConfiguration if there is one already.

    `base_port` None takes the first free range from 8700 on; `era_length` is in commits. `hosts`: the address that each
    validator listens on, for validators that have a network of their own each; default: all of them on loopback.
    `unbonding_s`: seconds, default a week.
    `resources`: what every validator stakes; default: nothing.
    """
    if not 1 <= validators <= LARGEST_DEVNET:
        raise BadConfiguration(f"a devnet has 1 to {LARGEST_DEVNET} validators", validators=validators)
    if hosts is not None and len(hosts) != validators:
        raise BadConfiguration("one host for each validator", validators=validators, hosts=len(hosts))
    if (folder / DEVNET_FILE).exists():
        raise BadConfiguration("there is a devnet in this folder already", folder=str(folder))
    listening = [HOST] * validators if hosts is None else list(hosts)
    base = _free_base(validators) if base_port is None else base_port
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = sorted((SigningKey.generate() for _ in range(validators)), key=lambda key: key.public)
    places = [
        _Place(key, SigningKey.generate(), folder / f"node{i}", listening[i], base + PORT_STEP * i)
        for i, key in enumerate(keys)
    ]
    accounts = {name: SigningKey.generate() for name in ACCOUNTS}
    genesis = _genesis(places, [key.public for key in accounts.values()], era_length, unbonding_s)
    (folder / GENESIS_FILE).write_text(genesis.to_json(), encoding="utf-8")
    for place in places:
        place.home.mkdir(mode=0o700)
        config = NodeConfig(
            home=place.home,
            api_host=place.host,
            api_port=place.port,
            link_host=place.host,
            link_port=place.port + 1,
            resources=resources_at(resources, place.port),
        )
        fill_home(config, genesis, place.key, place.onion)
    listed = []
    for name, key in accounts.items():
        path = folder / "accounts" / f"{name}.pem"
        key.save(path)
        listed.append(DevnetAccount(name, format_address(key.public), str(path)))
    devnet = Devnet([_listed(i, place) for i, place in enumerate(places)], listed, str(folder / GENESIS_FILE))
    write_devnet(folder, devnet)
    return devnet


def read_devnet(folder: Path) -> Devnet:
    """The devnet in `folder`. Raises BadConfiguration."""
    try:
        return msgspec.json.decode((folder / DEVNET_FILE).read_bytes(), type=Devnet)
    except OSError:
        raise BadConfiguration(
            "no devnet in this folder; start one with `blockcloud devnet up`", folder=str(folder)
        ) from None
    except msgspec.DecodeError as error:
        raise BadConfiguration(f"{DEVNET_FILE} cannot be read: {error}", folder=str(folder)) from None


def write_devnet(folder: Path, devnet: Devnet) -> None:
    """Replace `devnet.json` in one step."""
    temporary = folder / (DEVNET_FILE + ".new")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(devnet), indent=2) + b"\n")
    os.replace(temporary, folder / DEVNET_FILE)


def start_validator(validator: Validator, through: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start one validator process of its own session, its log in `node.log`; the caller records the pid.

    `through`: a command that becomes the program named behind it, such as `ip netns exec NAME`.
    """
    home = Path(validator.home)
    with (home / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(
            [*through, sys.executable, "-m", "blockcloud", "node", "run", "--home", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,  # `is_running` knows a validator by it
            start_new_session=True,
        )
    validator.pid = process.pid
    return process


def start_devnet(folder: Path, devnet: Devnet, launcher: Launcher | None = None) -> None:
    """Start every validator that does not run, and record the pids."""
    waiting = [validator for validator in devnet.validators if not is_running(validator)]
    homes = [validator.home for validator in waiting]
    if launcher is not None:
        pids = launcher.start(homes)
    else:
        with Launcher() as own:
            pids = own.start(homes)
    for validator, pid in zip(waiting, pids, strict=True):
        validator.pid = pid
    write_devnet(folder, devnet)


def is_running(validator: Validator) -> bool:
    """Whether the recorded process is alive and is this validator: pids are used again, working folders are not."""
    if not validator.pid:
        return False
    try:
        folder = Path(f"/proc/{validator.pid}/cwd").readlink()
        state = Path(f"/proc/{validator.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and folder == Path(validator.home).resolve()


def stop_devnet(folder: Path, devnet: Devnet) -> int:
    """Ask every running validator to end, kill what does not within STOP_SECONDS; returns how many ran."""
    running = [validator for validator in devnet.validators if is_running(validator)]
    for validator in running:
        os.kill(validator.pid, signal.SIGTERM)
    for validator in running:
        _wait_gone(validator)
        validator.pid = 0
    write_devnet(folder, devnet)
    return len(running)


def _wait_gone(validator: Validator) -> None:
    """Wait until the process has ended: by its own exit, or after STOP_SECONDS by SIGKILL."""
    try:
        descriptor = os.pidfd_open(validator.pid)
    except ProcessLookupError:
        return
    try:
        ended, _, _ = select.select([descriptor], [], [], STOP_SECONDS)
        if not ended:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            select.select([descriptor], [], [], STOP_SECONDS)
    finally:
        os.close(descriptor)
    try:
        os.waitpid(validator.pid, 0)
    except ChildProcessError:
        return  # Somebody else's child: init reaps it.


def wait_ready(devnet: Devnet, deadline_s: float) -> None:
    """Return once every validator shows a first commit. Raises TimedOut, or LocalFault if a process has ended."""
    waiting = list(devnet.validators)
    for _ in poll_until(deadline_s):
        ended = [validator for validator in waiting if not is_running(validator)]
        if ended:
            log = Path(ended[0].home) / LOG_FILE
            raise LocalFault("a validator ended while it started; its log says why", id=ended[0].id, log=str(log))
        waiting = [validator for validator in waiting if _height(validator.api) < 1]
        if not waiting:
            return
    raise TimedOut("the devnet did not commit in time", waiting=[validator.id for validator in waiting])


def _height(api: str) -> int:
    """The height that a node's API shows, 0 while it does not answer."""
    try:
        with urllib.request.urlopen(api + "/v1/status", timeout=2) as answer:  # noqa: S310  our own http URL
            return int(json.load(answer)["height"])
    except OSError:
        return 0


def poll_until(deadline_s: float, interval_s: float = 0.02) -> Iterator[None]:
    """Yield at intervals until `deadline_s` seconds have passed; for looking at the state of another process."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        yield
        select.select([], [], [], interval_s)


def _genesis(
    places: Sequence[_Place], owners: Sequence[bytes], era_length: int | None, unbonding_s: int | None
) -> Genesis:
    staking = StakingParameters(unbonding_ms=1_000 * (UNBONDING_SECONDS if unbonding_s is None else unbonding_s))
    validators = tuple(
        GenesisValidator(
            place.key.public,
            BOND_MICRO_BLOC,
            _api(place),
            _link(place),
            onion_tip=HashOnion(onion_core(place.onion), staking.onion_length).tip,
        )
        for place in places
    )
    free = GENESIS_SUPPLY_MICRO_BLOC - (BOND_MICRO_BLOC + FEES_MICRO_BLOC) * len(places)
    share, rest = divmod(free, len(owners))
    balances = tuple((owner, share + (rest if i == 0 else 0)) for i, owner in enumerate(owners))
    balances += tuple((place.key.public, FEES_MICRO_BLOC) for place in places)
    parameters = Parameters(leader_slots=min(2, len(places)))
    if era_length is not None:
        period = min(parameters.leader_table_period, max(1, (era_length - 1) // 4))
        parameters = msgspec.structs.replace(parameters, era_length=era_length, leader_table_period=period)
    genesis = Genesis(
        name="devnet",
        time_ms=unix_ms(),
        parameters=parameters,
        naming=NamingParameters(),
        validators=validators,
        accounts=balances,
        staking=staking,
    )
    genesis.check()
    return genesis


def _api(place: _Place) -> str:
    return f"http://{place.host}:{place.port}"


def _link(place: _Place) -> str:
    return f"{place.host}:{place.port + 1}"


def _listed(index: int, place: _Place) -> Validator:
    return Validator(index, _api(place), _link(place), 0, str(place.home), str(place.home / "data"))


@contextmanager
def taking_ports() -> Iterator[None]:
    """One devnet of this user after another chooses its ports and starts: two at a time would find the same free.
    Raises BadConfiguration."""
    path = Path(tempfile.gettempdir(), f"blockcloud-devnet-{os.getuid()}.lock")
    try:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadConfiguration(f"cannot open the lock of devnets: {error.strerror}", path=str(path)) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _free_base(validators: int) -> int:
    """The first base from 8700 on, in steps of a whole devnet, whose ports are all free."""
    span = PORT_STEP * validators
    for base in range(BASE_PORT, 60_000, span):
        with ExitStack() as held:
            try:
                for i in range(validators):
                    for port in (base + PORT_STEP * i + offset for offset in (0, 1, EXAMINATION_OFFSET)):
                        held.enter_context(_bound(port))
            except OSError:
                continue
            return base
    raise BadConfiguration("no free range of ports on this machine")


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    return listener


def as_report(devnet: Devnet) -> dict[str, Any]:
    """The devnet as a plain object."""
    return dict(msgspec.to_builtins(devnet))


def free_port() -> int:
    """A port of HOST that nobody uses at the moment."""
    with _bound(0) as listener:
        port: int = listener.getsockname()[1]
    return port
