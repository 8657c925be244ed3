"""Contracts for programs: build a module, write arguments, deploy, call, query.

A module is built from the text format by the engine itself, without its names and notes, so the same source gives the
same bytes, and the same hash, everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from blockcloud.primitives.addresses import format_address, parse_address
from blockcloud.primitives.amounts import parse_amount
from blockcloud.primitives.errors import BadConfiguration, Malformed
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.client import AsyncClient
from blockcloud.service_chain.contracts.host import SIGNATURES
from blockcloud.service_chain.contracts.limits import CODE_BYTES, DEPLOY_BYTE_FUEL, DEPLOY_FUEL, TRANSACTION_FUEL
from blockcloud.service_chain.contracts.profile import INITIALIZE, Checked, check_module, without_custom_sections
from blockcloud.service_chain.contracts.runtime import contract_address
from blockcloud.service_chain.operations import CallContract, Deploy
from blockcloud.service_chain.receipts import Receipt
from blockcloud.service_chain.records import StorageCell, decode_record
from blockcloud.service_chain.state_keys import storage_key

SOURCE: Final = "contract.wat"
MODULE: Final = "contract.wasm"
SOURCE_BYTES: Final = 1024 * 1024
SALT_BYTES: Final = 16
FUEL: Final = 2_000_000
DEPOSIT_MICRO_BLOC: Final = 10_000_000
FEE_MICRO_BLOC: Final = 10_000_000
_NUMBERS: Final[Mapping[str, int]] = {"u8": 1, "u32": 4, "u64": 8}


def build(path: Path) -> bytes:
    """The module of a project folder, a `.wat` or a `.wasm` file. Raises BadConfiguration or ContractRefused."""
    from blockcloud.service_chain.contracts.wasm import from_text

    if path.is_dir():
        path = path / SOURCE if (path / SOURCE).exists() else path / MODULE
    try:
        with path.open("rb") as file:
            data = file.read(SOURCE_BYTES + 1)
    except OSError as error:
        raise BadConfiguration(f"cannot read the contract: {error.strerror}", path=str(path)) from None
    if len(data) > SOURCE_BYTES:
        raise BadConfiguration("a contract's source has at most 1 MiB", path=str(path))
    if path.suffix == ".wat":
        try:
            data = from_text(data.decode())
        except UnicodeDecodeError:
            raise BadConfiguration("a .wat file is text", path=str(path)) from None
    return without_custom_sections(data)


def check(code: bytes) -> Checked:
    """What the ledger would say of a module before it runs anything. Raises ContractRefused."""
    from blockcloud.service_chain.contracts.wasm import Engine

    checked = check_module(code, SIGNATURES)
    Engine({}, []).validate(code)
    return checked


def described(code: bytes) -> dict[str, Any]:
    """A module for people and scripts."""
    methods = [name for name in check(code).methods if name != INITIALIZE]
    return {"code_hash": sha256(code).hex(), "bytes": len(code), "limit": CODE_BYTES, "methods": methods}


def encode_arguments(items: Sequence[str], accounts: Callable[[str], bytes] | None = None) -> bytes:
    """Arguments one after another: `u8:`, `u32:`, `u64:` (little endian), `bloc:1.5` (an amount as u64, micro-BLOC),
    `address:`, `hex:`, `text:`, and `account:NAME` where `accounts` knows names. Raises Malformed and its like."""
    return b"".join([_encoded(item, accounts) for item in items])


def _encoded(item: str, accounts: Callable[[str], bytes] | None) -> bytes:
    kind, separator, text = item.partition(":")
    if separator:
        if kind in _NUMBERS and text.isascii() and text.isdecimal() and int(text) < 1 << 8 * _NUMBERS[kind]:
            return int(text).to_bytes(_NUMBERS[kind], "little")
        if kind == "bloc":
            return parse_amount(text).to_bytes(8, "little")
        if kind == "address":
            return parse_address(text)
        if kind == "text":
            return text.encode()
        if kind == "account" and accounts is not None:
            return accounts(text)
        if kind == "hex":
            try:
                return bytes.fromhex(text)
            except ValueError:
                raise Malformed("not hexadecimal", argument=item[:80]) from None
    raise Malformed("an argument is u8:, u32:, u64:, bloc:, address:, hex: or text: and a value", argument=item[:80])


def shown_output(output: bytes) -> dict[str, Any]:
    """What a contract answered: in hexadecimal, and as a number or a text where it can be one."""
    view: dict[str, Any] = {"hex": output.hex()}
    if len(output) in _NUMBERS.values():
        view["number"] = int.from_bytes(output, "little")
    if len(output) == 32:
        view["address"] = format_address(output)
    if output and output.isascii() and (text := output.decode("ascii")).isprintable():
        view["text"] = text
    return view


async def deploy(
    client: AsyncClient,
    key: SigningKey,
    code: bytes,
    arguments: bytes = b"",
    *,
    value: int = 0,
    fuel: int | None = None,
    deposit_limit: int = DEPOSIT_MICRO_BLOC,
    salt: bytes | None = None,
) -> tuple[bytes, Receipt]:
    """Make a contract; its address and the receipt. Raises ContractRefused before anything is sent, else as
    `AsyncClient.submit_all`. The fuel that is not used is not paid."""
    check(code)
    chosen = os.urandom(SALT_BYTES) if salt is None else salt
    operation = Deploy(code, chosen, arguments, value, deposit_limit, fuel or deployment_fuel(code))
    receipt = await client.transact(key, operation, fee_limit=FEE_MICRO_BLOC)
    return contract_address(client.acts_for(key), code, chosen), receipt


def deployment_fuel(code: bytes) -> int:
    """Enough for a module and an `init` that does not do much."""
    return min(TRANSACTION_FUEL, DEPLOY_FUEL + DEPLOY_BYTE_FUEL * len(code) + FUEL)


async def call(
    client: AsyncClient,
    key: SigningKey,
    contract: bytes,
    method: str,
    arguments: bytes = b"",
    *,
    value: int = 0,
    fuel: int = FUEL,
    deposit_limit: int = DEPOSIT_MICRO_BLOC,
) -> Receipt:
    """Call a method. Raises as `AsyncClient.submit_all`."""
    operation = CallContract(contract, method, arguments, value, deposit_limit, fuel)
    return await client.transact(key, operation, fee_limit=FEE_MICRO_BLOC)


async def contract_view(client: AsyncClient, contract: bytes) -> dict[str, Any]:
    """A contract as a node has it. Raises NotFound."""
    return await client.transport.json(f"/v1/contracts/{format_address(contract)}")


async def stored(client: AsyncClient, contract: bytes, key: bytes, **how: Any) -> bytes | None:
    """What a contract keeps under a key, proven at a certified checkpoint whatever node answers; None if nothing.
    Keywords as `AsyncClient.proven`."""
    cell = decode_record((await client.proven(storage_key(contract, key), **how)).value, StorageCell)
    return None if cell is None else cell.value


async def query(client: AsyncClient, contract: bytes, method: str, arguments: bytes = b"") -> dict[str, Any]:
    """What one node says a method answers now; nothing is changed and nothing paid. Raises the contract's failure."""
    path = f"/v1/contracts/{format_address(contract)}/query"
    return await client.transport.json(path, {"method": method, "arguments": arguments.hex()})


__all__ = [
    "build",
    "call",
    "check",
    "contract_view",
    "deploy",
    "described",
    "encode_arguments",
    "query",
    "stored",
]
