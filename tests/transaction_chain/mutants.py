"""Planted bugs of the consensus, as text replacements in one production file each, and what must find them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import blockcloud

SOURCE = Path(blockcloud.__file__).parent
FIRST_SEED = 1
# How many DAGs the judge tries; all but a few mutants die within the first hundred.
DAGS = 1_500

AGREEMENT = ("-m", "blockcloud.simulation.dag_fuzzer", "--seed", str(FIRST_SEED), "--count", str(DAGS))
MODEL = (*AGREEMENT, "--model")
NETWORK = ("-m", "blockcloud.simulation.runner", "--seed", "1", "--count", "120", "--levels", "30")
NETWORK_LONG = (*NETWORK[:-1], "60")
# For what only few of the committees meet.
NETWORK_LATER = (*NETWORK[:3], "60", *NETWORK[4:])
TESTS = Path(__file__).parent.parent
# Without the plugins that happen to be installed: loading them takes three times as long as most of these tests.
WITHOUT_PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
PLUGINS = ("-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin", "-p", "tests.judging")
PYTEST = ("-m", "pytest", "-q", "-x", "-c", os.devnull, *PLUGINS)
SCENARIOS = (*PYTEST, "--import-mode=importlib", str(TESTS / "transaction_chain/test_collection_scenarios.py"))
CERTIFICATES = (*PYTEST, "--import-mode=importlib", str(TESTS / "primitives/test_certificates.py"))
TRANSCRIPTS = (*PYTEST, "--import-mode=importlib", str(TESTS / "transaction_chain/test_core.py"))
ERA_ENDS = (*PYTEST, "--import-mode=importlib", str(TESTS / "transaction_chain/test_core_eras.py"))
HANDOVERS = (*PYTEST, "--import-mode=importlib", str(TESTS / "transaction_chain/test_handover_collector.py"))
SEATS = (*PYTEST, "--import-mode=importlib", str(TESTS / "service_chain/test_eras.py"))
EVIDENCE = (*PYTEST, "--import-mode=importlib", str(TESTS / "service_chain/test_evidence.py"))
ROUNDS = (*PYTEST, "--import-mode=importlib", str(TESTS / "service_chain/test_resources_chain.py"))


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file` and becomes `new`; `judge` must then report a violation.

    AGREEMENT compares views only: what dies there is unsafe. MODEL also compares with the slow model of the rule: what
    dies only there keeps nodes in agreement on something that the rule does not say. NETWORK runs whole committees
    under faults and liars, SCENARIOS the tests about collection, CERTIFICATES what a verifier must refuse, TRANSCRIPTS
    what a core does event by event (for what a network meets too seldom), ERA_ENDS how cores end an era and change
    their leader table, HANDOVERS who may end one, SEATS, EVIDENCE and
    ROUNDS what the ledger says of committees, liars and staked resources.
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
CERTIFICATE = "primitives/certificates.py"

CONSENSUS = [
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
]
