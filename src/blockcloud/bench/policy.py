"""Processor time of a decision on who may connect.

Yardstick: the signature check that the same handshake makes, in the same process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final

from blockcloud.primitives.keys import SigningKey, verify_raw
from blockcloud.service_access.admission import AccessRequest
from blockcloud.service_access.grants import issue_grant, verify_grant
from blockcloud.service_access.policy import CompiledRules, offline_rules
from blockcloud.service_chain.policy_text import POLICY_RULES, check_policy

ROLE: Final = "staff.acme"
NAME: Final = "files.acme"
ROUNDS: Final = 7
TARGET_US: Final = 100.0
ONE_RULE: Final = f'@id("staff") permit(principal in Role::"{ROLE}", action == Action::"connect", resource);'
OFFICE: Final = (
    f'@id("staff") permit(principal in Role::"{ROLE}", action == Action::"connect", resource)'
    ' when { context.minute >= 0 && context.from.isInRange(ip("127.0.0.0/8")) };'
    '@id("weekend") forbid(principal, action, resource) when { context.weekday > 7 };'
)


def run(*, decisions: int = 5_000) -> dict[str, Any]:
    """Microseconds for one of each, as the median of seven rounds."""
    key = SigningKey.generate()
    owner = SigningKey.generate()
    request = AccessRequest(NAME, key.public, "127.0.0.1", ROLE)
    grant = issue_grant(owner, NAME, key.public, issued_s=0, expires_s=2**40)
    many = OFFICE + f'permit(principal in Role::"{ROLE}", action, resource) when {{ context.time < 0 }};' * (
        POLICY_RULES - 2
    )

    def decide(text: str) -> Callable[[], object]:
        compiled = CompiledRules(offline_rules(NAME, text, {ROLE: (key.public,)}))
        assert compiled.decide(request, 60).allowed
        return lambda: compiled.decide(request, 60)

    message = bytes(64)
    signature = key.sign_standard(message)
    signature_us = _time(lambda: verify_raw(key.public, message, signature), decisions)
    office_us = _time(decide(OFFICE), decisions)
    figures = {
        "decision_one_rule_us": _time(decide(ONE_RULE), decisions),
        "decision_us": office_us,
        f"decision_{POLICY_RULES}_rules_us": _time(decide(many), max(1, decisions // 10)),
        "grant_verification_us": _time(
            lambda: verify_grant(grant, owner.public, name=NAME, holder=key.public, now_s=60), max(1, decisions // 10)
        ),
        "check_at_binding_us": _time(lambda: check_policy(OFFICE), max(1, decisions // 10)),
    }
    return {
        "figures": figures,
        "peer": {"signature_check_us": signature_us},
        "ratio": round(office_us / signature_us, 2),
        "target": {"decision_us": TARGET_US, "met": office_us <= TARGET_US},
    }


def _time(call: Callable[[], object], count: int) -> float:
    each = max(1, count // ROUNDS)
    rounds = []
    for _ in range(ROUNDS):
        begin = time.thread_time()
        for _ in range(each):
            call()
        rounds.append((time.thread_time() - begin) / each * 1e6)
    return round(median(rounds), 1)
