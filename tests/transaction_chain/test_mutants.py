"""Planted bugs in production code: each must be caught by the fuzzer, or the fuzzer proves nothing.

A mutant is a text replacement in one production file. The package is copied to a temporary folder, changed there and
judged in a process of its own. A replacement whose old text is gone fails loudly: the mutant must follow the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import blockcloud

SOURCE = Path(blockcloud.__file__).parent
FIRST_SEED = 1
# How many DAGs the judge tries; all but a few mutants die within the first hundred.
DAGS = 1_500

AGREEMENT = ("-m", "blockcloud.simulation.dag_fuzzer", "--seed", str(FIRST_SEED), "--count", str(DAGS))
MODEL = (*AGREEMENT, "--model")


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file` and becomes `new`; `judge` must then report a violation.

    AGREEMENT compares views only: what dies there is unsafe. MODEL also compares with the slow model of the rule: what
    dies only there keeps nodes in agreement on something that the rule does not say.
    """

    name: str
    file: str
    old: str
    new: str
    judge: tuple[str, ...] = AGREEMENT


COMMITTER = "transaction_chain/committer.py"
LINEARIZER = "transaction_chain/linearizer.py"
BLOCK = "transaction_chain/block.py"

MUTANTS = [
    Mutant(
        "weak certificate: f + 1 votes",
        COMMITTER,
        "in votes.items() if weight >= self._committee.quorum)",
        "in votes.items() if weight > self._committee.total - self._committee.quorum)",
    ),
    Mutant(
        "one certificate commits",
        COMMITTER,
        "certified is not None and weight >= self._committee.quorum",
        "certified is not None",
    ),
    Mutant(
        "f + 1 blames skip",
        COMMITTER,
        "if self.blame_weight(dag, level, author) >= self._committee.quorum",
        "if self.blame_weight(dag, level, author) > self._committee.total - self._committee.quorum",
    ),
    Mutant(
        "a vote counts for any block of the slot's author",
        COMMITTER,
        "            supported = dag.links(parent).get(author)\n            if supported is not None:\n",
        "            supported = dag.links(parent).get(author)\n            if supported is not None:\n"
        "                supported = dag.slot(supported.level, author)[0].reference\n",
    ),
    Mutant(
        "anchor on the decision level",
        COMMITTER,
        "level + WAVE_LENGTH, dag.highest_level + 1",
        "level + WAVE_LENGTH - 1, dag.highest_level + 1",
    ),
    Mutant(
        "undecided anchor is passed over",
        COMMITTER,
        "                    return None\n                if decision.status is SlotStatus.COMMIT:",
        "                    continue\n                if decision.status is SlotStatus.COMMIT:",
    ),
    Mutant(
        "skipped anchor decides",
        COMMITTER,
        "if decision.status is SlotStatus.COMMIT:\n                    return decision.block\n        return None",
        "if decision.status is SlotStatus.COMMIT:\n                    return decision.block\n"
        "                return None\n        return None",
        MODEL,
    ),
    Mutant(
        "slots in the wrong order",
        COMMITTER,
        "for slot, author in enumerate(self._schedule.leaders(level))",
        "for slot, author in reversed(list(enumerate(self._schedule.leaders(level))))",
    ),
    Mutant(
        "a level is output in parts",
        COMMITTER,
        "            if any(decision.status is SlotStatus.UNDECIDED for decision in known[level]):\n                break\n",
        "            if any(decision.status is SlotStatus.UNDECIDED for decision in known[level]):\n"
        "                decided.extend(d for d in known[level] if d.status is not SlotStatus.UNDECIDED)\n"
        "                break\n",
    ),
    Mutant(
        "an equivocator's certificates count twice",
        COMMITTER,
        "                counted = True\n            total += weights[certifier] if counted else 0\n",
        "                counted = True\n                total += weights[certifier]\n",
    ),
    Mutant(
        "weak links vote",
        "transaction_chain/dag.py",
        "for parent in block.parents if parent.level == below}",
        "for parent in block.parents if parent.level > 0}",
        MODEL,
    ),
    Mutant(
        "quorum of two thirds, not more",
        "primitives/certificates.py",
        "return total * 2 // 3 + 1",
        "return total * 2 // 3",
    ),
    Mutant(
        "blocks are output again",
        LINEARIZER,
        "parent.level <= gc_level or parent in reached or parent in already",
        "parent.level <= gc_level or parent in reached",
    ),
    Mutant(
        "collection level off by one",
        LINEARIZER,
        "if parent.level <= gc_level or",
        "if parent.level <= gc_level + 1 or",
        MODEL,
    ),
    Mutant(
        "order of arrival is the order of output",
        LINEARIZER,
        "sorted(reached.values(), key=lambda block: _position(block.reference, beacon))",
        "[block for level in range(dag.highest_level + 1) for block in dag.blocks_at(level) if block.reference in reached]",
    ),
    Mutant(
        "two parents of one author are accepted",
        BLOCK,
        "if len(set(authors)) != len(authors) or not all(",
        "if not all(",
    ),
    Mutant(
        "too few parents are accepted",
        BLOCK,
        "if committee.weight_of(p.author for p in parents if p.level == header.level - 1) < committee.quorum:",
        "if committee.weight_of(p.author for p in parents) < committee.quorum:",
    ),
    Mutant(
        "payload is not checked against its root",
        BLOCK,
        "if merkle_root(payload) != payload_root:",
        "if not payload_root:",
    ),
]

QUICK = ("weak certificate: f + 1 votes", "undecided anchor is passed over", "two parents of one author are accepted")


def judged(folder: Path, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """What the judge says about the package in `folder`: 0 without a violation."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=folder, timeout=100, check=False
    )


def planted(mutant: Mutant, folder: Path) -> None:
    """A copy of the package in `folder`, with the mutant's bug."""
    shutil.copytree(SOURCE, folder / "blockcloud", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "blockcloud" / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"the text of mutant {mutant.name!r} is in {mutant.file} {text.count(mutant.old)} times"
    path.write_text(text.replace(mutant.old, mutant.new))


def must_be_caught(mutant: Mutant, folder: Path) -> None:
    planted(mutant, folder)
    verdict = judged(folder, mutant.judge)
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


def test_the_unchanged_copy_passes(tmp_path: Path) -> None:
    """Else every mutant would be "caught" by whatever is wrong with the copying."""
    shutil.copytree(SOURCE, tmp_path / "blockcloud", ignore=shutil.ignore_patterns("__pycache__"))
    verdict = judged(tmp_path, ("-m", "blockcloud.simulation.dag_fuzzer", "--count", "30", "--model"))
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert "no violation" in verdict.stdout
