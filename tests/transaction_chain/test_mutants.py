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
NETWORK = ("-m", "blockcloud.simulation.runner", "--seed", "1", "--count", "120", "--levels", "30")
NETWORK_LONG = (*NETWORK[:-1], "60")
TESTS = Path(__file__).parent.parent
PYTEST = ("-m", "pytest", "-q", "-x", "-c", os.devnull, "-p", "no:cacheprovider", "-p", "no:asyncio")
SCENARIOS = (*PYTEST, "--import-mode=importlib", str(TESTS / "transaction_chain/test_collection_scenarios.py"))
CERTIFICATES = (*PYTEST, "--import-mode=importlib", str(TESTS / "primitives/test_certificates.py"))
TRANSCRIPTS = (*PYTEST, "--import-mode=importlib", str(TESTS / "transaction_chain/test_core.py"))
ERA_ENDS = (*PYTEST, "--import-mode=importlib", str(TESTS / "transaction_chain/test_core_eras.py"))
HANDOVERS = (*PYTEST, "--import-mode=importlib", str(TESTS / "transaction_chain/test_handover_collector.py"))
SEATS = (*PYTEST, "--import-mode=importlib", str(TESTS / "service_chain/test_eras.py"))
EVIDENCE = (*PYTEST, "--import-mode=importlib", str(TESTS / "service_chain/test_evidence.py"))


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file` and becomes `new`; `judge` must then report a violation.

    AGREEMENT compares views only: what dies there is unsafe. MODEL also compares with the slow model of the rule: what
    dies only there keeps nodes in agreement on something that the rule does not say. NETWORK runs whole committees
    under faults and liars, SCENARIOS the tests about collection, CERTIFICATES what a verifier must refuse, TRANSCRIPTS
    what a core does event by event (for what a network meets too seldom), ERA_ENDS how cores end an era and change
    their leader table, HANDOVERS who may end one, SEATS and EVIDENCE what the ledger says of committees and liars.
    """

    name: str
    file: str
    old: str
    new: str
    judge: tuple[str, ...] = AGREEMENT


COMMITTER = "transaction_chain/committer.py"
LINEARIZER = "transaction_chain/linearizer.py"
BLOCK = "transaction_chain/block.py"
CORE = "transaction_chain/core.py"
LEADERS = "transaction_chain/leaders.py"
CHECKPOINTS = "transaction_chain/checkpoints.py"
SUSPENSION = "transaction_chain/suspension.py"
PACING = "transaction_chain/pacing.py"
ERA = "transaction_chain/era.py"
SERVICE_ERAS = "service_chain/eras.py"
SERVICE_EVIDENCE = "service_chain/evidence.py"
CERTIFICATE = "primitives/certificates.py"

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
        "                break\n            decided.extend(known[level])",
        "                decided.extend(d for d in known[level] if d.status is not SlotStatus.UNDECIDED)\n"
        "                break\n            decided.extend(known[level])",
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
        "sorted(reached.values(), key=lambda block: (block.level, list(dag._blocks).index(block.reference)))",
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
    Mutant(
        "a commit reaches down to its own collection level",
        CORE,
        "self._linearised, self.dag.gc_level, self._beacon)",
        "self._linearised, max(0, level - self.parameters.gc_depth_levels), self._beacon)",
        SCENARIOS,
    ),
    Mutant(
        "a block may be earlier than its parents",
        CORE,
        "parent.header.timestamp_ms <= block.header.timestamp_ms for parent in parents",
        "parent.header.timestamp_ms >= 0 for parent in parents",
        MODEL,
    ),
    Mutant(
        "what was signed is forgotten at a restart",
        CORE,
        "        self.level = max([recovered.own_level or 0, *own_levels])\n"
        "        # Hear first where the others are: a block for a level that they left long ago helps nobody.\n"
        "        self._quiet_until_ms = now_ms + self.parameters.pacing_idle_ms\n",
        "",
        NETWORK,
    ),
    Mutant(
        "what was committed is forgotten at a restart",
        CORE,
        "self._linearised.add(reference for reference in recovered.linearised if reference.level > gc_level)",
        "self._linearised.add(())",
        NETWORK,
    ),
    Mutant(
        "an own block is sent before it is durable",
        CORE,
        "        self._ready.own.append(block)\n",
        "",
        NETWORK,
    ),
    Mutant(
        "missing parents are never asked for",
        CORE,
        "self._ready.send.extend(self._suspension.requests(self._peers, now_ms))",
        "self._suspension.requests(self._peers, now_ms)",
        NETWORK,
    ),
    Mutant(
        "a lagging node asks for no levels",
        CORE,
        "        if chunk is not None:\n            self._ready.send.append(chunk)\n",
        "",
        NETWORK_LONG,
    ),
    Mutant(
        "an absent leader is waited for without end",
        CORE,
        "due_ms = max(due_ms, self._clock.since_ms + self.parameters.leader_timeout_ms)",
        "return None",
        NETWORK,
    ),
    Mutant(
        "an equivocator stops its victims",
        CORE,
        "if not wanted and self._slot_is_full(block):",
        "if self._slot_is_full(block) or self.dag.slot(block.level, block.author):",
        NETWORK,
    ),
    Mutant(
        "the draw of leaders depends on what was drawn before",
        LEADERS,
        "leaders = self._draw(level)",
        "leaders = self._draw(level + len(self._drawn) % 2)",
        NETWORK,
    ),
    Mutant(
        "a draw that was forgotten comes out otherwise",
        LEADERS,
        "            if len(self._drawn) >= CACHED_LEVELS:\n                del self._drawn[next(iter(self._drawn))]\n",
        "            if len(self._drawn) >= 8:\n                self._drawn.clear()\n"
        "                leaders = leaders[::-1]\n",
        NETWORK,
    ),
    Mutant(
        "a parent may be at the block's own level",
        BLOCK,
        "if any(not 0 <= parent.level < header.level or",
        "if any(not 0 <= parent.level <= header.level or",
    ),
    Mutant(
        "blocks of another chain are accepted",
        BLOCK,
        "if header.chain_id != chain_id:",
        "if len(header.chain_id) != len(chain_id):",
    ),
    Mutant(
        "the author's signature is not checked",
        BLOCK,
        "    verify(committee.members[block.author].key, SIGNATURE_DOMAIN, block.reference.digest, block.signature)\n",
        "",
    ),
    Mutant(
        "blocks ahead of time are not held back",
        CORE,
        "if block.header.timestamp_ms > now_ms + CLOCK_AHEAD_MS:",
        "if block.header.timestamp_ms > now_ms + 100 * CLOCK_AHEAD_MS:",
        NETWORK,
    ),
    Mutant(
        "blocks are collected by what is known, not by what is committed",
        CORE,
        "        gc_level = max(0, level - self.parameters.gc_depth_levels)\n        for block in",
        "        gc_level = max(0, self.dag.highest_level - self.parameters.gc_depth_levels)\n        for block in",
        NETWORK_LONG,
    ),
    Mutant(
        "what falls out uncommitted is not proposed again",
        CORE,
        "                self._mempool.put_back(block.payload)\n",
        "",
        TRANSCRIPTS,
    ),
    Mutant(
        "a suspended block is let go before its last parent",
        SUSPENSION,
        "if entry.missing == 0:",
        "if entry.missing <= 1:",
        NETWORK,
    ),
    Mutant(
        "the newest own block is never sent again",
        CORE,
        "            self._ready.broadcast.append(self._own_recent[-1])\n",
        "",
        NETWORK,
    ),
    Mutant(
        "the chain of commits begins anew at a restart",
        CORE,
        "            self._last_digest = recovered.last_commit.digest()\n",
        "            pass\n",
        NETWORK,
    ),
    Mutant(
        "decided levels are decided again after a restart",
        CORE,
        "        self._decided_level = recovered.last_commit.level\n",
        "",
        NETWORK,
    ),
    Mutant(
        "an honest author is taken for an equivocator",
        CORE,
        "        others = self.dag.slot(block.level, block.author)\n",
        "        others = self.dag.blocks_at(block.level)\n",
        NETWORK,
    ),
    Mutant(
        "f + 1 statements are a certificate",
        CHECKPOINTS,
        "if weight < self._committee.quorum:",
        "if weight <= self._committee.total - self._committee.quorum:",
        NETWORK,
    ),
    Mutant(
        "different statements add up to a certificate",
        CHECKPOINTS,
        "if other is not None and other.statement == statement:",
        "if other is not None:",
        NETWORK,
    ),
    Mutant(
        "statements count without their signature",
        CHECKPOINTS,
        "        signed.verify()\n",
        "",
        NETWORK,
    ),
    Mutant(
        "a signer counts twice in a certificate",
        CERTIFICATE,
        "if any(first >= second for",
        "if any(first > second for",
        CERTIFICATES,
    ),
    Mutant(
        "a certificate below the quorum verifies",
        CERTIFICATE,
        "if weight < needed:",
        "if 2 * weight < needed:",
        CERTIFICATES,
    ),
    Mutant(
        "an era never ends",
        CORE,
        "        if record.height == self._last_height:\n",
        "        if record.height == -1:\n",
        ERA_ENDS,
    ),
    Mutant(
        "an ended core makes blocks",
        CORE,
        "if not self.proposing or self.ended or self._heard",
        "if not self.proposing or self._heard",
        ERA_ENDS,
    ),
    Mutant(
        "commits come out after the last one",
        CORE,
        "        while self._may_decide and not self.ended:\n",
        "        while self._may_decide:\n",
        ERA_ENDS,
    ),
    Mutant(
        "payloads caught at the boundary are forgotten",
        CORE,
        "            self._mempool.era_ended()\n",
        "",
        ERA_ENDS,
    ),
    Mutant(
        "payloads are carried before the hand-over is certified",
        CORE,
        " if self.carrying else ()",
        "",
        ERA_ENDS,
    ),
    Mutant(
        "the leader table is forgotten at a restart",
        CORE,
        "        for record in recovered.records:\n            self._changes_table(record)\n",
        "",
        ERA_ENDS,
    ),
    Mutant(
        "decisions with the old leader table stand",
        CORE,
        "        self._may_decide = True\n        return True\n",
        "        return False\n",
        NETWORK,
    ),
    Mutant(
        "the leader table begins where each node happens to be",
        CORE,
        "self._schedule.use_weights(record.level + 1, weights)",
        "self._schedule.use_weights(max(record.level, self.dag.highest_level) + 1, weights)",
        NETWORK,
    ),
    Mutant(
        "whoever missed a level waits like the others",
        PACING,
        "(pace_ms // 4 if leads or missed else 0)",
        "(pace_ms // 4 if leads else 0)",
        ERA_ENDS,
    ),
    Mutant(
        "a third of the old committee hands over",
        ERA,
        "for signed in agreeing) < self._committee.quorum:",
        "for signed in agreeing) <= self._committee.total - self._committee.quorum:",
        HANDOVERS,
    ),
    Mutant(
        "different hand-overs add up",
        ERA,
        "if signed.statement == statement]",
        "]",
        HANDOVERS,
    ),
    Mutant(
        "hand-over signatures are not verified",
        ERA,
        "            signed.verify()\n",
        "",
        HANDOVERS,
    ),
    Mutant(
        "what is bonded after the freeze counts",
        SERVICE_ERAS,
        "bond = min(frozen_bond, candidate.bond)",
        "bond = candidate.bond",
        SEATS,
    ),
    Mutant(
        "a jailed candidate gets a seat",
        SERVICE_ERAS,
        "            if candidate is None or candidate.jailed:\n",
        "            if candidate is None:\n",
        SEATS,
    ),
    Mutant(
        "one offence is punished again and again",
        SERVICE_EVIDENCE,
        "    if state.get(place, Offence) is not None:\n",
        "    if state.get(place, Offence) is not None and not candidate_key:\n",
        EVIDENCE,
    ),
]

QUICK = ("weak certificate: f + 1 votes", "f + 1 blames skip", "two parents of one author are accepted")


def judged(folder: Path, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """What the judge says about the package in `folder`: 0 without a violation."""
    path = os.pathsep.join((str(folder), str(TESTS.parent)))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, timeout=100, check=False
    )


def planted(mutant: Mutant, folder: Path) -> None:
    """A copy of the package in `folder`, with the mutant's bug."""
    shutil.copytree(SOURCE, folder / "blockcloud", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "blockcloud" / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"the old text of mutant {mutant.name!r} must be in {mutant.file} once"
    path.write_text(text.replace(mutant.old, mutant.new))


def must_be_caught(mutant: Mutant, folder: Path) -> None:
    planted(mutant, folder)
    verdict = judged(folder, mutant.judge)
    last_line = verdict.stdout.strip().rpartition("\n")[2]
    if mutant.judge in (NETWORK, NETWORK_LONG):
        caught = verdict.returncode == 1 and json.loads(last_line)["verdict"] != "Pass"
    elif mutant.judge is SCENARIOS:
        caught = verdict.returncode == 1 and "WrongCommits" in verdict.stdout
    elif mutant.judge in (CERTIFICATES, TRANSCRIPTS, ERA_ENDS, HANDOVERS, SEATS, EVIDENCE):
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
@pytest.mark.parametrize("judge", [(*NETWORK[:-3], "20", *NETWORK[-2:]), SCENARIOS, TRANSCRIPTS])
def test_the_unchanged_copy_passes_the_slow_judges(judge: tuple[str, ...], tmp_path: Path) -> None:
    must_pass_unchanged(judge, tmp_path)


def must_pass_unchanged(judge: tuple[str, ...], folder: Path) -> None:
    """Else every mutant would be "caught" by whatever is wrong with the copying."""
    shutil.copytree(SOURCE, folder / "blockcloud", ignore=shutil.ignore_patterns("__pycache__"))
    verdict = judged(folder, judge)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
