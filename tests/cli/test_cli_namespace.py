"""`blockcloud namespace`, `name delegate` and `name instance`: what they report, and how they fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.keys import SigningKey
from tests.cli.cli_world import Node, read_view, texts
from tests.node.cluster import USERS

OWN = format_address(USERS[0].public)
BOB = format_address(USERS[1].public)
OPEN = ("--price", "0.5", "--lifetime", "5000", "--grace", "100")


def test_a_namespace_from_its_opening_to_a_name_in_it(node: Node, tmp_path: Path) -> None:
    label = "cliworld"
    opened = node.ok(
        "namespace", "open", label, *OPEN, "--base", "2", "--exponents", "2,1,0", "--no-vowel-discount", "5"
    )
    assert (opened["status"], opened["owner"], opened["receipt"]["code"]) == ("importing", OWN, "ok")
    assert (opened["paid"], [step["price"] for step in opened["prices"]]) == ("100", ["2", "1", "0.5"])
    batch = tmp_path / "batch.json"
    batch.write_text(json.dumps([{"label": "mine"}, {"label": "bobs", "owner": BOB}]))
    filled = node.ok("name", "delegate", label, "--file", str(batch))
    assert filled["names"] == [
        {"name": f"mine.{label}", "owner": OWN},
        {"name": f"bobs.{label}", "owner": BOB},
    ]
    assert node.command("name", "register", f"door.{label}").code == 4, "not ready"
    assert node.ok("namespace", "ready", label)["status"] == "ready"
    report = node.ok("namespace", "show", label)
    view = node.command("namespace", "show", label)
    # The ledger goes on between the two.
    assert {**read_view(view.out.splitlines(), report), "height": ""} == {**texts(report), "height": ""}
    refused = node.command("name", "register", f"at.{label}", "--price-limit", "0.9")
    assert (refused.code, "[price_above_limit]" in refused.err) == (4, True)
    registered = node.ok("name", "register", f"at.{label}")
    assert registered["renewal"] == {
        "namespace": label,
        "price": "1",
        "price_micro_bloc": 1_000_000,
        "lifetime": 5000,
        "grace": 100,
    }
    assert node.ok("name", "renew", f"at.{label}")["expires_height"] > registered["expires_height"]
    again = node.command("name", "delegate", label, "--file", str(batch))
    assert (again.code, "[namespace_is_ready]" in again.err) == (4, True)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--exponents", "1,x"),
        ("--base", "17"),
        ("--no-vowel-discount", "0"),
        ("--price", "much"),
        ("--lifetime", "0"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_before_anything_is_paid(node: Node, wrong: tuple[str, str]) -> None:
    assert node.command("namespace", "open", "nosense1", *OPEN, *wrong).code == 2
    assert node.command("namespace", "show", "nosense1").code == 1


def test_a_batch_file_is_there_and_makes_sense(node: Node, tmp_path: Path) -> None:
    missing = node.command("name", "delegate", "acme", "--file", str(tmp_path / "none.json"))
    assert (missing.code, "cannot read the file" in missing.err) == (1, True)
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    assert "1 to 64 names" in node.command("name", "delegate", "acme", "--file", str(empty)).err


def test_instances_come_and_go(node: Node, tmp_path: Path) -> None:
    name, key = "instances.test", SigningKey(b"q" * 32)
    path = tmp_path / "instance.pem"
    key.save(path)
    node.ok("name", "register", name)
    added = node.ok("name", "instance", "add", name, format_address(key.public))
    assert added["instance_keys"] == [key.public.hex()]
    refused = node.command("name", "instance", "add", name, str(path))
    assert (refused.code, "[instance_exists]" in refused.err) == (4, True)
    assert node.ok("name", "instance", "remove", name, str(path))["instance_keys"] == []
    assert node.command("name", "instance", "add", name, "nobody").code == 2
