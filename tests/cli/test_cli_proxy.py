"""`blockcloud proxy`: what it refuses before it serves, and the token's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockcloud.cli.proxy import read_token
from blockcloud.primitives.errors import BadConfiguration
from tests.cli.cli_world import command


def test_a_token_is_made_for_its_owner_alone_and_then_stays(tmp_path: Path) -> None:
    path = tmp_path / "proxy.token"
    token = read_token(path)
    assert len(token) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_token(path) == token


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        ("a token of some length\n", 0o640, "others may read"),
        ("a token of some length\n", 0o604, "others may read"),
        ("too short\n", 0o600, "16 to 255"),
        ("x" * 256, 0o600, "16 to 255"),
        ("é" * 20, 0o600, "ASCII"),
    ],
)
def test_a_token_file_that_does_not_do(tmp_path: Path, text: str, mode: int, reason: str) -> None:
    path = tmp_path / "proxy.token"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    with pytest.raises(BadConfiguration, match=reason):
        read_token(path)
    with pytest.raises(BadConfiguration, match="cannot make"):
        read_token(tmp_path / "nowhere" / "proxy.token")


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("--socks", "0.0.0.0:0"), 1, "needs a --token"),
        (("--http", "[::]:0"), 1, "needs a --token"),
        (("--http", "example.com:0"), 1, "needs a --token"),
        (("--socks", "nowhere"), 2, "host:port"),
        (("--dns", "127.0.0.1:0", "--ports", "80,http"), 2, "list of numbers"),
    ],
)
def test_what_it_does_not_serve(tmp_path: Path, arguments: tuple[str, ...], code: int, reason: str) -> None:
    result = command("proxy", *arguments, "--home", str(tmp_path))
    assert result.code == code
    assert reason in result.err
    assert result.out == ""
