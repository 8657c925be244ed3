"""A home folder: where programs and commands find the genesis, keys and control sockets, without being told.

It is a devnet's (it has `devnet.json`), a node's (it has `blockcloud.toml`) or a client's (it has `genesis.json` and
perhaps `keys/account.pem`). What is not said is inferred when only one thing fits. The environment says what arguments
do not: BLOCKCLOUD_HOME, BLOCKCLOUD_API, BLOCKCLOUD_KEY. Places: `reference/parameters.md`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blockcloud.primitives.addresses import format_address, parse_address
from blockcloud.primitives.errors import BadConfiguration, InvalidAddress
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.genesis import Genesis

GENESIS_FILE: Final = "genesis.json"
GENESIS_BYTES: Final = 16 * 1024 * 1024
ACCOUNT_KEY: Final = "keys/account.pem"
DEVNET_KEY: Final = "accounts/alice.pem"
INSTANCE_KEY: Final = "keys/instance.pem"
NOTE_BYTES: Final = 256
RUN_FOLDER: Final = "run"
# A longer name of what is controlled is shortened, so that the socket's file has a name the system takes.
CONTROL_NAME_CHARACTERS: Final = 64


@dataclass(frozen=True)
class Home:
    """The folder `path`. It need not exist until something is read from it."""

    path: Path

    @classmethod
    def find(cls, folder: str | Path | None = None) -> Home:
        """The home at `folder`, else at BLOCKCLOUD_HOME, else the XDG data directory of BlockCloud."""
        chosen = folder or os.environ.get("BLOCKCLOUD_HOME")
        if chosen:
            return cls(Path(chosen))
        data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
        return cls(Path(data) / "blockcloud")

    def genesis(self) -> Genesis:
        """The genesis in this home. Raises BadConfiguration."""
        return read_genesis(self.path / GENESIS_FILE)

    def endpoints(self, genesis: Genesis, api: str | None = None) -> list[str]:
        """The nodes to ask: the one at `api`, else at BLOCKCLOUD_API, else every validator of the genesis."""
        chosen = api or os.environ.get("BLOCKCLOUD_API")
        return [chosen] if chosen else [validator.api_url for validator in genesis.validators]

    @property
    def account_key_path(self) -> Path:
        """Where this home's own key is, or is to be."""
        return self.path / ACCOUNT_KEY

    def key_path(self, key: str | Path | None = None) -> Path:
        """The file of the key that signs: `key`, else BLOCKCLOUD_KEY, else this home's own, else a devnet's first
        account. Raises BadConfiguration if there is none."""
        chosen = key or os.environ.get("BLOCKCLOUD_KEY")
        if chosen:
            return Path(chosen)
        for place in (ACCOUNT_KEY, DEVNET_KEY):
            if (self.path / place).exists():
                return self.path / place
        raise BadConfiguration(
            "no key; name its file with --key, or make one with `blockcloud account new`",
            path=str(self.account_key_path),
        )

    def load_key(self, key: str | Path | None = None) -> SigningKey:
        """The key that signs, by the rules of `key_path`. Raises BadConfiguration."""
        return SigningKey.load(self.key_path(key))

    def own_key(self, key: OwnerKey = None) -> SigningKey:
        """`key` if it is one, else as `load_key`. Raises BadConfiguration."""
        return key if isinstance(key, SigningKey) else self.load_key(key)

    def acts_for(self, key: str | Path | None = None) -> bytes | None:
        """The account that the key in the file `key` (by the rules of `key_path`) signs for, where a change of keys has
        left a note beside it; None: its own. Raises BadConfiguration."""
        try:
            note = account_note(self.key_path(key))
        except BadConfiguration:
            return None  # no key at all: whoever needs one says so
        try:
            with note.open("rb") as file:
                return parse_address(file.read(NOTE_BYTES).decode("ascii", "replace").strip())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadConfiguration(f"cannot read the note: {error.strerror}", path=str(note)) from None
        except InvalidAddress as error:
            raise BadConfiguration(f"the note does not hold an address: {error}", path=str(note)) from None

    def instance_key(self) -> SigningKey:
        """The key by which this home's instances answer for names; made at the first use. Raises BadConfiguration.

        One home is one replica: replicas of a service have a home each, or they would answer with the same key.
        """
        path = self.path / INSTANCE_KEY
        if not path.exists():
            # Two processes may come here at once: one of them makes it, both load it.
            with suppress(BadConfiguration):
                SigningKey.generate().save(path)
        return SigningKey.load(path)

    def control_path(self, name: str) -> Path:
        """The control socket of what serves under `name`; its folder exists afterwards, for this user only."""
        folder = self.path.absolute() / RUN_FOLDER
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BadConfiguration(f"cannot make the folder: {error.strerror}", path=str(folder)) from None
        if len(name) > CONTROL_NAME_CHARACTERS:
            name = f"{name[: CONTROL_NAME_CHARACTERS // 2]}-{sha256(name.encode()).hex()[:16]}"
        return folder / f"{name}.sock"


def account_note(key_file: Path) -> Path:
    """Where it stands which account a key acts for that is not that account's first key: no secret, an address."""
    return key_file.with_name(key_file.name + ".account")


def leave_note(key_file: Path, public_key: bytes, account: bytes) -> None:
    """Note beside a key that it acts for `account` from now on; its own account needs no note."""
    note = account_note(key_file)
    if public_key == account:
        note.unlink(missing_ok=True)
    else:
        note.write_text(format_address(account) + "\n", encoding="ascii")


def read_genesis(path: Path) -> Genesis:
    """The genesis file at `path`. Raises BadConfiguration with what to do."""
    try:
        with path.open("rb") as file:
            data = file.read(GENESIS_BYTES + 1)
    except FileNotFoundError:
        raise BadConfiguration(
            "no genesis file; name a devnet's folder with --home, or start one with `blockcloud devnet up`",
            path=str(path),
        ) from None
    except OSError as error:
        raise BadConfiguration(f"cannot read the genesis: {error.strerror}", path=str(path)) from None
    if len(data) > GENESIS_BYTES:
        raise BadConfiguration("the genesis file is larger than its limit", path=str(path), limit=GENESIS_BYTES)
    try:
        return Genesis.from_json(data.decode("utf-8"))
    except (UnicodeDecodeError, BadConfiguration) as error:
        raise BadConfiguration(f"not a valid genesis: {error}", path=str(path)) from None


Place = str | Path | Home | None
OwnerKey = str | Path | SigningKey | None
