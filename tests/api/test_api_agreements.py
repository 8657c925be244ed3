"""Offers and agreements over the API."""

from __future__ import annotations

import pytest

from blockcloud.api.agreements import quality_view
from blockcloud.primitives.addresses import format_address
from blockcloud.service_chain.agreements.keys import agreement_id
from blockcloud.service_chain.agreements.operations import OpenAgreement, PostOffer
from blockcloud.service_chain.operations import Preorder, Register, name_commitment
from blockcloud.service_chain.proof_of_service.records import ServiceRecord, StandingRecord
from tests.api.api_world import Api
from tests.node.cluster import USERS, until

PROVIDER, CLIENT = USERS[4], USERS[3]
NAME, SALT = "sold", bytes(32)


@pytest.mark.asyncio(loop_scope="session")
async def test_an_offer_and_an_agreement_are_shown(api: Api) -> None:
    chain = api.validator.chain
    opens = await api.sent(PROVIDER, Preorder(name_commitment(NAME, SALT, PROVIDER.public)))
    await until(lambda: chain.applied_height + 1 >= opens + chain.genesis.naming.preorder_min)
    await api.sent(PROVIDER, Register(NAME, SALT, b"", (), 10**9))
    offer = await api.both(f"/v1/names/{NAME}/offer")
    assert (offer["price"], offer["bond"]) == (None, "0")
    bond = chain.genesis.agreements.bond_min
    await api.sent(PROVIDER, PostOffer(NAME, "kib", 100, 60_000, 990_000, 0, bond))
    offer = await api.both(f"/v1/names/{NAME}/offer")
    assert (offer["price"], offer["provider"], offer["agreements"]) == (
        "0.0001/kib",
        format_address(PROVIDER.public),
        0,
    )
    deposit = 1_000_000
    opening = OpenAgreement(NAME, PROVIDER.public, SALT, CLIENT.public, deposit, 100, 0, 60_000)
    height = await api.sent(CLIENT, opening)
    identity = agreement_id(CLIENT.public, SALT, height).hex()
    shown = await api.both(f"/v1/agreements/{identity}")
    assert (shown["agreement"], shown["status"], shown["name"], shown["left"]) == (identity, "open", NAME, "1")
    for party in (PROVIDER, CLIENT):
        listed = await api.both("/v1/agreements", party=format_address(party.public))
        assert [each["agreement"] for each in listed["agreements"]] == [identity]
    offer = await api.both(f"/v1/names/{NAME}/offer")
    assert offer["agreements"] == 1
    assert (offer["standing"], offer["accused"], offer["verdict_era"]) == ("good", False, None)


def test_what_verification_found_is_told_of_the_provider_that_it_is_about() -> None:
    provider, other = PROVIDER.public, CLIENT.public
    judged = ServiceRecord(NAME, provider, 990_000, 0, (), bytes(32), None, 4, 12_000, 30, 900)
    found = quality_view(provider, judged, StandingRecord(1, 6, False), 6)
    assert found == {
        "verdict_era": 4,
        "failed_ppm": 12_000,
        "latency_ms": 30,
        "throughput_kbps": 900,
        "accused": True,
        "standing": "quarantined",
    }
    assert quality_view(provider, judged, StandingRecord(1, 6, False), 7)["standing"] == "good"
    assert quality_view(provider, judged, StandingRecord(3, 6, True), 9)["standing"] == "banned"
    # The name has another owner now: what the one before did is not his.
    found = quality_view(other, judged, None, 6)
    assert (found["verdict_era"], found["accused"], found["standing"]) == (None, False, "good")
