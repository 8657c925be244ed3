#!/usr/bin/env python3
"""The one entry point of a checkout: sets up .venv by itself, then runs the demo, the tests, the linters or benchmarks.

Standard library only, because it runs before anything is installed. It works on a plain Debian that has python3 and
pip and nothing else: there `pip install` is forbidden outside a virtual environment (PEP 668) and `python3 -m venv`
fails for want of ensurepip. So the environment is made without pip, the system's pip puts a pinned uv into it, and
that uv installs the hashed lock. A stamp of all that went in lets the next run start at once.

Messages of the set-up go to stderr: stdout belongs to the command (`dev.py demo --json` prints one JSON object).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

USAGE = """\
usage: python3 dev.py COMMAND [ARGUMENTS]

  demo [ARGUMENTS]        run the main job (arguments go to `blockcloud demo`, such as --seconds 30 or --json)
  test [--long] [PYTEST]  run the fast tests, or with --long the long ones (more arguments go to pytest)
  check                   run the linters: ruff, mypy, import-linter, the rules of tests/test_tidy.py
  bench [ARGUMENTS]       run the benchmarks (arguments go to `blockcloud bench`)
  lock [ARGUMENTS]        renew the lock files (arguments go to `uv pip compile`, such as --upgrade)
"""

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
RUNTIME_LOCK = ROOT / "requirements.lock"
DEV_LOCK = ROOT / "requirements-dev.lock"
OLDEST_PYTHON = (3, 11)
LONG_TEST_TIMEOUT_S = 600  # for a hang; the slowest takes two minutes, and machines may be slow
TEST_PROCESSES = "3"  # on the two cores of CI: many tests mostly wait for processes
BESIDE_OTHERS = ["-n", TEST_PROCESSES, "--dist", "worksteal"]
TESTS_FAILED = 1  # exit code of pytest
UNSTEADY_AT_MOST = 3  # of a whole suite; when more tests fail, the change is at fault


class SetUpFailed(Exception):
    """The environment could not be made; the message says what a person can do."""


def say(message: str) -> None:
    print(f"dev.py: {message}", file=sys.stderr, flush=True)


# The environment


def base_python() -> str:
    """The interpreter outside any virtual environment: .venv may be rebuilt while we run from an activated one."""
    if sys.prefix == sys.base_prefix:
        return sys.executable
    return str(Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}"))


def fingerprint(lock: Path) -> str:
    """Everything the environment depends on. The place counts too: an editable install and scripts hold paths."""
    parts = [sys.version.encode(), str(ROOT).encode(), (ROOT / "pyproject.toml").read_bytes(), lock.read_bytes()]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def stamp(lock: Path) -> Path:
    return VENV / f"{lock.name}.stamp"


def is_current(lock: Path) -> bool:
    return stamp(lock).is_file() and stamp(lock).read_text() == fingerprint(lock)


def step(*command: str) -> None:
    """Run one step of the set-up, its output to stderr. Raises SetUpFailed."""
    try:
        code = subprocess.run(command, stdout=sys.stderr, stdin=subprocess.DEVNULL, cwd=ROOT).returncode
    except OSError as error:
        raise SetUpFailed(f"cannot run {command[0]}: {error.strerror}") from error
    if code != 0:
        raise SetUpFailed(f"this step failed (exit code {code}): {' '.join(command)}")


def pinned_uv() -> str:
    """The lines of the runtime lock that name uv and its hashes."""
    found = re.search(r"^uv==(?:.*\\\n)*.*$", RUNTIME_LOCK.read_text(), re.MULTILINE)
    if not found:
        raise SetUpFailed(f"{RUNTIME_LOCK.name} does not pin uv")
    return found.group() + "\n"


def find_uv() -> str:
    """A uv to install with: the pinned one if it is there, else the one on PATH, else fetched by the system's pip."""
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")  # trust what the system's pip trusts
    if (BIN / "uv").exists():
        return str(BIN / "uv")
    on_path = shutil.which("uv")
    if on_path:
        return on_path
    requirement = VENV / "uv-requirement.txt"
    requirement.write_text(pinned_uv())
    if subprocess.run([base_python(), "-m", "pip", "--version"], capture_output=True).returncode != 0:
        raise SetUpFailed(f"neither uv nor pip for {base_python()} is here; on Debian: apt install python3-pip")
    pip = [base_python(), "-m", "pip", "--python", str(BIN / "python"), "--disable-pip-version-check"]
    step(*pip, "install", "--quiet", "--no-deps", "--require-hashes", "-r", str(requirement))
    return str(BIN / "uv")


