"""Policies, roles and revoked grants: what the owner of a name says about who may connect to it.

Three records stand beside a name's own, so that each can be proven and none makes the name's record larger:

- the policy, a Cedar text that was checked when it was bound (`policy_text`). It counts for the registration it was
  made in: who registers the name anew starts without one. A transfer keeps it, as it keeps the service file, because
  dropping it would open the service.
- the members of a role. A role is a name: its owner grants and revokes. They count for the owner who named them, so
  a transfer empties the role, as it takes the instance keys.
- the revoked grants, by their revocation ids, until the grant would have expired anyway, and a time: grants issued up
  to it are all void.

None of these changes the name itself, so "one change per name and commit" does not bind them. DESIGN section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.names import parse_name
from blockcloud.service_chain.accounts import Context, Event
from blockcloud.service_chain.operations import GrantRole, RevokeGrant, RevokeRole, SetPolicy
from blockcloud.service_chain.policy_text import check_policy
from blockcloud.service_chain.records import NameRecord, PolicyRecord, RevocationRecord, RoleRecord
from blockcloud.service_chain.rejections import (
    GrantRevokedAlready,
    NameExpired,
    NameRevoked,
    NoPolicy,
    NotNameOwner,
    NotRoleMember,
    RoleMember,
    TooManyMembers,
    TooManyRevocations,
    UnknownName,
)
from blockcloud.service_chain.state_keys import name_key, policy_key, revocations_key, role_key
from blockcloud.service_chain.working_state import WorkingState

ROLE_MEMBERS: Final = 1_024  # 34 bytes each
REVOKED_GRANTS: Final = 1_024  # 43 bytes each at most


def policy_digest(text: str) -> bytes:
    """What a decision names as the policy it followed, 32 bytes."""
    return tagged_hash("policy/v1", text.encode())


def policy_counts(policy: PolicyRecord | None, name: NameRecord) -> bool:
    """Whether `policy` is of the present registration of `name`."""
    return policy is not None and policy.registered_height == name.registered_height


def members_of(role: RoleRecord | None, name: NameRecord | None, height: int) -> tuple[bytes, ...]:
    """Who is in a role at `height`: nobody if its name is not active, or has another owner than named them."""
    if role is None or name is None or not name.is_active(height):
        return ()
    if (role.owner, role.registered_height) != (name.owner, name.registered_height):
        return ()
    return role.members


def apply_set_policy(state: WorkingState, sender: bytes, operation: SetPolicy, context: Context) -> Sequence[Event]:
    """Bind a checked policy to a name, or none (empty text)."""
    name = _owned(state, sender, operation.name, context)
    key = policy_key(name.name)
    before = state.get(key, PolicyRecord)
    if not operation.text:
        if not policy_counts(before, name):
            raise NoPolicy(name=name.name)
        state.delete(key)
        return _changed("policy", name.name)
    check_policy(operation.text)
    digest = policy_digest(operation.text)
    state.put(key, PolicyRecord(name.name, operation.text, digest, context.height, name.registered_height))
    return _changed("policy", name.name)


def apply_grant_role(state: WorkingState, sender: bytes, operation: GrantRole, context: Context) -> Sequence[Event]:
    """Put an account into a role."""
    name = _owned(state, sender, operation.role, context)
    members = members_of(state.get(role_key(name.name), RoleRecord), name, context.height)
    if operation.member in members:
        raise RoleMember(role=name.name)
    if len(members) >= ROLE_MEMBERS:
        raise TooManyMembers(role=name.name, limit=ROLE_MEMBERS)
    return _put_role(state, name, (*members, operation.member), context)


def apply_revoke_role(state: WorkingState, sender: bytes, operation: RevokeRole, context: Context) -> Sequence[Event]:
    """Take an account out of a role."""
    name = _owned(state, sender, operation.role, context)
    members = members_of(state.get(role_key(name.name), RoleRecord), name, context.height)
    if operation.member not in members:
        raise NotRoleMember(role=name.name)
    return _put_role(state, name, tuple(each for each in members if each != operation.member), context)


def apply_revoke_grant(state: WorkingState, sender: bytes, operation: RevokeGrant, context: Context) -> Sequence[Event]:
    """Void one grant, or all that were issued up to now (no revocation id). Those that have expired are forgotten."""
    name = _owned(state, sender, operation.name, context)
    key = revocations_key(name.name)
    before = state.get(key, RevocationRecord)
    now_s = context.time_ms // 1_000
    issued_after_s = 0
    kept: tuple[tuple[bytes, int], ...] = ()
    if before is not None and before.owner == name.owner and before.registered_height == name.registered_height:
        issued_after_s = before.issued_after_s
        kept = tuple(entry for entry in before.revoked if entry[1] > now_s)
    if not operation.revocation_id:
        issued_after_s, kept = now_s + 1, ()
    elif any(entry[0] == operation.revocation_id for entry in kept):
        raise GrantRevokedAlready(name=name.name)
    elif len(kept) >= REVOKED_GRANTS:
        raise TooManyRevocations(name=name.name, limit=REVOKED_GRANTS)
    else:
        kept = (*kept, (operation.revocation_id, operation.expires_s))
    state.put(
        key,
        RevocationRecord(name.name, name.owner, name.registered_height, issued_after_s, kept, context.height),
    )
    return _changed("policy", name.name)


def _put_role(state: WorkingState, name: NameRecord, members: tuple[bytes, ...], context: Context) -> Sequence[Event]:
    record = RoleRecord(name.name, name.owner, name.registered_height, members, context.height)
    state.put(role_key(name.name), record)
    return _changed("role", name.name)


def _owned(state: WorkingState, sender: bytes, text: str, context: Context) -> NameRecord:
    """The active name `text` of the sender. Raises UnknownName, NameRevoked, NameExpired or NotNameOwner."""
    name = state.get(name_key(parse_name(text)), NameRecord)
    if name is None:
        raise UnknownName(name=text)
    if name.revoked:
        raise NameRevoked(name=text)
    if not name.is_active(context.height):
        raise NameExpired(name=text)
    if name.owner != sender:
        raise NotNameOwner(name=text)
    return name


def _changed(kind: str, name: str) -> Sequence[Event]:
    return [(kind, name.encode("ascii"))]
