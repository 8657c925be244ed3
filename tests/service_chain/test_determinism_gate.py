"""The gate of determinism: the same operations, executed by processes that differ in all that must not matter, give the
same roots, changes and receipts. `determinism` says how; mutants of it are in `determinism_mutants`."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockcloud.service_chain.operations import OPERATIONS
from tests.service_chain.determinism import Made, difference, executions, make

OPERATIONS_OF_THE_GATE = 100_000
WHERE = "draw it in tests/service_chain/random_history.py (RandomHistory.operation) or random_eras.py"


def agreed(folder: Path, seed: int, operations: int) -> Made:
    """A history about which all agree."""
    path = folder / "history"
    made = make(path, seed, operations)
    executed = executions(path, made.commits)
    assert len(executed) == 3
    assert all(len(lines) == made.commits for lines in executed.values())
    assert difference(made.lines, executed) == "", f"history {seed}"
    return made


def test_a_short_history_is_executed_alike(tmp_path: Path, run_seed: int) -> None:
    made = agreed(tmp_path, run_seed, 1_500)
    assert made.coverage.operations >= 1_500


def test_a_difference_is_told_by_its_commit() -> None:
    author = ["1 a", "2 b"]
    assert difference(author, {"one": ["1 a", "2 b"]}) == ""
    assert difference(author, {"one": author, "two": ["1 a", "2 c"]}) == "two: 2 c, its author: 2 b"
    assert difference(author, {"one": ["1 a"]}) == "one: nothing, its author: 2 b"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_long_history_of_every_operation_is_executed_alike(tmp_path: Path, run_seed: int) -> None:
    coverage = agreed(tmp_path, run_seed, OPERATIONS_OF_THE_GATE).coverage
    assert coverage.operations >= OPERATIONS_OF_THE_GATE
    never_executed = [kind.__name__ for kind in OPERATIONS if not coverage.executed[kind]]
    assert never_executed == [], f"no operation of this kind was ever executed; {WHERE}"
    never_refused = [kind.__name__ for kind in OPERATIONS if not coverage.refused[kind]]
    assert never_refused == [], f"no operation of this kind was ever refused; {WHERE}, sometimes as it must not be"
    assert len(coverage.codes) > 60, coverage.codes
