"""`devnet up` and `down`: folders with spaces, twice, stale pids, ports in use; then publish, forward and move."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from blockcloud.cli.context import options
from blockcloud.cli.doctor import check_clock, check_disk, check_peers, check_ports, find_nodes
from blockcloud.cli.ports import host_port, taken, url_address
from blockcloud.node import devnet as network
from tests.cli.cli_world import command
from tests.end_to_end.ledger_world import free_base

SECONDS = 90
HOST = "127.0.0.1"


@contextmanager
def port_in_use() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def base_port() -> Iterator[int]:
    """The first of some ports that are this test's."""
    with free_base(2) as base:
        yield base


def test_there_is_nothing_to_stop(tmp_path: Path) -> None:
    result = command("devnet", "down", "--dir", str(tmp_path))
    assert result.code == 1
    assert "blockcloud devnet up" in result.err
    (tmp_path / "devnet.json").write_text("{", encoding="utf-8")
    assert "cannot be read" in command("devnet", "down", "--dir", str(tmp_path)).err


def test_a_stale_pid_is_nobody_of_ours(tmp_path: Path, base_port: int) -> None:
    devnet = network.create_devnet(tmp_path / "net", 1, base_port)
    devnet.validators[0].pid = os.getpid()
    network.write_devnet(tmp_path / "net", devnet)
    for _ in range(2):
        result = command("devnet", "down", "--dir", str(tmp_path / "net"), "--json")
        assert (result.code, result.report) == (0, {"stopped": 0})
    assert network.read_devnet(tmp_path / "net").validators[0].pid == 0


def test_what_cannot_work_is_refused_before_anything_starts(tmp_path: Path, base_port: int) -> None:
    def refused(*arguments: str, folder: str = "net") -> str:
        result = command("devnet", "up", "--dir", str(tmp_path / folder), *arguments)
        assert result.code == 1, result.err
        assert result.out == ""
        return result.err

    with port_in_use() as port:
        assert f"127.0.0.1:{port}" in refused("--base-port", str(port))
        assert f"127.0.0.1:{port}" in refused("--base-port", str(port - 1), "--validators", "1")
    assert "between 1 and 65535" in refused("--base-port", "65535")
    assert "between 1 and 65535" in refused("--base-port", "0")
    assert not (tmp_path / "net").exists(), "nothing was made"
    devnet = network.create_devnet(tmp_path / "net", 1, base_port)
    assert "another size" in refused("--validators", "3")
    assert "other ports" in refused("--base-port", "5")
    with socket.socket() as listener:
        listener.bind(url_address(devnet.validators[0].api))
        listener.listen()
        assert "in use" in refused()
    (tmp_path / "remains").mkdir()
    (tmp_path / "remains" / "genesis.json").write_text("{}", encoding="utf-8")
    assert "cut short" in refused(folder="remains")


def test_ports() -> None:
    with port_in_use() as port:
        free = network.free_port()
        assert taken([(HOST, port), (HOST, free), (HOST, 70_000)]) == [(HOST, port), (HOST, 70_000)]
    assert url_address("http://127.0.0.1:8700") == (HOST, 8_700)
    assert url_address("https://node.example") == ("node.example", 443)
    assert host_port("[::1]:9") == ("::1", 9)


