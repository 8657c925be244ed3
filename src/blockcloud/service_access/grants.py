"""Grants: what an owner gives a consumer so that it may connect, without telling the ledger.

A grant is one to four Biscuits (biscuitsec.org, format 3), which any Ed25519 key can verify offline. The first is
signed by the owner of the name and made out to a key; if it may be delegated, its holder signs the next, made out to
another key, and so on. All of them must hold, so nobody gives on more than he has. Whoever holds a grant can also
narrow it (`attenuate`) and never widen it. The consumer proves by the handshake that it is the last holder: a grant
that was overheard is worth nothing.

Authority facts of each: `grant(name)`, `holder(key)`, `issued(seconds)`, `expires(seconds)`, `delegable(bool)`; times
are Unix seconds.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import biscuit_auth
from biscuit_auth import (
    AuthorizationError,
    AuthorizerBuilder,
    Biscuit,
    BiscuitBuilder,
    BiscuitValidationError,
    BlockBuilder,
    DataLogError,
    Fact,
    Rule,
    UnverifiedBiscuit,
)

from blockcloud.primitives.codec import Struct, decode, encode
from blockcloud.primitives.errors import Malformed, PeerFault
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import SigningKey

GRANT_BYTES: Final = 2_048
GRANT_LINKS: Final = 4
GRANT_BLOCKS: Final = 4  # of one link
GRANT_PREFIX: Final = "bcgrant1"
# What a token's own rules may cost a provider.
RUN_TIME_MS: Final = 50
RUN_FACTS: Final = 100
RUN_ITERATIONS: Final = 20

# Its stubs are older than its functions.
_biscuit: Any = biscuit_auth


class GrantRefused(PeerFault):
    """The grant is no good."""

    code = "grant_refused"


class GrantInvalid(GrantRefused):
    """The grant is not signed by who must have signed it, or is no grant at all."""

    code = "grant_invalid"


class GrantForAnotherName(GrantRefused):
    """The grant is for another name."""

    code = "grant_for_another_name"


class GrantOfAnotherHolder(GrantRefused):
    """The grant was made out to another key than the one that shows it."""

    code = "grant_of_another_holder"


class GrantExpired(GrantRefused):
    """The grant has expired, or another of its conditions does not hold."""

    code = "grant_expired"


class GrantRevoked(GrantRefused):
    """The owner has revoked the grant."""

    code = "grant_revoked"


class GrantNotDelegable(GrantRefused):
    """The holder may not give the grant on."""

    code = "grant_not_delegable"


class _Links(Struct, frozen=True):
    links: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Revoked:
    """What is void: grants with these ids, and all issued before `issued_after_s` (Unix time)."""

    ids: frozenset[bytes] = frozenset()
    issued_after_s: int = 0


@dataclass(frozen=True, slots=True)
class GrantFacts:
    """What a verified grant, or one part of it, says. `ids` are the revocation ids of all its parts, the first is the
    owner's."""

    name: str
    holder: bytes
    issued_s: int
    delegable: bool
    ids: tuple[bytes, ...]


def issue_grant(
    key: SigningKey, name: str, holder: bytes, *, issued_s: int, expires_s: int, delegable: bool = False
) -> bytes:
    """A grant by the owner of `name`, whose key this is, to the key `holder`."""
    return encode(_Links((_link(key, name, holder, issued_s, expires_s, delegable),)))


def delegate(
    grant: bytes, key: SigningKey, name: str, holder: bytes, *, issued_s: int, expires_s: int, delegable: bool = False
) -> bytes:
    """`grant`, whose holder's key this is, given on to `holder`. Raises Malformed, Oversized."""
    return _packed((*_links(grant), _link(key, name, holder, issued_s, expires_s, delegable)))


