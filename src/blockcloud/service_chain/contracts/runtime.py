"""Running contracts over the state: deployments, calls, calls of calls, and queries.

A call runs in a fresh instance: what a contract remembers is in its storage. A contract on the call stack cannot be
entered again, so none sees another, or itself, half way through a change. A failure anywhere ends the whole
transaction; its fuel is paid, everything else is undone (`execution.py`).

What is stored needs a deposit: so much a byte, laid down by the sender of the transaction, within the limit that it
sets, and given to the sender of the transaction that deletes it. The deposits of a contract stand in its record.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.errors import LocalFault
from blockcloud.primitives.hashes import sha256, tagged_hash
from blockcloud.service_chain.accounts import credit, debit
from blockcloud.service_chain.contracts import failures
from blockcloud.service_chain.contracts.host import HOST, SIGNATURES
from blockcloud.service_chain.contracts.limits import (
    CALL_DEPTH,
    CELL_OVERHEAD_BYTES,
    CODE_DEPOSIT_FACTOR,
    DEPLOY_BYTE_FUEL,
    DEPLOY_FUEL,
    ENTER_BYTE_FUEL,
    ENTER_FUEL,
    METHOD_BYTES,
    TRANSACTION_EVENTS,
)
from blockcloud.service_chain.contracts.profile import INIT, INITIALIZE, check_module
from blockcloud.service_chain.contracts.wasm import Engine, Running, installed_engine
from blockcloud.service_chain.genesis import ContractParameters
from blockcloud.service_chain.records import Account, CodeRecord, ContractRecord, StorageCell
from blockcloud.service_chain.rejections import BelowNewKeyDeposit, Failed
from blockcloud.service_chain.state_keys import account_key, code_key, contract_key, storage_key
from blockcloud.service_chain.working_state import WorkingState


class WrongEngine(LocalFault):
    """The chain runs its contracts with another version of the engine than this node has."""

    code = "wrong_engine"
    hint = "Install the version that the genesis names: with another one this node would come to other results."


@dataclass(frozen=True, slots=True)
class Emitted:
    """What a contract told."""

    contract: bytes
    topic: bytes
    data: bytes


@dataclass(slots=True)
class Spent:
    """What the contracts of one transaction have used and said so far. Not undone when the transaction fails."""

    fuel: int = 0
    output: bytes = b""
    events: list[Emitted] = field(default_factory=list)


@dataclass(slots=True)
class Frame:
    """One contract on the call stack. The methods are what host functions do."""

    runtime: ContractRuntime
    state: WorkingState
    entry: Call
    growth: dict[bytes, int]  # of each contract, in bytes, in this operation
    writable: bool
    running: Running
    output: bytes = b""

    def get(self, key: bytes) -> bytes | None:
        cell = self.state.get(storage_key(self.entry.contract, key), StorageCell)
        return None if cell is None else cell.value

    def put(self, key: bytes, value: bytes) -> None:
        self._changing()
        place = storage_key(self.entry.contract, key)
        before = self.state.get(place, StorageCell)
        self.state.put(place, StorageCell(value))
        self._grow(_cell_bytes(key, value) - (0 if before is None else _cell_bytes(key, before.value)))

    def delete(self, key: bytes) -> bool:
        self._changing()
        place = storage_key(self.entry.contract, key)
        before = self.state.get(place, StorageCell)
        if before is None:
            return False
        self.state.delete(place)
        self._grow(-_cell_bytes(key, before.value))
        return True

    def transfer(self, to: bytes, amount: int) -> None:
        self._changing()
        pay(self.state, self.entry.contract, to, amount, self.entry.new_key_deposit)

    def emit(self, topic: bytes, data: bytes) -> None:
        self._changing()
        events = self.runtime.spent.events
        if len(events) >= TRANSACTION_EVENTS:
            raise failures.TooManyEvents(limit=TRANSACTION_EVENTS)
        events.append(Emitted(self.entry.contract, topic, data))

    def balance(self) -> int:
        account = self.state.get(account_key(self.entry.contract), Account)
        return 0 if account is None else account.balance

    def call(self, to: bytes, method: str, arguments: bytes, amount: int) -> bytes:
        left, own = self.running.fuel, self.entry
        call = Call(to, own.contract, method, arguments, amount, left, own.height, own.new_key_deposit)
        try:
            used, output = self.runtime.enter(self.state, call, self.growth, writable=self.writable)
        except _Ended as ended:
            self.running.fuel = left - ended.used
            raise ended.failure from None
        self.running.fuel = left - used
        return output

    def _grow(self, size: int) -> None:
        contract = self.entry.contract
        self.growth[contract] = self.growth.get(contract, 0) + size

    def _changing(self) -> None:
        if not self.writable:
            raise failures.ContractReadOnly


@dataclass(frozen=True, slots=True)
class Call:
    """One entry into a contract."""

    contract: bytes
    sender: bytes
    method: str
    arguments: bytes
    value: int
    fuel: int
    height: int
    new_key_deposit: int


class _Ended(Exception):
    """An entry failed with `failure` after `used` fuel."""

    def __init__(self, failure: Failed, used: int) -> None:
        super().__init__()
        self.failure, self.used = failure, used


class ContractRuntime:
    """The contracts of a chain with these parameters. Belongs to one thread.

    Raises WrongEngine if this process has another engine than the chain.
    """

    def __init__(self, parameters: ContractParameters) -> None:
        if parameters.engine != installed_engine():
            raise WrongEngine(chain=parameters.engine, installed=installed_engine())
        self.parameters = parameters
        self.spent = Spent()
        self._frames: list[Frame] = []
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """Made when the first contract needs it."""
        if self._engine is None:
            self._engine = Engine(HOST, self._frames)
        return self._engine

    def take_spent(self) -> Spent:
        """What the transaction that ended has used and said; the next one begins anew."""
        spent, self.spent = self.spent, Spent()
        return spent

    def deploy(self, state: WorkingState, code: bytes, salt: bytes, call: Call, deposit_limit: int) -> bytes:
        """Make the contract of `code` and run its `init`, if it has one, with `call`; its address.

        `call.contract` is not looked at. The first contract of a code lays down the deposit of its bytes.
        """
        needed = DEPLOY_FUEL + DEPLOY_BYTE_FUEL * len(code)
        price = min(call.fuel, needed)
        self.spent.fuel += price
        if price == call.fuel:
            raise failures.OutOfFuel(needed=needed)
        code_hash, address = sha256(code), contract_address(call.sender, code, salt)
        place = contract_key(address)
        if state.get(place, ContractRecord) is not None:
            raise failures.ContractExists(contract=format_address(address))
        checked = check_module(code, SIGNATURES)
        self.engine.validate(code)
        self.engine.compiled(code_hash, lambda: checked)
        size = CELL_OVERHEAD_BYTES
        code_place = code_key(code_hash)
        if state.get(code_place, CodeRecord) is None:
            state.put(code_place, CodeRecord(code))
            size += CODE_DEPOSIT_FACTOR * len(code)
        state.put(place, ContractRecord(code_hash, call.sender, call.height, 0, 0))
        growth = {address: size}
        entry = Call(
            address, call.sender, INIT, call.arguments, call.value, call.fuel - price, call.height, call.new_key_deposit
        )
        if INIT in checked.methods:
            self._top(state, entry, growth)
        elif call.value:
            pay(state, call.sender, address, call.value, call.new_key_deposit)
        self._settle(state, call.sender, growth, deposit_limit)
        return address

    def call(self, state: WorkingState, call: Call, deposit_limit: int) -> bytes:
        """Call a method; its output. Raises Failed."""
        if call.method in (INIT, INITIALIZE):
            raise failures.UnknownMethod("this method is not for calls", method=call.method)
        growth: dict[bytes, int] = {}
        output = self._top(state, call, growth)
        self._settle(state, call.sender, growth, deposit_limit)
        return output

    def query(self, state: WorkingState, call: Call) -> tuple[bytes, int]:
        """What a method answers, and the fuel that took, without changing anything. Raises Failed."""
        if call.method in (INIT, INITIALIZE) or call.value:
            raise failures.UnknownMethod("a query pays nothing and does not run init", method=call.method)
        try:
            used, output = self.enter(state, call, {}, writable=False)
        except _Ended as ended:
            raise ended.failure from None
        return output, used

    def _top(self, state: WorkingState, call: Call, growth: dict[bytes, int]) -> bytes:
        try:
            used, output = self.enter(state, call, growth, writable=True)
        except _Ended as ended:
            self.spent.fuel += ended.used
            raise ended.failure from None
        self.spent.fuel += used
        self.spent.output = output
        return output

    def enter(self, state: WorkingState, call: Call, growth: dict[bytes, int], *, writable: bool) -> tuple[int, bytes]:
        """Run one method of one contract; (fuel used, output). Raises _Ended with the fuel that was used."""
        price = ENTER_FUEL
        try:
            if any(frame.entry.contract == call.contract for frame in self._frames):
                raise failures.ContractReentered(contract=format_address(call.contract))
            if len(self._frames) >= CALL_DEPTH:
                raise failures.CallTooDeep(limit=CALL_DEPTH)
            record = state.get(contract_key(call.contract), ContractRecord)
            if record is None:
                raise failures.UnknownContract
            code = self._code(state, record)
            price += ENTER_BYTE_FUEL * len(code)
            if price >= call.fuel:
                price = call.fuel
                raise failures.OutOfFuel
            if not 1 <= len(call.method) <= METHOD_BYTES:
                raise failures.UnknownMethod(method=call.method[:METHOD_BYTES])
            module = self.engine.compiled(record.code_hash, lambda: check_module(code, SIGNATURES))
            if call.method not in module.methods or call.method == INITIALIZE:
                raise failures.UnknownMethod(method=call.method)
            if call.value:
                pay(state, call.sender, call.contract, call.value, call.new_key_deposit)
        except Failed as refusal:
            raise _Ended(refusal, min(price, call.fuel)) from None
        depth = len(self._frames)

        def began(running: Running) -> None:
            self._frames.append(Frame(self, state, call, growth, writable, running))

        try:
            left, failure = self.engine.run(module, call.method, call.fuel - price, began)
            output = self._frames[depth].output
        finally:
            del self._frames[depth:]
        if failure is not None:
            raise _Ended(failure, call.fuel - left)
        return call.fuel - left, output

    def _code(self, state: WorkingState, record: ContractRecord) -> bytes:
        code = state.get(code_key(record.code_hash), CodeRecord)
        assert code is not None, "the code of a contract is never removed"
        return code.code

    def _settle(self, state: WorkingState, sender: bytes, growth: dict[bytes, int], deposit_limit: int) -> None:
        """Lay down or give back the deposits for what has grown or shrunk. Raises DepositLimitExceeded."""
        price, total = self.parameters.deposit_per_byte, 0
        for contract, size in growth.items():
            place = contract_key(contract)
            record = state.get(place, ContractRecord)
            assert record is not None, "only contracts store"
            amount = size * price
            total += amount
            if size:
                stored, deposit = record.stored_bytes + size, record.deposit + amount
                state.put(place, replace(record, stored_bytes=stored, deposit=deposit))
        if total > deposit_limit:
            raise failures.DepositLimitExceeded(deposit=total, limit=deposit_limit)
        if total > 0:
            debit(state, sender, total)
        elif total < 0:
            credit(state, sender, -total)


def contract_address(owner: bytes, code: bytes, salt: bytes) -> bytes:
    """The address of the contract that `owner` makes of `code`; with another salt there is another one.

    Nobody has a key for it: it is a hash.
    """
    return tagged_hash("contract/v1", owner + sha256(code) + salt)


def pay(state: WorkingState, source: bytes, target: bytes, amount: int, new_key_deposit: int) -> None:
    """Move an amount, with the rule for new accounts of any transfer."""
    debit(state, source, amount)
    if amount < new_key_deposit and state.get(account_key(target), Account) is None:
        raise BelowNewKeyDeposit(amount=amount, deposit=new_key_deposit)
    credit(state, target, amount)


def _cell_bytes(key: bytes, value: bytes) -> int:
    return CELL_OVERHEAD_BYTES + len(key) + len(value)


__all__ = ["Call", "ContractRuntime", "Emitted", "Spent", "WrongEngine", "contract_address"]
