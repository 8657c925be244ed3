"""The commands against a real node: what they report in both views, and how they fail."""

from __future__ import annotations

import json
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from blockcloud.primitives.addresses import format_address, parse_address
from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.service_file import build_service_file, service_file_hash
from blockcloud.sdk.services import listen
from tests.cli.cli_world import Node, command, make_home, read_view, texts
from tests.node.cluster import USERS

DEAD_URL = "http://127.0.0.1:9"
NOBODY = format_address(b"n" * 32)
OWN = format_address(USERS[0].public)


TRIES = 20  # on a busy machine two checkpoints may come between three commands


def same_in_both_views(node: Node, *arguments: str) -> Any:
    """The report of a reading command, whose view for people holds the same values; the ledger may go on between."""
    for _ in range(TRIES):
        report = node.ok(*arguments)
        result = node.command(*arguments)
        assert result.code == 0, result.err
        after = node.ok(*arguments)
        view = read_view(result.out.splitlines(), report)
        if view in (texts(report), texts(after)):
            break
    else:
        assert view == texts(report)
    return report


def registered(node: Node, name: str) -> Any:
    shown = node.command("name", "show", name, "--json")
    return shown.report if shown.code == 0 else node.ok("name", "register", name)


def test_status(node: Node) -> None:
    report = node.ok("status")
    promised = {"height", "level", "era", "mode", "state_root", "checkpoint", "committee", "peers", "health"}
    assert promised <= report.keys()
    view = node.command("status")
    # The ledger goes on between the two calls: the same shape, and the same values where they stand still.
    found = read_view(view.out.splitlines(), report)
    assert found.keys() == report.keys()
    assert found["committee"] == texts(report["committee"])
    assert found["counters"].keys() == report["counters"].keys()
    assert command("status", "--api", node.url, "--json").report["chain"] == report["chain"]