def attenuate(grant: bytes, owner: bytes, *, expires_s: int) -> bytes:
    """`grant` with an earlier end: `owner` is the key of the name's owner. Raises GrantInvalid."""
    links = _links(grant)
    root = owner
    for raw in links[:-1]:
        root = _facts(_token(raw, root)).holder
    last = _token(links[-1], root).append(BlockBuilder("check if time($t), $t < {end}", {"end": expires_s}))
    return _packed((*links[:-1], bytes(last.to_bytes())))


def verify_grant(
    grant: bytes, owner: bytes, *, name: str, holder: bytes, now_s: int, host: str = "", revoked: Revoked | None = None
) -> GrantFacts:
    """What `grant` says, if the owner's key leads to `holder` and every part holds now. Raises GrantRefused's children,
    Malformed, Oversized."""
    void = revoked or Revoked()
    root, may_delegate = owner, True
    ids: tuple[bytes, ...] = ()
    facts: GrantFacts | None = None
    for raw in _links(grant):
        if not may_delegate:
            raise GrantNotDelegable
        token = _token(raw, root)
        facts = _facts(token)
        ids += facts.ids
        if facts.name != name:
            raise GrantForAnotherName(granted=facts.name[:80], asked=name)
        if facts.issued_s < void.issued_after_s or any(each in void.ids for each in ids):
            raise GrantRevoked(name=name)
        _authorise(token, name, now_s, host)
        root, may_delegate = facts.holder, facts.delegable
    assert facts is not None, "a grant has a link"
    if facts.holder != holder:
        raise GrantOfAnotherHolder(holder=facts.holder.hex()[:16])
    return replace(facts, ids=ids)


def issuer_of(grant: bytes, keys: Sequence[bytes]) -> bytes:
    """Which of `keys`, each of which may issue grants, has signed the first part. Raises GrantInvalid, Malformed."""
    if len(keys) == 1:
        return keys[0]  # whoever verifies the grant with it finds out
    first = _links(grant)[0]
    for key in keys:
        with suppress(GrantInvalid):
            _token(first, key)
            return key
    if not keys:
        raise GrantInvalid("the owner's keys sign only together, and nobody alone can grant anything")
    raise GrantInvalid("the grant is not signed by a key of the owner")


def expiry_of(grant: bytes, owner: bytes) -> int:
    """When the owner's part of a grant ends (Unix time), and the grant with it. Raises GrantInvalid."""
    token = _token(_links(grant)[0], owner)
    _facts(token)
    found = _query(token, "end($e) <- expires($e)")
    if len(found) != 1 or not isinstance(found[0].terms[0], int):
        raise GrantInvalid("a grant says when it ends")
    return max(0, found[0].terms[0])


def revocation_ids(grant: bytes) -> tuple[bytes, ...]:
    """The ids (32 bytes) by which a grant can be revoked, unverified; the first is the owner's part."""
    try:
        return tuple(each for raw in _links(grant) for each in _ids(_unverified(raw).revocation_ids))
    except BiscuitValidationError as error:
        raise GrantInvalid(str(error)) from None


def grant_sources(grant: bytes) -> list[str]:
    """The Datalog of every block, for people. Nothing of it is verified."""
    tokens = [_unverified(raw) for raw in _links(grant)]
    return [token.block_source(number).strip() for token in tokens for number in range(token.block_count())]


def format_grant(grant: bytes) -> str:
    """The grant as text, one line."""
    return GRANT_PREFIX + base64.urlsafe_b64encode(grant).decode().rstrip("=")


def parse_grant(text: str) -> bytes:
    """The grant of a text. Raises Malformed or Oversized."""
    body = text.strip()
    if not body.startswith(GRANT_PREFIX) or not body.isascii() or len(body) > 2 * GRANT_BYTES:
        raise Malformed(f"a grant is a text that begins with {GRANT_PREFIX}")
    body = body.removeprefix(GRANT_PREFIX)
    try:
        grant = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("a grant is base64url behind its prefix") from None
    _links(grant)
    return grant


