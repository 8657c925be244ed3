"""The state at any height over a real node's API, and what a client that trusts nobody makes of it."""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from starlette.requests import Request
from starlette.responses import Response

from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.errors import BlockCloudError
from blockcloud.sdk.client import AsyncClient
from blockcloud.sdk.errors import NotFound, Refused
from blockcloud.sdk.light_client import LightClient
from blockcloud.sdk.snapshots import export_snapshot
from blockcloud.service_chain.operations import Preorder, Register, RenewName, TransferName, name_commitment
from blockcloud.service_chain.records import NameRecord, decode_record
from blockcloud.service_chain.snapshot import manifest_digest
from blockcloud.service_chain.snapshot_file import NoSnapshot, SnapshotReader
from blockcloud.service_chain.state_keys import account_key, name_key
from tests.api.api_world import MSGPACK, Api, check_problem, running_api, serving
from tests.node.cluster import USERS, cluster, until
from tests.sdk.sdk_world import as_json, running_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

ERA_LENGTH = 40
NAME, OWNER = "lived.test", USERS[7]
PERIOD = 10


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """A ledger in its sixth era or later, in which a name was registered, renewed more than once between checkpoints
    and given away. It stands still then: else what is asked for could be too long ago on a slow machine."""
    async with cluster(tmp_path_factory.mktemp("state"), 1, ERA_LENGTH) as net, serving(net) as running:
        await live(running)
        await until(lambda: running.validator.era >= 5 and running.validator.eras.current.certified)
        await until(lambda: running.validator.snapshots.newest_era >= 1)
        running.validator.core.proposing = False
        yield running


async def live(api: Api) -> None:
    chain = api.validator.chain
    heights: list[int] = []

    async def do(operation: Any) -> None:
        (receipt,) = await api.committed(api.net.signed(OWNER, len(heights), operation))
        heights.append(receipt["height"])

    await do(Preorder(name_commitment(NAME, bytes(32), OWNER.public)))
    opens = heights[0] + api.net.genesis.naming.preorder_min
    await until(lambda: chain.applied_height + 1 >= opens)
    await do(Register(NAME, bytes(32), b"", ()))
    # Until what it was in between shows at no checkpoint.
    while len(heights) < 4 or (heights[-2] - 1) // PERIOD != (heights[-1] - 1) // PERIOD:
        await do(RenewName(NAME))
    await api.committed(*api.net.transfers(0, 3))
    await do(TransferName(NAME, USERS[6].public))
    await until(lambda: api.validator.certificate.statement.height > heights[-1])


async def history(api: Api) -> list[dict[str, Any]]:
    return list((await api.both(f"/v1/names/{NAME}/history"))["history"])


def client_of(api: Api) -> AsyncClient:
    """Its clock is the ledger's, which stands still."""
    newest = api.validator.tables.record(api.validator.certificate.statement.height).time_ms
    return AsyncClient(api.net.genesis, [f"http://{api.host}:{api.port}"], now_ms=lambda: newest)


async def changes(api: Api, height: int, **query: str) -> list[dict[str, Any]]:
    """All that a commit changed, gathered from its pages."""
    found: list[dict[str, Any]] = []
    while True:
        page = (await api.http.get(f"/v1/changes/{height}", params=query)).json()
        assert page["height"] == height
        found += page["changes"]
        if page["next"] is None:
            assert len(found) == page["total"]
            return found
        assert page["changes"][-1]["key"] == page["next"]
        query["after"] = page["next"]


async def test_the_changes_of_all_commits_make_the_state_of_each_height(api: Api) -> None:
    reached = api.validator.chain.applied_height
    state: dict[str, str] = {}
    ever: set[str] = set()
    for height in range(reached + 1):
        for change in await changes(api, height, limit="2"):
            assert change["deleted"] == (change["value"] is None)
            assert change["kind"] != "unknown"
            state.pop(change["key"], None)
            if not change["deleted"]:
                assert change["record"] is not None
                state[change["key"]] = change["value"]
            ever.add(change["key"])
        if height % 7 == 0 or height == reached:
            found = {key: (await value(api, key, height))["value"] for key in sorted(ever)}
            assert {key: held for key, held in found.items() if held is not None} == state


async def value(api: Api, key: str, height: int) -> dict[str, Any]:
    return dict((await api.http.get(f"/v1/state/{key}", params={"height": str(height)})).json())


async def test_a_change_is_shown_as_what_it_is(api: Api) -> None:
    registered = (await history(api))[0]
    entries = {change["key"]: change for change in await changes(api, registered["height"])}
    name = entries[name_key(NAME).hex()]
    assert (name["kind"], name["of"]) == ("name", NAME)
    assert {"height": registered["height"], **name["record"]} == registered
    account = entries[account_key(OWNER.public).hex()]
    assert (account["kind"], account["of"]) == ("account", format_address(OWNER.public))
    assert account["record"]["sequence"] == 2
    assert [entry["kind"] for entry in entries.values() if entry["deleted"]] == ["preorder"]
    now = await api.both(f"/v1/state/{name_key('nobody.test').hex()}", height="9")
    assert now == {**now, "height": 9, "kind": "name", "of": "nobody.test", "value": None, "record": None}


