"""Decisions: may this consumer connect now, and which rule says so. Sans-IO.

`AccessRules` is what the ledger holds about access to one name; `CompiledRules.decide` is a function of these rules,
the request and the time. No policy: open to all. With a policy: denied unless a rule permits, a `forbid` beats every
`permit`, and a rule that cannot be evaluated (an overflow) denies, because the rule that failed may be a `forbid`.
A valid grant is one more rule, "grant", that permits its holder; a `forbid` beats it too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import cedarpy
import msgspec

from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.codec import Struct, encode
from blockcloud.primitives.errors import PeerFault
from blockcloud.service_access.admission import AccessRequest
from blockcloud.service_access.grants import Revoked, issuer_of, verify_grant
from blockcloud.service_chain.policies import members_of, policy_counts, policy_digest
from blockcloud.service_chain.policy_text import CONNECT, PolicyFacts, check_policy
from blockcloud.service_chain.records import (
    REGISTERED,
    AccountKeys,
    NameRecord,
    PolicyRecord,
    RevocationRecord,
    RoleRecord,
)
from blockcloud.service_chain.rejections import Failed

ACCESS_RULES_BYTES: Final = 1024 * 1024
GRANT_RULE: Final = "grant"
_GRANT_POLICY: Final = "\npermit(principal, action, resource) when { context.granted };"

OPEN: Final = "open"  # no policy is bound
PERMITTED: Final = "permitted"
NO_RULE: Final = "no_rule"  # nothing permits
FORBIDDEN: Final = "forbidden"
NOT_IN_ROLE: Final = "not_in_role"
NAME_NOT_ACTIVE: Final = "name_not_active"
RULE_FAILED: Final = "rule_failed"
UNUSABLE: Final = "policy_unusable"  # whoever told us this policy lies: the ledger would not have bound it


class RoleEntry(Struct, frozen=True):
    """A role that the policy names: the name it is, and its members; None where the ledger has neither."""

    role: str
    name: NameRecord | None
    members: RoleRecord | None


class AccessRules(Struct, frozen=True):
    """What the ledger holds at `height` about access to `name`."""

    height: int
    name: NameRecord
    policy: PolicyRecord | None
    revocations: RevocationRecord | None
    roles: tuple[RoleEntry, ...]
    owner_keys: AccountKeys | None = None  # of the account that owns the name, if its keys were changed

    def fingerprint(self) -> bytes:
        """The same for rules that decide the same, whatever their height."""
        return encode((self.name, self.policy, self.revocations, self.roles, self.owner_keys))


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason` is one of the codes above, or that of the grant's refusal; `rules` the names of the rules that decided;
    `detail` says it for people."""

    allowed: bool
    reason: str
    rules: tuple[str, ...]
    policy_digest: bytes
    detail: str
    granted: bool = False


