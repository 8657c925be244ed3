"""Accounts with other keys through the SDK: proven keys, cosigners, drafts that go round, grants by present keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from blockcloud.api.policies import rules_of
from blockcloud.api.views import account_view
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.errors import BadProof, BadSignature, Malformed, Oversized, PeerFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.client import AsyncClient
from blockcloud.sdk.drafts import DRAFT_BYTES, Draft, described, keys_told, merge
from blockcloud.sdk.errors import BadAnswer
from blockcloud.sdk.home import Home, account_note, leave_note
from blockcloud.sdk.policy_gate import PolicyGate, proven_rules
from blockcloud.service_access.admission import AccessRequest
from blockcloud.service_access.grants import issue_grant
from blockcloud.service_chain.operations import SetKeys, SetPolicy, Transfer
from blockcloud.service_chain.records import AccountKeys
from blockcloud.service_chain.rejections import TooFewSigners, TooManySigners, WrongSigner
from blockcloud.service_chain.state_keys import account_keys_key
from blockcloud.service_chain.transaction import KeyNotShown, TransactionBody, parse_transaction
from tests.sdk.sdk_world import OTHER, OWNER, World, as_json

BACKUP, THIRD = SigningKey(b"b" * 32), SigningKey(b"t" * 32)
PAY = Transfer(OTHER.public, 5)
NAME = "thermo"


def change(threshold: int, *keys: SigningKey) -> SetKeys:
    return SetKeys(threshold, tuple(sorted(key.public for key in keys)))


@pytest.fixture
async def client(world: World) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(world.ledger.genesis, now_ms=lambda: world.ledger.now_ms) as made:
        yield made


async def test_who_signs_is_proven(client: AsyncClient, world: World) -> None:
    assert await client.account_keys(OWNER.public) == (1, (OWNER.public,))
    with pytest.raises(KeyNotShown):
        await client.transact(OWNER, change(1, BACKUP))
    await client.transact(OWNER, change(2, OWNER, BACKUP), cosigners=[BACKUP])
    keys = tuple(sorted((OWNER.public, BACKUP.public)))
    assert await client.account_keys(OWNER.public) == (2, keys)
    found = world.ledger.proven(account_keys_key(OWNER.public))
    forged = msgspec.structs.replace(found, value=msgspec.msgpack.encode(AccountKeys(1, (OTHER.public,))))
    with pytest.raises(BadProof):
        client.light_client.accept(msgspec.msgpack.encode(forged), forged.key, world.ledger.now_ms)


async def test_a_client_acts_for_an_account_with_the_keys_that_it_has(client: AsyncClient, world: World) -> None:
    await client.transact(OWNER, change(1, BACKUP), cosigners=[BACKUP])
    with pytest.raises(WrongSigner):
        await client.transact(OWNER, PAY)
    await client.transact(BACKUP, PAY, sender=OWNER.public)
    how: dict[str, Any] = {"account": OWNER.public, "now_ms": lambda: world.ledger.now_ms}
    async with AsyncClient(world.ledger.genesis, **how) as acting:
        await acting.preorder_and_register(BACKUP, NAME)
        record = await acting.name(NAME)
        assert record is not None
        assert record.owner == OWNER.public
        await acting.transact(BACKUP, change(2, BACKUP, THIRD), cosigners=[THIRD])
        with pytest.raises(TooFewSigners):
            await acting.transact(BACKUP, PAY)
    async with AsyncClient(world.ledger.genesis, cosigners=[THIRD], **how) as acting:
        assert (await acting.transact(BACKUP, PAY)).code == "ok"
        raw = await acting.signed(BACKUP, PAY)
        assert len(parse_transaction(raw).signers) == 2


async def test_a_draft_goes_round_and_is_completed_by_those_that_are_needed(client: AsyncClient) -> None:
    await client.transact(OWNER, change(2, OWNER, BACKUP, THIRD), cosigners=[BACKUP, THIRD])
    draft = Draft.of(await client.unsigned(OWNER.public, PAY, valid_commits=1_000))
    copies = [Draft.parse(draft.text()).signed(key) for key in (OWNER, BACKUP, THIRD, OTHER)]
    keys = await client.account_keys(OWNER.public)
    with pytest.raises(TooFewSigners, match=format_address(THIRD.public)):
        copies[0].complete(*keys)
    together = merge([Draft.parse(copy.text()) for copy in copies])
    assert len(together.signatures) == 4
    raw = together.complete(*keys)
    assert len(parse_transaction(raw).signers) == 2, "no more than needed, no stranger"
    (outcome,) = await client.submit([raw])
    assert outcome.code == "ok"
    assert outcome.id == draft.id
    (again,) = await client.submit([merge(copies[1:3]).complete(*keys)])
    assert again == outcome, "signed by others it is the same transaction, which has its receipt"


async def test_every_new_key_signs_a_change_in_a_draft(client: AsyncClient) -> None:
    draft = Draft.of(await client.unsigned(OWNER.public, change(2, OWNER, BACKUP, THIRD), valid_commits=1_000))
    keys = await client.account_keys(OWNER.public)
    assert described(draft)["new_keys"] == [format_address(key) for key in draft.joining]
    with pytest.raises(KeyNotShown, match=format_address(THIRD.public)):
        draft.signed(OWNER, BACKUP).complete(*keys)
    with pytest.raises(TooFewSigners):
        Draft.of(msgspec.structs.replace(draft.body, operations=(change(1, BACKUP),))).signed(BACKUP).complete(*keys)
    (outcome,) = await client.submit([draft.signed(OWNER, BACKUP, THIRD).complete(*keys)])
    assert outcome.code == "ok"
    with pytest.raises(TooManySigners):
        await client.transact(OWNER, PAY, cosigners=[BACKUP, THIRD])


@pytest.mark.parametrize(
    "view",
    [
        {},
        {"threshold": 1},
        {"threshold": 1, "keys": []},
        {"threshold": 2, "keys": [format_address(OWNER.public)]},
        {"threshold": 0, "keys": [format_address(OWNER.public)]},
        {"threshold": "1", "keys": [format_address(OWNER.public)]},
        {"threshold": 1, "keys": ["bloc1nobody"]},
        {"threshold": 1, "keys": [7]},
        {"threshold": 1, "keys": 7},
    ],
)
async def test_a_node_that_tells_nonsense_about_keys_is_not_believed(
    client: AsyncClient, world: World, view: dict[str, Any]
) -> None:
    async def nonsense(request: Request) -> Response | None:
        return as_json(view) if "/accounts/" in request.url.path else None

    for node in world.nodes:
        node.misbehave = nonsense
    with pytest.raises(BadAnswer):
        await keys_told(client, OWNER.public)


async def test_a_node_tells_who_signs(client: AsyncClient, world: World) -> None:
    async def honest(request: Request) -> Response | None:
        if "/accounts/" not in request.url.path:
            return None
        chain = world.ledger.chain
        return as_json(account_view(OWNER.public, chain.account(OWNER.public), chain.account_keys(OWNER.public)))

    for node in world.nodes:
        node.misbehave = honest
    assert await keys_told(client, OWNER.public) == (1, (OWNER.public,))
    await client.transact(OWNER, change(2, OWNER, BACKUP), cosigners=[BACKUP])
    assert await keys_told(client, OWNER.public) == await client.account_keys(OWNER.public)


BODY = TransactionBody(b"c" * 32, OWNER.public, 0, 7, 10**6, 10**6, (PAY,))
DRAFT = Draft.of(BODY).signed(OWNER)


def test_a_draft_says_what_it_does() -> None:
    view = described(Draft.parse(DRAFT.text()))
    assert view["operations"] == [
        {"operation": "Transfer", "to": format_address(OTHER.public), "amount": "0.000005 BLOC"}
    ]
    assert (view["account"], view["sequence"]) == (format_address(OWNER.public), 7)
    assert view["signed_by"] == [format_address(OWNER.public)]
    assert described(DRAFT)["id"] == DRAFT.id.hex()


def test_a_signature_under_other_bytes_is_refused() -> None:
    other = Draft.of(msgspec.structs.replace(BODY, operations=(Transfer(OTHER.public, 6),)))
    swapped = DRAFT.text().replace(DRAFT.body_bytes.hex().encode(), other.body_bytes.hex().encode())
    with pytest.raises(BadSignature):
        Draft.parse(swapped)
    with pytest.raises(Malformed):
        merge([DRAFT, other])


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", DRAFT.text()[:-9], DRAFT.text().replace(b": 1", b": 2")])
def test_what_is_no_draft_is_refused(text: bytes) -> None:
    with pytest.raises(Malformed):
        Draft.parse(text)
    with pytest.raises(Oversized):
        Draft.parse(text + bytes(DRAFT_BYTES + 1))


@given(st.integers(0, len(DRAFT.text()) - 1), st.binary(min_size=1, max_size=2))
def test_a_damaged_draft_is_refused_or_the_same(place: int, damage: bytes) -> None:
    text = DRAFT.text()[:place] + damage + DRAFT.text()[place + len(damage) :]
    try:
        found = Draft.parse(text)
    except PeerFault:
        return
    assert found.body_bytes == DRAFT.body_bytes
    assert found.signatures.items() <= DRAFT.signatures.items()


def test_a_note_beside_a_key_says_for_whom_it_acts(tmp_path: Any) -> None:
    path = tmp_path / "new.pem"
    BACKUP.save(path)
    home = Home(tmp_path)
    assert home.acts_for(path) is None
    leave_note(path, BACKUP.public, OWNER.public)
    assert home.acts_for(path) == OWNER.public
    leave_note(path, BACKUP.public, BACKUP.public)
    assert home.acts_for(path) is None
    assert Home(tmp_path / "nowhere").acts_for() is None
    account_note(path).write_text("bloc1nonsense", encoding="ascii")
    with pytest.raises(Exception, match="address"):
        home.acts_for(path)


# Grants: the name is the account's, so its present keys sign them.


def asked(grant: bytes) -> AccessRequest:
    return AccessRequest(NAME, OTHER.public, "127.0.0.1", "", grant)


def granted(by: SigningKey) -> AccessRequest:
    return asked(issue_grant(by, NAME, OTHER.public, issued_s=0, expires_s=2**40))


async def decide(client: AsyncClient, request: AccessRequest, height: int) -> tuple[bool, str]:
    gate = PolicyGate(client, NAME)
    gate._accept(await proven_rules(client, NAME, at_least_height=height))
    decision = gate.decide(request)
    return decision.allowed, decision.reason


async def test_after_a_rotation_grants_of_the_old_key_are_refused(client: AsyncClient) -> None:
    await client.preorder_and_register(OWNER, NAME)
    height = (await client.transact(OWNER, SetPolicy(NAME, "forbid(principal, action, resource) when {false};"))).height
    assert await decide(client, granted(OWNER), height) == (True, "permitted")
    assert await decide(client, granted(BACKUP), height) == (False, "grant_invalid")
    height = (await client.transact(OWNER, change(1, BACKUP), cosigners=[BACKUP])).height
    assert await decide(client, granted(OWNER), height) == (False, "grant_invalid")
    assert await decide(client, granted(BACKUP), height) == (True, "permitted")
    both = change(1, OWNER, BACKUP)
    height = (await client.transact(BACKUP, both, cosigners=[OWNER], sender=OWNER.public)).height
    assert await decide(client, granted(OWNER), height) == (True, "permitted"), "any of several keys"
    assert await decide(client, granted(THIRD), height) == (False, "grant_invalid")
    together = change(2, OWNER, BACKUP)
    height = (await client.transact(BACKUP, together, cosigners=[OWNER], sender=OWNER.public)).height
    for key in (OWNER, BACKUP):
        assert await decide(client, granted(key), height) == (False, "grant_invalid"), "nobody grants alone"


async def test_a_gate_hears_of_a_rotation_from_a_node_at_once(client: AsyncClient, world: World) -> None:
    await client.preorder_and_register(OWNER, NAME)
    await client.transact(OWNER, SetPolicy(NAME, "forbid(principal, action, resource) when {false};"))
    gate = PolicyGate(client, NAME)
    gate._accept(await proven_rules(client, NAME))
    assert gate.decide(granted(OWNER)).allowed
    await client.transact(OWNER, change(1, BACKUP), cosigners=[BACKUP])
    told = rules_of(world.ledger.chain, NAME)
    assert told is not None
    gate._hear("node", told)
    assert not gate.decide(granted(OWNER)).allowed
    assert not gate.decide(granted(BACKUP)).allowed, "what is only told never opens"