def test_an_account_is_made_once_and_shown(node: Node, tmp_path: Path) -> None:
    made = command("account", "new", "--home", str(tmp_path), "--json")
    assert made.code == 0
    path = Path(made.report["key_file"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).public == parse_address(made.report["address"])
    again = command("account", "new", "--home", str(tmp_path))
    assert again.code == 1
    assert "exists already" in again.err
    elsewhere = command("--json", "account", "new", "--key", str(tmp_path / "other.pem"))
    assert elsewhere.report["key_file"] == str(tmp_path / "other.pem")
    assert node.ok("account", "address")["address"] == OWN
    nobody = same_in_both_views(node, "account", "address")
    assert nobody["key_file"].startswith(str(node.home))


def test_a_balance_is_what_the_ledger_proves(node: Node) -> None:
    report = node.ok("account", "show", NOBODY)
    assert report == {
        "address": NOBODY,
        "balance": "0",
        "sequence": 0,
        "threshold": 1,
        "keys": [NOBODY],
        "proven": {"balance": "0", "threshold": 1, "keys": [NOBODY], "height": report["proven"]["height"]},
    }
    view = node.command("account", "show", NOBODY).out.splitlines()
    assert read_view(view, report) == {**texts(report), "proven": read_view(view, report)["proven"]}


def test_a_transfer_is_committed_and_its_receipt_shown(node: Node) -> None:
    receipt = node.ok("account", "transfer", "--to", NOBODY[:-1] + NOBODY[-1], "--amount", "1.5")
    assert (receipt["status"], receipt["code"]) == ("committed", "ok")
    assert node.api.validator.chain.account(b"n" * 32).balance == 1_500_000  # type: ignore[union-attr]
    shown = same_in_both_views(node, "tx", "show", receipt["id"])
    assert shown["proof"]["verified"] is True
    assert shown["proof"]["certified_height"] >= shown["height"]
    assert receipt == {"status": "committed", **{key: shown[key] for key in receipt if key != "status"}}


def test_a_transfer_need_not_be_waited_for(node: Node) -> None:
    accepted = node.ok("account", "transfer", "--to", OWN, "--amount", "0.000001", "--no-wait")
    assert accepted.keys() == {"status", "id"}
    assert accepted["status"] == "accepted"


def test_a_name_from_its_registration_to_its_end(node: Node, tmp_path: Path) -> None:
    name = "life.test"
    first = node.ok("name", "register", name)
    assert (first["owner"], first["receipt"]["code"], first["revoked"]) == (OWN, "ok", False)
    file = tmp_path / "service.json"
    file.write_bytes(build_service_file(name, "a life"))
    updated = node.ok("name", "update", name, "--service-file", str(file))
    assert updated["service_file_hash"] == service_file_hash(file.read_bytes()).hex()
    renewed = node.ok("name", "renew", name)
    assert renewed["expires_height"] > first["expires_height"]
    given = node.ok("name", "transfer", name, "--to", format_address(USERS[1].public))
    assert given["owner"] == format_address(USERS[1].public)
    key = tmp_path / "bob.pem"
    USERS[1].save(key)
    revoked = node.ok("name", "revoke", name, "--key", str(key))
    assert revoked["revoked"]
    assert same_in_both_views(node, "name", "show", name)["revoked"]
    then = same_in_both_views(node, "name", "show", name, "--height", str(given["changed_height"]))
    assert then["owner"] == given["owner"]
    history = same_in_both_views(node, "name", "history", name)
    heights = [step["changed_height"] for step in (first, updated, renewed, given, revoked)]
    assert [entry["height"] for entry in history["history"]] == heights
    refused = node.command("name", "renew", name)
    assert refused.code == 4, "the ledger says no: it is somebody else's, and gone"


def test_resolving_verifies_and_shows_instances(node: Node) -> None:
    name = "resolved.test"
    registered(node, name)
    assert node.command("resolve", name).code == 1, "no instance yet"

    async def serve() -> AsyncExitStack:
        stack = AsyncExitStack()
        await stack.enter_async_context(listen(name, home=node.home, title="found by its name"))
        return stack

    serving = node.call(serve())
    try:
        report = same_in_both_views(node, "resolve", name, "--service-file")
    finally:
        node.call(serving.aclose())
    assert report["verified"] is True
    assert report["owner"] == OWN
    (instance,) = report["instances"]
    assert instance.keys() == {"addresses", "key", "lease_until"}
    assert report["service_file"]["title"] == "found by its name"
    assert node.command("resolve", name).code == 1, "the lease was withdrawn"


def test_a_simulation_is_the_same_in_both_views(node: Node) -> None:
    report = same_in_both_views(node, "sim", "--seed", "3", "--seconds", "8")
    assert report["verdict"] == "Pass"
    assert report["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["status", "--api", DEAD_URL], 3, "[unreachable]"),
        (["tx", "show", "00" * 32, "--api", DEAD_URL], 3, "[unreachable]"),
        (["status", "--api", "not a url"], 1, "[bad_configuration]"),
        (["tx", "show", "00" * 32], 1, "[not_found]"),
        (["tx", "show", "xyz"], 2, "hexadecimal"),
        (["name", "show", "nobody.test"], 1, "[not_found]"),
        (["name", "history", "nobody.test"], 1, "[not_found]"),
        (["name", "show", "Not A Name"], 2, "[invalid_name]"),
        (["name", "update", "a.test", "--service-file", "/nowhere"], 1, "[bad_configuration]"),
        (["resolve", "nobody.test"], 1, "[unknown_name]"),
        (["account", "show", "bloc1nobody"], 2, "[invalid_address]"),
        (["account", "transfer", "--to", NOBODY, "--amount", "much"], 2, "[invalid_amount]"),
        (["account", "transfer", "--to", NOBODY, "--amount", "9999999999"], 4, "[insufficient_balance]"),
        (["account", "transfer", "--to", NOBODY], 2, "--amount"),
        (["account", "show", "--key", "/nowhere.pem"], 1, "[bad_configuration]"),
        (["publish", "a.test", "--to", "nowhere"], 2, "host:port"),
        (["publish", "nobody.test", "--to", "127.0.0.1:1"], 1, "[unknown_name]"),
        (["publish", "a.test", "--to", "127.0.0.1:1", "--price", "cheap"], 2, "[invalid_price]"),
        (["publish", "a.test", "--to", "127.0.0.1:1", "--price", "1/a", "--draft", "d"], 2, "--draft"),
        (["forward", "a.test", "--listen", "127.0.0.1:0", "--max-price", "-1/request"], 2, "[invalid_price]"),
        (["forward", "a.test", "--listen", "127.0.0.1:99999"], 2, "host:port"),
        (["move", "a.test", "--to", "127.0.0.1:0"], 3, "[unreachable]"),
        (["move", "a.test"], 2, "--to"),
        (["move", "forward", "--to", "x"], 2, "host:port"),
        (["no-such-command"], 2, "No such command"),
        (["status", "--no-such-option"], 2, "No such option"),
        (["status", "--home"], 2, "--home"),
        (["sim"], 2, "--seed"),
    ],
)
def test_failures_have_an_exit_code_and_a_reason(node: Node, arguments: list[str], code: int, said: str) -> None:
    result = command(*arguments) if arguments[-1] == "--home" else node.command(*arguments)
    assert result.code == code, result.err
    assert said in result.err
    assert result.out == "", "data is on stdout, messages are on stderr"
    assert "Traceback" not in result.err


