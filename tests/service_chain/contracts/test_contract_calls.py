"""Contracts on a ledger: what they may do, what ends them, and that a failure leaves nothing but its fee."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from blockcloud.primitives.errors import Malformed
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.storage import MemoryStore
from blockcloud.sdk.contract_tests import read_tests, run_tests
from blockcloud.sdk.contracts import build, described
from blockcloud.service_chain.contracts.host import SIGNATURE_DOMAIN
from blockcloud.service_chain.contracts.limits import (
    ARGUMENT_BYTES,
    CELL_OVERHEAD_BYTES,
    CODE_DEPOSIT_FACTOR,
    ENTER_FUEL,
    TRANSACTION_FUEL,
)
from blockcloud.service_chain.contracts.runtime import WrongEngine, contract_address
from blockcloud.service_chain.genesis import ContractParameters, Genesis
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.operations import CallContract, OpenLane, Transfer
from tests.service_chain.contracts.contract_world import (
    EXAMPLES,
    OWNER,
    ROOT,
    Contracts,
    agreed,
    history,
    method,
    module,
)
from tests.service_chain.ledger_in_memory import FOREVER, USERS, small_genesis

CALLER = """
  (func (export "run") (drop (call $args (i32.const 0) (i32.const 32)))
    (call $result (i32.const 100) (call $call (i32.const 0) (i32.const 64) (i32.const 3) (i32.const 0) (i32.const 32)
      (i64.const 0) (i32.const 100) (i32.const 50))))
  (data (i32.const 64) "run")
