"""`blockcloud bench contracts`: what a call of a contract costs beside its fuel, and whether the prices of fuel hold.

Processor time, in one thread, over a state in memory. The yardstick is one Ed25519 verification of the same run, which
every transaction costs anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from time import process_time
from typing import Any, Final

from blockcloud.bench.machine import verify_seconds
from blockcloud.service_chain.contracts.limits import DEPLOY_BYTE_FUEL, DEPLOY_FUEL, TRANSACTION_FUEL
from blockcloud.service_chain.contracts.runtime import Call, ContractRuntime
from blockcloud.service_chain.contracts.wasm import from_text
from blockcloud.service_chain.genesis import ContractParameters
from blockcloud.service_chain.records import Account
from blockcloud.service_chain.state_keys import account_key
from blockcloud.service_chain.working_state import WorkingState

CALL_US_MAX: Final = 200.0
OWNER: Final = bytes(31) + b"\x01"
SOURCE: Final = """(module
  (import "blockcloud" "get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "blockcloud" "put" (func $put (param i32 i32 i32 i32)))
  (import "blockcloud" "height" (func $height (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 64) "key")
  (func (export "nothing"))
  (func (export "hosts") (drop (call $height)) (drop (call $height)) (drop (call $height)) (drop (call $height)))
  (func (export "counter")
    (drop (call $get (i32.const 64) (i32.const 3) (i32.const 0) (i32.const 8)))
    (i64.store (i32.const 0) (i64.add (i64.load (i32.const 0)) (i64.const 1)))
    (call $put (i32.const 64) (i32.const 3) (i32.const 0) (i32.const 8)))
  (func (export "loop") (local $i i32)
    (loop $next (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000000))))))"""


def run(calls: int = 2_000) -> dict[str, Any]:
    """Measure and return {"figures": ..., "bars": ..., "peer": ..., "ratio": ...}."""
    code = from_text(SOURCE)
    state, runtime = _funded_state(), ContractRuntime(ContractParameters())
    number = iter(range(10**9))

    def deploy() -> bytes:
        salt = next(number).to_bytes(8)
        call = Call(b"", OWNER, "", b"", 0, TRANSACTION_FUEL, 1, 0)
        return runtime.deploy(state, code, salt, call, 10**12)

    contract = deploy()

    def calling(method: str) -> Callable[[], object]:
        call = Call(contract, OWNER, method, b"", 0, TRANSACTION_FUEL, 1, 0)
        return lambda: runtime.call(state, call, 10**12)

    figures: dict[str, Any] = {}
    for method in ("nothing", "hosts", "counter"):
        runtime.take_spent()
        figures[f"call_{method}_us"] = round(_us(calling(method), calls), 1)
        figures[f"call_{method}_fuel"] = runtime.take_spent().fuel // (calls + 1)
    loops = max(1, calls // 100)
    spent = _us(calling("loop"), loops)
    fuel = runtime.take_spent().fuel // (loops + 1)
    figures["ns_per_fuel"] = round(spent * 1_000 / fuel, 2)
    runtime.take_spent()
    fresh = ContractRuntime(ContractParameters())
    figures["deploy_us"] = round(_us(lambda: _first_deploy(fresh, code, next(number)), max(1, calls // 100)), 1)
    figures["deploy_fuel"] = DEPLOY_FUEL + DEPLOY_BYTE_FUEL * len(code)
    verification = verify_seconds() * 1e6
    return {
        "figures": figures,
        "bars": {"call_nothing_us": CALL_US_MAX},
        "peer": {"ed25519_verify_us": round(verification, 1)},
        "ratio": round(figures["call_nothing_us"] / verification, 2),
    }


def _funded_state() -> WorkingState:
    state = WorkingState(lambda key: None)
    state.get(account_key(OWNER), Account)
    state.put(account_key(OWNER), Account(10**12))
    return state


def _first_deploy(runtime: ContractRuntime, code: bytes, number: int) -> None:
    """Deploy a module that nobody has compiled yet: the same with another number in a note at its end."""
    noted = code + b"\x00\x0a\x01n" + number.to_bytes(8)
    runtime.deploy(_funded_state(), noted, b"", Call(b"", OWNER, "", b"", 0, TRANSACTION_FUEL, 1, 0), 10**12)


def _us(work: Callable[[], object], times: int) -> float:
    """Microseconds of processor time of one run, after one that does not count."""
    work()
    start = process_time()
    for _ in range(times):
        work()
    return (process_time() - start) / times * 1e6
