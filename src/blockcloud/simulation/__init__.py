"""Proof by attack: seeded adversaries for the production cores, and the checks that judge them.

`dag_builder` writes and prints DAGs as text ("A1:[A0,B0,C0]"); `dag_fuzzer` draws hostile DAGs and compares what any
two views of one decide; `commit_model` is the commit rule once more, slow and obvious. `network` runs whole committees
of production nodes, era after era, over a virtual clock, network and disk: `options` and `faults` are drawn from the
seed, the service machine is a hash (`hash_machine`) or the production `ledger`, a `liar` lies, `judge` and `audit`
watch, `runner` runs one seed or many. Everything follows from a seed: the same seed gives the same run, so every
failure is one command away. Method: FoundationDB, TigerBeetle's VOPR, the simulator of Mysticeti.
"""
