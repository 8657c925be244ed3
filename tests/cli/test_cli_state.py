"""`blockcloud state` and the past of names against a real node: what is reported in both views, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockcloud.primitives.addresses import format_address
from blockcloud.service_chain.state_keys import account_key
from tests.cli.cli_world import Node, command
from tests.cli.test_cli_commands import registered, same_in_both_views
from tests.node.cluster import USERS, until

OWN = format_address(USERS[0].public)
NAME = "state.test"


def certified(node: Node, height: int) -> int:
    """The first checkpoint from `height` on, once it is certified."""
    checkpoint = -(-height // 10) * 10

    async def wait() -> None:
        await until(lambda: node.api.validator.certificate.statement.height >= checkpoint)

    node.call(wait())
    return checkpoint


def test_a_value_now_at_a_height_and_proven(node: Node) -> None:
    height = registered(node, NAME)["registered_height"]
    checkpoint = certified(node, height)
    then = same_in_both_views(node, "state", "get", "--name", NAME, "--height", str(height))
    assert (then["height"], then["kind"], then["of"]) == (height, "name", NAME)
    assert then["record"]["owner"] == OWN
    assert then["proof"] == {"verified": False, "height": None, "fresh": False, "why_not": "not_asked"}
    proven = same_in_both_views(node, "state", "get", "--name", NAME, "--height", str(checkpoint), "--prove")
    assert proven["proof"] == {"verified": True, "height": checkpoint, "fresh": False, "why_not": None}
    assert (proven["value"], proven["record"]) == (then["value"], then["record"])
    absent = same_in_both_views(node, "state", "get", "--name", NAME, "--height", str(height - 1))
    assert (absent["value"], absent["record"]) == (None, None)
    key = account_key(USERS[0].public).hex()
    newest = node.ok("state", "get", key, "--prove")
    assert newest["proof"]["fresh"]
    assert node.ok("state", "get", "--account", OWN)["key"] == newest["key"] == key


def test_what_a_commit_changed(node: Node) -> None:
    height = registered(node, NAME)["registered_height"]
    whole = same_in_both_views(node, "state", "changes", str(height))
    assert {"name", "account", "preorder"} <= {change["kind"] for change in whole["changes"]}
    page = node.ok("state", "changes", str(height), "--limit", "1")
    rest = node.ok("state", "changes", str(height), "--after", page["next"])
    assert page["changes"] + rest["changes"] == whole["changes"]


def test_a_name_of_the_past_says_what_it_is_worth(node: Node) -> None:
    first = registered(node, NAME)["registered_height"]
    renewed = node.ok("name", "renew", NAME)["changed_height"]
    checkpoint = certified(node, renewed)
    shown = same_in_both_views(node, "name", "show", NAME, "--height", str(renewed))
    assert shown["proof"] == {"verified": True, "height": checkpoint, "fresh": False, "why_not": None}
    assert shown["changed_height"] == renewed
    refused = node.command("name", "show", NAME, "--height", str(first - 1))
    assert (refused.code, "no such name at this height" in refused.err) == (1, True)
    history = same_in_both_views(node, "name", "history", NAME, "--prove")
    assert history["history"][-1]["proven_height"] == checkpoint
    page = node.ok("name", "history", NAME, "--limit", "1")
    assert page["before"] == renewed
    older = node.ok("name", "history", NAME, "--before", str(page["before"]))
    assert [entry["height"] for entry in older["history"] + page["history"]] == [first, renewed]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["state", "get"], 2, "say which"),
        (["state", "get", "00", "--name", "a.test"], 2, "say which"),
        (["state", "get", "key"], 2, "hexadecimal"),
        (["state", "get", "00", "--height", "-1"], 2, "greater than or equal to 0"),
        (["state", "get", "00", "--height", str(2**50), "--prove"], 1, "[future_height]"),
        (["state", "get", "00", "--height", str(2**50)], 1, "[future_height]"),
        (["state", "changes", str(2**50)], 1, "[future_height]"),
        (["state", "changes", "1", "--after", "x"], 2, "hexadecimal"),
        (["name", "show", "a.test", "--height", str(2**50)], 1, "[future_height]"),
        (["state", "import", "no.snapshot"], 1, "[bad_configuration]"),
    ],
)
def test_a_wrong_question_is_answered_with_the_reason(
    node: Node, arguments: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = node.command(*arguments)
    assert (result.code, said in result.err) == (code, True), result.err
    assert not list(tmp_path.iterdir()), "nothing is left of a file that was not written"


def test_between_checkpoints_the_nearest_ones_are_named(node: Node) -> None:
    above = certified(node, node.ok("status")["height"] + 1)
    result = node.command("state", "get", "00", "--height", str(above - 3), "--prove")
    assert (result.code, "[not_a_checkpoint]" in result.err) == (1, True)
    assert f"below={above - 10}, above={above}" in result.err


def test_an_export_does_not_write_over_a_file_and_leaves_none_behind(node: Node, tmp_path: Path) -> None:
    kept = tmp_path / "kept.snapshot"
    kept.write_bytes(b"something")
    assert "exists already" in node.command("state", "export", str(kept)).err
    assert kept.read_bytes() == b"something"
    dead = command("state", "export", str(tmp_path / "new"), "--home", str(node.home), "--api", "http://127.0.0.1:9")
    assert dead.code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["kept.snapshot"]


def test_a_home_is_not_made_of_what_is_no_snapshot(node: Node, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.snapshot"
    wrong.write_bytes(b"BlockCloud snapshot 2\n")
    genesis = str(node.home / "genesis.json")
    made = ("node", "init", "--genesis", genesis, "--home", str(tmp_path / "new"), "--snapshot")
    for more in ((str(wrong),), (str(tmp_path / "nowhere"),), (str(wrong), "--trusted", str(wrong))):
        result = command(*made, *more)
        assert result.code == 1, result.err
        assert not (tmp_path / "new").exists()
    assert "[bad_snapshot]" in command(*made, str(wrong)).err