def test_global_options_stand_anywhere_and_in_the_environment(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(node.home)
    expected = command("--home", home, "--json", "account", "address").report
    assert command("account", "--json", f"--home={home}", "address").report == expected
    assert command("account", "address", "--json", "--home", home).report == expected
    monkeypatch.setenv("BLOCKCLOUD_HOME", home)
    assert command("account", "address", "--json").report == expected
    monkeypatch.setenv("BLOCKCLOUD_API", DEAD_URL)
    assert command("status").code == 3
    monkeypatch.setenv("BLOCKCLOUD_KEY", "/nowhere.pem")
    assert command("account", "address").code == 1


def test_homes_that_cannot_be_read(tmp_path: Path) -> None:
    missing = command("resolve", "a.test", "--home", str(tmp_path))
    assert missing.code == 1
    assert "blockcloud devnet up" in missing.err
    (tmp_path / "genesis.json").write_text('{"name": "x"}', encoding="utf-8")
    assert "not a valid genesis" in command("status", "--home", str(tmp_path)).err
    (tmp_path / "genesis.json").write_bytes(b"\xff")
    assert "[bad_configuration]" in command("status", "--home", str(tmp_path)).err
    (tmp_path / "genesis.json").unlink()
    (tmp_path / "genesis.json").mkdir()
    folder = command("status", "--home", str(tmp_path))
    assert folder.code == 1
    assert "cannot read the genesis" in folder.err
    plain = tmp_path / "plain"
    plain.write_text("not a folder", encoding="utf-8")
    nowhere = command("account", "new", "--home", str(plain))
    assert nowhere.code == 1
    assert "Traceback" not in nowhere.err
    assert len(nowhere.err.splitlines()) <= 2


def test_a_node_needs_its_configuration(tmp_path: Path) -> None:
    result = command("node", "run", "--home", str(tmp_path))
    assert result.code == 1
    assert "cannot read the configuration" in result.err


def test_doctor_finds_a_healthy_network_and_a_dead_one(node: Node, tmp_path: Path) -> None:
    healthy = node.command("doctor", "--json")
    assert healthy.code == 0, healthy.out
    assert [check["check"] for check in healthy.report["checks"]] == ["ports", "clock", "disk", "peers"]
    assert healthy.report["ok"]
    view = read_view(node.command("doctor").out.splitlines(), healthy.report)
    assert [row["check"] for row in view["checks"]] == ["ports", "clock", "disk", "peers"]
    assert {row["ok"] for row in view["checks"]} == {"yes"}
    dead = node.command("doctor", "--api", DEAD_URL, "--json")
    assert dead.code == 1
    failed = {check["check"]: check for check in dead.report["checks"] if not check["ok"]}
    assert failed.keys() == {"ports", "clock", "peers"}
    assert all(check["cause"] and check["mend"] for check in failed.values())
    nothing = command("doctor", "--home", str(tmp_path))
    assert nothing.code == 1
    assert "[bad_configuration]" in nothing.err


def test_a_home_is_one_replica(node: Node, tmp_path: Path) -> None:
    other = make_home(tmp_path / "other", node.api)
    assert not (other / "keys" / "instance.pem").exists()
    result = command("publish", "nobody.test", "--to", "127.0.0.1:1", "--home", str(other))
    assert result.code == 1
    instance = SigningKey.load(other / "keys" / "instance.pem").public
    assert instance not in (USERS[0].public, SigningKey.load(node.home / "keys" / "account.pem").public)
    assert os.listdir(other / "run") == [], "the control socket goes with its process"
    json.loads((other / "genesis.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("first\nsecond"), "error: RuntimeError: first [internal_error]"),
        (PermissionError(13, "Permission denied", "/a/file"), "error: Permission denied ('/a/file') [system_error]"),
    ],
)
def test_what_nobody_foresaw_is_a_line_too(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def fail() -> object:
        raise error

    monkeypatch.setattr("blockcloud.cli.chain.open_transport", fail)
    result = command("status")
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[0] == said
    assert "Traceback" not in result.err
