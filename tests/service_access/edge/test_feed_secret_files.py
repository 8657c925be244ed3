"""The files with a feed's secrets, and a broker that asks who comes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import aiomqtt
import pytest

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.service_access.edge.feed.intake import now_us
from blockcloud.service_access.edge.feed.node import open_feed
from blockcloud.service_access.edge.feed.readings import Batch, Reading
from blockcloud.service_access.edge.feed.secret_files import SECRET_BYTES, Login, read_login, read_token
from tests.service_access.access_world import bounded
from tests.service_access.edge.feed_world import FEED, SETTINGS, mosquitto, needs_mosquitto, run, until_true

LOGIN = Login("porch", "not a secret at all")


def private(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"short", "16 printable"),
        (b"with a space in it", "16 printable"),
        (b"", "16 printable"),
        (b"x" * (SECRET_BYTES + 1), "too long"),
    ],
)
def test_a_token_cannot_be_guessed(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(BadConfiguration, match=reason):
        read_token(private(tmp_path / "token", content))


def test_a_token_is_what_its_file_holds(tmp_path: Path) -> None:
    assert read_token(private(tmp_path / "token", b"0123456789abcdef\n")) == b"0123456789abcdef"


@pytest.mark.parametrize(
    "content", [b"", b"porch", b"porch\n", b"\nsecret\n", b"a\nb\nc\n", b"x" * 300 + b"\ny\n", b"\xff\nsecret\n"]
)
def test_a_login_is_two_lines(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadConfiguration, match="login"):
        read_login(private(tmp_path / "login", content))


def test_a_login_shows_no_password(tmp_path: Path) -> None:
    login = read_login(private(tmp_path / "login", b"porch\nnot a secret at all\n"))
    assert login == LOGIN
    assert "secret" not in repr(login)


@pytest.mark.parametrize("read", [read_token, read_login])
def test_a_secret_is_for_its_owner_alone(tmp_path: Path, read: Callable[[Path], object]) -> None:
    for mode in (0o640, 0o604):
        with pytest.raises(BadConfiguration, match="others may read"):
            read(private(tmp_path / "secret", b"0123456789abcdef\nsecret\n", mode))
    with pytest.raises(BadConfiguration, match="cannot read"):
        read(tmp_path / "missing")


@needs_mosquitto
@pytest.mark.skipif(shutil.which("mosquitto_passwd") is None, reason="needs Debian's mosquitto")
async def test_a_broker_that_asks_who_comes_lets_the_right_login_in(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    code, output = await run("mosquitto_passwd", "-b", "-c", str(passwords), LOGIN.user, LOGIN.password)
    assert code == 0, output
    async with mosquitto(tmp_path, passwords) as broker:
        place = ("127.0.0.1", broker.port)
        async with open_feed(FEED, tmp_path / "refused.sqlite", SETTINGS) as feed:
            refused = feed.take_mqtt(place, ["home/#"], "feed-1", Login(LOGIN.user, "a guess"))
            await until_true(lambda: "authori" in refused.last_error.lower())
        async with open_feed(FEED, tmp_path / "feed.sqlite", SETTINGS) as feed:
            source = feed.take_mqtt(place, ["home/#"], "feed-1", LOGIN)
            publisher = feed.show_home_assistant(place, LOGIN)
            await bounded(source.connected.wait())
            async with aiomqtt.Client(*place, username=LOGIN.user, password=LOGIN.password) as client:
                await client.publish("home/t", b"5", qos=1)
            await until_true(lambda: "home/t" in feed.core.series)
            await feed.intake.take(Batch("test", (Reading("porch/t", now_us(), 1.0),)))
            await until_true(lambda: "porch/t" in publisher.announced)
