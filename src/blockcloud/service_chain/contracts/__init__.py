"""Smart contracts: WebAssembly modules that hold money and data on the ledger and act when they are called.

`profile.py` says which modules are let in and makes them safe to run; `wasm.py` is the binding to the one engine that
all nodes of a chain run; `host.py` is what a contract can ask of the ledger, with prices; `runtime.py` runs
deployments, calls and queries over the state; `rules.py` are the two operations. The decisions are in docs/adr/0016.
"""
