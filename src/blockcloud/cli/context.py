"""Where a command finds its node, genesis and key: from the global options, or inferred when only one fits.

A home folder is a devnet's (it has `devnet.json`), a node's (it has `blockcloud.toml`) or a client's (it has
`genesis.json` and perhaps `keys/account.pem`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.keys import SigningKey

if TYPE_CHECKING:
    from blockcloud.service_chain.genesis import Genesis

GLOBAL_FLAGS: Final = ("--json",)
GLOBAL_OPTIONS: Final = ("--api", "--key", "--home")
ACCOUNT_KEY: Final = "keys/account.pem"


@dataclass
class Options:
    """The global options of this run; empty means not given."""

    api: str = ""
    key: str = ""
    home: str = ""
    as_json: bool = False


options = Options()


def home_folder() -> Path:
    """`--home`, or the XDG data directory of BlockCloud."""
    if options.home:
        return Path(options.home)
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "blockcloud"


def load_genesis() -> Genesis:
    """The genesis of the home folder. Raises BadConfiguration with what to do."""
    from blockcloud.service_chain.genesis import Genesis

    path = home_folder() / "genesis.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise BadConfiguration(
            "no genesis file; name a devnet's folder with --home, or start one with `blockcloud devnet up`",
            path=str(path),
        ) from None
    return Genesis.from_json(text)


def api_urls(genesis: Genesis) -> list[str]:
    """The nodes to ask: the one of `--api`, else every validator of the genesis."""
    return [options.api] if options.api else [validator.api_url for validator in genesis.validators]


def key_path() -> Path:
    """The file of the signing key: `--key`, the home's own, or a devnet's first account."""
    if options.key:
        return Path(options.key)
    own = home_folder() / ACCOUNT_KEY
    if own.exists():
        return own
    devnet_key = home_folder() / "accounts" / "alice.pem"
    if devnet_key.exists():
        return devnet_key
    raise BadConfiguration("no key; name its file with --key, or make one with `blockcloud account new`", path=str(own))


def load_key() -> SigningKey:
    """The key that signs. Raises BadConfiguration."""
    return SigningKey.load(key_path())
