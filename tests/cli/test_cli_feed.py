"""`blockcloud edge feed` and `edge read`: what they refuse before they start anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.cli_world import command


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("feed", "porch"), 2, "where readings come from"),
        (("feed", "porch", "--mqtt", "127.0.0.1:1883"), 2, "goes with at least one --topic"),
        (("feed", "porch", "--http", "127.0.0.1:0", "--topic", "a/#"), 2, "goes with at least one --topic"),
        (("feed", "porch", "--http", "127.0.0.1:0", "--home-assistant"), 2, "about the broker of --mqtt"),
        (("feed", "porch", "--http", "127.0.0.1:0", "--mqtt-login", "login"), 2, "about the broker of --mqtt"),
        (("feed", "porch", "--http", "127.0.0.1:0", "--window", "0"), 1, "from a second to a day"),
        (("feed", "porch", "--http", "127.0.0.1:0", "--token-file", "/missing"), 1, "cannot read the token file"),
        (("feed", "porch", "--status"), 3, "no feed of this name runs"),
        (("feed", "porch", "--forget", "00"), 3, "no feed of this name runs"),
        (("read", "porch", "everything"), 2, "read one of"),
        (("read", "porch", "follow", "--after", "12"), 2, "LOG:OFFSET"),
        (("read", "porch", "follow", "--after", "a:b"), 2, "LOG:OFFSET"),
    ],
)
def test_what_they_refuse(tmp_path: Path, arguments: tuple[str, ...], code: int, reason: str) -> None:
    result = command("edge", *arguments, "--home", str(tmp_path))
    assert reason in " ".join(result.err.replace("│", " ").split()), result.err
    assert result.code == code
    assert result.out == ""


@pytest.mark.parametrize(("mode", "reason"), [(0o640, "others may read the login file"), (0o600, "two lines")])
def test_a_login_file_that_does_not_do(tmp_path: Path, mode: int, reason: str) -> None:
    path = tmp_path / "login"
    path.write_text("porch\n")
    path.chmod(mode)
    result = command(
        *("edge", "feed", "porch", "--mqtt", "127.0.0.1:1883", "--topic", "home/#"),
        *("--mqtt-login", str(path), "--home", str(tmp_path)),
    )
    assert result.code == 1
    assert reason in result.err