@dataclass
class CompiledRules:
    """`rules`, parsed once. A policy that the ledger would not bind denies everybody."""

    rules: AccessRules
    facts: PolicyFacts | None = None
    _set: cedarpy.PolicySet | None = None
    _names: dict[str, tuple[str, str]] = field(default_factory=dict)  # by Cedar's id: (name, effect)
    _accounts: dict[bytes, str] = field(default_factory=dict)  # that the policy names
    _members: dict[str, frozenset[bytes]] = field(default_factory=dict)
    _revoked: Revoked = field(default_factory=Revoked)

    def __post_init__(self) -> None:
        rules = self.rules
        policy = rules.policy
        if policy is None or not self.bound:
            return
        try:
            self.facts = check_policy(policy.text)
        except Failed:
            return
        self._set = cedarpy.PolicySet.from_str(policy.text + _GRANT_POLICY)
        self._names = {identifier: (name, effect) for identifier, name, effect in self.facts.rules}
        self._accounts = {key: format_address(key) for key in self.facts.accounts}
        self._names[f"policy{len(self.facts.rules)}"] = (GRANT_RULE, "permit")
        self._members = {
            entry.role: frozenset(members_of(entry.members, entry.name, rules.height)) for entry in rules.roles
        }
        record, name = rules.revocations, rules.name
        if record is not None and (record.owner, record.registered_height) == (name.owner, name.registered_height):
            self._revoked = Revoked(frozenset(each for each, _ in record.revoked), record.issued_after_s)

    @property
    def bound(self) -> bool:
        """Whether a policy is bound to the name."""
        return policy_counts(self.rules.policy, self.rules.name)

    @property
    def digest(self) -> bytes:
        """Of the policy that decides; empty for none."""
        policy = self.rules.policy
        return policy.digest if policy is not None and self.bound else b""

    @property
    def issuers(self) -> tuple[bytes, ...]:
        """The keys that may sign grants: any that could sign for the owner alone."""
        keys = self.rules.owner_keys
        if keys is None:
            return (self.rules.name.owner,)
        return keys.keys if keys.threshold == 1 else ()

    def roles_of(self, key: bytes) -> tuple[str, ...]:
        """The roles of this policy that the account is in, ascending."""
        return tuple(role for role in sorted(self._members) if key in self._members[role])

    def decide(self, request: AccessRequest, now_s: int, *, granted: bool | None = None) -> Decision:
        """Whether the session may open at `now_s` (Unix time). `granted` answers for the grant where there is none to
        show (a test of a policy)."""
        if not self.rules.name.is_active(self.rules.height):
            return self._denied(NAME_NOT_ACTIVE, "the name is not active any more")
        if not self.bound:
            return Decision(True, OPEN, (), b"", "no policy is bound to the name")
        if self._set is None:
            return self._denied(UNUSABLE, "the policy cannot be read")
        roles = self.roles_of(request.key)
        if request.role:
            if request.role not in roles:
                return self._denied(NOT_IN_ROLE, f"the account is not in the role {request.role[:80]}")
            roles = (request.role,)
        if granted is None and request.grant:
            try:
                self._check_grant(request, now_s)
            except PeerFault as refused:
                return self._denied(refused.code, f"the grant is refused: {refused}"[:160])
            granted = True
        return self._evaluate(self._set, request, roles, bool(granted), now_s)

    def _check_grant(self, request: AccessRequest, now_s: int) -> None:
        verify_grant(
            request.grant,
            issuer_of(request.grant, self.issuers),
            name=request.name,
            holder=request.key,
            now_s=now_s,
            host=request.host,
            revoked=self._revoked,
        )

    def _evaluate(
        self, policies: cedarpy.PolicySet, request: AccessRequest, roles: tuple[str, ...], granted: bool, now_s: int
    ) -> Decision:
        question, entities = self.question(request, roles, granted, now_s)
        result = cedarpy.is_authorized(question, policies, entities)
        if result.diagnostics.errors:
            return self._denied(RULE_FAILED, f"a rule cannot be evaluated: {result.diagnostics.errors[0]}"[:160])
        decided = tuple(sorted(self._names.get(each, (each, ""))[0] for each in result.diagnostics.reasons))
        shown = ", ".join(decided)
        if result.allowed:
            return Decision(True, PERMITTED, decided, self.digest, f"permitted by {shown}", granted)
        if decided:
            return Decision(False, FORBIDDEN, decided, self.digest, f"forbidden by {shown}", granted)
        return Decision(False, NO_RULE, (), self.digest, "no rule permits it", granted)

    def question(
        self, request: AccessRequest, roles: tuple[str, ...], granted: bool, now_s: int
    ) -> tuple[dict[str, Any], str]:
        """(request, entities) as Cedar takes them, for an account that acts in `roles`.

        A rule can only compare an account with those that the policy names, so any other goes by its key in
        hexadecimal: making an address of it would cost as much as the decision.
        """
        account = {"type": "Account", "id": self._accounts.get(request.key) or request.key.hex()}
        entities: list[dict[str, Any]] = []
        if roles:
            parents = [{"type": "Role", "id": role} for role in roles]
            entities.append({"uid": account, "attrs": {}, "parents": parents})
        context = context_of(request, granted, now_s, self.rules.height)
        question = {
            "principal": account,
            "action": {"type": "Action", "id": CONNECT},
            "resource": {"type": "Name", "id": request.name},
            "context": msgspec.json.encode(context).decode(),
        }
        return question, msgspec.json.encode(entities).decode()

    def _denied(self, reason: str, detail: str) -> Decision:
        return Decision(False, reason, (), self.digest, detail)


def context_of(request: AccessRequest, granted: bool, now_s: int, height: int) -> dict[str, Any]:
    """The context of `policy_text.SCHEMA`."""
    return {
        "role": request.role,
        "from": {"__extn": {"fn": "ip", "arg": plain_host(request.host)}},
        "granted": granted,
        "time": now_s,
        "minute": now_s // 60 % 1_440,
        "weekday": (now_s // 86_400 + 3) % 7 + 1,  # 1 January 1970 was a Thursday
        "height": height,
    }


def plain_host(host: str) -> str:
    """An IP address as Cedar reads it: without a zone, IPv4 not dressed as IPv6. What is none becomes "::", which is
    in no range that anybody would permit."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "::"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def offline_rules(name: str, text: str, members: Mapping[str, tuple[bytes, ...]]) -> AccessRules:
    """Rules made of a policy's text and of who is in which role, to try a policy before it is bound. Raises what
    `check_policy` raises."""
    facts = check_policy(text)
    nobody = bytes(32)

    def record(of: str) -> NameRecord:
        return NameRecord(of, nobody, b"", (), 0, 1, 0, REGISTERED, 0, 0, 1)

    entries = tuple(
        RoleEntry(role, record(role), RoleRecord(role, nobody, 0, members.get(role, ()), 0)) for role in facts.roles
    )
    return AccessRules(0, record(name), PolicyRecord(name, text, policy_digest(text), 0, 0), None, entries)
