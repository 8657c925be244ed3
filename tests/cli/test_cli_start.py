"""The program as a person or a shell starts it: quick, quiet, and without reading what nobody types."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blockcloud import __version__
from blockcloud.cli.app import hoist

SECONDS = 60
# What makes a start slow; each is loaded by the commands that need it.
HEAVY = ("fastapi", "pydantic", "starlette", "uvicorn", "numpy", "rocksdict", "httpx2", "cryptography", "rich", "cbor2")


def start(*arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "blockcloud", *arguments]
    options = {"capture_output": True, "text": True, "timeout": SECONDS, "stdin": subprocess.DEVNULL, **how}
    return subprocess.run(command, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_the_version() -> None:
    result = start("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"blockcloud {__version__}\n", "")


def test_the_command_tree_loads_nothing_heavy() -> None:
    code = "import sys, blockcloud.cli.app, blockcloud; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=True)
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert loaded.isdisjoint(HEAVY), sorted(loaded.intersection(HEAVY))
    assert "blockcloud.sdk" not in result.stdout.split()


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["devnet", "up", "--help"], ["name", "--help"], ["publish", "--help"], ["bench", "--help"]],
)
def test_help_is_plain_text(arguments: list[str]) -> None:
    result = start(*arguments)
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: blockcloud")
    assert "\x1b" not in result.stdout


def test_no_arguments_show_the_help() -> None:
    result = start()
    assert result.returncode == 2
    assert "demo" in result.stdout + result.stderr


def test_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    script = start("--show-completion", "bash", env={**os.environ, "SHELL": "/bin/bash"})
    installs = "--install-completion" in start("--help").stdout
    assert installs
    assert script.returncode in (0, 2)  # which shell it is cannot always be told
    asked = {"_BLOCKCLOUD_COMPLETE": "complete_bash", "COMP_WORDS": "blockcloud name re", "COMP_CWORD": "2"}
    result = start(env={**os.environ, **asked})
    assert result.stdout.split() == ["register", "renew", "revoke"]


def test_standard_input_may_be_closed(tmp_path: Path) -> None:
    result = subprocess.run(
        f'exec "{sys.executable}" -m blockcloud --home "{tmp_path}" account new --json <&-',
        shell=True,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_a_reader_that_has_gone_is_no_trace(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        result = start("account", "new", "--home", str(tmp_path), capture_output=False, stdout=write, stderr=-1)
    finally:
        os.close(write)
    assert result.returncode == 1
    assert result.stderr == ""


def test_a_trace_is_shown_on_request_only(tmp_path: Path) -> None:
    arguments = ("status", "--home", str(tmp_path))
    assert "Traceback" not in start(*arguments).stderr
    debug = start(*arguments, env={**os.environ, "BLOCKCLOUD_LOG": "debug"})
    assert "Traceback" in debug.stderr
    assert debug.returncode == 1


@pytest.mark.parametrize(
    ("given", "hoisted"),
    [
        (["status", "--json"], ["--json", "status"]),
        (["a", "--home", "x", "b"], ["--home", "x", "a", "b"]),
        (["a", "--home=x", "--other=--json"], ["--home=x", "a", "--other=--json"]),
        (["a", "--", "--json", "--home", "x"], ["a", "--", "--json", "--home", "x"]),
        (["--json", "a", "--key"], ["--json", "--key"]),
        ([], []),
    ],
)
def test_global_options_are_brought_to_the_front(given: list[str], hoisted: list[str]) -> None:
    assert hoist(given) == hoisted


def test_nothing_in_the_command_line_reads_what_somebody_might_type() -> None:
    folder = Path(__file__).parents[2] / "src" / "blockcloud" / "cli"
    for path in folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for word in ("input(", "sys.stdin", "typer.prompt", "typer.confirm", "getpass", "prompt=True"):
            assert word not in text, f"{path.name}: {word}"