"""


@pytest.fixture
def world() -> Contracts:
    return Contracts()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", "ok"),
        ("(loop $l (br $l))", "out_of_fuel"),
        ("unreachable", "contract_trapped"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "contract_trapped"),
        ("(drop (i32.load (i32.const 65536)))", "contract_trapped"),
        ("(call $put (i32.const 65530) (i32.const 9) (i32.const 0) (i32.const 0))", "host_memory"),
        ("(call $put (i32.const -1) (i32.const 9) (i32.const 0) (i32.const 0))", "host_memory"),
        ("(call $put (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))", "host_limit"),
        ("(call $put (i32.const 0) (i32.const 129) (i32.const 0) (i32.const 0))", "host_limit"),
        ("(call $put (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 8193))", "host_limit"),
        ("(call $put (i32.const 0) (i32.const -1) (i32.const 0) (i32.const -1))", "host_limit"),
        ("(call $result (i32.const 0) (i32.const 1025))", "host_limit"),
        ("(call $emit (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))", "host_limit"),
        (
            "(local i32) (i32.store8 (i32.const 0) (i32.const 65)) (loop $l"
            " (call $emit (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)) (br $l))",
            "too_many_events",
        ),
        ("(call $transfer (i32.const 0) (i64.const 1))", "insufficient_balance"),
        ("(call $transfer (i32.const 0) (i64.const -1))", "host_limit"),
        ("(call $fail (i32.const 0) (i32.const 0))", "contract_reverted"),
        (
            "(drop (call $call (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i64.const 0)"
            " (i32.const 0) (i32.const 0)))",
            "unknown_contract",
        ),
        # A bomb: all memory there is, again and again. What is above the limit is refused, and the call goes on.
        (
            "(local i32) (loop $l (local.set 0 (memory.grow (i32.const 15)))"
            " (br_if $l (i32.ge_s (local.get 0) (i32.const 0))))",
            "ok",
        ),
    ],
)
def test_how_a_call_ends(world: Contracts, body: str, code: str) -> None:
    contract = world.deployed(method(body))
    before = world.balance(OWNER.public)
    receipt = world.call(contract)
    assert receipt.code == code
    assert world.balance(OWNER.public) == before - receipt.fee
    assert ENTER_FUEL < receipt.fuel <= TRANSACTION_FUEL
    assert (receipt.fuel == TRANSACTION_FUEL) == (code == "out_of_fuel")
    world.check_money()


@pytest.mark.parametrize("part", ['(data (i32.const 65535) "xx")', "(table 1 funcref) (elem (i32.const 1) 16)"])
def test_a_module_that_cannot_begin_fails_when_it_is_called(world: Contracts, part: str) -> None:
    assert world.call(world.deployed(module(f'(func (export "run")) {part}'))).code == "contract_trapped"


def test_unused_fuel_is_not_paid(world: Contracts) -> None:
    contract = world.deployed(method(""))
    small, large = (world.call(contract, fuel=fuel) for fuel in (200_000, TRANSACTION_FUEL))
    assert small.fuel == large.fuel
    assert large.fee <= small.fee, "the base fee falls meanwhile"
    assert world.call(contract, fuel=ENTER_FUEL).code == "out_of_fuel"


def test_recursion_ends_at_a_depth_that_does_not_depend_on_the_machine(world: Contracts) -> None:
    body = "(func $deep (param i32) (if (local.get 0) (then (call $deep (i32.sub (local.get 0) (i32.const 1))))))"
    contract = world.deployed(
        module(
            f'{body} (func (export "deep") (call $deep (i32.const 254)))'
            '(func (export "deeper") (call $deep (i32.const 257)))'
        )
    )
    assert world.call(contract, "deep").code == "ok"
    assert world.call(contract, "deeper").code == "contract_stack_overflow"


def test_many_calls_one_after_another_are_not_deep(world: Contracts) -> None:
    contract = world.deployed(
        module(
            """(func $f) (type $t (func)) (table 1 funcref) (elem (i32.const 0) $f)
            (func (export "run") (local i32) (loop $l (call $f) (call_indirect (type $t) (i32.const 0))
              (br_if $l (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 1000)))))"""
        )
    )
    assert world.call(contract).code == "ok"


def test_recursion_through_a_table_is_counted_too(world: Contracts) -> None:
    contract = world.deployed(
        module(
            "(type $t (func)) (table 1 funcref) (elem (i32.const 0) $f)"
            "(func $f (call_indirect (type $t) (i32.const 0)))"
            '(func (export "run") (call $f))'
        )
    )
    assert world.call(contract).code == "contract_stack_overflow"


def test_what_is_stored_needs_a_deposit_that_comes_back(world: Contracts) -> None:
    code = module(
        '(func (export "run") (call $put (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 100)))'
        '(func (export "drop") (call $result (i32.const 0) (call $delete (i32.const 0) (i32.const 4))))'
    )
    contract, price = world.deployed(code), ContractParameters().deposit_per_byte
    empty = CELL_OVERHEAD_BYTES + CODE_DEPOSIT_FACTOR * len(code)
    record = world.ledger.chain.contract(contract)
    assert record is not None
    assert (record.stored_bytes, record.deposit) == (empty, empty * price)
    before, cell = world.balance(USERS[2].public), (CELL_OVERHEAD_BYTES + 104) * price
    stored = world.call(contract, user=USERS[2])
    assert world.balance(USERS[2].public) == before - stored.fee - cell
    assert world.call(contract, user=USERS[2], limit=0).code == "ok", "nothing grows"
    before = world.balance(USERS[3].public)
    deleted = world.call(contract, "drop", user=USERS[3])
    assert world.balance(USERS[3].public) == before - deleted.fee + cell, "whoever deletes gets it"
    assert len(deleted.output) == 1
    assert world.call(contract, limit=cell - 1).code == "deposit_limit_exceeded"
    assert world.call(contract, "drop").output == b""
    world.check_money()


def test_the_second_contract_of_a_code_pays_no_deposit_for_it(world: Contracts) -> None:
    code = method("")
    world.deployed(code)
    assert world.deploy(code).code == "contract_exists"
    again = world.ledger.chain.contract(world.deployed(code, salt=b"2"))
    assert again is not None
    assert again.stored_bytes == CELL_OVERHEAD_BYTES


def test_a_contract_on_the_stack_cannot_be_entered_again(world: Contracts) -> None:
    contract = world.deployed(module(CALLER))
    assert world.call(contract, arguments=contract).code == "contract_reentered"
    other = world.deployed(module(CALLER), salt=b"2")
    # The other calls with the arguments that it was given: its own address.
    assert world.call(contract, arguments=other).code == "contract_reentered"


def test_contracts_call_each_other_so_deep_and_no_deeper(world: Contracts) -> None:
    last = world.deployed(method("(call $sender (i32.const 0)) (call $result (i32.const 0) (i32.const 32))"))
    assert world.call(last).output == OWNER.public
    chain = [last]
    for _ in range(4):
        to = "".join(f"\\{byte:02x}" for byte in chain[-1])
        body = CALLER.replace("(drop (call $args (i32.const 0) (i32.const 32)))", "")
        chain.append(world.deployed(module(f'{body} (data (i32.const 0) "{to}")')))
    assert [world.call(contract).code for contract in chain] == ["ok"] * 4 + ["call_too_deep"]
    called = world.call(chain[1])
    assert called.output == chain[1], "the sender is who calls, not who signed"
    assert called.fuel > world.call(last).fuel + ENTER_FUEL, "who calls pays for what it calls"


def test_a_failure_undoes_the_whole_transaction(world: Contracts) -> None:
    put = "(call $put (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 8))"
    emit = """(call $emit (i32.const 96) (i32.const 2) (i32.const 0) (i32.const 8))
      (call $transfer (i32.const 0) (i64.const 20000))"""
    good = module(f'(data (i32.const 96) "hi") (func (export "run") {put} {emit})')
    contract, bad = world.deployed(good), world.deployed(method(put + "unreachable"))
    before = world.ledger.state()
    call = CallContract(contract, "run", b"", 50_000, 10**8, 1_000_000)
    failed = world.send(OWNER, Transfer(USERS[2].public, 5), call, CallContract(bad, "run", b"", 0, 10**8, 1_000_000))
    assert (failed.code, failed.events) == ("contract_trapped", ())
    changed = {key[:1] for key, value in world.ledger.state().items() if before.get(key) != value}
    assert changed <= {b"a", b"f", b"T"}, "the sender's fee, and the books"
    told = world.send(OWNER, call)
    assert told.code == "ok"
    assert told.events == ((contract, b"hi", bytes(8)),)
    assert world.balance(contract) == 30_000
    assert [kind for kind, _ in world.ledger.results[-1].events] == ["contract"]
    world.check_money()


def test_a_lane_pays_within_its_cap_and_gets_unused_fuel_back(world: Contracts) -> None:
    contract, device = world.deployed(method("")), SigningKey(bytes([9]) * 32)
    world.send(OWNER, OpenLane(1, device.public, (61,), 15_000, FOREVER))
    call = CallContract(contract, "run", b"", 0, 0, 5_000_000)  # which reserves more than half of the cap
    for sequence in range(3):
        before = world.balance(OWNER.public)
        receipt = world.send(OWNER, call, lane=1, sequence=sequence, signers=(device,))
        assert receipt.code == "ok"
        assert before - world.balance(OWNER.public) == receipt.fee < 1_000


def test_signatures_are_verified_under_the_tag_of_contracts(world: Contracts) -> None:
    body = """(drop (call $args (i32.const 0) (i32.const 200)))
      (i32.store8 (i32.const 300) (call $verify (i32.const 0) (i32.const 96) (i32.const 5) (i32.const 32)))
      (call $result (i32.const 300) (i32.const 1))"""
    contract, signer = world.deployed(method(body)), USERS[4]
    good, other = signer.sign(SIGNATURE_DOMAIN, b"hello"), signer.sign("other/v1", b"hello")
    answers = [
        world.call(contract, arguments=signer.public + signature + b"hello").output for signature in (good, other)
    ]
    assert answers == [b"\x01", b"\x00"]


def test_init_runs_once_and_only_at_deployment(world: Contracts) -> None:
    contract = world.deployed(module('(func (export "init")) (func (export "run"))'))
    assert world.call(contract, "init").code == "unknown_method"
    assert world.call(contract, "memory").code == "unknown_method"
    assert world.call(contract, "blockcloud:frames").code == "unknown_method"
    failing = module('(func (export "init") unreachable) (func (export "run"))')
    assert world.deploy(failing).code == "contract_trapped"
    assert world.call(contract_address(OWNER.public, failing, b"")).code == "unknown_contract"
    assert world.deploy(method("(drop (i32.const 1))")[:-1]).code == "contract_malformed"


def test_what_a_compiler_wants_to_run_first_runs_in_every_call(world: Contracts) -> None:
    contract = world.deployed(
        module(
            """(func (export "_initialize")
              (i32.store8 (i32.const 0) (i32.add (i32.load8_u (i32.const 0)) (i32.const 7))))
            (func (export "run") (call $result (i32.const 0) (i32.const 1)))"""
        )
    )
    assert [world.call(contract).output for _ in range(2)] == [b"\x07"] * 2
    assert world.call(contract, "_initialize").code == "unknown_method"
    stuck = world.deployed(module('(func (export "_initialize") unreachable) (func (export "run"))'))
    assert world.call(stuck).code == "contract_trapped"


def test_more_than_the_limits_is_no_valid_transaction(world: Contracts) -> None:
    contract = world.deployed(method(""))
    for operations in (
        [CallContract(contract, "run", bytes(ARGUMENT_BYTES + 1), 0, 0, 1)],
        [CallContract(contract, "r" * 33, b"", 0, 0, 1)],
        [CallContract(contract, "run", b"", 0, 0, TRANSACTION_FUEL + 1)],
        [CallContract(contract, "run", b"", 0, 0, TRANSACTION_FUEL)] * 2,
    ):
        with pytest.raises(Malformed):
            world.ledger.chain.check(world.ledger.sign(OWNER, *operations))
    dear = world.ledger.sign(OWNER, CallContract(contract, "run", b"", 0, 0, 5_000_000))
    assert world.ledger.chain.check(dear) == 51, "a block counts its fuel"


def test_a_node_with_another_engine_refuses_the_chain() -> None:
    genesis = small_genesis()
    fields = {name: getattr(genesis, name) for name in genesis.__struct_fields__}
    other = Genesis(**{**fields, "contracts": ContractParameters(engine="wasmtime-1.0.0")})
    with pytest.raises(WrongEngine):
        ServiceChain(other, MemoryStore())
    assert Genesis.from_json(genesis.to_json()) == genesis


def test_nothing_is_made_or_lost() -> None:
    world = history()
    world.check_money()
    codes = {code for result in world.ledger.results for _, code in result.outcomes}
    assert {"ok", "contract_reverted", "out_of_fuel", "contract_trapped"} <= codes


def test_a_restart_changes_nothing() -> None:
    world = history()
    contract = world.deployed(method("(call $result (i32.const 0) (i32.const 3))"))
    before = world.call(contract)
    world.ledger.restart()
    after = world.call(contract)
    assert (
        (after.code, after.fuel, after.output)
        == (before.code, before.fuel, before.output)
        == ("ok", before.fuel, bytes(3))
    )


def test_two_processes_with_other_hash_seeds_agree() -> None:
    def run(seed: int) -> list[str]:
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        command = [sys.executable, "-m", "tests.service_chain.contracts.contract_world"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert run(1) == run(2) == "\n".join(agreed()).splitlines()


# Fuel is consensus: the engine's schedule, our prices, and the hash of what the engine builds from the source.
@pytest.mark.parametrize(
    ("name", "code_hash", "fuel"),
    [
        (
            "escrow",
            "812dc9bf4bcad58c23959625392c247d15af0200c40b831b6205e04f9fe86d05",
            [3338957, 2802224, 2944857, 4744875],
        ),
        (
            "data_access",
            "71cfc1a95a8da7b01f419bc9c3885f86ea9e72f228a535b65e0e7b11e45d8919",
            [4278595, 3659152, 2880959],
        ),
    ],
)
def test_the_examples_pass_their_own_tests(name: str, code_hash: str, fuel: list[int]) -> None:
    code = build(EXAMPLES / name)
    reports = run_tests(code, read_tests(EXAMPLES / name))
    assert [report["problem"] for report in reports] == [""] * len(reports)
    assert described(code)["code_hash"] == code_hash
    assert code_hash in (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [report["fuel"] for report in reports] == fuel
