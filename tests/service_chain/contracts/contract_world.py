"""Contracts for tests, and what one ledger makes of them. Run as a program, it prints what all nodes must agree on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.contracts import build, encode_arguments
from blockcloud.service_chain.contracts.limits import TRANSACTION_FUEL
from blockcloud.service_chain.contracts.profile import without_custom_sections
from blockcloud.service_chain.contracts.runtime import contract_address
from blockcloud.service_chain.contracts.wasm import from_text
from blockcloud.service_chain.operations import CallContract, Deploy
from blockcloud.service_chain.receipts import Receipt
from tests.service_chain.ledger_in_memory import RICH, USERS, Ledger

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples" / "contracts"
OWNER = USERS[1]
IMPORTS = """
  (import "blockcloud" "args" (func $args (param i32 i32) (result i32)))
  (import "blockcloud" "result" (func $result (param i32 i32)))
  (import "blockcloud" "fail" (func $fail (param i32 i32)))
  (import "blockcloud" "get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "blockcloud" "put" (func $put (param i32 i32 i32 i32)))
  (import "blockcloud" "delete" (func $delete (param i32 i32) (result i32)))
  (import "blockcloud" "transfer" (func $transfer (param i32 i64)))
  (import "blockcloud" "emit" (func $emit (param i32 i32 i32 i32)))
  (import "blockcloud" "verify" (func $verify (param i32 i32 i32 i32) (result i32)))
  (import "blockcloud" "sha256" (func $sha256 (param i32 i32 i32)))
  (import "blockcloud" "sender" (func $sender (param i32)))
  (import "blockcloud" "address" (func $address (param i32)))
  (import "blockcloud" "value" (func $value (result i64)))
  (import "blockcloud" "height" (func $height (result i64)))
  (import "blockcloud" "balance" (func $balance (result i64)))
  (import "blockcloud" "call" (func $call (param i32 i32 i32 i32 i32 i64 i32 i32) (result i32)))
"""


def module(body: str, memory: str = '(memory (export "memory") 1)') -> bytes:
    """A module with all host functions, a memory, and `body`."""
    return without_custom_sections(from_text(f"(module {IMPORTS} {memory} {body})"))


def method(body: str, name: str = "run") -> bytes:
    """A module with one method."""
    return module(f'(func (export "{name}") {body})')


class Contracts:
    """A ledger, and shorthands that say what became of a transaction."""

    def __init__(self) -> None:
        self.ledger = Ledger()

    def send(self, user: SigningKey, *operations: Any, **how: Any) -> Receipt:
        """The receipt of one transaction in a commit of its own."""
        ((identifier, code),) = self.ledger.execute((self.ledger.sign(user, *operations, **how),)).outcomes
        receipt = self.ledger.chain.receipt(identifier)
        assert receipt is not None, code
        return receipt

    def deploy(self, code: bytes, user: SigningKey = OWNER, **how: Any) -> Receipt:
        return self.send(user, self.deployment(code, **how))

    def deployment(
        self, code: bytes, arguments: bytes = b"", value: int = 0, salt: bytes = b"", limit: int = RICH // 2
    ) -> Deploy:
        return Deploy(code, salt, arguments, value, limit, TRANSACTION_FUEL)

    def deployed(self, code: bytes, **how: Any) -> bytes:
        """The address of a contract that is deployed without trouble."""
        receipt = self.deploy(code, **how)
        assert receipt.code == "ok", receipt
        return contract_address(OWNER.public, code, how.get("salt", b""))

    def call(
        self, contract: bytes, name: str = "run", arguments: bytes = b"", *, user: SigningKey = OWNER, value: int = 0,
        fuel: int = TRANSACTION_FUEL, limit: int = RICH // 2,
    ) -> Receipt:  # fmt: skip
        return self.send(user, CallContract(contract, name, arguments, value, limit, fuel))

    def run(self, body: str, **how: Any) -> Receipt:
        """Deploy a module whose method `run` is `body`, and call it."""
        return self.call(self.deployed(method(body)), **how)

    def balance(self, key: bytes) -> int:
        account = self.ledger.chain.account(key)
        return account.balance if account is not None else 0

    def check_money(self) -> None:
        assert self.ledger.money() == self.ledger.chain.fees.supply


def history() -> Contracts:
    """Deployments and calls, good ones and bad ones."""
    world = Contracts()
    parties = [OWNER.public, USERS[2].public, USERS[3].public]
    deal = encode_arguments([f"hex:{parties[1].hex()}", f"hex:{parties[2].hex()}", "u64:12"])
    escrow = world.deployed(build(EXAMPLES / "escrow"), arguments=deal, value=5_000_000)
    access = world.deployed(build(EXAMPLES / "data_access"))
    reader = encode_arguments([f"hex:{parties[1].hex()}"])
    for user in USERS[1:4]:
        world.call(access, "request", b"because", user=user)
        world.call(access, "grant", reader + (90).to_bytes(8, "little"), user=user)
        world.call(escrow, "release", user=user, fuel=300_000)
        world.call(escrow, "expire", user=user)
        world.call(access, "revoke", reader, user=user)
    for body in ("(loop $l (br $l))", "unreachable", "(drop (i32.div_u (i32.const 1) (i32.const 0)))"):
        world.run(body)
    return world


def agreed() -> list[str]:
    """What all nodes must agree on."""
    world = history()
    lines = []
    for result in world.ledger.results:
        lines.append(f"{result.height} {result.change_digest.hex()} {result.state_root and result.state_root.hex()}")
        lines += [f"{code} {world.ledger.chain.receipt(identifier)}" for identifier, code in result.outcomes]
        lines += [f"{kind} {data.hex()}" for kind, data in result.events]
    return lines


if __name__ == "__main__":
    sys.stdout.write("\n".join(agreed()))
