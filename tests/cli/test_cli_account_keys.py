"""Rotating and sharing an account by commands, and drafts that go round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.drafts import Draft
from tests.cli.cli_world import Node, command, read_view, texts
from tests.node.cluster import USERS

OWN = format_address(USERS[0].public)


class People:
    """Key files in a folder; the account of `first` has money."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node, self.folder = node, folder
        self.address: dict[str, str] = {}
        for name in ("first", "second", "third", "stranger"):
            key = SigningKey.generate()
            key.save(folder / f"{name}.pem")
            self.address[name] = format_address(key.public)
        node.ok("account", "transfer", "--to", self.address["first"], "--amount", "50")

    def file(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")


@pytest.fixture
def people(node: Node, tmp_path: Path) -> People:
    return People(node, tmp_path)


def refused(node: Node, code: int, *arguments: str) -> str:
    """What a command says that must fail."""
    result = node.command(*arguments)
    assert result.code == code, (result.out, result.err)
    assert "hint:" in result.err or code in (1, 2), result.err
    return result.err


def pay(by: str, *more: str) -> list[str]:
    return ["account", "transfer", "--to", OWN, "--amount", "1", "--key", by, *more]


def test_rotate_and_back(node: Node, people: People) -> None:
    old, new = people.file("first"), people.file("second")
    report = node.ok("account", "rotate", "--to", new, "--key", old)
    assert report["address"] == people.address["first"]
    assert (report["threshold"], report["keys"]) == (1, [people.address["second"]])
    assert "--account" in refused(node, 4, *pay(old)), "the hint says what to do"
    assert node.ok("account", "address", "--key", new)["address"] == people.address["first"]
    assert node.ok(*pay(new))["code"] == "ok"
    shown = node.ok("account", "show", "--key", new)
    assert (shown["address"], shown["threshold"], shown["keys"]) == (
        people.address["first"],
        1,
        [people.address["second"]],
    )
    # Without the note, or against it, --account says for whom.
    Path(new + ".account").unlink()
    assert node.ok(*pay(new, "--account", people.address["first"]))["code"] == "ok"
    back = node.ok("account", "rotate", "--to", old, "--key", new, "--account", people.address["first"])
    assert back["keys"] == [people.address["first"]]
    assert not Path(old + ".account").exists()
    assert node.ok(*pay(old))["code"] == "ok"


def test_an_account_that_acts_by_another_key_owns_what_it_registers(node: Node, people: People) -> None:
    old, new = people.file("first"), people.file("second")
    node.ok("account", "rotate", "--to", new, "--key", old)
    assert node.ok("name", "register", "rotated.test", "--key", new)["owner"] == people.address["first"]
    assert "wrong_signer" in refused(node, 4, "name", "renew", "rotated.test", "--key", old)
    # Also what the owner of a name signs before a home may serve it, one draft after the other.
    publish = ["publish", "rotated.test", "--to", "127.0.0.1:9", "--key", new]
    for number, operation in enumerate(("UpdateName", "AddInstance")):
        draft = str(people.folder / f"{number}.tx")
        made = node.ok(*publish, "--draft", draft)
        assert [each["operation"] for each in made["operations"]] == [operation]
        assert node.ok("tx", "send", draft)["code"] == "ok"
    assert "without --draft" in refused(node, 1, *publish, "--draft", str(people.folder / "2.tx"))


def test_share_by_a_draft_and_pay_by_a_draft(node: Node, people: People) -> None:
    first, second, third = (people.file(name) for name in ("first", "second", "third"))
    draft = str(people.folder / "share.tx")
    share = ["account", "share", "--threshold", "2", "--with", people.address["second"], "--with", third]
    assert "tx sign" in refused(node, 1, *share, "--key", first), "the others have to sign too"
    made = node.ok(*share, "--key", first, "--draft", draft)
    assert made["signed_by"] == [people.address["first"]]
    assert sorted(made["new_keys"]) == sorted(people.address[name] for name in ("first", "second", "third"))
    assert people.address["third"] in refused(node, 1, "tx", "send", draft)
    # Signing asks nobody: no home, no network.
    assert command("tx", "sign", draft, "--key", second).code == 0
    signed = command("tx", "sign", draft, "--key", third, "--json").report
    assert len(signed["signed_by"]) == 3
    assert node.ok("tx", "send", draft)["code"] == "ok"
    account = people.address["first"]
    shown = node.ok("account", "show", account)
    assert (shown["threshold"], len(shown["keys"])) == (2, 3)

    assert "--draft" in refused(node, 4, *pay(first))
    assert node.ok(*pay(first, "--cosign", third))["code"] == "ok"
    pay_draft = str(people.folder / "pay.tx")
    made = node.ok(*pay(second, "--account", account, "--draft", pay_draft))
    assert made["operations"] == [{"operation": "Transfer", "to": OWN, "amount": "1 BLOC"}]
    assert "exists already" in refused(node, 1, *pay(second, "--account", account, "--draft", pay_draft))
    said = refused(node, 4, "tx", "send", pay_draft)
    assert people.address["first"] in said
    assert people.address["second"] not in said
    copy = people.folder / "copy.tx"
    copy.write_bytes(Path(pay_draft).read_bytes())
    assert command("tx", "sign", str(copy), "--key", people.file("stranger")).code == 0
    assert command("tx", "sign", str(copy), "--key", third).code == 0
    assert node.ok("tx", "send", pay_draft, str(copy))["status"] == "committed"
    back = str(people.folder / "back.tx")
    node.ok("account", "rotate", "--to", first, "--key", first, "--draft", back)
    command("tx", "sign", back, "--key", second)
    assert node.ok("tx", "send", back)["code"] == "ok"
    assert node.ok(*pay(first))["code"] == "ok"


def test_a_draft_reads_the_same_in_both_views(node: Node, people: People) -> None:
    draft = str(people.folder / "pay.tx")
    node.ok(*pay(people.file("first"), "--draft", draft))
    report = command("tx", "read", draft, "--json").report
    view = command("tx", "read", draft)
    assert read_view(view.out.splitlines(), report) == texts(report)


def test_what_cannot_be_done_says_why(node: Node, people: People) -> None:
    first, draft = people.file("first"), str(people.folder / "x.tx")
    assert "two transactions" in refused(node, 1, "name", "register", "drafted", "--key", first, "--draft", draft)
    assert not Path(draft).exists()
    share = ["account", "share", "--key", first, "--with", people.address["second"]]
    assert "3 of 2" in refused(node, 2, *share, "--threshold", "3")
    assert "0 of 2" in refused(node, 2, *share, "--threshold", "0")
    assert "once" in refused(node, 2, *share, "--threshold", "1", "--with", first)
    assert "cannot read key file" in refused(node, 1, "account", "rotate", "--to", draft, "--key", first)
    assert "cannot read the draft" in refused(node, 1, "tx", "send", draft)
    node.ok(*pay(first, "--draft", draft))
    assert "--draft" in refused(node, 2, "tx", "send", draft, "--draft", draft)
    found = Draft.parse(Path(draft).read_bytes())
    document = json.loads(found.text())
    document["signatures"][people.address["second"]] = "00" * 64
    Path(draft).write_text(json.dumps(document), encoding="utf-8")
    assert "bad_signature" in refused(node, 1, "tx", "read", draft)


def test_a_draft_for_another_ledger_is_not_sent(node: Node, people: People) -> None:
    import msgspec

    path = people.folder / "x.tx"
    node.ok(*pay(people.file("first"), "--draft", str(path)))
    body = msgspec.structs.replace(Draft.parse(path.read_bytes()).body, chain_id=bytes(32))
    path.write_bytes(Draft.of(body).text())
    assert "another ledger" in refused(node, 1, "tx", "send", str(path))