def test_doctor_tells_who_has_a_port_and_how_to_start(
    tmp_path: Path, base_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a net"
    devnet = network.create_devnet(folder, 2, base_port)
    monkeypatch.setattr(options, "home", str(folder))
    monkeypatch.setattr(options, "api", "")
    nodes = find_nodes()
    silent: dict[str, Any] = {node.label: None for node in nodes}
    stopped = check_ports(nodes, silent)
    assert not stopped["ok"]
    assert f"blockcloud devnet up --dir '{folder}'" in stopped["mend"]
    with socket.socket() as listener:
        listener.bind(url_address(devnet.validators[1].api))
        listener.listen()
        assert devnet.validators[1].api.removeprefix("http://") in check_ports(nodes, silent)["cause"]
    monkeypatch.setattr(options, "home", devnet.validators[0].home)
    (node,) = find_nodes()
    assert node.api == devnet.validators[0].api
    assert node.start.endswith("node run")


def test_doctor_sees_clocks_links_and_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not a time of its own: another test's node in this process would go on from it, and wait until it has come.
    now_ms = time.time_ns() // 1_000_000
    monkeypatch.setattr("time.time_ns", lambda: now_ms * 1_000_000)
    assert check_clock({"a": {"commit_time_ms": now_ms - 300}})["ok"]
    assert "behind" in check_clock({"a": {"commit_time_ms": now_ms + 9_000}})["cause"]
    assert "old" in check_clock({"a": {"commit_time_ms": now_ms - 19_000}, "b": None})["cause"]
    linked = {"peers": [{"member": 1, "connected": True}], "height": 5}
    alone = {"peers": [{"member": 0, "connected": False}], "height": 3}
    assert check_peers({"v0": linked, "v1": None})["ok"]
    assert "v1 is not linked to 0" in check_peers({"v0": linked, "v1": alone})["cause"]
    assert check_disk(tmp_path / "not" / "there" / "yet")["ok"]
    monkeypatch.setattr("blockcloud.cli.doctor.FREE_BYTES_MIN", 2**80)
    assert "free" in check_disk(tmp_path)["cause"]


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"hello\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def web_server() -> Iterator[int]:
    server = ThreadingHTTPServer((HOST, 0), _Hello)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving(home: Path, *arguments: str) -> Iterator[Any]:
    """A command that serves until it is stopped; its ready line. Ends with SIGTERM and exit code 0."""
    process = subprocess.Popen(
        [sys.executable, "-m", "blockcloud", "--home", str(home), "--json", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=SECONDS)[1]
        yield json.loads(line)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
        assert "Traceback" not in err
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.long
def test_a_devnet_and_a_service_on_it(tmp_path: Path, base_port: int) -> None:
    folder = tmp_path / "my net"
    place = ("--dir", str(folder))
    try:
        up = command("devnet", "up", *place, "--validators", "2", "--base-port", str(base_port), "--detach", "--json")
        assert up.code == 0, up.err
        devnet = json.loads((folder / "devnet.json").read_text(encoding="utf-8"))
        assert up.report == devnet
        assert devnet.keys() == {"validators", "accounts", "genesis"}
        assert f"--home '{folder}' status" in up.err
        again = command("devnet", "up", *place, "--json")
        assert (again.code, again.report) == (0, up.report)
        assert "runs already" in again.err
        healthy = command("doctor", "--home", str(folder))
        assert healthy.code == 0, healthy.out
        _use_a_service(folder)
        assert command("devnet", "down", *place, "--json").report == {"stopped": 2}
        assert command("devnet", "down", *place, "--json").report == {"stopped": 0}
        assert command("doctor", "--home", str(folder)).code == 1
        _in_the_foreground(folder)
    finally:
        if (folder / "devnet.json").exists():
            network.stop_devnet(folder, network.read_devnet(folder))


def _use_a_service(folder: Path) -> None:
    home = ("--home", str(folder))
    assert command("name", "register", "hello.test", *home).code == 0
    with web_server() as port, serving(folder, "publish", "hello.test", "--to", f"{HOST}:{port}") as published:
        twice = command("publish", "hello.test", "--to", f"{HOST}:{port}", *home)
        assert twice.code == 1
        assert "another process serves" in twice.err
        with port_in_use() as used:
            assert command("forward", "hello.test", "--listen", f"{HOST}:{used}", *home).code == 1
        with serving(folder, "forward", "hello.test", "--listen", f"{HOST}:0") as forwarded:
            url = f"http://{forwarded['listening']}/"
            assert urllib.request.urlopen(url, timeout=SECONDS).read() == b"hello\n"
            moved = command("move", "hello.test", "--to", "127.0.0.9:0", *home, "--json").report
            assert moved["from"] == published["listening"]
            assert moved["to"].startswith("127.0.0.9:")
            # Sessions go on at once; who comes new finds the place when its announcement is with the routing nodes.
            assert any(_announced(home, moved["to"]) for _ in network.poll_until(SECONDS))
            assert urllib.request.urlopen(url, timeout=SECONDS).read() == b"hello\n"
            assert command("move", "forward", "--to", "127.0.0.8:0", *home).code == 0
            assert urllib.request.urlopen(url, timeout=SECONDS).read() == b"hello\n"
            status = command("move", "forward", "--status", *home, "--json").report
            assert (status["name"], status["errors"]) == ("hello.test", {})
            nowhere = command("move", "forward", "--to", "192.0.2.1:0", *home)
            assert nowhere.code == 1
            assert "cannot listen" in nowhere.err
    assert command("move", "hello.test", "--status", *home).code == 3


def _announced(home: tuple[str, str], address: str) -> bool:
    (instance,) = command("resolve", "hello.test", *home, "--json").report["instances"]
    return bool(instance["addresses"] == [address])


def _in_the_foreground(folder: Path) -> None:
    """Ctrl-C ends the network and says nothing bad; a validator that ended by itself is told."""
    process = subprocess.Popen(
        [sys.executable, "-m", "blockcloud", "devnet", "up", "--dir", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        while "Ctrl-C stops" not in (line := process.stderr.readline()):
            assert line, "it ended early"
        os.kill(network.read_devnet(folder).validators[1].pid, signal.SIGKILL)
        assert "validator 1 has ended" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
        assert "Traceback" not in err
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
    assert not any(network.is_running(validator) for validator in network.read_devnet(folder).validators)
