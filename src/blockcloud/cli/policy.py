"""`blockcloud policy set|remove|show|test|explain`, `blockcloud grant issue|delegate|attenuate|show|revoke` and
`blockcloud role add|remove|show`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from blockcloud.cli.context import command_group, load_key, open_client, options, public_key
from blockcloud.cli.output import EXIT_FAILURE, show
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.names import parse_name

if TYPE_CHECKING:
    from blockcloud.service_access.admission import AccessRequest
    from blockcloud.service_access.policy import CompiledRules
    from blockcloud.service_chain.operations import Operation

app = command_group("Who may connect to a service: the policy bound to its name.")
grant = command_group("Grants: let a key connect without telling the ledger.")
role = command_group("Roles: names whose owner says who is in them.")

DAY_SECONDS: Final = 86_400
TEXT_BYTES: Final = 64 * 1024
HERE: Final = "127.0.0.1"

As = Annotated[str, typer.Option("--as", help="Address of an account, or a key file.")]
Role = Annotated[str, typer.Option("--role", help="Role to act in.")]
From = Annotated[str, typer.Option("--from", help="IP address to come from.")]
At = Annotated[int | None, typer.Option("--at", help="Unix time; not given: now.")]
Granted = Annotated[bool, typer.Option("--granted", help="As if with a valid grant.")]
File = Annotated[Path | None, typer.Option("--file", help="Try this policy instead of the ledger's, offline.")]


@app.command("set")
def set_policy(name: str, file: Annotated[Path, typer.Argument(help="The policy, in Cedar.")]) -> None:
    """Bind a policy to a name: from now on nobody connects whom it does not permit."""
    from blockcloud.service_chain.operations import SetPolicy
    from blockcloud.service_chain.policies import policy_digest
    from blockcloud.service_chain.policy_text import check_policy

    text = _read(file)
    facts = check_policy(text)  # before anybody pays for a refusal, and with Cedar's own words
    more = {
        "policy_hash": policy_digest(text).hex(),
        "rules": [{"rule": name, "effect": effect} for _, name, effect in facts.rules],
        "roles": list(facts.roles),
    }
    _change(SetPolicy(parse_name(name), text), {"name": name, **more})


@app.command()
def remove(name: str) -> None:
    """Take the policy off a name: everybody may connect again."""
    from blockcloud.service_chain.operations import SetPolicy

    _change(SetPolicy(parse_name(name), ""), {"name": name, "policy_hash": None})


@app.command("show")
def show_policy(name: str) -> None:
    """The policy of a name with its roles and revoked grants, proven against a certified checkpoint."""
    from blockcloud.api.policies import policy_view

    compiled = asyncio.run(_proven(parse_name(name)))
    show({**policy_view(compiled.rules), "verified": True}, as_json=options.as_json)


@app.command("test")
def try_policy(
    name: str,
    principal: As,
    in_role: Role = "",
    source: From = HERE,
    at: At = None,
    granted: Granted = False,
    file: File = None,
) -> None:
    """Would this account be let in? Exit code 1 if not. With --file, an account is in the role that --role names."""
    view = _decision_view(*_case(name, principal, in_role, source, at, file), granted)
    show(view, as_json=options.as_json)
    if not view["allowed"]:
        raise typer.Exit(EXIT_FAILURE)


@app.command()
def explain(
    name: str,
    principal: As,
    in_role: Role = "",
    source: From = HERE,
    at: At = None,
    granted: Granted = False,
    file: File = None,
) -> None:
    """Which rule allows or forbids, and why each other rule does not apply."""
    from blockcloud.service_access.explain import explain as explain_rules

    compiled, request, now_s = _case(name, principal, in_role, source, at, file)
    view = _decision_view(compiled, request, now_s, granted)
    show({**view, "explained": explain_rules(compiled, request, now_s, granted)}, as_json=options.as_json)


@role.command("add")
def add_member(
    role: str, account: Annotated[str, typer.Argument(help="Address of an account, or a key file.")]
) -> None:
    """Put an account into a role. A role is a name that you own."""
    from blockcloud.service_chain.operations import GrantRole

    _change(GrantRole(parse_name(role), public_key(account)), {"role": role, "member": _address(account)})


@role.command("remove")
def remove_member(
    role: str, account: Annotated[str, typer.Argument(help="Address of an account, or a key file.")]
) -> None:
    """Take an account out of a role; its sessions end within a second."""
    from blockcloud.service_chain.operations import RevokeRole

    _change(RevokeRole(parse_name(role), public_key(account)), {"role": role, "member": _address(account)})


@role.command("show")
def show_role(role: str) -> None:
    """Who is in a role, as a node has it now."""

    async def ask() -> dict[str, Any]:
        async with open_client() as client:
            return await client.transport.json(f"/v1/roles/{parse_name(role)}")

    show(asyncio.run(ask()), as_json=options.as_json)


@grant.command("issue")
def issue(
    name: str,
    to: Annotated[str, typer.Option("--to", help="Address (or key file) that may connect.")],
    out: Annotated[Path, typer.Option("--out", help="File for the grant.")],
    seconds: Annotated[int, typer.Option("--seconds", min=1, help="How long it is good.")] = DAY_SECONDS,
    delegable: Annotated[bool, typer.Option("--delegable", help="The holder may give it on.")] = False,
) -> None:
    """Grant a key access to a name of yours. Nothing is sent: give the file to whom it is for."""
    from blockcloud.service_access.grants import issue_grant

    now_s = int(time.time())
    made = issue_grant(
        load_key(), parse_name(name), public_key(to), issued_s=now_s, expires_s=now_s + seconds, delegable=delegable
    )
    _write_grant(out, made, {"name": name, "to": _address(to), "expires": now_s + seconds, "delegable": delegable})


@grant.command("delegate")
def delegate(
    file: Path,
    name: str,
    to: Annotated[str, typer.Option("--to", help="Address (or key file) that may connect.")],
    out: Annotated[Path, typer.Option("--out", help="File for the grant.")],
    seconds: Annotated[int, typer.Option("--seconds", min=1, help="How long it is good.")] = DAY_SECONDS,
) -> None:
    """Give a delegable grant on, signed by its holder (--key)."""
    from blockcloud.service_access.grants import delegate as give_on

    now_s = int(time.time())
    made = give_on(
        read_grant(file), load_key(), parse_name(name), public_key(to), issued_s=now_s, expires_s=now_s + seconds
    )
    _write_grant(out, made, {"name": name, "to": _address(to), "expires": now_s + seconds, "delegable": False})


@grant.command("attenuate")
def attenuate(
    file: Path,
    owner: Annotated[str, typer.Option("--owner", help="Address (or key file) of the name's owner.")],
    out: Annotated[Path, typer.Option("--out", help="File for the narrower grant.")],
    seconds: Annotated[int, typer.Option("--seconds", min=1, help="How long it stays good, at most.")],
) -> None:
    """Make a grant end earlier. Needs no key and no network; it cannot be undone."""
    from blockcloud.service_access.grants import attenuate as narrow

    end = int(time.time()) + seconds
    _write_grant(out, narrow(read_grant(file), public_key(owner), expires_s=end), {"expires": end})


@grant.command("show")
def show_grant(file: Path) -> None:
    """What a grant says (unverified: only the provider knows the owner's key for sure), and its revocation ids."""
    from blockcloud.service_access.grants import grant_sources, revocation_ids

    found = read_grant(file)
    report = {
        "bytes": len(found),
        "revocation_ids": [each.hex() for each in revocation_ids(found)],
        "blocks": [source.replace("\n", " ") for source in grant_sources(found)],
    }
    show(report, as_json=options.as_json)


@grant.command("revoke")
def revoke(
    name: str,
    what: Annotated[str, typer.Argument(help="A grant's file, or a revocation id in hexadecimal.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="All grants issued up to now.")] = False,
) -> None:
    """Void a grant for a name of yours; its sessions end within a second."""
    from blockcloud.service_access.grants import expiry_of, revocation_ids
    from blockcloud.service_chain.fields import NUMBER_MAX
    from blockcloud.service_chain.operations import RevokeGrant

    if bool(what) == everything:
        raise typer.BadParameter("name one grant, or say --all")
    # The ledger forgets a revocation when the grant has ended anyway; of a bare id nobody knows when that is.
    identifier, expires_s = b"", NUMBER_MAX
    if what and not (identifier := _identifier(what)):
        found = read_grant(Path(what))
        identifier, expires_s = (
            revocation_ids(found)[-1],
            min(NUMBER_MAX, expiry_of(found, asyncio.run(_issuer(found)))),
        )
    _change(
        RevokeGrant(parse_name(name), identifier, expires_s),
        {"name": name, "revocation_id": identifier.hex() or None},
    )


async def _issuer(grant: bytes) -> bytes:
    """Which key of the account that the signing key acts for has issued a grant. Raises GrantInvalid if none has."""
    from blockcloud.sdk.drafts import keys_told
    from blockcloud.service_access.grants import issuer_of

    async with open_client() as client:
        _, keys = await keys_told(client, client.acts_for(load_key()))
    return issuer_of(grant, keys)


def read_grant(path: Path) -> bytes:
    """The grant in a file. Raises BadConfiguration, Malformed or Oversized."""
    from blockcloud.service_access.grants import parse_grant

    return parse_grant(_read(path))


def _write_grant(path: Path, made: bytes, more: dict[str, Any]) -> None:
    from blockcloud.service_access.grants import format_grant, revocation_ids

    path.write_text(format_grant(made) + "\n", encoding="ascii")
    identifier = revocation_ids(made)[-1].hex()
    show({**more, "file": str(path), "bytes": len(made), "revocation_id": identifier}, as_json=options.as_json)


def _identifier(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return b""
    return found if len(found) == 32 else b""


def _case(
    name: str, principal: str, in_role: str, source: str, at: int | None, file: Path | None
) -> tuple[CompiledRules, AccessRequest, int]:
    """The rules of the ledger or a file, and the request that a person describes."""
    from blockcloud.service_access.admission import AccessRequest
    from blockcloud.service_access.policy import CompiledRules, offline_rules

    key, name = public_key(principal), parse_name(name)
    wanted = parse_name(in_role) if in_role else ""
    if file is not None:
        compiled = CompiledRules(offline_rules(name, _read(file), {wanted: (key,)} if wanted else {}))
    else:
        compiled = asyncio.run(_proven(name))
    return compiled, AccessRequest(name, key, source, wanted), int(time.time()) if at is None else at


async def _proven(name: str) -> CompiledRules:
    from blockcloud.sdk.policy_gate import proven_rules
    from blockcloud.service_access.policy import CompiledRules

    async with open_client() as client:
        return CompiledRules(await proven_rules(client, name))


def _decision_view(compiled: CompiledRules, request: AccessRequest, now_s: int, granted: bool) -> dict[str, Any]:
    """The decision on such a request, and what was asked."""
    from blockcloud.primitives.addresses import format_address

    decision = compiled.decide(request, now_s, granted=granted)
    return {
        "name": request.name,
        "principal": format_address(request.key),
        "role": request.role,
        "roles": list(compiled.roles_of(request.key)),
        "action": "connect",
        "from": request.host,
        "time": now_s,
        "allowed": decision.allowed,
        "reason": decision.reason,
        "rules": list(decision.rules),
        "detail": decision.detail,
        "policy_hash": decision.policy_digest.hex() or None,
        "height": compiled.rules.height,
    }


def _change(operation: Operation, more: dict[str, Any]) -> None:
    """Commit one operation and show its receipt."""
    key = load_key()

    async def commit() -> dict[str, Any]:
        from blockcloud.api.views import receipt_view

        async with open_client() as client:
            return {**more, "receipt": receipt_view(await client.transact(key, operation))}

    show(asyncio.run(commit()), as_json=options.as_json)


def _address(text: str) -> str:
    from blockcloud.primitives.addresses import format_address

    return format_address(public_key(text))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(TEXT_BYTES).decode()
    except OSError as error:
        raise BadConfiguration(f"cannot read the file: {error.strerror}", path=str(path)) from None
    except UnicodeDecodeError:
        raise BadConfiguration("the file is not UTF-8 text", path=str(path)) from None
