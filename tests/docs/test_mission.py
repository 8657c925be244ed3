"""The table from phrase to module to test: each module and each test that it names exists."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.documents import PACKAGE, ROOT, read, table_rows

ROWS = list(table_rows(read("docs/mission.md")))
NAMED = re.compile(r"`([^`]+)`")
NOT_BUILT = re.compile(r"not built yet(:| \(issues? \d)")
TESTS = ROOT / "tests"


def test_the_table_is_there() -> None:
    assert len(ROWS) >= 40
    assert all(len(row) == 3 for row in ROWS), [row for row in ROWS if len(row) != 3]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_row_names_what_exists(row: list[str]) -> None:
    phrase, modules, tests = row
    assert phrase
    for module in NAMED.findall(modules):
        assert (PACKAGE / module).is_file(), module
    if NOT_BUILT.search(tests):
        assert not NAMED.findall(tests), "a row is shown by a test or is not built yet"
        return
    assert NAMED.findall(modules), "what is tested is somewhere"
    assert NAMED.findall(tests), "either a test shows it, or it is not built yet"
    for named in NAMED.findall(tests):
        file, _, function = named.partition("::")
        assert (TESTS / file).is_file(), named
        assert not function or function in functions_of(file), named


def functions_of(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
