"""`blockcloud trust show|export|set|reset`: what this home has verified of its chain, and from where it goes on.

Every command that reads with a proof goes on from there (`sdk/trust_store.py`), and refuses when it is too old to rely
on. Then a person has to decide whom to trust; these commands carry that decision out. None of them asks a node.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from blockcloud.cli.context import command_group, home, load_genesis, options
from blockcloud.cli.output import say, show
from blockcloud.primitives.errors import BadConfiguration, PeerFault

if TYPE_CHECKING:
    from blockcloud.sdk.light_client import TrustedState
    from blockcloud.sdk.trust_store import TrustStore
    from blockcloud.service_chain.genesis import Genesis

app = command_group("What this home has verified of its chain, and from where it goes on.")
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999
NOTHING_YET: Final = "this home has verified nothing of this chain yet; `blockcloud account show` does, for example"


@app.command("show")
def show_trust() -> None:
    """The newest certificate that this home trusts, its age, and for how long it counts."""
    genesis = load_genesis()
    store = _store(genesis)
    show(_report(genesis, store.path, store.load()), as_json=options.as_json)


@app.command()
def export(file: Annotated[Path, typer.Argument(help="The file to make.")]) -> None:
    """Write what this home trusts to a file, for somebody who trusts you: `blockcloud trust set FILE` takes it."""
    from blockcloud.primitives import codec

    genesis = load_genesis()
    state = _store(genesis).load()
    if state is None:
        raise BadConfiguration(NOTHING_YET)
    _require(genesis, state, "what this home trusts is too old to be of use to anybody")
    try:
        with file.open("xb") as target:
            target.write(codec.encode(state))
    except OSError as error:
        raise BadConfiguration(f"cannot write the certificate: {error.strerror}", path=str(file)) from None
    show(_report(genesis, file, state), as_json=options.as_json)
    say("whoever takes it should compare commit_digest with you by another way than the one that the file took")


@app.command("set")
def set_trust(file: Annotated[Path, typer.Argument(help="A file that `blockcloud trust export` made.")]) -> None:
    """Go on from a certificate that somebody you trust has given you, instead of from what was known before."""
    from blockcloud.sdk.errors import ConflictingCertificates
    from blockcloud.sdk.trust_store import read_trusted_state

    genesis = load_genesis()
    store = _store(genesis)
    try:
        state = read_trusted_state(file)
        _require(genesis, state, "the certificate in this file is too old as well")
    except OSError as error:
        raise BadConfiguration(f"cannot read the certificate: {error.strerror}", path=str(file)) from None
    except ConflictingCertificates:
        raise
    except PeerFault as error:
        raise BadConfiguration(f"this is no certificate to go on from: {error}", path=str(file)) from None
    store.save(state)
    show(_report(genesis, store.path, state), as_json=options.as_json)


@app.command()
def reset() -> None:
    """Forget what was verified: the next command begins again from the genesis."""
    kept = _store(load_genesis()).forget()
    show({"forgotten": kept is not None, "old_file": str(kept) if kept else None}, as_json=options.as_json)
    say("the next command begins again from the genesis. That relies on former validators not having sold their keys;")
    say("to be sure, compare `blockcloud trust show` after it with somebody you trust")


def _store(genesis: Genesis) -> TrustStore:
    from blockcloud.sdk.trust_store import TrustStore

    return TrustStore.under(home(), genesis.chain_id())


def _require(genesis: Genesis, state: TrustedState, if_expired: str) -> None:
    """Raise unless a client of this chain may go on from `state` now."""
    from blockcloud.sdk.errors import TrustExpired
    from blockcloud.sdk.light_client import LightClient

    if state.newest is None:
        raise BadConfiguration("it holds no certificate")
    try:
        LightClient(genesis, trusted=state).require_trust(_now_ms())
    except TrustExpired as error:
        raise TrustExpired(if_expired, **error.values) from None


def _report(genesis: Genesis, path: Path, state: TrustedState | None) -> dict[str, Any]:
    """What a state says. `standing`: "genesis" (nothing verified yet), "fresh", "expired" or "conflict"."""
    period_ms = genesis.staking.trusting_period_ms
    report: dict[str, Any] = {
        "chain": genesis.chain_id().hex(),
        "file": str(path),
        "standing": "genesis",
        "era": 0,
        "height": 0,
        "commit_digest": None,
        "state_root": None,
        "time": _text(genesis.time_ms),
        "age_s": None,
        "trusting_period_s": period_ms // 1_000,
        "counts_until": None,
    }
    if state is None or state.newest is None:
        return report
    statement, age_ms = state.newest.statement, _now_ms() - state.time_ms
    return {
        **report,
        "standing": "conflict" if state.evidence else "expired" if age_ms > period_ms else "fresh",
        "era": state.handovers[-1].plan.era if state.handovers else statement.era,
        "height": statement.height,
        "commit_digest": statement.digests[0].hex(),
        "state_root": statement.digests[1].hex(),
        "time": _text(state.time_ms),
        "age_s": age_ms // 1_000,
        "counts_until": _text(state.time_ms + period_ms),
    }


def _text(time_ms: int) -> str:
    """A time for people and programs: ISO 8601, UTC, in whole seconds. A damaged file may say anything."""
    return datetime.fromtimestamp(min(max(0, time_ms // 1_000), _LAST_SECOND), UTC).isoformat()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
