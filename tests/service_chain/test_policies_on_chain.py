"""Policies, roles and revoked grants on the ledger: who may set them, what is refused and why, how long they count."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.node.policy_engine import require_policy_engine
from blockcloud.primitives.errors import BadConfiguration, BlockCloudError
from blockcloud.service_chain import policies
from blockcloud.service_chain.genesis import Genesis, PolicyParameters
from blockcloud.service_chain.operations import (
    GrantRole,
    Operation,
    RevokeGrant,
    RevokeName,
    RevokeRole,
    SetPolicy,
    TransferName,
)
from blockcloud.service_chain.policies import members_of, policy_counts, policy_digest
from blockcloud.service_chain.policy_text import ENGINE, POLICY_BYTES, POLICY_NESTING, RULE_OPERATORS, check_policy
from blockcloud.service_chain.records import NameRecord, PolicyRecord, RevocationRecord, RoleRecord
from blockcloud.service_chain.rejections import Failed
from blockcloud.service_chain.state_keys import name_key, policy_key, revocations_key, role_key
from tests.service_chain.ledger_in_memory import NAMING, USERS, Ledger, small_genesis

ALICE, BOB, MALLORY = USERS[1], USERS[2], USERS[3]
NAME = "thermo"
EVERYBODY = '@id("all") permit(principal, action == Action::"connect", resource);'
MEMBERS = '@id("staff") permit(principal in Role::"thermo", action, resource);'
ID, OTHER_ID = bytes([1]) * 32, bytes([2]) * 32
FAR_S = 10**12


def named_ledger() -> Ledger:
    ledger = Ledger()
    assert ledger.register(ALICE, NAME, b"", ()) == "ok"
    return ledger


def name(ledger: Ledger) -> NameRecord:
    found = ledger.chain._working.get(name_key(NAME), NameRecord)
    assert found is not None
    return found


def policy(ledger: Ledger) -> PolicyRecord | None:
    return ledger.chain._working.get(policy_key(NAME), PolicyRecord)


def members(ledger: Ledger) -> tuple[bytes, ...]:
    return members_of(ledger.chain._working.get(role_key(NAME), RoleRecord), name(ledger), ledger.height)


def revocations(ledger: Ledger) -> RevocationRecord:
    found = ledger.chain._working.get(revocations_key(NAME), RevocationRecord)
    assert found is not None
    return found


def test_a_policy_is_bound_changed_and_removed() -> None:
    ledger = named_ledger()
    assert ledger.run(ALICE, SetPolicy(NAME, "")) == "no_policy"
    assert ledger.run(ALICE, SetPolicy(NAME, EVERYBODY)) == "ok"
    bound = policy(ledger)
    assert bound is not None
    assert (bound.text, bound.digest, bound.changed_height) == (EVERYBODY, policy_digest(EVERYBODY), ledger.height)
    assert ledger.run(ALICE, SetPolicy(NAME, MEMBERS)) == "ok"
    assert ledger.run(ALICE, SetPolicy(NAME, "")) == "ok"
    assert policy(ledger) is None


CHANGES: list[Operation] = [
    SetPolicy(NAME, EVERYBODY),
    GrantRole(NAME, BOB.public),
    RevokeRole(NAME, BOB.public),
    RevokeGrant(NAME, ID, FAR_S),
]


@pytest.mark.parametrize("operation", CHANGES, ids=lambda each: type(each).__name__)
def test_only_the_owner_of_an_active_name_says_who_may_connect(operation: Operation) -> None:
    ledger = Ledger()
    assert ledger.run(ALICE, operation) == "unknown_name"
    ledger = named_ledger()
    assert ledger.run(MALLORY, operation) == "not_name_owner"
    ledger.advance(NAMING.lifetime)
    assert ledger.run(ALICE, operation) == "name_expired"
    ledger = named_ledger()
    assert ledger.run(ALICE, RevokeName(NAME)) == "ok"
    assert ledger.run(ALICE, operation) == "name_revoked"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("permit(principal, action, resource", "policy_malformed"),
        ("permit(principal == ?principal, action, resource);", "policy_malformed"),
        ('permit(principal, action, resource) when {context.time < "noon"};', "policy_malformed"),
        ("permit(principal, action, resource) when {context.time < 9223372036854775808};", "policy_malformed"),
        ('permit(principal in Group::"staff", action, resource);', "policy_unknown_type"),
        ('permit(principal, action == Action::"fly", resource);', "policy_unknown_type"),
        ("permit(principal, action, resource) when {context.mood == 1};", "policy_unknown_type"),
        ('permit(principal in Role::"No Name", action, resource);', "policy_unknown_type"),
        ('permit(principal == Account::"bloc1typo", action, resource);', "policy_unknown_type"),
        ("// nothing", "policy_empty"),
        (EVERYBODY * 65, "policy_too_complex"),
        (
            "permit(principal, action, resource) when {" + "(" * 2_000 + "true" + ")" * 2_000 + "};",
            "policy_too_complex",
        ),
        ("permit(principal, action, resource) when {" + "true&&" * 2_000 + "true};", "policy_too_complex"),
        ("é" * (POLICY_BYTES // 2 + 1), "policy_too_large"),
    ],
)
def test_a_policy_that_cannot_be_bound_is_refused_with_its_reason(text: str, code: str) -> None:
    ledger = named_ledger()
    assert ledger.run(ALICE, SetPolicy(NAME, text)) == code
    assert policy(ledger) is None


@pytest.mark.parametrize("depth", [POLICY_NESTING - 3])
def test_what_is_inside_the_bounds_does_not_exhaust_the_parser(depth: int) -> None:
    rule = "permit(principal, action, resource) when {"
    check_policy(rule + "(" * depth + "true" + ")" * depth + "};")
    check_policy(rule + "true&&" * RULE_OPERATORS + "true};")


@settings(max_examples=200)
@given(st.text(alphabet='permitforbd(),;{}[]"/\\.:&|!=<>+-*@ \n\r?é0contexwhl', max_size=120))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with suppress(Failed):  # anything else is a bug
        check_policy(text)


def test_two_processes_with_different_hash_seeds_come_to_the_same_facts() -> None:
    code = (
        "from blockcloud.service_chain.policy_text import check_policy;"
        "print(check_policy('permit(principal in Role::\"b\", action, resource);'"
        '\'forbid(principal in Role::"a", action, resource) when {principal in Role::"c"};\'))'
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1
    assert b"roles=('a', 'b', 'c')" in answers.pop()


def test_a_transfer_keeps_the_policy_and_empties_the_role() -> None:
    ledger = named_ledger()
    assert ledger.run(ALICE, SetPolicy(NAME, MEMBERS)) == "ok"
    assert ledger.run(ALICE, GrantRole(NAME, MALLORY.public)) == "ok"
    assert members(ledger) == (MALLORY.public,)
    assert ledger.run(ALICE, TransferName(NAME, BOB.public)) == "ok"
    assert policy_counts(policy(ledger), name(ledger))
    assert members(ledger) == ()
    assert ledger.run(BOB, RevokeRole(NAME, MALLORY.public)) == "not_role_member"
    assert ledger.run(BOB, GrantRole(NAME, BOB.public)) == "ok"
    assert members(ledger) == (BOB.public,)


def test_whoever_registers_a_name_anew_starts_without_policy_and_members() -> None:
    ledger = named_ledger()
    assert ledger.run(ALICE, SetPolicy(NAME, MEMBERS)) == "ok"
    assert ledger.run(ALICE, GrantRole(NAME, MALLORY.public)) == "ok"
    assert ledger.run(ALICE, RevokeName(NAME)) == "ok"
    assert members(ledger) == ()
    ledger.advance(1)
    assert ledger.register(ALICE, NAME, b"", ()) == "ok"
    assert not policy_counts(policy(ledger), name(ledger))
    assert members(ledger) == ()
    assert ledger.run(ALICE, SetPolicy(NAME, "")) == "no_policy"


def test_a_role_is_bounded_and_has_each_member_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "ROLE_MEMBERS", 1)
    ledger = named_ledger()
    assert ledger.run(ALICE, GrantRole(NAME, BOB.public)) == "ok"
    assert ledger.run(ALICE, GrantRole(NAME, BOB.public)) == "role_member"
    assert ledger.run(ALICE, GrantRole(NAME, MALLORY.public)) == "too_many_members"
    assert ledger.run(ALICE, RevokeRole(NAME, BOB.public)) == "ok"
    assert members(ledger) == ()


def test_revoked_grants_are_kept_until_they_would_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "REVOKED_GRANTS", 1)
    ledger = named_ledger()
    assert ledger.run(ALICE, RevokeGrant(NAME, ID, FAR_S)) == "ok"
    assert ledger.run(ALICE, RevokeGrant(NAME, ID, FAR_S)) == "grant_revoked_already"
    assert ledger.run(ALICE, RevokeGrant(NAME, OTHER_ID, FAR_S)) == "too_many_revocations"
    assert ledger.run(ALICE, RevokeGrant(NAME, b"", 0)) == "ok"
    assert revocations(ledger).revoked == ()
    assert revocations(ledger).issued_after_s > 0
    assert ledger.run(ALICE, RevokeGrant(NAME, ID, 0)) == "ok"
    assert ledger.run(ALICE, RevokeGrant(NAME, OTHER_ID, FAR_S)) == "ok", "the expired one made room"
    assert revocations(ledger).revoked == ((OTHER_ID, FAR_S),)


def test_a_node_with_another_engine_than_the_genesis_names_refuses() -> None:
    genesis = small_genesis()
    require_policy_engine(genesis)
    assert genesis.policies.engine == ENGINE
    other = msgspec.structs.replace(genesis, policies=PolicyParameters("cedarpy 1.0.0"))
    assert other.chain_id() != genesis.chain_id()
    assert Genesis.from_json(other.to_json()) == other
    with pytest.raises(BadConfiguration, match="engine"):
        require_policy_engine(other)
    with pytest.raises(BlockCloudError):
        msgspec.structs.replace(genesis, policies=PolicyParameters("")).check()
