"""The script that sets a checkout up, and the locks that it installs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import dev

ROOT = Path(__file__).resolve().parent.parent
LOCKS = (dev.RUNTIME_LOCK, dev.DEV_LOCK)
NO_TESTS_COLLECTED = 5  # exit code of pytest
SCRIPT_LINES_MAX = 270
SHA256 = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")
ADDRESS = re.compile(r"://|^\s*-|--(extra-)?index-url|--find-links|\bgit\+|\bfile:|@ ", re.MULTILINE)


def run_script(*arguments: str, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(directory / "dev.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)


def entries(lock: Path) -> dict[str, tuple[Version, int]]:
    """Version and number of hashes of each package in a lock."""
    found: dict[str, tuple[Version, int]] = {}
    for block in re.split(r"^(?=\w)", lock.read_text(), flags=re.MULTILINE):
        if pin := re.match(r"([\w.-]+)==([^\s;\\]+)", block):
            found[canonicalize_name(pin[1])] = (Version(pin[2]), len(SHA256.findall(block)))
    return found


def requirements(*groups: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    lines += [line for group in groups for line in project["dependency-groups"][group]]
    return [Requirement(line) for line in lines]


def unmet(wanted: list[Requirement], locked: dict[str, tuple[Version, int]]) -> list[str]:
    return [
        str(requirement)
        for requirement in wanted
        if (name := canonicalize_name(requirement.name)) not in locked or locked[name][0] not in requirement.specifier
    ]


def test_the_script_needs_nothing_installed() -> None:
    tree = ast.parse((ROOT / "dev.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names


def test_the_script_stays_short() -> None:
    assert len((ROOT / "dev.py").read_text().splitlines()) <= SCRIPT_LINES_MAX


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["--json"], ["check", "superfluous"]])
def test_wrong_usage_is_told_on_stderr_and_exits_2(arguments: list[str]) -> None:
    done = run_script(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: python3 dev.py" in done.stderr


def test_help_names_every_command() -> None:
    done = run_script("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert all(f"\n  {command} " in done.stdout for command in dev.COMMANDS)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks_name_packages_and_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    bare = re.sub(r"^\s*#.*$|^ +--hash=sha256:[0-9a-f]{64}.*$", "", text, flags=re.MULTILINE)
    assert not ADDRESS.search(bare)
    assert "://" not in text
    assert entries(lock)
    assert [name for name, (_, hashes) in entries(lock).items() if hashes == 0] == []


@pytest.mark.parametrize("line", ["--index-url https://x/simple", "-i x", "a @ git+ssh://x", "  --find-links x"])
def test_an_address_in_a_lock_would_be_seen(line: str) -> None:
    assert ADDRESS.search(line)


def test_locks_fit_the_project() -> None:
    runtime, everything = map(entries, LOCKS)
    assert unmet(requirements("build"), runtime) == []
    assert unmet(requirements("build", "dev"), everything) == []
    assert unmet([Requirement("left-pad>=1"), Requirement("msgspec>=999")], runtime) == ["left-pad>=1", "msgspec>=999"]


def test_the_dev_lock_contains_the_runtime_lock() -> None:
    runtime, everything = map(entries, LOCKS)
    assert {name: everything.get(name) for name in runtime} == runtime


def test_the_installer_is_taken_from_the_lock_with_its_hashes() -> None:
    lines = dev.pinned_uv().splitlines()
    assert lines[0].startswith("uv==")
    assert len(lines) > 1
    assert all(SHA256.search(line) for line in lines[1:])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy with a stand-in for .venv that is stamped as finished, whose blockcloud tells how it was called."""
    for name in ("dev.py", "pyproject.toml", dev.RUNTIME_LOCK.name, dev.DEV_LOCK.name):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    told = (
        "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd(), os.environ['VIRTUAL_ENV']])); sys.exit(7)"
    )
    (programs / "blockcloud").write_text(f"#!{sys.executable}\n{told}\n")
    (programs / "pytest").write_text(f"#!{sys.executable}\nimport sys; sys.exit({NO_TESTS_COLLECTED})\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    stamps = (
        "import dev; [dev.stamp(lock).write_text(dev.fingerprint(lock)) for lock in (dev.RUNTIME_LOCK, dev.DEV_LOCK)]"
    )
    subprocess.run([sys.executable, "-c", stamps], cwd=tmp_path, check=True, timeout=60)
    return tmp_path


def test_the_demo_gets_its_arguments_and_its_exit_code_comes_back(checkout: Path) -> None:
    done = run_script("demo", "--json", "--seconds", "3", directory=checkout)
    assert done.returncode == 7
    assert done.stderr == "", "a second run starts at once"
    assert json.loads(done.stdout) == [["demo", "--json", "--seconds", "3"], str(checkout), str(checkout / ".venv")]


def test_all_long_tests_run_in_two_parts_and_a_failure_of_one_fails(checkout: Path) -> None:
    told = "import sys; print(sys.argv[1:]); sys.exit({})"
    program = checkout / ".venv" / "bin" / "pytest"
    program.write_text(f"#!{sys.executable}\n{told.format(0)}\n")
    done = run_script("test", "--long", directory=checkout)
    assert done.returncode == 0
    shared, alone = done.stdout.splitlines()
    assert "'long and not alone'" in shared
    assert "'-n'" in shared
    assert "'long and alone'" in alone
    assert "'-n'" not in alone
    program.write_text(f"#!{sys.executable}\n{told.format(2)}\n")
    assert run_script("test", "--long", directory=checkout).returncode == 2


@pytest.mark.parametrize(
    ("failing", "second", "code"),
    [(1, 0, 0), (1, 1, 1), (dev.UNSTEADY_AT_MOST, 0, 0), (dev.UNSTEADY_AT_MOST + 1, 0, 1)],
)
def test_the_few_that_failed_run_once_more_and_are_named(checkout: Path, failing: int, second: int, code: int) -> None:
    cache = checkout / ".pytest_cache" / "v" / "cache" / "lastfailed"
    cache.parent.mkdir(parents=True)
    cache.write_text(json.dumps({f"test_{number}": True for number in range(failing)}))
    told = f"import sys; print(sys.argv[1:]); sys.exit({second} if '--last-failed' in sys.argv else 1)"
    (checkout / ".venv" / "bin" / "pytest").write_text(f"#!{sys.executable}\n{told}\n")
    done = run_script("test", directory=checkout)
    assert done.returncode == code
    assert len(done.stdout.splitlines()) == 1 + (failing <= dev.UNSTEADY_AT_MOST)
    assert ("UNSTEADY" in done.stderr) == (code == 0)
    assert ("test_0" in done.stderr) == (failing <= dev.UNSTEADY_AT_MOST)


def test_a_selection_that_matches_no_test_is_a_failure(checkout: Path) -> None:
    assert run_script("test", "--long", "-k", "nothing", directory=checkout).returncode == NO_TESTS_COLLECTED
    assert run_script("test", "-k", "nothing", directory=checkout).returncode == NO_TESTS_COLLECTED


def test_a_changed_lock_means_a_new_set_up(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = checkout / dev.RUNTIME_LOCK.name
    lock.write_text(lock.read_text().replace("uv==", "not-uv=="))
    (checkout / dev.DEV_LOCK.name).write_text("")
    monkeypatch.setenv("PATH", "")  # no uv to be found there
    done = run_script("demo", directory=checkout)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "does not pin uv" in done.stderr
