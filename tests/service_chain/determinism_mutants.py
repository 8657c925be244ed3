"""Planted bugs that make an execution depend on more than the history: each must be seen by `determinism`."""

from __future__ import annotations

from tests.transaction_chain.mutants import Mutant

JUDGE = ("-m", "tests.service_chain.determinism", "judge", "--operations", "8000")
PATIENT = (*JUDGE[:-1], "30000")  # instances are added rarely

DETERMINISM = [
    Mutant(
        "instance keys in the order of a set",
        "service_chain/names.py",
        "instance_keys=(*record.instance_keys, operation.key)",
        "instance_keys=tuple({*record.instance_keys, operation.key})",
        PATIENT,
    ),
    Mutant(
        "reveals in the order of a set",
        "service_chain/eras.py",
        "sorted(reveals)",
        "tuple(set(reveals))",
        JUDGE,
    ),
    Mutant(
        "the end of an era by the clock of the machine",
        "service_chain/eras.py",
        "EraEnd(context.time_ms)",
        'EraEnd(__import__("time").time_ns())',
        JUDGE,
    ),
    Mutant(
        "a contract that ran in this process before costs less",
        "service_chain/contracts/runtime.py",
        "            price += ENTER_BYTE_FUEL * len(code)\n",
        "            if vars(self).setdefault(call.contract.hex(), call.height) == call.height:\n"
        "                price += ENTER_BYTE_FUEL * len(code)\n",
        JUDGE,
    ),
    Mutant(
        "what a quorum vouches for weighs less",
        "service_chain/machine.py",
        "            known = self._parse(payload)\n            self._parsed.add(known)\n",
        "            known = self._parse(payload)\n"
        '            known = __import__("msgspec").structs.replace(known, weight=known.weight - 1)\n'
        "            self._parsed.add(known)\n",
        JUDGE,
    ),
]