def _link(key: SigningKey, name: str, holder: bytes, issued_s: int, expires_s: int, delegable: bool) -> bytes:
    builder = BiscuitBuilder(
        "grant({name}); holder({holder}); issued({issued}); expires({end}); delegable({delegable});"
        "check if name({name}); check if time($t), $t < {end};",
        {"name": name, "holder": holder, "issued": issued_s, "delegable": delegable, "end": expires_s},
    )
    return bytes(builder.build(_biscuit.PrivateKey.from_bytes(key.seed(), _biscuit.Algorithm.Ed25519)).to_bytes())


def _links(grant: bytes) -> tuple[bytes, ...]:
    links = decode(grant, _Links, limit=GRANT_BYTES).links
    if not 1 <= len(links) <= GRANT_LINKS:
        raise Malformed("a grant has one to four parts", parts=len(links))
    return links


def _packed(links: tuple[bytes, ...]) -> bytes:
    packed = encode(_Links(links))
    _links(packed)
    return packed


def _token(raw: bytes, root: bytes) -> Biscuit:
    try:
        token = Biscuit.from_bytes(raw, _biscuit.PublicKey.from_bytes(root, _biscuit.Algorithm.Ed25519))
    except (BiscuitValidationError, ValueError) as error:
        raise GrantInvalid(f"the grant is not signed as it should be: {error}") from None
    if token.block_count() > GRANT_BLOCKS:
        raise GrantInvalid("a part of a grant has at most four blocks", blocks=token.block_count())
    return token


def _unverified(raw: bytes) -> UnverifiedBiscuit:
    try:
        return UnverifiedBiscuit.from_base64(base64.urlsafe_b64encode(raw).decode())
    except (BiscuitValidationError, ValueError) as error:
        raise GrantInvalid(str(error)) from None


def _ids(texts: Collection[str]) -> tuple[bytes, ...]:
    """Biscuit's revocation ids are signatures of 64 bytes; the ledger keeps 32."""
    return tuple(tagged_hash("grant-id/v1", bytes.fromhex(text)) for text in texts)


def _query(token: Biscuit, rule: str) -> list[Fact]:
    """What `rule` finds in the authority block; appended blocks cannot add to it. Raises GrantInvalid."""
    try:
        return _limited(AuthorizerBuilder("allow if true")).build(token).query(Rule(rule))
    except (AuthorizationError, DataLogError) as error:
        raise GrantInvalid(str(error)) from None


def _facts(token: Biscuit) -> GrantFacts:
    """What one part says. Raises GrantInvalid."""
    found = _query(token, "facts($n, $h, $i, $d) <- grant($n), holder($h), issued($i), delegable($d)")
    if len(found) != 1:
        raise GrantInvalid("a grant names one service, one holder and one time")
    name, holder, issued, delegable = found[0].terms
    if not (isinstance(name, str) and isinstance(issued, int) and isinstance(delegable, bool)):
        raise GrantInvalid("a grant's facts have the wrong types")
    holder = bytes(holder) if isinstance(holder, bytes | bytearray | list) else b""
    if len(holder) != 32:
        raise GrantInvalid("a grant is made out to a key of 32 bytes")
    return GrantFacts(name, holder, issued, delegable, _ids(token.revocation_ids))


def _authorise(token: Biscuit, name: str, now_s: int, host: str) -> None:
    """Every check of the token holds now. Raises GrantExpired."""
    builder = AuthorizerBuilder(
        "name({name}); time({now}); source({host}); allow if grant({name});", {"name": name, "now": now_s, "host": host}
    )
    try:
        _limited(builder).build(token).authorize()
    except (AuthorizationError, DataLogError) as error:
        raise GrantExpired(f"a condition of the grant does not hold: {str(error)[:80]}") from None


def _limited(builder: AuthorizerBuilder) -> AuthorizerBuilder:
    untyped: Any = builder
    limits = untyped.limits()
    limits.max_time = type(limits.max_time)(milliseconds=RUN_TIME_MS)
    limits.max_facts, limits.max_iterations = RUN_FACTS, RUN_ITERATIONS
    untyped.set_limits(limits)
    return builder
