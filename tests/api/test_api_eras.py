"""Committees of all eras, the hand-overs between them, and candidates: what a light client and a bonder ask for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from blockcloud.api.views import candidate_view
from blockcloud.node.ledger_tables import HANDOVER
from blockcloud.node.storage import META
from blockcloud.primitives import codec
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.storage import Batch
from blockcloud.sdk.light_client import LightClient
from blockcloud.service_chain.handover import HANDOVER_BYTES, Handover
from blockcloud.service_chain.operations import Bond, StakeResources, Unbond
from blockcloud.service_chain.records import Candidate
from blockcloud.transaction_chain.cloudpos.stake import Resources, StakeClaim
from tests.api.api_world import MSGPACK, Api, check_problem, serving
from tests.node.cluster import BOND, KEYS, USERS, cluster, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ERA_LENGTH = 40


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """A ledger in its third era or later."""
    async with cluster(tmp_path_factory.mktemp("eras"), 1, ERA_LENGTH) as net, serving(net) as running:
        await until(lambda: running.validator.era >= 2 and running.validator.eras.current.certified)
        yield running


async def handover(api: Api, era: int) -> bytes:
    answer = await api.http.get(f"/v1/handovers/{era}", headers=MSGPACK)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/msgpack"), answer.text
    return answer.content


async def test_the_committee_of_every_era(api: Api) -> None:
    committees = [await api.both(f"/v1/committee/{era}") for era in range(3)]
    for era, committee in enumerate(committees):
        plan = api.validator.chain.plan_of(era)
        assert plan is not None
        assert (committee["era"], committee["first_height"]) == (era, era * ERA_LENGTH + 1)
        assert committee["beacon"] == plan.beacon.hex()
        assert committee["quorum"] == plan.committee().quorum
        (member,) = committee["members"]
        assert (member["key"], member["address"]) == (KEYS[0].public.hex(), format_address(KEYS[0].public))
        assert member["consensus_key"] == plan.seats[0].consensus_key.hex()
        assert (member["bond"], member["bond_micro_bloc"]) == ("1000", BOND)
        assert member["api_url"] == api.net.genesis.validators[0].api_url
        assert member["resource_weight_ppm"] == plan.seats[0].resource_weight == 1_000_000
    assert committees[0]["members"][0]["consensus_key"] == KEYS[0].public.hex()
    future = api.validator.era + 1_000
    check_problem(await api.http.get(f"/v1/committee/{future}"), 404, "not_found")


async def test_whoever_has_only_the_genesis_follows_the_hand_overs(api: Api) -> None:
    genesis = api.net.genesis
    weights = genesis.committee().weights_by_key
    light = LightClient(genesis)
    for era in (1, 2):
        raw = await handover(api, era)
        decoded = codec.decode(raw, Handover, limit=HANDOVER_BYTES)
        assert codec.encode(decoded) == raw
        assert decoded.plan == api.validator.chain.plan_of(era)
        weights = decoded.verify(genesis.chain_id(), weights).weights_by_key
        light.follow(raw, time.time_ns() // 1_000_000)
        assert light.era == era
        view = (await api.http.get(f"/v1/handovers/{era}")).json()
        assert (view["era"], view["last_height"], view["handover"]) == (era, era * ERA_LENGTH, raw.hex())
        assert view["committee"] == (await api.http.get(f"/v1/committee/{era}")).json()
        statement = decoded.certificate.statement
        assert [view["commit_digest"], view["state_root"], view["plan_digest"]] == [
            digest.hex() for digest in statement.digests
        ]
        assert view["signers"] == [signer.hex() for signer, _ in decoded.certificate.signatures]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/handovers/0", 400, "malformed"),
        ("/v1/handovers/first", 400, "malformed"),
        ("/v1/handovers/-1", 400, "malformed"),
        (f"/v1/handovers/{'9' * 5000}", 400, "malformed"),
        (f"/v1/handovers/{2**53}", 404, "not_found"),
        (f"/v1/committee/{2**53}", 404, "not_found"),
        ("/v1/candidates/nobody", 400, "invalid_address"),
        (f"/v1/candidates/{format_address(USERS[7].public)}", 404, "not_found"),
    ],
)
async def test_a_bad_question_gets_its_code(api: Api, path: str, status: int, code: str) -> None:
    check_problem(await api.http.get(path), status, code)


async def test_a_hand_over_that_is_not_certified_here_is_not_found(api: Api) -> None:
    """As at a node that came through the era without its certificate; others have it."""
    store, certificate = api.validator.store, api.validator.tables.handover(1)
    assert certificate is not None
    gone = Batch()
    gone.delete(META, HANDOVER + (1).to_bytes(8))
    store.write(gone, sync=False)
    try:
        check_problem(await api.http.get("/v1/handovers/1"), 404, "not_found")
        assert (await api.http.get("/v1/committee/1")).status_code == 200
    finally:
        api.validator.tables.put_handover(1, certificate)
    await handover(api, 1)


async def test_a_candidate(api: Api) -> None:
    member = await api.both(f"/v1/candidates/{format_address(KEYS[0].public)}")
    assert (member["bond_micro_bloc"], member["jailed"], member["jailed_era"]) == (BOND, False, None)
    assert member["ready"], "the node gets ready by itself"
    user, address = USERS[2], format_address(USERS[2].public)
    operations: list[Any] = [
        Bond(3 * BOND, "127.0.0.1:7", "http://127.0.0.1:8", b"t" * 32),
        Unbond(BOND + 500_000),
        StakeResources(StakeClaim(Resources(300, 65_536, 1_000), 2, b"p" * 32), "127.0.0.1:9"),
    ]
    for sequence, operation in enumerate(operations):
        await api.committed(api.net.signed(user, sequence, operation))
    candidate = await api.both(f"/v1/candidates/{address}")
    stored = api.validator.chain.candidate(user.public)
    assert stored is not None
    ((from_era, amount),) = stored.unbonding
    assert amount == BOND + 500_000
    assert candidate == {
        "address": address,
        "key": user.public.hex(),
        "bond": "1999.5",
        "bond_micro_bloc": 2 * BOND - 500_000,
        "unbonding": [
            {"from_era": from_era, "from_time_ms": None, "amount": "1000.5", "amount_micro_bloc": BOND + 500_000}
        ],
        "ready": [],
        "jailed": False,
        "jailed_era": None,
        "offences": 0,
        "link_address": "127.0.0.1:7",
        "api_url": "http://127.0.0.1:8",
        "onion": True,
        "stake": {
            "address": "127.0.0.1:9",
            "claim": {
                "compute_steps_per_second": 300,
                "storage_bytes": 65_536,
                "data_rate_bytes_per_second": 1_000,
            },
            "confirmed": {"compute_steps_per_second": 0, "storage_bytes": 0, "data_rate_bytes_per_second": 0},
            "compute_lanes": 2,
            "plot_root": (b"p" * 32).hex(),
        },
    }


async def test_a_candidate_that_is_jailed_says_since_when() -> None:
    jailed = Candidate(5, "a:1", "http://a", keys=((7, b"k" * 32),), jailed_era=6, offences=1)
    view = candidate_view(b"n" * 32, jailed, {}.get)
    assert (view["jailed"], view["jailed_era"], view["offences"], view["onion"]) == (True, 6, 1, False)
    assert view["stake"] is None
    assert view["ready"] == [{"era": 7, "consensus_key": (b"k" * 32).hex()}]
