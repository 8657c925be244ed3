"""What the documents say exists: commands with these options, links, decision records, modules."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import blockcloud
import dev
from blockcloud.cli.app import app, hoist
from tests.docs.documents import PACKAGE, ROOT, blocks, command_lines, documents, links, prose, read

ADR = ROOT / "docs" / "adr"


def check_command(line: str) -> None:
    """Parse a command line as the program would, without running it. Raises what the parser raises."""
    command: Any = typer.main.get_command(app)
    arguments = hoist(shlex.split(line)[1:])
    context = command.make_context("blockcloud", arguments)
    while hasattr(command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not rest and command.invoke_without_command:
            return
        name, command, arguments = command.resolve_command(context, rest)
        context = command.make_context(name, arguments, parent=context)


def every_command() -> list[str]:
    return sorted({line for path in documents() for line in command_lines(path, "blockcloud")})


def test_the_readme_shows_commands() -> None:
    assert len(list(command_lines(ROOT / "README.md", "blockcloud"))) >= 5


@pytest.mark.parametrize("line", every_command())
def test_a_command_in_a_document_exists_with_these_options(line: str) -> None:
    check_command(line)


@pytest.mark.parametrize("line", ["blockcloud no-such", "blockcloud status --no-such", "blockcloud publish thermo"])
def test_a_command_that_does_not_exist_would_be_found(line: str) -> None:
    with pytest.raises(Exception, match=r"No such|Missing") as raised:
        check_command(line)
    assert raised.value.exit_code == 2  # type: ignore[attr-defined]  # a usage error of the parser


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_commands_of_the_set_up_script_exist(path: Path) -> None:
    for line in command_lines(path, "python3"):
        script, command = line.split()[1:3]
        if script == "dev.py":
            assert command in dev.COMMANDS
        else:
            assert f"`{script}`" in prose(path), f"{path.name} does not say what {script} is"


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in links(path):
        target, _, anchor = link.partition("#")
        if not target.startswith(("https://", "http://", "mailto:")):
            found = path.parent / target if target else path
            assert found.exists(), f"{path.name} links to {link}"
            assert not anchor or anchor in anchors(found), f"{path.name}: no heading for {link}"


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_python_in_documents_compiles_and_names_what_the_package_exports(path: Path) -> None:
    for block in blocks(path):
        if block.language == "python":
            code = compile(block.text, block.document, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            for node in ast.walk(code):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "blockcloud":
                    assert node.attr in blockcloud.__all__
                    assert getattr(blockcloud, node.attr)
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("blockcloud"):
                    module = importlib.import_module(str(node.module))
                    assert all(hasattr(module, alias.name) for alias in node.names)


def test_decision_records_are_numbered_one_by_one() -> None:
    pages = sorted(ADR.glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1)), [page.name for page in pages]
    for page in pages:
        assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", page.name)
        assert page.read_text(encoding="utf-8").startswith(f"# {int(page.name[:4])}. ")


def test_the_map_names_only_what_exists() -> None:
    """Paths in backticks: folders and files of the package, short where the text has named the folder before."""
    named = set(re.findall(r"`([\w/.]+(?:\.py|/))`", read("ARCHITECTURE.md")))
    assert len(named) > 20
    files = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    missing = sorted(name for name in named if not exists(name, files))
    assert not missing


def exists(name: str, files: list[str]) -> bool:
    if name.endswith("/"):
        return any(name in f"/{file}" for file in files) or (ROOT / name).is_dir()
    return (ROOT / name).exists() or any(f"/{file}".endswith(f"/{name}") for file in files)


def test_the_map_has_every_package() -> None:
    rows = {name for line in read("ARCHITECTURE.md").splitlines() if line.startswith("|") for name in packages_in(line)}
    built = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rows >= built, sorted(built - rows)


def packages_in(line: str) -> list[str]:
    return re.findall(r"`(\w+)/`", line.split("|")[1])
