"""Planted bugs in production code: each must be caught by fuzzer, simulator or scenarios, or they prove nothing.

A mutant is a text replacement in one production file. The package is copied to a temporary folder, changed there and
judged in a process of its own. A replacement whose old text is gone fails loudly: the mutant must follow the code.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service_access.access_mutants import ACCESS
from tests.service_access.payment_mutants import PAYMENT
from tests.service_chain.agreement_mutants import AGREEMENTS
from tests.service_chain.determinism_mutants import DETERMINISM
from tests.service_chain.market.ledger_market_mutants import MARKETS_ON_CHAIN
from tests.service_chain.market.market_mutants import LIES, MARKET, RATCHET
from tests.service_chain.proof_of_service.verification_mutants import PROOF_OF_SERVICE
from tests.transaction_chain.ledger_mutants import LEDGER
from tests.transaction_chain.mutants import (
    AGREEMENT,
    CERTIFICATES,
    CONSENSUS,
    NETWORK,
    NETWORK_LATER,
    NETWORK_LONG,
    PYTEST,
    SCENARIOS,
    SOURCE,
    TESTS,
    TRANSCRIPTS,
    WITHOUT_PLUGINS,
    Mutant,
)

MUTANTS = [
    *CONSENSUS,
    *LEDGER,
    *DETERMINISM,
    *ACCESS,
    *PAYMENT,
    *MARKET,
    *AGREEMENTS,
    *MARKETS_ON_CHAIN,
    *PROOF_OF_SERVICE,
]

QUICK = ("weak certificate: f + 1 votes", "f + 1 blames skip", "two parents of one author are accepted")


def judged(folder: Path, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """What the judge says about the package in `folder`: 0 without a violation."""
    path = os.pathsep.join((str(folder), str(TESTS.parent)))
    fixed = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", **WITHOUT_PLUGINS}
    environment = os.environ | fixed
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, timeout=100, check=False
    )


def copied(folder: Path) -> None:
    """A copy of the package in `folder`, compiled modules with it: else each judge would compile all it imports."""
    shutil.copytree(SOURCE, folder / "blockcloud", ignore=shutil.ignore_patterns("*.pyc.*"))


def planted(mutant: Mutant, folder: Path) -> None:
    """A copy of the package in `folder`, with the mutant's bug."""
    copied(folder)
    path = folder / "blockcloud" / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"the old text of mutant {mutant.name!r} must be in {mutant.file} once"
    path.write_text(text.replace(mutant.old, mutant.new))
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
        compiled.unlink()


def must_be_caught(mutant: Mutant, folder: Path) -> None:
    planted(mutant, folder)
    verdict = judged(folder, mutant.judge)
    last_line = verdict.stdout.strip().rpartition("\n")[2]
    if mutant.judge in (NETWORK, NETWORK_LATER, NETWORK_LONG):
        caught = verdict.returncode == 1 and json.loads(last_line)["verdict"] != "Pass"
    elif mutant.judge is SCENARIOS:
        caught = verdict.returncode == 1 and "WrongCommits" in verdict.stdout
    elif mutant.judge[: len(PYTEST)] == PYTEST:
        caught = verdict.returncode == 1 and "1 failed" in verdict.stdout
    else:
        caught = verdict.returncode == 1 and verdict.stdout.startswith("seed ")
    assert caught, f"mutant {mutant.name!r} survives:\n{verdict.stdout}{verdict.stderr}"


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.name in QUICK], ids=lambda mutant: mutant.name)
def test_quick_mutants_are_caught(mutant: Mutant, tmp_path: Path) -> None:
    must_be_caught(mutant, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.name not in QUICK], ids=lambda mutant: mutant.name)
def test_mutants_are_caught(mutant: Mutant, tmp_path: Path) -> None:
    must_be_caught(mutant, tmp_path)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutants_still_fit_the_code(mutant: Mutant) -> None:
    assert (SOURCE / mutant.file).read_text().count(mutant.old) == 1


@pytest.mark.parametrize("judge", [(*AGREEMENT[:-1], "30", "--model"), CERTIFICATES], ids=["fuzzer", "certificates"])
def test_the_unchanged_copy_passes(judge: tuple[str, ...], tmp_path: Path) -> None:
    must_pass_unchanged(judge, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("judge", [(*NETWORK[:-3], "20", *NETWORK[-2:]), SCENARIOS, TRANSCRIPTS, LIES, RATCHET])
def test_the_unchanged_copy_passes_the_slow_judges(judge: tuple[str, ...], tmp_path: Path) -> None:
    must_pass_unchanged(judge, tmp_path)


def must_pass_unchanged(judge: tuple[str, ...], folder: Path) -> None:
    """Else every mutant would be "caught" by whatever is wrong with the copying."""
    copied(folder)
    verdict = judged(folder, judge)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
