"""Policies, roles and grants on a real devnet: `publish` follows the ledger while consumers come, stay and go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import blockcloud
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.admission import PolicyDenied
from blockcloud.service_access.errors import SessionReset
from blockcloud.service_access.grants import delegate, format_grant, issue_grant, parse_grant
from blockcloud.service_access.stream import Session
from tests.end_to_end.ledger_world import STEP_SECONDS, World, devnet_world, until
from tests.end_to_end.service_world import NAME, SMALL, ServiceWorld, service_world

pytestmark = pytest.mark.long

ROLE = "staff.test"
STAFF = f'@id("staff") permit(principal in Role::"{ROLE}", action == Action::"connect", resource);'
NOBODY_HERE = '@id("not-here") forbid(principal, action, resource) when { context.from.isLoopback() };'
FAR_S = 2**40


async def test_who_may_connect_from_first_to_last(tmp_path: Path) -> None:
    async with (
        devnet_world(tmp_path / "net") as world,
        service_world(world, tmp_path, large_bytes=1) as service,
    ):
        scene = Scene(world, service)
        await scene.say("name", "register", ROLE)
        await everybody_may_while_there_is_no_policy(scene)
        await what_cannot_be_bound_is_refused_with_its_reason(scene)
        running = await a_policy_lets_in_members_and_ends_the_sessions_of_others(scene)
        await grants_count_until_they_are_revoked(scene)
        await a_change_ends_a_running_session(scene, running)
        await the_decisions_are_logged(scene)


async def read_to_the_end(session: Session) -> None:
    """Raise what ends a session; that the server has ended its answer does not end it."""
    async with asyncio.timeout(STEP_SECONDS):
        await session.ended()
    if session.error is not None:
        raise session.error


class Scene:
    """The owner's commands, and consumers with keys of their own."""

    def __init__(self, world: World, service: ServiceWorld) -> None:
        self.world, self.service = world, service
        self.owner = SigningKey.load(service.owner_key)
        self.member, self.stranger = SigningKey.generate(), SigningKey.generate()

    async def say(self, *arguments: str, code: int = 0) -> Any:
        """A command of the owner; its JSON, or its messages where it must fail with `code`."""
        more = ("--key", str(self.service.owner_key))
        found, report, messages = await self.service.run(self.world.folder, *arguments, more=more)
        assert found == code, messages
        return report if code == 0 else messages

    def write(self, text: str) -> str:
        path = self.service.folder / "policy.cedar"
        path.write_text(text, encoding="utf-8")
        return str(path)

    async def enter(self, key: SigningKey, grant: bytes = b"", role: str = "") -> Session:
        """A session that has been answered."""
        session = await blockcloud.connect(NAME, home=self.world.folder, identity=key, grant=grant, role=role)
        try:
            await session.write(b"GET /small.txt HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(STEP_SECONDS):
                assert await session.read()
        except BlockCloudError:
            session.abort("closed", "refused")
            raise
        return session

    async def outcome(self, key: SigningKey, grant: bytes = b"", role: str = "") -> str:
        """ "in", or why not."""
        try:
            session = await self.enter(key, grant, role)
        except (PolicyDenied, SessionReset) as refused:
            return str(refused)
        session.abort("closed", "seen enough")
        return "in"

    async def becomes(self, wanted: str, ask: Callable[[], Awaitable[str]]) -> None:
        async def check() -> bool:
            return wanted in await ask()

        await until(check, f"{wanted!r}")


async def everybody_may_while_there_is_no_policy(scene: Scene) -> None:
    assert await scene.outcome(scene.stranger) == "in"
    assert await scene.service.fetch("/small.txt") == SMALL
    assert (await scene.say("policy", "show", NAME))["policy"] is None


async def what_cannot_be_bound_is_refused_with_its_reason(scene: Scene) -> None:
    for text, code in (
        ("permit(principal", "policy_malformed"),
        ('permit(principal in Team::"a", action, resource);', "policy_unknown_type"),
        ("permit(principal, action, resource) when { context.mood > 1 };", "policy_unknown_type"),
        ("permit(principal, action, resource) when {" + "(" * 3_000, "policy_too_complex"),
        (" " * 20_000, "policy_too_large"),
        ("// nobody", "policy_empty"),
    ):
        messages = await scene.say("policy", "set", NAME, scene.write(text), code=4)
        assert f"[{code}]" in messages, messages
    more = ("--key", str(scene.world.key_file("bob")))
    code, _, messages = await scene.service.run(
        scene.world.folder, "policy", "set", NAME, scene.write(STAFF), more=more
    )
    assert (code, "[not_name_owner]" in messages) == (4, True), messages


async def a_policy_lets_in_members_and_ends_the_sessions_of_others(scene: Scene) -> Session:
    stranger = await scene.enter(scene.stranger)
    await scene.say("policy", "set", NAME, scene.write(STAFF))
    with pytest.raises(SessionReset, match="no rule permits it"):
        await read_to_the_end(stranger)
    assert "no_rule" in await scene.outcome(scene.stranger)
    member = format_address(scene.member.public)
    assert (await scene.say("role", "add", ROLE, member))["receipt"]["code"] == "ok"
    await scene.becomes("in", lambda: scene.outcome(scene.member))
    assert "not_in_role" in await scene.outcome(scene.stranger, role=ROLE)
    shown = await scene.say("policy", "test", NAME, "--as", member)
    assert (shown["allowed"], shown["rules"]) == (True, ["staff"])
    return await scene.enter(scene.member, role=ROLE)


async def grants_count_until_they_are_revoked(scene: Scene) -> None:
    key = scene.service.folder / "stranger.pem"
    scene.stranger.save(key)
    file = scene.service.folder / "stranger.grant"
    issued = await scene.say("grant", "issue", NAME, "--to", str(key), "--out", str(file), "--delegable")
    grant = parse_grant(file.read_text())
    assert await scene.outcome(scene.stranger, grant) == "in"
    friend = SigningKey.generate()
    given_on = delegate(grant, scene.stranger, NAME, friend.public, issued_s=0, expires_s=FAR_S)
    assert await scene.outcome(friend, given_on) == "in"
    for wrong, code in (
        (issue_grant(scene.owner, ROLE, scene.stranger.public, issued_s=0, expires_s=FAR_S), "grant_for_another_name"),
        (issue_grant(scene.stranger, NAME, scene.stranger.public, issued_s=0, expires_s=FAR_S), "grant_invalid"),
        (issue_grant(scene.owner, NAME, friend.public, issued_s=0, expires_s=FAR_S), "grant_of_another_holder"),
        (issue_grant(scene.owner, NAME, scene.stranger.public, issued_s=0, expires_s=1), "grant_expired"),
    ):
        assert code in await scene.outcome(scene.stranger, wrong)
    session = await scene.enter(friend, given_on)
    assert (await scene.say("grant", "revoke", NAME, str(file)))["revocation_id"] == issued["revocation_id"]
    with pytest.raises(SessionReset, match="grant_revoked"):
        await read_to_the_end(session)
    assert "grant_revoked" in await scene.outcome(scene.stranger, grant)
    assert "grant_revoked" in await scene.outcome(friend, given_on), "what was given on goes with it"
    assert parse_grant(format_grant(grant)) == grant


async def a_change_ends_a_running_session(scene: Scene, running: Session) -> None:
    assert running.error is None
    await scene.say("policy", "set", NAME, scene.write(STAFF + NOBODY_HERE))
    with pytest.raises(SessionReset, match="forbidden by not-here"):
        await read_to_the_end(running)
    assert "not-here" in await scene.outcome(scene.member)
    await scene.say("policy", "remove", NAME)
    await scene.becomes("in", lambda: scene.outcome(scene.stranger))


async def the_decisions_are_logged(scene: Scene) -> None:
    folder = scene.service.folder / scene.service.published["home"] / "decisions"
    lines = (folder / f"{NAME}.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [msgspec.json.decode(line) for line in lines]
    seen = {(entry["action"], entry["allowed"], entry["reason"]) for entry in entries}
    assert seen >= {
        ("connect", True, "open"),
        ("connect", True, "permitted"),
        ("connect", False, "no_rule"),
        ("connect", False, "grant_revoked"),
        ("end", False, "forbidden"),
        ("end", False, "no_rule"),
    }
    assert (await scene.service.status("publish"))["decisions"]["denied"] > 0
