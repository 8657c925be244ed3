"""The gate of a provider: it follows the ledger's rules about its name and decides who may connect, within a second.

A certified checkpoint comes every ten commits, which an idle network takes seconds for, so proofs alone would be late.
The gate therefore holds the rules that were proven to it, and beside them what nodes say is newer. A session opens only
if ALL of them permit it. So a restriction is in force as soon as any honest node that is asked has it (one is asked
every 200 ms, in turn), and a permission when it is proven; a node that lies can close the door and never open it.

Without a proof from the last minute the gate is shut: who cuts a provider off must not keep an old policy in force.
Running sessions of those who lost access are ended. ADR 17.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

import structlog

from blockcloud.primitives import codec
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.limits import RESOLUTION_AGE_SECONDS
from blockcloud.sdk.decision_log import DecisionLog
from blockcloud.sdk.reading import AsyncReader
from blockcloud.sdk.transport import MSGPACK
from blockcloud.service_access.admission import AccessRequest, PolicyDenied
from blockcloud.service_access.policy import ACCESS_RULES_BYTES, AccessRules, CompiledRules, Decision, RoleEntry
from blockcloud.service_access.resolution import UnknownName
from blockcloud.service_access.session import State
from blockcloud.service_access.stream import Session
from blockcloud.service_chain.policy_text import check_policy
from blockcloud.service_chain.records import (
    AccountKeys,
    NameRecord,
    PolicyRecord,
    RevocationRecord,
    RoleRecord,
    decode_record,
)
from blockcloud.service_chain.rejections import Failed
from blockcloud.service_chain.state_keys import account_keys_key, name_key, policy_key, revocations_key, role_key

POLL_SECONDS: Final = 0.2
POLL_TIMEOUT_SECONDS: Final = 0.5
PROVE_TIMEOUT_SECONDS: Final = 20.0
PROVE_AGAIN_SECONDS: Final = 20.0
LOOK_AGAIN_SECONDS: Final = 5.0  # at running sessions: grants expire and hours pass without a change on the ledger
STALE: Final = "policy_stale"
TOLD_CHARACTERS: Final = 200

R = TypeVar("R", bound=codec.Struct)

log = structlog.get_logger(__name__)


async def proven_rules(client: AsyncReader, name: str, *, at_least_height: int = 0) -> AccessRules:
    """What the ledger holds about access to `name`, each record proven. Raises UnknownName and as `client.proven`."""

    heights: list[int] = []

    async def record(key: bytes, shape: type[R]) -> R | None:
        proven = await client.proven(key, at_least_height=at_least_height, timeout_s=PROVE_TIMEOUT_SECONDS)
        heights.append(proven.height)
        return decode_record(proven.value, shape)

    owner = await record(name_key(name), NameRecord)
    if owner is None:
        raise UnknownName("register the name first: blockcloud name register", name=name)
    policy = await record(policy_key(name), PolicyRecord)
    revocations = await record(revocations_key(name), RevocationRecord)
    roles: tuple[str, ...] = ()
    if policy is not None:
        with suppress(Failed):
            roles = check_policy(policy.text).roles
    entries = [
        RoleEntry(role, await record(name_key(role), NameRecord), await record(role_key(role), RoleRecord))
        for role in roles
    ]
    owner_keys = await record(account_keys_key(owner.owner), AccountKeys)
    return AccessRules(min(heights), owner, policy, revocations, tuple(entries), owner_keys)


async def told_rules(client: AsyncReader, url: str, name: str, *, timeout_s: float | None = None) -> AccessRules:
    """What one node says, newer than what can be proven. Nobody has verified it."""
    data = await client.transport.once(url, "GET", f"/v1/policies/{name}", accept=MSGPACK, timeout_s=timeout_s)
    return codec.decode(data, AccessRules, limit=ACCESS_RULES_BYTES)


class PolicyGate:
    """The Gate of one name. `start`, then `close`; or as an async context manager."""

    def __init__(
        self,
        client: AsyncReader,
        name: str,
        *,
        decisions: DecisionLog | None = None,
        now_s: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self._client, self.name, self._now_s = client, name, now_s
        self.decisions = decisions
        self._proven: CompiledRules | None = None
        self._proven_at = float("-inf")
        self._told: dict[str, CompiledRules] = {}  # by node: what it says beyond the proven rules
        self._sessions: dict[Session, AccessRequest] = {}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Prove the rules, then follow them. Raises as `proven_rules`."""
        self._accept(await proven_rules(self._client, self.name))
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(run()) for run in (self._follow, self._prove, self._look_again)]

    async def close(self) -> None:
        """Follow no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> PolicyGate:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- Gate -------------------------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether a policy is bound, by any account."""
        return self._stale or any(each.bound for each in self._all())

    @property
    def digest(self) -> bytes:
        """Of the newest policy known."""
        known = self._all()
        return known[-1].digest if known else b""

    def admit(self, request: AccessRequest) -> None:
        """Decide and log. Raises PolicyDenied."""
        decision = self.decide(request)
        self._note("connect", request, decision)
        if not decision.allowed:
            raise PolicyDenied(_told(decision))

    def opened(self, request: AccessRequest, session: Session) -> None:
        """Watch an admitted session."""
        self._sessions[session] = request

    # --- deciding ---------------------------------------------------------------------------------------------------

    def decide(self, request: AccessRequest) -> Decision:
        """The decision that all known rules agree on: the first refusal, else that of the newest rules."""
        if self._stale:
            detail = "the provider could not prove its policy for a minute"
            return Decision(False, STALE, (), self.digest, detail)
        now_s = self._now_s()
        decisions = [each.decide(request, now_s) for each in self._all()]
        return next((each for each in decisions if not each.allowed), decisions[-1])

    @property
    def _stale(self) -> bool:
        age_s = asyncio.get_running_loop().time() - self._proven_at
        return self._proven is None or age_s > RESOLUTION_AGE_SECONDS

    def _all(self) -> list[CompiledRules]:
        """Proven first, then what nodes say, lowest height first."""
        told = sorted(self._told.values(), key=lambda each: each.rules.height)
        return [each for each in (self._proven, *told) if each is not None]

    def _note(self, action: str, request: AccessRequest, decision: Decision) -> None:
        if not decision.allowed:
            log.info("access_denied", name=self.name, reason=decision.reason, rules=decision.rules)
        if self.decisions is not None:
            self.decisions.add(
                {
                    "time": self._now_s(),
                    "name": self.name,
                    "principal": format_address(request.key),
                    "host": request.host,
                    "role": request.role,
                    "grant": bool(request.grant),
                    "action": action,
                    "allowed": decision.allowed,
                    "reason": decision.reason,
                    "rules": list(decision.rules),
                    "policy_hash": decision.policy_digest.hex(),
                }
            )

    # --- following --------------------------------------------------------------------------------------------------

    def _accept(self, rules: AccessRules) -> None:
        """Rules were proven: what nodes said up to this height is settled."""
        if self._proven is not None and rules.height < self._proven.rules.height:
            return
        self._proven_at = asyncio.get_running_loop().time()
        changed = self._proven is None or rules.fingerprint() != self._proven.rules.fingerprint()
        self._proven = CompiledRules(rules)
        self._told = {url: each for url, each in self._told.items() if each.rules.height > rules.height}
        if changed:
            self._review()

    def _hear(self, url: str, rules: AccessRules) -> None:
        """A node says something."""
        proven = self._proven
        same = proven is not None and rules.fingerprint() == proven.rules.fingerprint()
        if rules.name.name != self.name or same or (proven is not None and rules.height <= proven.rules.height):
            self._told.pop(url, None)
            return
        before = self._told.get(url)
        if before is None or before.rules.fingerprint() != rules.fingerprint():
            self._told[url] = CompiledRules(rules)
            self._review()
        self._changed.set()

    async def _follow(self) -> None:
        """Ask one node after another what the rules are now."""
        urls = self._client.transport.urls
        number = 0
        while True:
            url = urls[number % len(urls)]
            number += 1
            try:
                self._hear(url, await told_rules(self._client, url, self.name, timeout_s=POLL_TIMEOUT_SECONDS))
            except BlockCloudError as error:
                log.debug("policy_poll_failed", url=url, code=error.code)
            await asyncio.sleep(POLL_SECONDS)

    async def _prove(self) -> None:
        """Prove the rules again when a node says that they have changed, and every now and then."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PROVE_AGAIN_SECONDS):
                    await self._changed.wait()
            self._changed.clear()
            # A liar may name any height; what can be proven is as high as the ledger is.
            try:
                self._accept(await proven_rules(self._client, self.name))
            except BlockCloudError as error:
                log.warning("policy_not_proven", name=self.name, code=error.code, reason=str(error))
            await asyncio.sleep(POLL_SECONDS)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            self._review()

    def _review(self) -> None:
        """End the sessions of those who have lost access."""
        for session, request in list(self._sessions.items()):
            if session.core.state in (State.FINISHED, State.FAILED):
                del self._sessions[session]
                continue
            decision = self.decide(request)
            if not decision.allowed:
                del self._sessions[session]
                self._note("end", request, decision)
                session.abort(PolicyDenied.code, _told(decision))


def _told(decision: Decision) -> str:
    """What a consumer hears of a refusal."""
    return f"{decision.detail} [{decision.reason}]"[:TOLD_CHARACTERS]
