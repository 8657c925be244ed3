"""Planted bugs of proof of service, and the tests that must find them."""

from __future__ import annotations

from tests.transaction_chain.mutants import PYTEST, TESTS, Mutant

PACKAGE = "service_chain/proof_of_service"
VERIFIERS = f"{PACKAGE}/verifiers.py"
SERVICES = f"{PACKAGE}/services.py"
SETTLEMENT = f"{PACKAGE}/settlement.py"
CASES = f"{PACKAGE}/cases.py"
SCORES = f"{PACKAGE}/scores.py"
SORTITION = f"{PACKAGE}/sortition.py"
TEST = f"{PACKAGE}/sequential_test.py"
FOLDER = TESTS / "service_chain/proof_of_service"
CHAIN = (*PYTEST, "--import-mode=importlib", str(FOLDER / "test_verification_on_chain.py"))
STATISTICS = (*PYTEST, "--hypothesis-seed=1", "--import-mode=importlib", str(FOLDER / "test_statistics.py"))

PROOF_OF_SERVICE = [
    Mutant(
        "who disagrees is paid too",
        SETTLEMENT,
        "        right = agrees(report.score, expected)\n",
        "        right = True or agrees(report.score, expected)\n",
        CHAIN,
    ),
    Mutant(
        "a pot pays and keeps what it paid",
        SETTLEMENT,
        "    state.put(pot_key(name), PotRecord(name, pot - amount))\n",
        "    state.put(pot_key(name), PotRecord(name, pot))\n",
        CHAIN,
    ),
    Mutant(
        "who is drawn may stay silent",
        VERIFIERS,
        "    for _ in range(len(drawn) - len(operation.scores)):\n",
        "    for _ in range(0):\n",
        CHAIN,
    ),
    Mutant(
        "only who was drawn must reveal",
        SETTLEMENT,
        "        if record.reveals < number <= limits.onion_length:\n",
        "        if record.reveals < number <= limits.onion_length and record.committed_era == era:\n",
        CHAIN,
    ),
    Mutant(
        "a slash is not burned",
        VERIFIERS,
        "    burn(state, taken)\n",
        "    burn(state, 0)\n",
        CHAIN,
    ),
    Mutant(
        "scores need not be those committed",
        VERIFIERS,
        "record.committed_era != era or record.commitment != hidden",
        "record.committed_era != era",
        CHAIN,
    ),
    Mutant(
        "a verifier may choose between layers",
        VERIFIERS,
        "    number = record.owed(era)\n",
        "    number = record.reveals + 1\n",
        CHAIN,
    ),
    Mutant(
        "everybody may verify everything",
        VERIFIERS,
        "        if score.name not in drawn:\n",
        "        if score.name not in drawn and False:\n",
        CHAIN,
    ),
    Mutant(
        "a provider's owner verifies it",
        VERIFIERS,
        "other is not None and other.owner in (verifier, owner)",
        "other is not None and other.owner == provider",
        CHAIN,
    ),
    Mutant(
        "half of a panel convicts",
        CASES,
        "    convicts = 3 * len(record.guilty) >= 2 * len(record.judges) > 0\n",
        "    convicts = 2 * len(record.guilty) >= len(record.judges) > 0\n",
        CHAIN,
    ),
    Mutant(
        "silent judges pay nothing",
        SETTLEMENT,
        "            slash_verifier(state, judge, limits.silent_ppm, context)\n",
        "            slash_verifier(state, judge, 0, context)\n",
        CHAIN,
    ),
    Mutant(
        "accusers judge",
        CASES,
        "*record.accusers, *(owners[key] for key in record.accusers if key in owners)]\n",
        "]\n",
        CHAIN,
    ),
    Mutant(
        "an appeal that is lost costs nothing",
        CASES,
        "        burn(state, record.appeal_bond)\n",
        "        credit(state, record.provider, record.appeal_bond)\n",
        CHAIN,
    ),
    Mutant(
        "a breach pays again and again",
        CASES,
        " // PARTS_PER_MILLION - agreement.breach_paid\n",
        " // PARTS_PER_MILLION\n",
        CHAIN,
    ),
    Mutant(
        "one audit slashes",
        SETTLEMENT,
        "    if len(missed) < context.proof_of_service.audit_misses:\n",
        "    if not missed:\n",
        CHAIN,
    ),
    Mutant(
        "an auditor may tell another truth",
        SERVICES,
        "operation.failed_ppm, operation.salt) != audit.commitment",
        "operation.failed_ppm, operation.salt) == audit.commitment * 2",
        CHAIN,
    ),
    Mutant(
        "a lower promise clears the provider",
        SETTLEMENT,
        "        likelihood = max(0, likelihood)\n",
        "        likelihood = 0\n",
        CHAIN,
    ),
    Mutant(
        "a quarantine that nobody asks about",
        f"{PACKAGE}/standing.py",
        "    if era <= standing.quarantine_era:\n",
        "    if era < 0:\n",
        CHAIN,
    ),
    Mutant(
        "of two in the middle the worse one counts",
        SCORES,
        "    return ordered[(len(ordered) - 1) // 2]\n",
        "    return ordered[len(ordered) // 2]\n",
        STATISTICS,
    ),
    Mutant(
        "tickets do not need the beacon",
        SORTITION,
        "codec.encode((value, beacon, name))",
        "codec.encode((value, bytes(32), name))",
        STATISTICS,
    ),
    Mutant(
        "an owner has two seats",
        SORTITION,
        "            taken[owner] = None\n",
        "            taken[key] = None\n",
        STATISTICS,
    ),
    Mutant(
        "a success weighs nothing",
        TEST,
        "+ (probes - failed) * self.success\n",
        "+ 0 * self.success\n",
        STATISTICS,
    ),
]
