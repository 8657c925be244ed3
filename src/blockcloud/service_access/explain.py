"""Why a policy decides as it does: each rule on its own, whether it applies, and what keeps it from applying.

Cedar says which rules decided. For the others each part is tried alone, on the JSON form of the rule: its scope
(principal, action, resource), then each of its conditions.
"""

from __future__ import annotations

import json
from typing import Any

import cedarpy

from blockcloud.service_access.admission import AccessRequest
from blockcloud.service_access.policy import CompiledRules

_SCOPE = ("principal", "action", "resource")


def explain(compiled: CompiledRules, request: AccessRequest, now_s: int, granted: bool) -> list[dict[str, Any]]:
    """One entry for each rule in order: `rule`, `effect`, `applies` and `why`."""
    policy = compiled.rules.policy
    if compiled.facts is None or policy is None:
        return []
    roles = compiled.roles_of(request.key)
    if request.role:
        roles = tuple(role for role in roles if role == request.role)
    question, entities = compiled.question(request, roles, granted, now_s)
    document = json.loads(cedarpy.policies_to_json_str(policy.text))["staticPolicies"]
    found = []
    for identifier, name, effect in compiled.facts.rules:
        why = _why_not(document[identifier], question, entities)
        found.append({"rule": name, "effect": effect, "applies": not why, "why": why or "scope and conditions hold"})
    return found


def _why_not(rule: dict[str, Any], question: dict[str, Any], entities: str) -> str:
    """Empty if the rule applies."""
    for part in _SCOPE:
        if not _holds(_permit(rule, scope=part), question, entities):
            return f"{part} does not match: {_scope_text(rule, part)}"
    for number, condition in enumerate(rule["conditions"], 1):
        if not _holds(_permit(rule, condition=condition), question, entities):
            return f"condition {number} does not hold: {_condition_text(condition)}"
    return ""


def _permit(rule: dict[str, Any], *, scope: str = "", condition: dict[str, Any] | None = None) -> dict[str, Any]:
    """A rule that permits by one part of `rule` alone."""
    parts = {part: rule[part] if part == scope else {"op": "All"} for part in _SCOPE}
    return {"effect": "permit", **parts, "conditions": [condition] if condition is not None else []}


def _text(rule: dict[str, Any]) -> str:
    document = {"templates": {}, "staticPolicies": {"policy0": rule}, "templateLinks": []}
    return cedarpy.policies_from_json_str(json.dumps(document))


def _holds(rule: dict[str, Any], question: dict[str, Any], entities: str) -> bool:
    return bool(cedarpy.is_authorized(question, _text(rule), entities).allowed)


def _scope_text(rule: dict[str, Any], part: str) -> str:
    """`principal in Role::"x"` of a rule."""
    text = " ".join(_text(_permit(rule, scope=part)).split())
    inside = text[text.index("(") + 1 : text.rindex(")")]
    return next((each.strip() for each in inside.split(",") if each.strip().startswith(part)), part)[:160]


def _condition_text(condition: dict[str, Any]) -> str:
    text = " ".join(_text(_permit(dict.fromkeys(_SCOPE), condition=condition)).split())
    kind = str(condition["kind"])
    return text[text.index(f"{kind} ") :].rstrip(";").strip()[:160]
