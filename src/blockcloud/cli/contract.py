"""`blockcloud contract new|test|build|deploy|call|query|show`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from blockcloud.cli.context import command_group, load_key, open_client, options
from blockcloud.cli.output import EXIT_FAILURE, say, show
from blockcloud.primitives.addresses import format_address, parse_address
from blockcloud.primitives.amounts import parse_amount
from blockcloud.primitives.errors import BadConfiguration

if TYPE_CHECKING:
    from blockcloud.sdk import AsyncClient

app = command_group("Contracts: write, test, deploy, call.")
TEMPLATE: Final = ("contract.wat", "tests.toml", "README.md")

Project = Annotated[Path, typer.Argument(help="Folder of the project, or a .wat or .wasm file.")]
Contract = Annotated[str, typer.Argument(help="Address of the contract.")]
Arguments = Annotated[
    list[str] | None,
    typer.Option("--arg", help="u8: u32: u64: bloc: address: hex: or text: and a value; may be given several times."),
]
Value = Annotated[str, typer.Option("--value", help="BLOC to pay to the contract.")]
Fuel = Annotated[int, typer.Option("--fuel", min=0, help="At most so much; 0: enough for most. Unused is not paid.")]
Deposit = Annotated[str, typer.Option("--deposit-limit", help="BLOC that may be laid down for what is stored.")]


@app.command()
def new(folder: Path) -> None:
    """Make a small project: a counter, with its tests."""
    if folder.exists():
        raise BadConfiguration("this folder exists already; a project gets a new one", path=str(folder))
    folder.mkdir(parents=True)
    template = resources.files("blockcloud.cli").joinpath("contract_template")
    for name in TEMPLATE:
        (folder / name).write_text(template.joinpath(name).read_text(encoding="utf-8"), encoding="utf-8")
    show({"folder": str(folder), "files": list(TEMPLATE)}, as_json=options.as_json)
    say(f"next: blockcloud contract test {folder}")


@app.command()
def test(project: Project) -> None:
    """Run a project's tests offline, in the engine and by the rules of the ledger."""
    from blockcloud.sdk.contract_tests import read_tests, run_tests
    from blockcloud.sdk.contracts import build, described

    code = build(project)
    tests = run_tests(code, read_tests(project if project.is_dir() else project.parent))
    show({**described(code), "tests": tests}, as_json=options.as_json)
    if not all(report["passed"] for report in tests):
        raise typer.Exit(EXIT_FAILURE)


@app.command("build")
def build_module(
    project: Project, output: Annotated[Path | None, typer.Option("--output", help="Write the module there.")] = None
) -> None:
    """Build and check a module; the same source gives the same hash everywhere."""
    from blockcloud.sdk.contracts import build, described

    code = build(project)
    report = described(code)
    if output is not None:
        output.write_bytes(code)
    show(report, as_json=options.as_json)


@app.command()
def deploy(
    project: Project, arg: Arguments = None, value: Value = "0", fuel: Fuel = 0, deposit_limit: Deposit = "10"
) -> None:
    """Make a contract on the ledger, and run its `init`."""
    from blockcloud.sdk import contracts

    code, key = contracts.build(project), load_key()
    arguments, paid, limit = contracts.encode_arguments(arg or ()), parse_amount(value), parse_amount(deposit_limit)

    async def run(client: AsyncClient) -> dict[str, Any]:
        from blockcloud.api.views import receipt_view

        address, receipt = await contracts.deploy(
            client, key, code, arguments, value=paid, fuel=fuel or None, deposit_limit=limit
        )
        return {"contract": format_address(address), **contracts.described(code), "receipt": receipt_view(receipt)}

    _show(run)


@app.command()
def call(
    contract: Contract,
    method: str,
    arg: Arguments = None,
    value: Value = "0",
    fuel: Fuel = 0,
    deposit_limit: Deposit = "10",
) -> None:
    """Call a method of a contract and wait for the receipt."""
    from blockcloud.sdk import contracts

    address, key = parse_address(contract), load_key()
    arguments, paid, limit = contracts.encode_arguments(arg or ()), parse_amount(value), parse_amount(deposit_limit)

    async def run(client: AsyncClient) -> dict[str, Any]:
        from blockcloud.api.views import receipt_view

        receipt = await contracts.call(
            client, key, address, method, arguments, value=paid, fuel=fuel or contracts.FUEL, deposit_limit=limit
        )
        return {**receipt_view(receipt), "output": contracts.shown_output(receipt.output)}

    _show(run)


@app.command("query")
def ask(contract: Contract, method: str, arg: Arguments = None) -> None:
    """What a method answers now, says one node; changes nothing and costs nothing."""
    from blockcloud.sdk import contracts

    address, arguments = parse_address(contract), contracts.encode_arguments(arg or ())

    async def run(client: AsyncClient) -> dict[str, Any]:
        report = await contracts.query(client, address, method, arguments)
        return {**report, "output": contracts.shown_output(bytes.fromhex(str(report.get("output", ""))))}

    _show(run)


@app.command("show")
def show_contract(contract: Contract) -> None:
    """A contract as a node has it: code, owner, balance, deposit."""
    from blockcloud.sdk import contracts

    address = parse_address(contract)
    _show(lambda client: contracts.contract_view(client, address))


def _show(work: Callable[[AsyncClient], Awaitable[dict[str, Any]]]) -> None:
    async def run() -> dict[str, Any]:
        async with open_client() as client:
            return await work(client)

    show(asyncio.run(run()), as_json=options.as_json)
