"""A contract's tests, run offline: the production rules and the production engine over a state in memory.

A test file is TOML: `[accounts]` with balances in BLOC, and `[[test]]` with a name and steps. Each test begins anew.
A step deploys the project's module (`deploy = true`), calls a method (`call`), asks one (`query`, with `expect`), looks
at a `balance` (`of` so many BLOC, of an account or `contract`), or sets the `height`. `fails` names the code of the
failure that a step must end with, `reason` the contract's own words, `events` the topics that it must tell.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from blockcloud.primitives.amounts import format_amount, parse_amount
from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, Rejected
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.sdk.contracts import DEPOSIT_MICRO_BLOC, FUEL, deployment_fuel, encode_arguments
from blockcloud.service_chain.contracts.runtime import Call, ContractRuntime
from blockcloud.service_chain.genesis import ContractParameters, FeeParameters
from blockcloud.service_chain.records import Account
from blockcloud.service_chain.state_keys import account_key
from blockcloud.service_chain.working_state import WorkingState

TESTS: Final = "tests.toml"
TESTS_BYTES: Final = 1024 * 1024
CONTRACT: Final = "contract"


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"sender": "from"}):
    """One line of a test."""

    deploy: bool = False
    call: str = ""
    query: str = ""
    balance: str = ""
    of: str = ""
    height: int = 0
    sender: str = ""
    args: list[str] = []
    value: str = "0"
    fuel: int = 0
    expect: str | list[str] | None = None
    fails: str = ""
    reason: str = ""
    events: list[str] | None = None


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A test."""

    name: str
    steps: list[Step]


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A test file."""

    test: list[Case]
    accounts: dict[str, str] = {}


class StepFailed(BlockCloudError):
    """A step did not end as the test says."""

    code = "step_failed"


def read_tests(path: Path) -> File:
    """The tests of a project folder, or of a file. Raises BadConfiguration."""
    path = path / TESTS if path.is_dir() else path
    try:
        with path.open("rb") as file:
            text = file.read(TESTS_BYTES).decode()
        return msgspec.convert(tomllib.loads(text), File)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise BadConfiguration(f"no test file that can be read: {error}", path=str(path)) from None


def run_tests(code: bytes, tests: File) -> list[dict[str, Any]]:
    """What became of each test: name, passed, steps, fuel in all, and the problem of the first step that went wrong."""
    return [_World(code, tests.accounts).run(case) for case in tests.test]


class _World:
    """Accounts, one contract, a height."""

    def __init__(self, code: bytes, accounts: dict[str, str]) -> None:
        self._code = code
        self._state = WorkingState(lambda key: None)
        self._runtime = ContractRuntime(ContractParameters())
        self._keys = {name: tagged_hash("contract-test/v1", name.encode()) for name in accounts}
        for name, balance in accounts.items():
            place = account_key(self._keys[name])
            self._state.get(place, Account)
            self._state.put(place, Account(parse_amount(balance)))
        self._height, self._fuel = 1, 0

    def run(self, case: Case) -> dict[str, Any]:
        report: dict[str, Any] = {"name": case.name, "passed": True, "steps": 0, "fuel": 0, "problem": ""}
        for number, step in enumerate(case.steps, 1):
            try:
                self._step(step)
            except BlockCloudError as error:
                report |= {"passed": False, "problem": f"step {number}: {error} [{error.code}]"}
                break
            report["steps"] = number
        return {**report, "fuel": self._fuel}

    def _step(self, step: Step) -> None:
        if step.height:
            self._height = step.height
        elif step.balance:
            self._balance(step)
        else:
            self._act(step)

    def _act(self, step: Step) -> None:
        mark = self._state.mark()
        try:
            output = self._execute(step)
        except Rejected as failure:
            self._state.roll_back(mark)
            self._fuel += self._runtime.take_spent().fuel
            if not step.fails:
                raise
            if step.fails != failure.code or (step.reason and step.reason != failure.message):
                raise StepFailed("failed otherwise", code=failure.code, reason=failure.message) from None
            return
        spent = self._runtime.take_spent()
        self._fuel += spent.fuel
        if step.fails:
            raise StepFailed("should have failed", expected=step.fails)
        topics = [item.topic.decode("ascii") for item in spent.events]
        if step.events is not None and topics != step.events:
            raise StepFailed("told something else", told=topics, expected=step.events)
        if step.expect is not None:
            expected = self._encode([step.expect] if isinstance(step.expect, str) else step.expect)
            if output != expected:
                raise StepFailed("answered something else", answer=output.hex(), expected=expected.hex())

    def _execute(self, step: Step) -> bytes:
        sender = self._key(step.sender) if step.sender else bytes(32)
        fuel = step.fuel or (deployment_fuel(self._code) if step.deploy else FUEL)
        contract = self._keys.get(CONTRACT, bytes(32))
        call = Call(
            contract, sender, step.call or step.query, self._encode(step.args), parse_amount(step.value), fuel,
            self._height, FeeParameters().new_key_deposit,
        )  # fmt: skip
        if step.deploy:
            self._keys[CONTRACT] = self._runtime.deploy(self._state, self._code, b"", call, DEPOSIT_MICRO_BLOC)
            return self._runtime.spent.output
        if step.query:
            output, used = self._runtime.query(self._state, call)
            self._fuel += used
            return output
        return self._runtime.call(self._state, call, DEPOSIT_MICRO_BLOC)

    def _balance(self, step: Step) -> None:
        account = self._state.get(account_key(self._key(step.balance)), Account)
        balance = account.balance if account is not None else 0
        if balance != parse_amount(step.of):
            raise StepFailed("has another balance", account=step.balance, balance=format_amount(balance), of=step.of)

    def _encode(self, items: Sequence[str]) -> bytes:
        return encode_arguments(items, self._key)

    def _key(self, name: str) -> bytes:
        if name not in self._keys:
            raise StepFailed("no such account", name=name)
        return self._keys[name]
