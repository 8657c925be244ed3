"""Grants: whoever does not hold one cannot make, widen, copy or bend one."""

from __future__ import annotations

from contextlib import suppress

import pytest
from biscuit_auth import Biscuit, BlockBuilder
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.codec import encode
from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access import grants
from blockcloud.service_access.grants import (
    GRANT_BYTES,
    GrantExpired,
    GrantFacts,
    GrantForAnotherName,
    GrantInvalid,
    GrantNotDelegable,
    GrantOfAnotherHolder,
    attenuate,
    delegate,
    format_grant,
    grant_sources,
    issue_grant,
    parse_grant,
    revocation_ids,
    verify_grant,
)

OWNER, ALICE, BOB, CAROL, DAVE = (SigningKey(bytes([8, number]) + bytes(30)) for number in range(5))
NAME = "files.acme"


def issued(to: SigningKey = ALICE, *, delegable: bool = False, expires_s: int = 1_000, name: str = NAME) -> bytes:
    return issue_grant(OWNER, name, to.public, issued_s=10, expires_s=expires_s, delegable=delegable)


def given_on(grant: bytes, by: SigningKey, to: SigningKey, *, delegable: bool = False, name: str = NAME) -> bytes:
    return delegate(grant, by, name, to.public, issued_s=20, expires_s=2_000, delegable=delegable)


def verify(grant: bytes, holder: SigningKey = ALICE, *, now_s: int = 50, name: str = NAME) -> GrantFacts:
    return verify_grant(grant, OWNER.public, name=name, holder=holder.public, now_s=now_s)


def test_a_grant_says_for_whom_it_is() -> None:
    grant = issued(delegable=True)
    facts = verify(grant)
    assert (facts.name, facts.holder, facts.issued_s, facts.delegable) == (NAME, ALICE.public, 10, True)
    assert facts.ids == revocation_ids(grant)
    assert verify(parse_grant(format_grant(issued())))


def test_two_grants_of_the_same_content_are_revoked_apart() -> None:
    assert revocation_ids(issued()) != revocation_ids(issued())


def test_a_grant_is_for_one_key_one_name_and_a_time() -> None:
    with pytest.raises(GrantOfAnotherHolder):
        verify(issued(), BOB)
    with pytest.raises(GrantForAnotherName):
        verify(issued(name="other.acme"))
    with pytest.raises(GrantExpired):
        verify(issued(), now_s=1_000)
    with pytest.raises(GrantInvalid):
        verify_grant(issued(), BOB.public, name=NAME, holder=ALICE.public, now_s=50)


def test_what_may_be_given_on_is_given_on_and_nothing_more() -> None:
    to_bob = given_on(issued(delegable=True), ALICE, BOB, delegable=True)
    assert verify(to_bob, BOB).holder == BOB.public
    to_carol = given_on(to_bob, BOB, CAROL)
    assert len(to_carol) <= GRANT_BYTES
    assert len(verify(to_carol, CAROL).ids) == 3
    with pytest.raises(GrantExpired):
        verify(to_bob, BOB, now_s=1_500)  # the first part has ended, whatever the second says
    with pytest.raises(GrantNotDelegable):
        verify(given_on(to_carol, CAROL, DAVE), DAVE)
    with pytest.raises(GrantNotDelegable):
        verify(given_on(issued(), ALICE, BOB), BOB)
    with pytest.raises(GrantInvalid):
        verify(given_on(issued(delegable=True), BOB, BOB), BOB)  # signed by somebody who does not hold it
    with pytest.raises(GrantForAnotherName):
        verify(given_on(issued(delegable=True), ALICE, BOB, name="other.acme"), BOB)


def test_a_grant_can_be_narrowed() -> None:
    narrow = attenuate(issued(), OWNER.public, expires_s=100)
    assert verify(narrow, now_s=99)
    with pytest.raises(GrantExpired):
        verify(narrow, now_s=100)
    assert len(revocation_ids(narrow)) == 2
    assert "100" in grant_sources(narrow)[-1]
    deep = narrow
    for _ in range(3):
        deep = attenuate(deep, OWNER.public, expires_s=100)
    with pytest.raises(GrantInvalid, match="four blocks"):
        verify(deep)


@pytest.mark.parametrize(
    "code",
    [
        f"holder(hex:{BOB.public.hex()});",
        f'grant("other.acme"); holder(hex:{BOB.public.hex()}); issued(10); delegable(true);',
        "delegable(true);",
        "issued(99999);",
    ],
)
def test_whoever_holds_a_grant_cannot_add_facts_to_it(code: str) -> None:
    (raw,) = grants._links(issued())
    token = Biscuit.from_bytes(
        raw, grants._biscuit.PublicKey.from_bytes(OWNER.public, grants._biscuit.Algorithm.Ed25519)
    )
    widened = encode(grants._Links((bytes(token.append(BlockBuilder(code)).to_bytes()),)))
    facts = verify(widened)
    assert (facts.holder, facts.delegable, facts.issued_s) == (ALICE.public, False, 10)
    with pytest.raises(GrantOfAnotherHolder):
        verify(widened, BOB)
    with pytest.raises(GrantForAnotherName):
        verify(widened, name="other.acme")


@given(st.data())
def test_a_bent_grant_is_refused(data: st.DataObject) -> None:
    grant = bytearray(issued())
    position = data.draw(st.integers(0, len(grant) - 1))
    grant[position] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(PeerFault):  # anything else is a bug
        facts = verify(bytes(grant))
        assert facts.holder == ALICE.public, "at best the same content in other bytes"


@given(st.binary(max_size=300))
def test_noise_is_no_grant(noise: bytes) -> None:
    with pytest.raises(PeerFault):
        verify(noise)
    with pytest.raises(PeerFault):
        verify(encode(grants._Links((noise,))))
    with suppress(PeerFault):
        revocation_ids(encode(grants._Links((noise,))))


@given(st.text(max_size=80))
def test_a_text_that_is_no_grant_is_refused(text: str) -> None:
    for candidate in (text, grants.GRANT_PREFIX + text):
        with pytest.raises(PeerFault):
            parse_grant(candidate)
