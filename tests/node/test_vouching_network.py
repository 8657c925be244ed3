"""A validator that was down comes back by what a quorum vouches for; who vouches falsely is scored."""

from __future__ import annotations

from pathlib import Path

from blockcloud.transaction_chain.messages import Commits, encode_message
from tests.node.cluster import GC_DEPTH, cluster, until


async def test_a_peer_is_scored_for_commits_that_nobody_certified(tmp_path: Path) -> None:
    async with cluster(tmp_path, count=2) as net:
        one = net.running[0]
        await until(lambda: one.certificate is not None)
        certificate = one.certificate
        assert certificate is not None
        height = certificate.statement.height
        raws = [one.tables.commit_bytes(number) or b"" for number in range(1, height)]
        peer = one.network.connected()[0]
        assert one.verification.vouching.ask(peer, one.eras.current.rules, 0, 0)
        forged = Commits(0, (raws[0], *raws), certificate)
        one._frame(peer, encode_message(forged))
        assert one.network.peers[peer].faults == {"broken_commit_chain": 1}


async def test_a_validator_that_was_down_catches_up_by_certified_commits(tmp_path: Path) -> None:
    async with cluster(tmp_path) as net:
        await net.running[0].submit(net.transfers(0, 10), wait=True, timeout_s=20)
        await net.stop(3)
        down = net.running[0].chain.applied_height
        results = []
        while net.running[0].chain.applied_height < down + 200:
            results += await net.running[1].submit(net.transfers(1, 20), wait=True, timeout_s=20)
        assert {result.status for result in results} == {"committed"}
        back = await net.start(3)
        target = net.running[0].chain.applied_height
        await until(lambda: back.chain.applied_height >= target)
        assert back.status()["counters"]["vouched_blocks"] > 200
        assert back.chain.receipt(results[-1].id) == results[-1].receipt
        await until(lambda: back.core.level > back.core.highest_level - GC_DEPTH)
        own = await back.submit(net.transfers(3, 5), wait=True, timeout_s=20)
        assert {result.status for result in own} == {"committed"}
        await net.same_certified_roots(target)
        assert all(peer.faults.total() == 0 for one in net.running.values() for peer in one.network.peers.values())
