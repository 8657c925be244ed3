"""Files with secrets: the token that devices show, and the login at a broker. Nobody but their owner may read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from msgspec import Struct

from blockcloud.primitives.errors import BadConfiguration

TOKEN_BYTES_MIN: Final = 16
SECRET_BYTES: Final = 1_024
USER_CHARACTERS: Final = 256


class Login(Struct, frozen=True):
    """Who a feed is at a broker."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.user!r})"


def read_token(path: Path) -> bytes:
    """The token that devices have to show. Raises BadConfiguration."""
    token = _read(path, "token").strip()
    if len(token) < TOKEN_BYTES_MIN or any(byte <= 0x20 or byte > 0x7E for byte in token):
        raise BadConfiguration("a token is at least 16 printable characters", path=str(path))
    return token


def read_login(path: Path) -> Login:
    """The user's name and the password, each a line. Raises BadConfiguration."""
    try:
        lines = _read(path, "login").decode().splitlines()
    except UnicodeDecodeError:
        raise BadConfiguration("a login is text", path=str(path)) from None
    if len(lines) != 2 or not all(lines) or len(lines[0]) > USER_CHARACTERS or "\0" in lines[0]:
        raise BadConfiguration("a login is two lines, a user's name and a password", path=str(path))
    return Login(*lines)


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise BadConfiguration(f"others may read the {what} file: chmod 600 it", path=str(path))
            found = file.read(SECRET_BYTES + 1)
    except OSError as error:
        raise BadConfiguration(f"cannot read the {what} file: {error.strerror}", path=str(path)) from None
    if len(found) > SECRET_BYTES:
        raise BadConfiguration(f"the {what} file is too long", path=str(path), limit=SECRET_BYTES)
    return found
