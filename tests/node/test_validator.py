"""Four validators in one event loop, on loopback with real TLS and RocksDB: they keep one ledger, come what may."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from blockcloud.node.validator import Validator
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.primitives.errors import BadConfiguration, Diverged, NotTakingPart, StorageFault
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.state_keys import account_key
from tests.node.cluster import GC_DEPTH, KEYS, USERS, Cluster, cluster, make_genesis, until


async def test_transfers_commit_and_all_have_the_same_root(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        batches = [
            net.running[user % 4].submit(net.transfers(user, 20, amount=7), wait=True, timeout_s=20)
            for user in range(8)
        ]
        results = [result for batch in await asyncio.gather(*batches) for result in batch]
        assert {(result.status, result.code) for result in results} == {("committed", "")}
        heights = [result.receipt.height for result in results if result.receipt]
        await net.same_certified_roots(max(heights))
        for validator in net.running.values():
            assert [validator.chain.account(user.public).sequence for user in USERS] == [20] * 8  # type: ignore[union-attr]
            for result in results:
                assert validator.chain.receipt(result.id) == result.receipt
            proven = validator.proven(account_key(USERS[0].public))
            value, height, _ = proven.verify(net.genesis.chain_id(), net.genesis.committee().weights_by_key)
            assert value == validator.chain.get(account_key(USERS[0].public), height)
        again = await net.running[0].submit([net.transfer(0, 0, USERS[1].public, 7)], wait=True)
        assert again[0].status == "committed"
        assert again[0].receipt == net.running[1].chain.receipt(again[0].id)


async def test_bad_submissions_are_rejected_with_their_reasons(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        validator = net.running[0]
        await validator.submit(net.transfers(0, 1), wait=True, timeout_s=20)
        good = net.transfer(1, 0, USERS[2].public, 1)
        tampered = bytearray(good)
        tampered[-1] ^= 1
        other = Cluster(net.folder, replace_name(net.genesis)).transfer(1, 0, USERS[2].public, 1)
        submitted = [
            b"garbage",
            bytes(tampered),
            other,
            net.transfer(0, 0, USERS[2].public, 5),
            net.transfer(1, 0, USERS[2].public, 1, valid_until=0),
            net.transfer(1, 5, USERS[2].public, 1),
            net.transfer(1, 0, USERS[2].public, GENESIS_SUPPLY_MICRO_BLOC),
        ]
        results = await validator.submit(submitted, wait=True, timeout_s=20)
        assert [(result.status, result.code) for result in results] == [
            ("rejected", "malformed"),
            ("rejected", "bad_signature"),
            ("rejected", "wrong_chain"),
            ("rejected", "stale_sequence"),
            ("rejected", "expired"),
            ("rejected", "future_sequence"),
            ("committed", "insufficient_balance"),
        ]
        assert results[0].id == b""
        assert all(peer.faults.total() == 0 for one in net.running.values() for peer in one.network.peers.values())


def replace_name(genesis: Genesis) -> Genesis:
    return Genesis(
        "another",
        genesis.time_ms,
        genesis.parameters,
        genesis.naming,
        genesis.validators,
        genesis.accounts,
    )


async def test_a_stopped_validator_restarts_from_its_disk_and_catches_up(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        await net.running[0].submit(net.transfers(0, 10), wait=True, timeout_s=20)
        # Its newest block may not have been durable when it stopped: then nobody has got it.
        signed = net.running[3].core.level - 1
        await net.stop(3)
        results = []
        for _ in range(5):
            results += await net.running[1].submit(net.transfers(1, 40), wait=True, timeout_s=20)
        assert {result.status for result in results} == {"committed"}
        await until(lambda: net.running[0].core.highest_level > signed + 2 * GC_DEPTH)
        back = await net.start(3)
        assert back.core.level >= signed
        assert back.core.proposing
        height = net.running[0].chain.applied_height
        await until(lambda: back.chain.applied_height >= height)
        assert back.chain.receipt(results[-1].id) == results[-1].receipt
        await until(lambda: back.core.level > back.core.highest_level - 4)
        own = await back.submit(net.transfers(3, 5), wait=True, timeout_s=20)
        assert {result.status for result in own} == {"committed"}
        await net.same_certified_roots(height)
        assert not any(one.core.evidence for one in net.running.values())


async def test_all_restart_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        results = await net.running[2].submit(net.transfers(2, 50), wait=True, timeout_s=20)
        heights = [one.chain.applied_height for one in net.running.values()]
        for index in range(4):
            await net.stop(index)
        for index in range(4):
            await net.start(index)
        await until(lambda: all(one.chain.applied_height > max(heights) for one in net.running.values()))
        for validator in net.running.values():
            assert all(validator.chain.receipt(result.id) == result.receipt for result in results)
        await net.same_certified_roots(max(heights))
        assert not any(one.core.evidence for one in net.running.values())


async def test_a_validator_that_lost_its_data_observes(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        await net.running[0].submit(net.transfers(0, 10), wait=True, timeout_s=20)
        await net.stop(3)
        os.rename(net.config(3).data_path, net.folder / "lost")
        back = await net.start(3)
        height = net.running[0].chain.applied_height
        await until(lambda: back.chain.applied_height >= height)
        assert not back.core.proposing
        await until(lambda: back.status()["mode"] == "observing")
        assert [entry["code"] for entry in back.status()["health"]] == ["observing"]
        with pytest.raises(NotTakingPart):
            await back.submit(net.transfers(1, 1))
        assert net.running[0].chain.account(USERS[0].public) == back.chain.account(USERS[0].public)


async def test_it_stops_without_a_quorum_and_goes_on_with_one(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        await net.stop(0)
        await net.stop(1)
        level = max(one.core.highest_level for one in net.running.values())
        (waiting,) = await net.running[2].submit(net.transfers(0, 1), wait=True, timeout_s=0.3)
        assert waiting.status == "accepted"
        assert max(one.core.highest_level for one in net.running.values()) <= level + 2
        assert net.running[2].readiness() == (False, "fewer validators than a quorum are linked")
        await net.start(0)
        await until(lambda: net.running[2].chain.receipt(waiting.id) is not None)
        assert net.running[2].readiness()[0]


async def test_above_capacity_it_answers_busy_and_commits_the_rest(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        validator = net.running[0]
        flood = [
            validator.submit(net.transfers(user, 500), wait=True, timeout_s=30, client=str(user)) for user in range(8)
        ]
        results = [result for batch in await asyncio.gather(*flood) for result in batch]
        kinds = [result.status for result in results]
        assert set(kinds) == {"committed", "busy"}
        assert kinds.count("committed") >= 300
        assert all(result.retry_after_ms for result in results if result.status == "busy")
        assert validator.status()["counters"]["busy"] == kinds.count("busy")
        # Of eight clients at once, none was shut out.
        assert all("committed" in kinds[500 * user : 500 * user + 500] for user in range(4))


async def test_a_diverged_node_halts_and_the_others_go_on(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        sick = net.running[3]
        execute = sick.chain.execute
        wrong_root = b"\x13" * 32

        def execute_wrongly(commit, batch):  # type: ignore[no-untyped-def]
            result = execute(commit, batch)
            return replace(result, state_root=wrong_root) if result.state_root else result

        sick.chain.execute = execute_wrongly  # type: ignore[method-assign]
        with pytest.raises(Diverged, match="13131313"):
            await asyncio.wait_for(sick.failed(), 30)
        assert sick.halted
        assert sick.status()["mode"] == "halted"
        with pytest.raises(NotTakingPart):
            await sick.submit(net.transfers(0, 1))
        (result,) = await net.running[0].submit(net.transfers(1, 1), wait=True, timeout_s=20)
        assert result.status == "committed"


async def test_a_disk_that_fails_halts_the_node(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        net.running[3].store.close()
        with pytest.raises(StorageFault):
            await asyncio.wait_for(net.running[3].failed(), 30)
        (result,) = await net.running[0].submit(net.transfers(1, 1), wait=True, timeout_s=20)
        assert result.status == "committed"
        assert net.running[3].readiness() == (False, "halted")
        assert "halted" in [entry["code"] for entry in net.running[3].status()["health"]]
        await until(lambda: 3 not in net.running[0].network.connected())


async def test_events_status_and_metrics_tell_the_same(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as net:
        validator = net.running[0]
        async with validator.subscribe() as events:
            (result,) = await validator.submit(net.transfers(0, 1), wait=True, timeout_s=20)
            seen = []
            async for event in events:
                seen.append(event)
                if event.kind == "checkpoint":
                    break
        assert result.receipt is not None
        commits = {event.data["height"]: event.data for event in seen if event.kind == "commit"}
        assert commits[result.receipt.height]["transactions"] == 1
        assert [event.number for event in seen] == list(range(seen[0].number, seen[-1].number + 1))
        async with validator.subscribe(seen[0].number) as resumed:
            assert await anext(aiter(resumed)) == seen[1]
        status = validator.status()
        assert status["checkpoint"]["state_root"] == seen[-1].data["state_root"]
        assert status["health"] == []
        value = validator.metrics.get_sample_value("blockcloud_committed_total")
        assert value == status["counters"]["committed"] >= 1, "the node gets ready for the next era too"


async def test_whoever_is_no_member_follows(tmp_path: Path) -> None:
    """A key that the genesis does not know: the node keeps the same ledger as the others, and makes no blocks."""
    async with cluster(tmp_path) as net:
        await net.running[0].submit(net.transfers(0, 10), wait=True, timeout_s=20)
        follower = await net.start_newcomer(USERS[0])
        height = net.running[0].chain.applied_height
        await until(lambda: follower.chain.applied_height >= height)
        (result,) = await net.running[1].submit(net.transfers(1, 1), wait=True, timeout_s=20)
        await until(lambda: follower.chain.receipt(result.id) is not None)
        assert follower.chain.receipt(result.id) == result.receipt
        assert follower.own is None
        assert not follower.core.proposing
        await until(lambda: follower.status()["mode"] == "observing")
        assert follower.status()["member"] is None
        assert [entry["code"] for entry in follower.status()["health"]] == [], "nothing is wrong with following"
        assert follower.readiness() == (True, "ready")
        with pytest.raises(NotTakingPart):
            await follower.submit(net.transfers(2, 1))
        await until(lambda: follower.certificate is not None and follower.certificate.statement.height >= height)
        proven = follower.proven(account_key(USERS[1].public))
        proven.verify(net.genesis.chain_id(), net.genesis.committee().weights_by_key)
        peers = [peer for one in net.running.values() for peer in one.network.peers.values()]
        assert all(peer.faults.total() == 0 for peer in peers)
        assert sum(peer.key == USERS[0].public for peer in peers) == 4, "it is a guest of all members"


async def test_configuration_that_cannot_work_is_refused(tmp_path: Path) -> None:
    net = Cluster(tmp_path, make_genesis(4))
    net.initialise(0)
    with pytest.raises(BadConfiguration, match="not empty"):
        net.initialise(0)
    with pytest.raises(BadConfiguration, match="another chain"):
        Validator(net.config(0), replace_name(net.genesis), KEYS[0])
    validator = Validator(net.config(0), net.genesis, KEYS[0])
    await validator.stop()