def set_up(lock: Path) -> None:
    """Make .venv hold what `lock` names and this checkout, unless it does already. The dev lock contains the other."""
    with Path(__file__).open("rb") as this_file:
        fcntl.flock(this_file, fcntl.LOCK_EX)  # a demo and a test run started together do not both build .venv
        if is_current(DEV_LOCK) or is_current(lock):
            return
        if is_current(RUNTIME_LOCK):
            say("adding the development tools to .venv")
        else:
            say(f"setting up .venv with Python {sys.version.split()[0]} (once; a minute or so)")
            step(base_python(), "-m", "venv", "--clear", "--without-pip", str(VENV))
        uv = find_uv()
        install = [uv, "pip", "install", "--quiet", "--python", str(BIN / "python")]
        step(*install, "--require-hashes", "-r", str(lock))
        step(*install, "--no-deps", "--no-build-isolation", "-e", str(ROOT))
        stamp(lock).write_text(fingerprint(lock))
        say("set-up done")


# Running programs from it


def use(lock: Path) -> None:
    """Set up what `lock` names and put its programs first on PATH, for us and for what the tests start."""
    set_up(lock)
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ["VIRTUAL_ENV"] = str(VENV)
    os.environ.pop("PYTHONHOME", None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # processes by the hundred: each would compile all it imports
    os.chdir(ROOT)


def become(program: str, *arguments: str) -> NoReturn:
    """Replace this process, so that signals and the exit code are the program's own."""
    sys.stdout.flush()
    os.execv(BIN / program, [str(BIN / program), *arguments])  # noqa: S606 - a program and a list, no shell wanted


def run(program: str, *arguments: str) -> int:
    """Run a program and return its exit code. Ctrl-C reaches it by itself (same terminal), SIGTERM is passed on."""
    child = subprocess.Popen([BIN / program, *arguments])
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            continue
        return code if code >= 0 else 128 - code


# Commands


def demo(arguments: list[str]) -> NoReturn:
    use(RUNTIME_LOCK)
    become("blockcloud", "demo", *arguments)


def bench(arguments: list[str]) -> NoReturn:
    use(DEV_LOCK)
    become("blockcloud", "bench", *arguments)


def beside_others(*selection: str) -> int:
    """Run a whole suite; the few that failed run once more, alone, and are named if they pass (CONTRIBUTING)."""
    code = run("pytest", "--cache-clear", *BESIDE_OTHERS, *selection)
    if code != TESTS_FAILED:
        return code
    failed = list(json.loads((ROOT / ".pytest_cache/v/cache/lastfailed").read_text()))
    if len(failed) > UNSTEADY_AT_MOST:
        return code
    say(f"failed beside others, once more alone: {', '.join(failed)}")
    code = run("pytest", "--last-failed", "--last-failed-no-failures=none", *selection)
    if code == 0:
        say(f"UNSTEADY, a defect of the test or of what it tests: {', '.join(failed)}")
    return code


def test(arguments: list[str]) -> int:
    use(DEV_LOCK)
    more = [argument for argument in arguments if argument != "--long"]
    fast = ["--inline-snapshot=disable"]
    if not arguments:
        return beside_others(*fast)
    if more == arguments:
        become("pytest", *BESIDE_OTHERS, *fast, *more)
    limit = f"--timeout={LONG_TEST_TIMEOUT_S}"
    if more:
        return run("pytest", "-m", "long", limit, *more)
    slowest = ["--durations=40", "--durations-min=5"]  # CI has little time: the report shows who takes it
    shared = ["-m", "long and not alone", limit, *slowest]
    return beside_others(*shared) or run("pytest", "-m", "long and alone", limit, *slowest)


def check(arguments: list[str]) -> int:
    if arguments:
        raise SystemExit(usage_error(f"check takes no arguments, got {' '.join(arguments)}"))
    use(DEV_LOCK)
    steps = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "--strict"],
        ["lint-imports"],
        ["pytest", "-q", "tests/test_tidy.py"],
    ]
    failed = []
    for command in steps:
        say(f"$ {' '.join(command)}")
        if run(*command) != 0:
            failed.append(" ".join(command))
    say(f"failed: {'; '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


def lock(arguments: list[str]) -> int:
    if not (BIN / "python").exists():
        step(base_python(), "-m", "venv", "--clear", "--without-pip", str(VENV))
    compile_ = [find_uv(), "pip", "compile", "pyproject.toml", "--quiet", "--universal", "--generate-hashes"]
    compile_ += ["--python-version", ".".join(map(str, OLDEST_PYTHON))]
    compile_ += ["--custom-compile-command", "python3 dev.py lock", *arguments, "--group", "build"]
    step(*compile_, "-o", RUNTIME_LOCK.name)
    step(*compile_, "--group", "dev", "-c", RUNTIME_LOCK.name, "-o", DEV_LOCK.name)
    return 0


COMMANDS = {"demo": demo, "test": test, "check": check, "bench": bench, "lock": lock}


def usage_error(message: str) -> int:
    say(message)
    print(USAGE, file=sys.stderr)
    return 2


def main(arguments: list[str]) -> int:
    if sys.version_info < OLDEST_PYTHON:
        say(f"needs Python {'.'.join(map(str, OLDEST_PYTHON))} or newer, this is {sys.version.split()[0]}")
        return 1
    if arguments and arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        return usage_error(f"no such command: {arguments[0]}" if arguments else "which command?")
    try:
        return COMMANDS[arguments[0]](arguments[1:])
    except SetUpFailed as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
