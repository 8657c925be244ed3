"""Policy text: what may be bound to a name, and how it is checked before it is.

A policy is Cedar (Cutler et al., "Cedar: A New Language for Expressive, Fast, Safe, and Analyzable Authorization",
OOPSLA 2024): no loops, no I/O, integers only, default deny, a `forbid` beats every `permit`. It is checked against
`SCHEMA` when it is bound, so that a typing error is found by its author and not by a consumer. The verdict is part of
consensus: every node needs the same Cedar (`ENGINE`, which the genesis names).

Cedar's parser recurses, and a deep enough text overflows its stack and ends the process. `check_policy` therefore
bounds brackets before Cedar sees the text, also those in strings and comments, and the operators of one rule, because
a chain of them nests too. DESIGN section 4, "Security layer".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import cedarpy

from blockcloud.primitives.addresses import format_address, parse_address
from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.names import parse_name
from blockcloud.service_chain.rejections import (
    Failed,
    PolicyEmpty,
    PolicyMalformed,
    PolicyTooComplex,
    PolicyTooLarge,
    PolicyUnknownType,
)

ENGINE: Final = "cedarpy 4.12.2"
POLICY_BYTES: Final = 16 * 1024
POLICY_RULES: Final = 64
POLICY_ROLES: Final = 16
POLICY_NESTING: Final = 24  # brackets inside one another; Cedar's parser dies at about 1,000
RULE_OPERATORS: Final = 200  # each is two levels of the JSON form, which Python reads to a depth of about 900
REASON_CHARACTERS: Final = 160

# `time`: Unix seconds; `minute` of the day (UTC) and `weekday` (Monday is 1) follow from it. `role`: the one that the
# consumer asks to act in, "" for none. `granted`: it holds a valid grant. `height`: of the proven policy.
SCHEMA: Final = """
entity Role;
entity Account in [Role];
entity Name;
action connect appliesTo {
  principal: [Account],
  resource: [Name],
  context: {
    role: String, from: ipaddr, granted: Bool,
    time: Long, minute: Long, weekday: Long, height: Long
  }
};
"""
CONNECT: Final = "connect"

_SKIPPED = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n\r]*', re.DOTALL)
_OPERATORS = re.compile(r"&&|\|\||[-+*!.]|\b(?:if|has|like|is|in)\b|[<>=]=?")
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
# How Cedar begins its complaint about something that the schema does not have.
_UNKNOWN = ("unrecognized", "not found", "unable to find an applicable action", "undeclared", "unknown")


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """What a checked policy holds: `rules` as (Cedar's id, the author's `@id` or "rule N", effect), in order, and the
    `roles` and the `accounts` (public keys) that it names, each once, ascending."""

    rules: tuple[tuple[str, str, str], ...]
    roles: tuple[str, ...]
    accounts: tuple[bytes, ...]


@lru_cache(maxsize=1)
def schema() -> cedarpy.Schema:
    """The parsed schema."""
    return cedarpy.Schema.from_str(SCHEMA)


def check_policy(text: str) -> PolicyFacts:
    """The facts of a policy that may be bound.

    Raises PolicyTooLarge, PolicyTooComplex, PolicyMalformed, PolicyUnknownType or PolicyEmpty, with the reason.
    """
    size = len(text.encode())
    if size > POLICY_BYTES:
        raise PolicyTooLarge(bytes=size, limit=POLICY_BYTES)
    _check_nesting(text)
    try:
        document = json.loads(cedarpy.policies_to_json_str(text))
    except (ValueError, RecursionError) as error:
        raise PolicyMalformed(_reason(str(error))) from None
    if document["templates"]:
        raise PolicyMalformed("a policy has no slots such as ?principal: nobody would fill them")
    facts = _facts(document)
    result = cedarpy.validate_policies(text, schema())
    if not result.validation_passed:
        raise _invalid([str(each.error) for each in result.errors])
    return facts


def _check_nesting(text: str) -> None:
    depth = 0
    for character in text:
        if character in _OPEN:
            depth += 1
            if depth > POLICY_NESTING:
                raise PolicyTooComplex("brackets inside one another", limit=POLICY_NESTING)
        elif character in _CLOSE:
            depth = max(0, depth - 1)
    for rule in _SKIPPED.sub('""', text).split(";"):
        operators = len(_OPERATORS.findall(rule))
        if operators > RULE_OPERATORS:
            raise PolicyTooComplex("operators of one rule", operators=operators, limit=RULE_OPERATORS)


def _facts(document: dict[str, Any]) -> PolicyFacts:
    policies: dict[str, Any] = document["staticPolicies"]
    if not policies:
        raise PolicyEmpty
    if len(policies) > POLICY_RULES:
        raise PolicyTooComplex("rules of one policy", rules=len(policies), limit=POLICY_RULES)
    in_order = sorted(policies, key=lambda each: int(each.removeprefix("policy")))
    rules = []
    for number, identifier in enumerate(in_order, 1):
        rule = policies[identifier]
        name = (rule.get("annotations") or {}).get("id") or f"rule {number}"
        rules.append((identifier, str(name)[:64], str(rule["effect"])))
    named = _entities_in(list(policies.values()))
    roles = sorted(dict.fromkeys(identifier for kind, identifier in named if kind == "Role"))
    accounts = sorted(dict.fromkeys(identifier for kind, identifier in named if kind == "Account"))
    if len(roles) > POLICY_ROLES:
        raise PolicyTooComplex("roles of one policy", roles=len(roles), limit=POLICY_ROLES)
    for role in roles:
        try:
            parse_name(role)
        except BlockCloudError as error:
            raise PolicyUnknownType(f"a role is a name of the registry: {error}", role=role[:80]) from None
    return PolicyFacts(tuple(rules), tuple(roles), tuple([_account(each) for each in accounts]))


def _account(text: str) -> bytes:
    """The key of an address, which has a checksum: a mistyped one is refused instead of bound."""
    try:
        key = parse_address(text)
    except BlockCloudError as error:
        raise PolicyUnknownType(f"an Account is an address: {error}", account=text[:80]) from None
    if format_address(key) != text:
        raise PolicyUnknownType("an Account is an address in lower case", account=text[:80])
    return key


def _entities_in(document: object) -> list[tuple[str, str]]:
    """(type, id) of every entity that the JSON form of a policy mentions. It keeps its own stack: chains nest too."""
    found: list[tuple[str, str]] = []
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            kind, identifier = node.get("type"), node.get("id")
            if isinstance(kind, str) and isinstance(identifier, str):
                found.append((kind, identifier))
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return found


def _invalid(errors: list[str]) -> Failed:
    """Why the policy does not fit the schema: what the schema does not know, before anything else."""
    unknown = [each for each in errors if any(word in each for word in _UNKNOWN)]
    if unknown:
        return PolicyUnknownType(_reason(unknown[0]))
    return PolicyMalformed(_reason(errors[0] if errors else "it does not fit the schema"))


def _reason(text: str) -> str:
    """Cedar's complaint on one line, bounded."""
    return " ".join(text.split())[:REASON_CHARACTERS]
