"""`blockcloud contract`: from a new project to a call, and what people are told when something is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from blockcloud.primitives.addresses import format_address
from tests.cli.cli_world import Node, command
from tests.node.cluster import USERS
from tests.service_chain.contracts.contract_world import EXAMPLES

OWN = format_address(USERS[0].public)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "counter"
    assert command("contract", "new", str(folder)).code == 0
    return folder


def test_a_new_project_passes_its_tests_and_is_made_once(project: Path) -> None:
    result = command("contract", "test", str(project), "--json")
    assert (result.code, [test["passed"] for test in result.report["tests"]]) == (0, [True] * 3)
    again = command("contract", "new", str(project))
    assert (again.code, "exists already" in again.err) == (1, True)


def test_a_test_that_fails_says_which_step_and_why(project: Path) -> None:
    tests = project / "tests.toml"
    tests.write_text(tests.read_text().replace('expect = "u64:42"', 'expect = "u64:43"', 1))
    result = command("contract", "test", str(project), "--json")
    assert result.code == 1
    (problem,) = [test["problem"] for test in result.report["tests"] if not test["passed"]]
    assert "step 3" in problem
    assert "[step_failed]" in problem


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("(module", "contract_malformed"),
        ('(module (func (export "run") (drop (f32.const 1))))', "contract_uses_floats"),
        ("(module)", "contract_export"),
    ],
)
def test_a_module_that_the_ledger_would_refuse_is_refused_before(project: Path, text: str, code: str) -> None:
    (project / "contract.wat").write_text(text)
    for arguments in (("test",), ("build",)):
        result = command("contract", *arguments, str(project))
        assert (result.code, f"[{code}]" in result.err) == (4, True), result.err


def test_the_same_source_gives_the_same_module(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "elsewhere")
    hashes = []
    for folder in (project, copy):
        report = command("contract", "build", str(folder), "--output", str(folder / "m.wasm"), "--json").report
        hashes += [
            report["code_hash"],
            command("contract", "build", str(folder / "m.wasm"), "--json").report["code_hash"],
        ]
    assert len(dict.fromkeys(hashes)) == 1


def test_a_contract_from_deployment_to_refusal(node: Node, project: Path) -> None:
    deployed = node.ok("contract", "deploy", str(project))
    contract = deployed["contract"]
    assert deployed["receipt"]["code"] == "ok"
    called = node.ok("contract", "call", contract, "add", "--arg", "u64:5")
    assert called["output"] == {"hex": "0500000000000000", "number": 5}
    assert [event["topic"] for event in called["events"]] == ["added"]
    assert node.ok("contract", "query", contract, "total")["output"]["number"] == 5
    assert node.ok("contract", "show", contract)["owner"] == OWN
    assert node.ok("tx", "show", called["id"])["fuel"] == called["fuel"]
    refused = node.command("contract", "call", contract, "add")
    assert refused.code == 4
    assert "add how much?" in refused.err
    assert "[contract_reverted]" in refused.err
    assert "[out_of_fuel]" in node.command("contract", "call", contract, "reset", "--fuel", "110000").err
    assert "[malformed]" in node.command("contract", "call", contract, "add", "--arg", "u64:-1").err
    assert "[deposit_limit_exceeded]" in node.command("contract", "deploy", str(project), "--deposit-limit", "0").err


def test_the_escrow_pays_the_seller(node: Node) -> None:
    seller, arbiter = (format_address(user.public) for user in USERS[3:5])
    before = node.ok("account", "show", seller)["balance"]
    deal = ("--arg", f"address:{seller}", "--arg", f"address:{arbiter}", "--arg", "u64:999999")
    contract = node.ok("contract", "deploy", str(EXAMPLES / "escrow"), *deal, "--value", "2.5")["contract"]
    assert node.ok("contract", "show", contract)["balance"] == "2.5"
    assert node.ok("contract", "call", contract, "release")["code"] == "ok"
    assert node.ok("contract", "show", contract)["balance"] == "0"
    after = node.ok("account", "show", seller)["balance"]
    assert float(after) - float(before) == pytest.approx(2.5)
    assert "the deal is over" in node.command("contract", "call", contract, "release").err
