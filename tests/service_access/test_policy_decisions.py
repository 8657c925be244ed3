"""Decisions: default deny, roles, places, times, grants; and what a decision says about itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.admission import AccessRequest
from blockcloud.service_access.explain import explain
from blockcloud.service_access.grants import delegate, issue_grant, revocation_ids
from blockcloud.service_access.policy import AccessRules, CompiledRules, RoleEntry, offline_rules, plain_host
from blockcloud.service_chain.policies import policy_digest
from blockcloud.service_chain.records import (
    REGISTERED,
    NameRecord,
    PolicyRecord,
    RevocationRecord,
    RoleRecord,
)

OWNER, ALICE, BOB = (SigningKey(bytes([9, number]) + bytes(30)) for number in range(3))
NAME, ROLE = "files.acme", "staff.acme"
NOON_MONDAY_S = 4 * 86_400 + 12 * 3_600
STAFF = f'@id("staff") permit(principal in Role::"{ROLE}", action == Action::"connect", resource);'
OFFICE_HOURS = (
    '@id("night") forbid(principal, action, resource) unless { context.minute >= 480 && context.minute < 1080 };'
)
INSIDE = '@id("inside") permit(principal, action, resource) when { context.from.isInRange(ip("10.0.0.0/8")) };'


def name_record(name: str = NAME, owner: SigningKey = OWNER) -> NameRecord:
    return NameRecord(name, owner.public, b"", (), 5, 1_000, 5, REGISTERED, 0, 0, 1_000)


def rules(
    text: str,
    members: tuple[bytes, ...] = (),
    *,
    revoked: tuple[tuple[bytes, int], ...] = (),
    issued_after_s: int = 0,
    role_owner: SigningKey = OWNER,
    height: int = 10,
) -> CompiledRules:
    """What the ledger would hold; the role belongs to OWNER, whatever `role_owner` its members were named by."""
    policy = PolicyRecord(NAME, text, policy_digest(text), 7, 5) if text else None
    revocations = RevocationRecord(NAME, OWNER.public, 5, issued_after_s, revoked, 8)
    entry = RoleEntry(ROLE, name_record(ROLE), RoleRecord(ROLE, role_owner.public, 5, members, 8))
    return CompiledRules(AccessRules(height, name_record(), policy, revocations, (entry,) if ROLE in text else ()))


def request(key: SigningKey = ALICE, *, role: str = "", host: str = "127.0.0.1", grant: bytes = b"") -> AccessRequest:
    return AccessRequest(NAME, key.public, host, role, grant)


def test_without_a_policy_everybody_is_let_in_and_with_one_nobody_whom_it_does_not_permit() -> None:
    assert rules("").decide(request(), 0).reason == "open"
    denied = rules(STAFF).decide(request(), 0)
    assert (denied.allowed, denied.reason, denied.rules) == (False, "no_rule", ())
    assert denied.policy_digest == policy_digest(STAFF)


def test_members_of_a_role_are_let_in_and_only_under_its_present_owner() -> None:
    assert rules(STAFF, (ALICE.public,)).decide(request(), 0).rules == ("staff",)
    assert not rules(STAFF, (ALICE.public,)).decide(request(BOB), 0).allowed
    assert not rules(STAFF, (ALICE.public,), role_owner=BOB).decide(request(), 0).allowed


def test_a_role_that_is_asked_for_must_be_held_and_is_the_only_one() -> None:
    compiled = rules(STAFF + INSIDE, (ALICE.public,))
    assert compiled.decide(request(role=ROLE), 0).allowed
    assert compiled.decide(request(BOB, role=ROLE, host="10.1.1.1"), 0).reason == "not_in_role"
    assert compiled.decide(request(role="nurses.acme"), 0).reason == "not_in_role"


def test_a_forbid_beats_every_permit_also_a_grant() -> None:
    grant = issue_grant(OWNER, NAME, BOB.public, issued_s=0, expires_s=2**40)
    compiled = rules(STAFF + OFFICE_HOURS, (ALICE.public,))
    assert compiled.decide(request(), NOON_MONDAY_S).allowed
    assert compiled.decide(request(BOB, grant=grant), NOON_MONDAY_S).rules == ("grant",)
    for who in (request(), request(BOB, grant=grant)):
        night = compiled.decide(who, NOON_MONDAY_S + 12 * 3_600)
        assert (night.allowed, night.reason, night.rules) == (False, "forbidden", ("night",))


def test_a_rule_that_cannot_be_evaluated_denies() -> None:
    overflow = "forbid(principal, action, resource) when { context.time * 9223372036854775807 > 0 };"
    failed = rules(STAFF + overflow, (ALICE.public,)).decide(request(), 2)
    assert (failed.allowed, failed.reason) == (False, "rule_failed")


def test_a_policy_that_the_ledger_would_not_bind_denies_everybody() -> None:
    for lie in ("permit(", "permit(principal, action, resource) when {" + "(" * 5_000):
        assert rules(lie, (ALICE.public,)).decide(request(), 0).reason == "policy_unusable"


def test_nobody_connects_to_a_name_that_is_over() -> None:
    assert rules("", height=1_000).decide(request(), 0).reason == "name_not_active"


@pytest.mark.parametrize(
    ("host", "inside"),
    [("10.2.3.4", True), ("::ffff:10.2.3.4", True), ("11.0.0.1", False), ("fe80::1%eth0", False), ("nonsense", False)],
)
def test_where_somebody_comes_from(host: str, inside: bool) -> None:
    assert rules(INSIDE).decide(request(host=host), 0).allowed is inside


def test_an_address_loses_its_zone() -> None:
    assert plain_host("fe80::1%eth0") == "fe80::1"


@given(st.integers(0, 2**40))
def test_hour_and_weekday_follow_from_the_time(now_s: int) -> None:
    text = f"permit(principal, action, resource) when {{ context.minute == {now_s // 60 % 1440} && context.weekday == "
    weekday = (now_s // 86_400 + 3) % 7 + 1
    assert rules(text + f"{weekday} }};").decide(request(), now_s).allowed


def test_the_first_of_january_1970_was_a_thursday() -> None:
    assert rules("permit(principal, action, resource) when { context.weekday == 4 };").decide(request(), 0).allowed


@settings(max_examples=60)
@given(
    member=st.booleans(),
    permit=st.booleans(),
    forbid=st.booleans(),
    inside=st.booleans(),
    claimed=st.booleans(),
)
def test_decisions_agree_with_a_slow_obvious_model(
    member: bool, permit: bool, forbid: bool, inside: bool, claimed: bool
) -> None:
    """The model: claimed roles must be held; no forbid; and one permit."""
    text = f'forbid(principal == Account::"{format_address(BOB.public)}", action, resource);'
    text += STAFF if permit else ""
    text += INSIDE
    if forbid:
        text += f'forbid(principal == Account::"{format_address(ALICE.public)}", action, resource);'
    decision = rules(text, (ALICE.public,) if member else ()).decide(
        request(role=ROLE if claimed else "", host="10.0.0.1" if inside else "192.0.2.1"), 0
    )
    may_claim = not claimed or (member and permit)  # a role that the policy does not name is nobody's
    assert decision.allowed is (may_claim and not forbid and ((permit and member) or inside))


# Grants


def test_a_grant_lets_its_holder_in_until_it_is_revoked() -> None:
    grant = issue_grant(OWNER, NAME, BOB.public, issued_s=100, expires_s=1_000)
    (identifier,) = revocation_ids(grant)
    asked = request(BOB, grant=grant)
    assert rules(STAFF).decide(asked, 200).granted
    assert rules(STAFF, revoked=((identifier, 1_000),)).decide(asked, 200).reason == "grant_revoked"
    assert rules(STAFF, issued_after_s=101).decide(asked, 200).reason == "grant_revoked"
    assert rules(STAFF, issued_after_s=100).decide(asked, 200).allowed
    assert rules(STAFF).decide(asked, 1_000).reason == "grant_expired"
    assert rules(STAFF).decide(request(ALICE, grant=grant), 200).reason == "grant_of_another_holder"


def test_a_grant_that_is_no_good_is_refused_even_where_a_rule_would_permit() -> None:
    forged = issue_grant(BOB, NAME, ALICE.public, issued_s=0, expires_s=1_000)
    other = issue_grant(OWNER, "other.acme", ALICE.public, issued_s=0, expires_s=1_000)
    compiled = rules(STAFF, (ALICE.public,))
    assert compiled.decide(request(grant=forged), 1).reason == "grant_invalid"
    assert compiled.decide(request(grant=other), 1).reason == "grant_for_another_name"
    assert compiled.decide(request(grant=b"\x91\x90"), 1).reason == "malformed"
    assert compiled.decide(request(grant=bytes(3_000)), 1).reason == "oversized"


def test_revoking_the_first_part_voids_what_was_given_on() -> None:
    first = issue_grant(OWNER, NAME, ALICE.public, issued_s=0, expires_s=1_000, delegable=True)
    given_on = delegate(first, ALICE, NAME, BOB.public, issued_s=0, expires_s=1_000)
    assert rules(STAFF).decide(request(BOB, grant=given_on), 1).allowed
    void = rules(STAFF, revoked=((revocation_ids(first)[0], 1_000),))
    assert void.decide(request(BOB, grant=given_on), 1).reason == "grant_revoked"
    own = rules(STAFF, revoked=((revocation_ids(given_on)[1], 1_000),))
    assert own.decide(request(ALICE, grant=first), 1).allowed, "revoking what was given on leaves the first part"


# Trying a policy, and saying why


def test_a_policy_can_be_tried_before_it_is_bound() -> None:
    offline = offline_rules(NAME, STAFF, {ROLE: (ALICE.public,)})
    assert CompiledRules(offline).decide(request(role=ROLE), 0).allowed
    assert not CompiledRules(offline).decide(request(BOB), 0).allowed
    assert CompiledRules(offline).decide(request(BOB), 0, granted=True).rules == ("grant",)


def test_each_rule_says_why_it_does_not_apply() -> None:
    compiled = rules(STAFF + OFFICE_HOURS + INSIDE, (ALICE.public,))
    staff, night, inside = explain(compiled, request(), NOON_MONDAY_S, False)
    assert (staff["rule"], staff["applies"]) == ("staff", True)
    assert not night["applies"]
    assert "condition 1 does not hold: unless" in night["why"]
    assert "isInRange" in inside["why"]
    staff, night, _ = explain(compiled, request(BOB), 0, False)
    assert f'principal in Role::"{ROLE}"' in staff["why"]
    assert night["applies"]
