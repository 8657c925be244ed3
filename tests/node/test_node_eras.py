"""Eras on real nodes: committees hand over, and transactions and nodes caught across the boundary get through."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from blockcloud.node.succession import UnsupportedProtocol
from blockcloud.node.validator import Validator
from blockcloud.primitives import codec
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.merkle import merkle_root
from blockcloud.service_chain.operations import Bond
from blockcloud.transaction_chain.block import sign_block
from blockcloud.transaction_chain.commit import COMMIT_BYTES, CommitRecord
from blockcloud.transaction_chain.messages import BlockMessage, encode_message
from tests.node.cluster import BOND, KEYS, USERS, Cluster, cluster, until

ERA_LENGTH = 24
NEWCOMER = SigningKey(b"n" * 32)


def in_era(net: Cluster, era: int) -> bool:
    return all(one.era >= era for one in net.running.values())


def certified(net: Cluster, era: int) -> bool:
    return all(one.era > era or (one.era == era and one.eras.current.certified) for one in net.running.values())


async def test_eras_follow_one_another_and_transactions_go_on(tmp_path: Path) -> None:
    async with cluster(tmp_path, era_length=ERA_LENGTH) as net:
        while not in_era(net, 3):
            results = await net.running[0].submit(net.transfers(0, 5), wait=True, timeout_s=20)
            assert [result.status for result in results] == ["committed"] * 5
        await until(lambda: certified(net, 3))
        for one in net.running.values():
            assert one.core.proposing
            assert not one.core.evidence
            for era in (1, 2, 3):
                certificate = one.tables.handover(era)
                assert certificate is not None
                assert certificate.statement.height == era * ERA_LENGTH
        await net.same_certified_roots(3 * ERA_LENGTH)
        assert len({one.chain.account(USERS[1].public) for one in net.running.values()}) == 1


async def test_members_get_ready_with_new_keys_and_old_keys_are_erased(tmp_path: Path) -> None:
    async with cluster(tmp_path, era_length=100) as net:
        await until(lambda: in_era(net, 2))
        await until(lambda: certified(net, 2))
        for index, one in net.running.items():
            first, second = one.chain.plan_of(1), one.chain.plan_of(2)
            assert first is not None
            assert second is not None
            keys = {seat.consensus_key for plan in (first, second) for seat in plan.seats}
            assert len(keys) == 8, "a key was used twice"
            assert not keys & {key.public for key in KEYS}
            files = list((net.config(index).key_path.parent).glob("consensus-*.pem"))
            assert 1 <= len(files) <= 2, "keys of past eras are erased"
            assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)


def blocks_by(net: Cluster, index: int, era: int, author: int) -> int:
    """Blocks of a member in the commits of an era, as far as the node `index` has them: it may not be there yet."""
    one, found = net.running[index], 0
    plan = one.chain.plan_of(era)
    if plan is None:
        return 0
    for height in range(plan.first_height, one.chain.applied_height + 1):
        record = codec.decode(one.tables.commit_bytes(height) or b"", CommitRecord, limit=COMMIT_BYTES)
        found += sum(reference.author == author for reference in record.blocks if record.era == era)
    return found


async def test_a_newcomer_syncs_bonds_and_writes_blocks(tmp_path: Path) -> None:
    """It has the genesis file and nothing else, and the network is eras ahead."""
    async with cluster(tmp_path, era_length=100) as net:
        await until(lambda: in_era(net, 1))
        newcomer = await net.start_newcomer(NEWCOMER)
        await until(
            lambda: newcomer.era >= 1 and newcomer.chain.applied_height >= net.running[0].chain.applied_height - 5
        )
        assert newcomer.own is None
        await until(lambda: newcomer.status()["mode"] == "observing")
        await until(lambda: all(newcomer.tables.handover(era) for era in range(1, newcomer.era + 1)))
        funds = 2 * BOND
        paid = net.transfer(0, net.next_sequence(0), NEWCOMER.public, funds)
        assert (await net.running[0].submit([paid], wait=True, timeout_s=20))[0].status == "committed"
        bond = Bond(BOND + 1, newcomer.link_address, "http://127.0.0.1:1", b"")
        bonded = net.signed(NEWCOMER, 0, bond)
        assert (await net.running[1].submit([bonded], wait=True, timeout_s=20))[0].status == "committed"
        await until(lambda: newcomer.own is not None, 60)
        era = newcomer.era
        assert newcomer.own == 0, "the highest bond comes first"
        assert all(len(plan.seats) == 5 for one in net.running.values() if (plan := one.chain.plan_of(era)))
        await until(lambda: blocks_by(net, 0, era, 0) >= 5)
        (result,) = await newcomer.submit(net.transfers(2, 1), wait=True, timeout_s=20)
        assert result.status == "committed"
        assert not any(one.core.evidence for one in [newcomer, *net.running.values()])


async def test_a_member_that_signs_twice_is_slashed_and_leaves(tmp_path: Path) -> None:
    """The others see two blocks of one level, report them on the ledger, and go on without the liar."""
    async with cluster(tmp_path, count=5, era_length=100) as net:
        liar = net.running[4]
        assert liar.own is not None
        block = liar.core._own_recent[-1]
        header = replace(block.header, timestamp_ms=block.header.timestamp_ms + 1, payload_root=merkle_root(()))
        liar.network.broadcast(encode_message(BlockMessage(sign_block(header, (), KEYS[4]).raw)))
        others = [net.running[index] for index in range(4)]
        await until(lambda: all(in_jail(one, liar.node_key) for one in others))
        candidate = others[0].chain.candidate(liar.node_key)
        assert candidate is not None
        assert candidate.offences == 1
        assert candidate.bond == BOND * 95 // 100
        await until(lambda: min(one.era for one in others) >= 2, 60)
        plan = others[0].chain.plan_of(2)
        assert plan is not None
        assert {seat.node_key for seat in plan.seats} == {key.public for key in KEYS[:4]}
        (result,) = await others[0].submit(net.transfers(0, 1), wait=True, timeout_s=20)
        assert result.status == "committed"


def in_jail(one: Validator, node_key: bytes) -> bool:
    candidate = one.chain.candidate(node_key)
    return candidate is not None and candidate.jailed


async def test_a_quorum_that_can_run_a_new_version_gets_it_and_old_programs_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of five weigh a quorum. The fifth is not upgraded: it stops at the boundary rather than guess the rules."""
    monkeypatch.setattr(Validator, "protocol_version", 2)
    async with cluster(tmp_path, count=4, spare=1, era_length=100) as net:
        monkeypatch.setattr(Validator, "protocol_version", 1)
        net.initialise(4)
        old = await net.start(4)
        with pytest.raises(UnsupportedProtocol, match="needed=2"):
            await asyncio.wait_for(old.failed(), 60)
        plans = [net.running[0].chain.plan_of(era) for era in (1, 2)]
        assert [plan.protocol_version for plan in plans if plan is not None] == [1, 2]
        assert old.halted
        others = [net.running[index] for index in range(4)]
        await until(lambda: all(one.era >= 2 and one.eras.current.certified for one in others))
        (result,) = await others[0].submit(net.transfers(0, 1), wait=True, timeout_s=20)
        assert result.status == "committed"
