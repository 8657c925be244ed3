"""What every command has: the global options, and by them its home folder, node, genesis and key.

The rules are the SDK's (`sdk/home.py`); what is imported here is imported late, so that `--help` and completion are
quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from blockcloud.primitives.keys import SigningKey
    from blockcloud.sdk import AsyncClient
    from blockcloud.sdk.home import Home
    from blockcloud.sdk.transport import Transport
    from blockcloud.service_chain.genesis import Genesis

GLOBAL_FLAGS: Final = ("--json",)
GLOBAL_OPTIONS: Final = ("--api", "--key", "--home", "--account", "--cosign", "--draft", "--lane")


class Drafted(Exception):
    """What a command would have sent is in a file."""

    def __init__(self, report: dict[str, Any], next_step: str) -> None:
        super().__init__(next_step)
        self.report, self.next_step = report, next_step


@dataclass
class Options:
    """The global options of this run; empty means not given."""

    api: str = ""
    key: str = ""
    home: str = ""
    as_json: bool = False
    account: str = ""
    cosign: tuple[str, ...] = ()
    draft: str = ""
    lane: int = 0


options = Options()


def command_group(text: str) -> typer.Typer:
    """An empty group of commands. Help is plain text: it starts fast, and screen readers and pipes get the same."""
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=text)


def home() -> Home:
    """The home folder of this run."""
    from blockcloud.sdk.home import Home

    return Home.find(options.home)


def home_folder() -> Path:
    """Its path."""
    return home().path


def load_genesis() -> Genesis:
    """The genesis of the home folder. Raises BadConfiguration with what to do."""
    return home().genesis()


def load_key() -> SigningKey:
    """The key that signs. Raises BadConfiguration."""
    return home().load_key(options.key)


def chosen_account() -> bytes | None:
    """The account to act for: that of --account, else the one in the note beside the key; None: the key's own."""
    return public_key(options.account) if options.account else home().acts_for(options.key)


def load_account() -> bytes:
    """The account to act for, which may be the signing key's own. Raises BadConfiguration."""
    return chosen_account() or load_key().public


def load_cosigners() -> list[SigningKey]:
    """The keys of --cosign. Raises BadConfiguration."""
    from blockcloud.primitives.keys import SigningKey

    return [SigningKey.load(Path(path)) for path in options.cosign]


def public_key(text: str) -> bytes:
    """The public key of an address or of a key file. Raises InvalidAddress or BadConfiguration."""
    from blockcloud.primitives.addresses import PREFIX, parse_address
    from blockcloud.primitives.keys import SigningKey

    if not text.startswith(f"{PREFIX}1") and Path(text).exists():
        return SigningKey.load(Path(text)).public
    return parse_address(text)


def open_client() -> AsyncClient:
    """A client of the home's chain at the nodes that this run is to ask. It acts for the account that was chosen, with
    the keys of --cosign, and with --draft it writes what it would send to a file (`cli/drafting_client.py`)."""
    from blockcloud.sdk import AsyncClient
    from blockcloud.sdk.services import open_client as open_at

    kind = AsyncClient
    if options.draft:
        from blockcloud.cli.drafting_client import DraftingClient

        kind = DraftingClient
    account, cosigners = chosen_account(), load_cosigners()
    return open_at(home(), api=options.api, kind=kind, account=account, cosigners=cosigners, lane=options.lane)


def open_transport() -> Transport:
    """HTTP to the nodes that this run is to ask; with --api it works without a genesis."""
    from blockcloud.sdk.transport import Transport

    return Transport([options.api] if options.api else home().endpoints(load_genesis()))


def proof_view(height: int | None, why_not: str = "") -> dict[str, Any]:
    """Whether a value of the past is proven: by the certified checkpoint at `height`, or (None) not and why not. It is
    not fresh either way: it says what was."""
    return {"verified": height is not None, "height": height, "fresh": False, "why_not": why_not or None}


def link_address_argument(text: str) -> None:
    """Refuse, as a matter of usage, what is no address of a link."""
    from blockcloud.primitives.errors import Malformed
    from blockcloud.service_access.addresses import parse_address

    try:
        parse_address(text)
    except Malformed as error:
        raise typer.BadParameter(str(error)) from None


def address_argument(text: str) -> tuple[str, int]:
    """(host, port) of a HOST:PORT that a person typed; a wrong one is a matter of usage."""
    from blockcloud.primitives.errors import Malformed
    from blockcloud.service_access.addresses import parse_endpoint

    try:
        return parse_endpoint(text)
    except Malformed as error:
        raise typer.BadParameter(str(error)) from None