async def test_pages_of_a_history_lead_to_the_first_operation(api: Api) -> None:
    whole = await api.both(f"/v1/names/{NAME}/history")
    assert (whole["before"], whole["pruned_below"]) == (None, None)
    assert len(whole["history"]) >= 4
    entries: list[dict[str, Any]] = []
    query = {"limit": "2"}
    while True:
        page = await api.both(f"/v1/names/{NAME}/history", **query)
        entries = page["history"] + entries
        if page["before"] is None:
            break
        assert page["before"] == page["history"][0]["height"] < int(query.get("before", 2**53))
        query["before"] = str(page["before"])
    assert entries == whole["history"]
    assert [entry["previous_height"] for entry in entries] == [0, *(entry["height"] for entry in entries)][:-1]
    path = f"/v1/names/{NAME}/history"
    check_problem(await api.http.get(path, params={"before": str(entries[0]["height"])}), 404, "not_found")
    check_problem(await api.http.get(path, params={"limit": "1001"}), 400, "malformed")


async def test_every_retained_checkpoint_is_proven_to_who_has_only_the_genesis(api: Api) -> None:
    chain = api.validator.chain
    newest = api.validator.certificate.statement.height
    keys = [account_key(OWNER.public), name_key(NAME), name_key("nobody.test")]
    heights = [height for height in chain.proof_heights() if 0 < height <= newest]
    assert len([height for height in heights if height % ERA_LENGTH == 0]) >= 4, "boundaries of eras too"
    async with client_of(api) as client:
        await client.proven(keys[0])
        for height in heights:
            for key in keys:
                proven = await client.proven(key, height=height)
                assert (proven.value, proven.height, proven.fresh) == (chain.get(key, height), height, False)
        assert (await client.proven(keys[0])).fresh
        assert client.past_plans, "the first eras are forgotten by now, and were proven anew"
        assert not client.transport.refused


async def test_heights_without_a_proof_are_refused_with_the_reason(api: Api) -> None:
    key = account_key(OWNER.public).hex()
    for height in (11, 55):
        answer = await api.http.get("/v1/proof", params={"key": key, "height": str(height)})
        detail = check_problem(answer, 404, "not_a_checkpoint")["detail"]
        assert f"below={height // PERIOD * PERIOD}" in detail
        assert f"above={(height // PERIOD + 1) * PERIOD}" in detail
    for path in ("/v1/proof?key=00&height=", "/v1/changes/", f"/v1/state/{key}?height=", f"/v1/names/{NAME}?height="):
        check_problem(await api.http.get(f"{path}{2**53}"), 404, "future_height")
    for place in ("from", "until"):
        check_problem(await api.http.get("/v1/proof", params={"key": key, place: str(2**53)}), 404, "future_height")
    check_problem(await api.http.get(f"/v1/proof?key={key}&height=10&from=10"), 400, "malformed")
    check_problem(await api.http.get("/v1/changes/many"), 400, "malformed")
    check_problem(await api.http.get("/v1/changes/1?after=x"), 400, "malformed")
    check_problem(await api.http.get("/v1/changes/1?limit=0"), 400, "malformed")
    check_problem(await api.http.get(f"/v1/state/{'00' * 513}"), 413, "oversized")
    async with client_of(api) as client:
        for height, code in ((11, "not_a_checkpoint"), (2**53, "future_height")):
            with pytest.raises(Refused) as refused:
                await client.proven(bytes.fromhex(key), height=height)
            assert refused.value.code == code


async def test_a_wrong_answer_about_the_past_is_refused(api: Api) -> None:
    key, now_ms = account_key(OWNER.public), time.time_ns() // 1_000_000
    raw = (await api.http.get("/v1/proof", params={"key": key.hex(), "height": "30"}, headers=MSGPACK)).content
    light = LightClient(api.net.genesis)
    assert light.accept_past(raw, key, range(30, 31), now_ms).value == api.validator.chain.get(key, 30)
    for wrong, heights in ((account_key(bytes(32)), range(30, 31)), (key, range(31, 32)), (key, range(30))):
        with pytest.raises(BlockCloudError):
            light.accept_past(raw, wrong, heights, now_ms)
    for at in range(0, len(raw), 3):
        flipped = raw[:at] + bytes((raw[at] ^ 1 << at % 8,)) + raw[at + 1 :]
        with pytest.raises(BlockCloudError):
            light.accept_past(flipped, key, range(30, 31), now_ms)
    assert not light.evidence


