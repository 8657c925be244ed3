"""`GET /v1/policies/{name}`: who may connect to a name, in one answer: policy, roles with members, revoked grants.

Providers ask it several times a second, so the msgpack form is the canonical `AccessRules` as the newest state has
them. Nobody has to believe it: what it forbids is forbidden at once, and what it permits counts when it is proven
(`sdk/policy_gate.py`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fastapi import APIRouter, Request, Response

from blockcloud.api.answers import MSGPACK, answer, wants_msgpack
from blockcloud.api.description import ERRORS, described
from blockcloud.api.problems import NotFound
from blockcloud.node.validator import Validator
from blockcloud.primitives import codec
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.names import parse_name
from blockcloud.service_access.policy import AccessRules, CompiledRules, RoleEntry
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.policies import members_of
from blockcloud.service_chain.policy_text import check_policy
from blockcloud.service_chain.records import PolicyRecord, RevocationRecord, RoleRecord, decode_record
from blockcloud.service_chain.rejections import Failed
from blockcloud.service_chain.state_keys import policy_key, revocations_key, role_key


def policy_routes(validator: Validator) -> APIRouter:
    """The routes over `validator`."""
    router = APIRouter(prefix="/v1", tags=["ledger"], responses=ERRORS)
    chain = validator.chain

    @router.get("/policies/{name}", summary="Who may connect to a name, as of now", openapi_extra=described())
    async def policy(request: Request, name: str) -> Response:
        """As msgpack: the canonical bytes of the rules."""
        rules = rules_of(chain, parse_name(name))
        if rules is None:
            raise NotFound("no such name is registered", name=name)
        if wants_msgpack(request):
            return Response(codec.encode(rules), media_type=MSGPACK)
        return answer(request, policy_view(rules))

    @router.get("/roles/{role}", summary="Who is in a role, as of now", openapi_extra=described())
    async def role(request: Request, role: str) -> Response:
        name = chain.name(parse_name(role))
        if name is None:
            raise NotFound("no such name is registered", name=role)
        record = decode_record(chain.get(role_key(role)), RoleRecord)
        return answer(request, role_view(role, members_of(record, name, chain.height), chain.height))

    return router


def rules_of(chain: ServiceChain, name: str) -> AccessRules | None:
    """What the newest state holds about access to `name`; None if nobody registered it."""
    height = chain.height
    record = chain.name(name)
    if record is None:
        return None
    policy = decode_record(chain.get(policy_key(name)), PolicyRecord)
    roles = _roles_of(policy.text) if policy is not None else ()
    entries = tuple(
        RoleEntry(role, chain.name(role), decode_record(chain.get(role_key(role)), RoleRecord)) for role in roles
    )
    revocations = decode_record(chain.get(revocations_key(name)), RevocationRecord)
    return AccessRules(height, record, policy, revocations, entries, chain.account_keys(record.owner))


@lru_cache(maxsize=256)  # asked several times a second
def _roles_of(text: str) -> tuple[str, ...]:
    try:
        return check_policy(text).roles
    except Failed:  # bound under other rules of the protocol
        return ()


def policy_view(rules: AccessRules) -> dict[str, Any]:
    """The rules for people and scripts; `policy` is null where everybody may connect."""
    compiled = CompiledRules(rules)
    policy = rules.policy if compiled.bound else None
    revocations = rules.revocations
    return {
        "name": rules.name.name,
        "owner": format_address(rules.name.owner),
        "height": rules.height,
        "policy": policy.text if policy is not None else None,
        "policy_hash": policy.digest.hex() if policy is not None else None,
        "changed_height": policy.changed_height if policy is not None else None,
        "rules": [
            {"rule": name, "effect": effect} for _, name, effect in (compiled.facts.rules if compiled.facts else ())
        ],
        "roles": [
            role_view(entry.role, members_of(entry.members, entry.name, rules.height), rules.height)
            for entry in rules.roles
        ],
        "revoked_grants": [each.hex() for each, _ in revocations.revoked] if revocations is not None else [],
        "grants_issued_before_are_void": revocations.issued_after_s if revocations is not None else 0,
    }


def role_view(role: str, members: tuple[bytes, ...], height: int) -> dict[str, Any]:
    """Who is in a role."""
    return {"role": role, "members": [format_address(each) for each in members], "height": height}
