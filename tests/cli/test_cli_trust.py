"""`blockcloud trust`: what a home has verified, how a person gives it a fresh certificate, and what errors say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.sdk.home import Home
from blockcloud.sdk.light_client import TrustedState
from blockcloud.sdk.trust_store import TrustStore, read_trusted_state
from tests.cli.cli_world import Node, Result, command, make_home, read_view, texts

HOW = ("blockcloud trust set FILE", "blockcloud trust export FILE", "blockcloud trust reset")


@pytest.fixture
def home(node: Node, tmp_path: Path) -> Path:
    return make_home(tmp_path / "mine", node.api)


def at(home: Path, *words: str) -> Result:
    return command(*words, "--home", str(home))


def ok(home: Path, *words: str) -> dict[str, object]:
    made = at(home, *words, "--json")
    assert made.code == 0, made.err
    return dict(made.report)


def store_of(node: Node, home: Path) -> TrustStore:
    return TrustStore.under(Home(home), node.api.net.genesis.chain_id())


def state_of(node: Node, home: Path) -> TrustedState:
    state = store_of(node, home).load()
    assert state is not None
    return state


def expired(node: Node, state: TrustedState) -> TrustedState:
    return replace(state, time_ms=state.time_ms - node.api.net.genesis.staking.trusting_period_ms - 3_600_000)


def test_a_home_begins_with_the_genesis_and_keeps_what_it_verifies(node: Node, home: Path) -> None:
    before = ok(home, "trust", "show")
    assert (before["standing"], before["height"], before["counts_until"]) == ("genesis", 0, None)
    ok(home, "account", "show")
    after = ok(home, "trust", "show")
    state = state_of(node, home)
    assert state.newest is not None
    assert (after["standing"], after["height"]) == ("fresh", state.newest.statement.height)
    assert after["commit_digest"] == state.newest.statement.digests[0].hex()
    assert after["chain"] == node.api.net.genesis.chain_id().hex()
    assert after["trusting_period_s"] == node.api.net.genesis.staking.unbonding_ms // 2_000
    file = Path(str(after["file"]))
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    for _ in range(2):
        ok(home, "account", "show")
        assert state_of(node, home).time_ms >= state.time_ms


def test_both_views_hold_the_same(node: Node, home: Path) -> None:
    for _ in range(2):
        report = ok(home, "trust", "show")
        found = read_view(at(home, "trust", "show").out.splitlines(), report)
        assert {**found, "age_s": 0} == {**texts(report), "age_s": 0}
        ok(home, "account", "show")


def test_an_expired_home_says_which_command_mends_it_and_that_does(node: Node, home: Path, tmp_path: Path) -> None:
    friend = make_home(tmp_path / "friend", node.api)
    for place in (home, friend):
        ok(place, "account", "show")
    store_of(node, home).save(expired(node, state_of(node, home)))
    assert ok(home, "trust", "show")["standing"] == "expired"
    for words in (("account", "show"), ("resolve", "nobody")):
        refused = at(home, *words)
        assert (refused.code, refused.out) == (1, "")
        assert "[trust_expired]" in refused.err
        assert all(words in refused.err for words in HOW)
    file = str(tmp_path / "certificate")
    for place, words in ((home, "of use to anybody"), (friend, "")):
        made = at(place, "trust", "export", file, "--json")
        assert (made.code, words in made.err) == (1 if words else 0, True)
    assert "compare commit_digest" in made.err
    given = ok(home, "trust", "set", file)
    assert (given["standing"], given["commit_digest"]) == ("fresh", made.report["commit_digest"])
    ok(home, "account", "show")
    again = at(friend, "trust", "export", file)
    assert "File exists" in again.err, "what is there may be somebody's"


def test_a_home_can_begin_again(node: Node, home: Path) -> None:
    assert ok(home, "trust", "reset") == {"forgotten": False, "old_file": None}
    ok(home, "account", "show")
    old = expired(node, state_of(node, home))
    store_of(node, home).save(old)
    made = at(home, "trust", "reset", "--json")
    assert "begins again from the genesis" in made.err
    assert read_trusted_state(Path(made.report["old_file"])) == old
    ok(home, "account", "show")
    assert ok(home, "trust", "show")["standing"] == "fresh"


def test_a_home_that_saw_two_histories_says_so(node: Node, home: Path, tmp_path: Path) -> None:
    ok(home, "account", "show")
    store_of(node, home).save(replace(state_of(node, home), evidence=(b"one", b"other")))
    assert ok(home, "trust", "show")["standing"] == "conflict"
    for words in (("account", "show"), ("trust", "export", str(tmp_path / "certificate"))):
        refused = at(home, *words)
        assert refused.code == 1
        assert "[conflicting_certificates]" in refused.err
        assert HOW[0] in refused.err
    assert not (tmp_path / "certificate").exists()


def damaged(state: TrustedState) -> TrustedState:
    assert state.newest is not None
    (key, _), *others = state.newest.signatures
    return replace(state, newest=replace(state.newest, signatures=((key, bytes(64)), *others)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda state: replace(state, chain_id=bytes(32)), "[bad_configuration]", id="another chain"),
        pytest.param(damaged, "[bad_configuration]", id="a signature"),
        pytest.param(lambda state: replace(state, newest=None), "holds no certificate", id="nothing certified"),
        pytest.param(lambda state: replace(state, time_ms=1), "too old as well", id="old"),
        pytest.param(lambda state: replace(state, time_ms=2**50), "ahead of the clock", id="from the future"),
        pytest.param(
            lambda state: replace(state, evidence=(b"1", b"2")), "[conflicting_certificates]", id="two histories"
        ),
    ],
)
def test_a_certificate_that_cannot_be_trusted_is_not_taken(
    node: Node, home: Path, tmp_path: Path, change: Callable[[TrustedState], TrustedState], said: str
) -> None:
    ok(home, "account", "show")
    state, file = state_of(node, home), tmp_path / "certificate"
    file.write_bytes(codec.encode(change(state)))
    refused = at(home, "trust", "set", str(file))
    assert (refused.code, refused.out) == (1, "")
    assert said in refused.err
    assert state_of(node, home) == state


def test_what_is_no_certificate_is_named(node: Node, home: Path, tmp_path: Path) -> None:
    for file, said in ((home / "genesis.json", "no certificate to go on from"), (tmp_path / "no", "cannot read")):
        refused = at(home, "trust", "set", str(file))
        assert (refused.code, refused.out) == (1, "")
        assert said in refused.err
    assert "verified nothing of this chain yet" in at(home, "trust", "export", str(tmp_path / "made")).err
    assert at(home, "trust", "set").code == 2
    ok(home, "account", "show")
    store_of(node, home).path.write_bytes(b"damage")
    for words in (("account", "show"), ("trust", "show")):
        assert HOW[2] in at(home, *words).err
    ok(home, "trust", "reset")
    ok(home, "account", "show")


def test_two_chains_one_after_another_in_one_home(node: Node, home: Path) -> None:
    ok(home, "account", "show")
    first = state_of(node, home)
    genesis = json.loads((home / "genesis.json").read_text(encoding="utf-8"))
    other = json.dumps({**genesis, "name": "another"})
    (home / "genesis.json").write_text(other, encoding="utf-8")
    report = ok(home, "trust", "show")
    assert report["standing"] == "genesis"
    assert report["chain"] != first.chain_id.hex()
    ok(home, "trust", "reset")
    assert state_of(node, home) == first