async def test_a_name_at_any_height_is_proven_where_its_links_allow(api: Api) -> None:
    chain, entries = api.validator.chain, await history(api)
    newest = api.validator.certificate.statement.height
    unproven = []
    async with client_of(api) as client:
        for height in range(1, newest + 1):
            found = await client.name_at(NAME, height)
            assert (found.height, found.record) == (height, chain.name(NAME, height))
            if found.proven_height is None:
                assert found.unproven in ("between_checkpoints", "pruned")
                unproven.append(height)
    changed = {height: getattr(chain.name(NAME, height), "changed_height", 0) for height in range(1, newest + 1)}
    links = {0: None, **{entry["height"]: entry["previous_height"] for entry in entries}}

    def follows(height: int) -> bool:
        """Whether what the name was at `height` follows from what it was at the checkpoints around it."""
        after = changed[-(-height // PERIOD) * PERIOD]
        before = changed.get(height // PERIOD * PERIOD)
        return after <= height or (links[after] in (0, before) and links[after] <= height)

    assert unproven == [height for height in range(1, newest + 1) if not follows(height)]
    assert unproven, "two changes between the same checkpoints"


async def test_a_history_says_what_of_it_is_proven(api: Api) -> None:
    async with client_of(api) as client:
        page = await client.name_history(NAME, prove=True)
        entries = await history(api)
        assert [{key: item for key, item in entry.items() if key != "proven_height"} for entry in page["history"]] == (
            entries
        )
        for entry, later in zip(page["history"], [*entries[1:], None], strict=True):
            end = api.validator.certificate.statement.height if later is None else later["height"] - 1
            assert (entry["proven_height"] is not None) == (end // PERIOD * PERIOD >= entry["height"])
        with pytest.raises(NotFound):
            await client.name_history("nobody.test")


async def test_the_pieces_of_a_snapshot(api: Api) -> None:
    newest, *_ = (await api.both("/v1/snapshots"))["snapshots"]
    path = f"/v1/snapshots/{newest['manifest']}"
    manifest = await api.http.get(f"{path}/0")
    assert manifest.headers["content-type"] == "application/octet-stream"
    assert manifest_digest(manifest.content).hex() == newest["manifest"]
    assert (await api.http.get(f"{path}/1")).content
    for missing in (f"{path}/60000", f"/v1/snapshots/{'00' * 32}/0"):
        check_problem(await api.http.get(missing), 404, "not_found")
    for wrong in (f"{path}/x", f"{path}/65537", "/v1/snapshots/00/0"):
        check_problem(await api.http.get(wrong), 400, "malformed")


async def test_the_client_reads_changes_and_values(api: Api) -> None:
    registered = (await history(api))[0]["height"]
    async with client_of(api) as client:
        listed = [change async for change in client.all_changes(registered)]
        assert listed == await changes(api, registered)
        page = await client.changes(registered, limit=1)
        rest = await client.changes(registered, after=bytes.fromhex(page["next"]))
        assert page["changes"] + rest["changes"] == listed
        found, height = await client.value_view(name_key(NAME), registered)
        record = decode_record(found, NameRecord)
        assert record is not None
        assert (record.changed_height, height) == (registered, registered)
        assert (await client.value_view(name_key(NAME), registered - 1))[0] is None


def true_paths(offer: dict[str, Any]) -> list[str]:
    return [f"/v1/snapshots/{offer['manifest']}/0", *(f"/v1/handovers/{era}" for era in range(1, offer["era"] + 1))]


async def test_the_newest_snapshot_is_exported_past_nodes_that_lie(api: Api) -> None:
    genesis, file = api.net.genesis, io.BytesIO()
    async with client_of(api) as client:
        manifest = await export_snapshot(client, file)
    assert SnapshotReader(io.BytesIO(file.getvalue()), genesis).check() == manifest
    offer = (await api.both("/v1/snapshots"))["snapshots"][0]
    # Of the true snapshot the liar has all but the chunks.
    true = {path: await api.http.get(path, headers=MSGPACK) for path in true_paths(offer)}

    async def lie(request: Request) -> Response | None:
        if request.url.path.endswith("/snapshots"):
            more = [{"era": 10**6, "manifest": "00" * 32}, {"era": offer["era"], "manifest": "11" * 32}]
            return as_json({"snapshots": [*more, offer]})
        found = true.get(request.url.path.removeprefix("/0"))
        return Response(b"wrong" if found is None else found.content)

    async with running_world() as liars:
        liars.nodes[0].misbehave = lie
        async with AsyncClient(genesis, [liars.urls[0], f"http://{api.host}:{api.port}"]) as client:
            second = io.BytesIO(b"something longer that was there before" * 10_000)
            again = await export_snapshot(client, second)
        assert again.era >= manifest.era
        assert SnapshotReader(io.BytesIO(second.getvalue()), genesis).check() == again
        async with AsyncClient(genesis, [liars.urls[0]]) as client:
            with pytest.raises(BlockCloudError):
                await export_snapshot(client, io.BytesIO())


async def test_without_a_snapshot_there_is_none_to_export(tmp_path: Path) -> None:
    async with (
        running_api(tmp_path) as young,
        AsyncClient(young.net.genesis, [f"http://{young.host}:{young.port}"]) as client,
    ):
        with pytest.raises(NoSnapshot):
            await export_snapshot(client, io.BytesIO())
