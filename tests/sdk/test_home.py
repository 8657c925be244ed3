"""The rules of a home folder: arguments before the environment before what is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.home import Home, read_genesis
from tests.sdk.sdk_world import Ledger


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("BLOCKCLOUD_", "XDG_"))]:
        monkeypatch.delenv(name)


def test_where_the_home_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Home.find().path == tmp_path / ".local" / "share" / "blockcloud"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert Home.find().path == Path("/data/blockcloud")
    monkeypatch.setenv("BLOCKCLOUD_HOME", "/home")
    assert Home.find().path == Home.find("").path == Path("/home")
    assert Home.find("net").path == Path("net")


def test_whom_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ledger = Ledger(("http://a.test", "http://b.test", "http://c.test", "http://d.test"))
    home = Home(tmp_path)
    (tmp_path / "genesis.json").write_text(ledger.genesis.to_json(), encoding="utf-8")
    genesis = home.genesis()
    assert genesis == ledger.genesis
    assert home.endpoints(genesis) == ["http://a.test", "http://b.test", "http://c.test", "http://d.test"]
    monkeypatch.setenv("BLOCKCLOUD_API", "http://e.test")
    assert home.endpoints(genesis) == ["http://e.test"]
    assert home.endpoints(genesis, "http://f.test") == ["http://f.test"]


def test_which_key_signs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(BadConfiguration, match="account new"):
        home.key_path()
    SigningKey(b"a" * 32).save(tmp_path / "accounts" / "alice.pem")
    assert home.key_path().name == "alice.pem"
    SigningKey(b"b" * 32).save(home.account_key_path)
    assert home.key_path() == home.account_key_path
    monkeypatch.setenv("BLOCKCLOUD_KEY", str(tmp_path / "c.pem"))
    assert home.key_path() == tmp_path / "c.pem"
    assert home.key_path(tmp_path / "d.pem") == tmp_path / "d.pem"
    assert home.load_key(home.account_key_path).public == SigningKey(b"b" * 32).public


def test_the_instance_key_is_made_once(tmp_path: Path) -> None:
    home = Home(tmp_path / "replica")
    first = home.instance_key()
    assert home.instance_key().public == first.public
    assert (home.path / "keys" / "instance.pem").stat().st_mode & 0o777 == 0o600
    assert Home(tmp_path / "other").instance_key().public != first.public


def test_control_sockets_are_for_this_user_only(tmp_path: Path) -> None:
    path = Home(tmp_path / "net").control_path("publish-a.test")
    assert path == tmp_path / "net" / "run" / "publish-a.test.sock"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(BadConfiguration, match="cannot make"):
        Home(tmp_path / "file").control_path("x")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]", b'{"name": 1}'])
def test_a_bad_genesis_is_a_matter_of_configuration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "genesis.json").write_bytes(content)
    with pytest.raises(BadConfiguration, match="not a valid genesis"):
        read_genesis(tmp_path / "genesis.json")
    with pytest.raises(BadConfiguration, match="devnet up"):
        read_genesis(tmp_path / "nowhere.json")


def test_long_names_have_control_sockets_of_their_own(tmp_path: Path) -> None:
    home = Home(tmp_path / "net")
    first, second = (home.control_path(f"publish-{'a' * 240}{last}.test") for last in "xy")
    assert first != second
    assert len(first.name) < 100
    first.touch()
