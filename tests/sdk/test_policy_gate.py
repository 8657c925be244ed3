"""The gate of a provider: what is proven opens, what is told only closes, and who lost access is shown out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import RESOLUTION_AGE_SECONDS
from blockcloud.sdk.client import AsyncClient
from blockcloud.sdk.decision_log import DecisionLog
from blockcloud.sdk.policy_gate import PolicyGate, proven_rules, told_rules
from blockcloud.service_access.admission import AccessRequest, PolicyDenied
from blockcloud.service_access.policy import AccessRules
from blockcloud.service_access.resolution import UnknownName
from blockcloud.service_chain.operations import GrantRole, Operation, RevokeRole, SetPolicy
from blockcloud.service_chain.policies import policy_digest
from blockcloud.service_chain.records import PolicyRecord
from tests.sdk.sdk_world import OTHER, OWNER, World

NAME, ROLE = "thermo", "staff"
STAFF = f'@id("staff") permit(principal in Role::"{ROLE}", action, resource);'
EVERYBODY = '@id("all") permit(principal, action, resource);'
NOBODY = '@id("closed") forbid(principal, action, resource);'
WAIT_SECONDS = 20.0


@pytest.fixture
async def client(world: World) -> AsyncIterator[AsyncClient]:
    genesis = world.ledger.genesis
    async with AsyncClient(genesis, world.urls, now_ms=lambda: world.ledger.now_ms) as client:
        for name in (NAME, ROLE):
            await client.preorder_and_register(OWNER, name)
        yield client


def request(key: SigningKey = OTHER) -> AccessRequest:
    return AccessRequest(NAME, key.public, "127.0.0.1")


async def say(client: AsyncClient, *operations: Operation) -> int:
    return (await client.transact(OWNER, *operations)).height


def with_policy(rules: AccessRules, text: str, *, later: int) -> AccessRules:
    """What a node may tell: another policy, so many commits after what is proven."""
    height = rules.height + later
    policy = PolicyRecord(NAME, text, policy_digest(text), height, rules.name.registered_height)
    return msgspec.structs.replace(rules, height=height, policy=policy if text else None)


async def still(client: AsyncClient, decisions: DecisionLog | None = None) -> PolicyGate:
    """A gate that was proven once and does not follow."""
    gate = PolicyGate(client, NAME, decisions=decisions)
    gate._accept(await proven_rules(client, NAME))
    return gate


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def test_rules_are_proven_with_the_roles_that_they_name(client: AsyncClient) -> None:
    with pytest.raises(UnknownName):
        await proven_rules(client, "nobody")
    assert (await proven_rules(client, NAME)).policy is None
    height = await say(client, SetPolicy(NAME, STAFF), GrantRole(ROLE, OTHER.public))
    rules = await proven_rules(client, NAME, at_least_height=height)
    assert rules.policy is not None
    assert [(entry.role, entry.members.members if entry.members else ()) for entry in rules.roles] == [
        (ROLE, (OTHER.public,))
    ]
    told = await told_rules(client, client.transport.urls[0], NAME)
    assert told.fingerprint() == rules.fingerprint(), "a node tells the same as it can prove"


async def test_a_gate_follows_the_ledger(client: AsyncClient) -> None:
    async with PolicyGate(client, NAME) as gate:
        assert not gate.active
        gate.admit(request())
        await say(client, SetPolicy(NAME, STAFF))
        await until(lambda: not gate.decide(request()).allowed)
        assert gate.active
        with pytest.raises(PolicyDenied, match="no_rule"):
            gate.admit(request())
        await say(client, GrantRole(ROLE, OTHER.public))
        await until(lambda: gate.decide(request()).allowed)
        await say(client, RevokeRole(ROLE, OTHER.public))
        await until(lambda: not gate.decide(request()).allowed)
        await say(client, SetPolicy(NAME, ""))
        await until(lambda: gate.decide(request()).allowed)


async def test_what_a_node_tells_can_close_and_never_open(client: AsyncClient) -> None:
    gate = await still(client)
    rules = await proven_rules(client, NAME)
    gate._hear("a", with_policy(rules, NOBODY, later=1))
    assert gate.decide(request()).rules == ("closed",)
    gate._hear("b", with_policy(rules, EVERYBODY, later=2))
    assert not gate.decide(request()).allowed, "two stories: the stricter one counts"
    gate._hear("a", rules)
    assert gate.decide(request()).allowed, "it has taken its word back"
    await say(client, SetPolicy(NAME, NOBODY))
    gate._accept(await proven_rules(client, NAME))
    for text in (EVERYBODY, ""):
        gate._hear("a", with_policy(rules, text, later=50))
        assert not gate.decide(request()).allowed


async def test_a_proof_settles_what_was_told_before_it(client: AsyncClient) -> None:
    gate = await still(client)
    rules = await proven_rules(client, NAME)
    gate._hear("liar", with_policy(rules, NOBODY, later=1))
    gate._hear("late", with_policy(rules, NOBODY, later=0))
    gate._hear(
        "stranger", msgspec.structs.replace(rules, name=msgspec.structs.replace(rules.name, name="x"), height=99)
    )
    assert list(gate._told) == ["liar"]
    await say(client, SetPolicy(NAME, EVERYBODY))
    gate._accept(await proven_rules(client, NAME))
    assert gate.decide(request()).rules == ("all",)
    gate._accept(rules)
    assert gate.decide(request()).rules == ("all",), "an older proof takes nothing back"


async def test_without_a_proof_for_a_minute_the_gate_is_shut(client: AsyncClient) -> None:
    gate = await still(client)
    assert gate.decide(request()).allowed
    gate._proven_at -= RESOLUTION_AGE_SECONDS + 1
    assert gate.decide(request()).reason == "policy_stale"
    assert gate.active, "consumers wait for an answer"
    gate._accept(await proven_rules(client, NAME))
    assert gate.decide(request()).allowed
    assert not PolicyGate(client, NAME).decide(request()).allowed, "one that was never proven is shut too"


async def test_every_decision_is_logged(client: AsyncClient, tmp_path: Path) -> None:
    decisions = DecisionLog(tmp_path / "thermo.jsonl")
    gate = await still(client, decisions)
    gate.admit(request())
    gate._hear("a", with_policy(await proven_rules(client, NAME), NOBODY, later=1))
    with pytest.raises(PolicyDenied):
        gate.admit(request())
    first, second = [msgspec.json.decode(line) for line in decisions.path.read_bytes().splitlines()]
    assert (first["allowed"], first["reason"], first["rules"]) == (True, "open", [])
    assert (second["allowed"], second["reason"], second["rules"]) == (False, "forbidden", ["closed"])
    assert second["policy_hash"] == policy_digest(NOBODY).hex()
    assert decisions.counts == {"allowed": 1, "denied": 1}
