"""CloudPoS of a running node: its agent hears what the ledger says, and what it found goes onto the ledger.

Watches the round of challenges (`service_chain/resources.py`) as commits are applied, and says what this node has to
post about it: a stake that the ledger does not know yet, or one that is no more, and a report that is due.
`membership.py` posts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from blockcloud.node.applying import SharedChain
from blockcloud.node.clock import unix_ms
from blockcloud.node.config import NodeConfig
from blockcloud.node.resources.desk import Desk, LedgerView
from blockcloud.node.resources.wire import Begin, Staking
from blockcloud.primitives import codec
from blockcloud.primitives.limits import STATE_VALUE_BYTES
from blockcloud.service_chain.operations import Operation, ReportChallenges, StakeResources
from blockcloud.service_chain.records import OpenRound
from blockcloud.service_chain.resources import reported
from blockcloud.service_chain.state_keys import ROUND_KEY
from blockcloud.transaction_chain.cloudpos.stake import NOTHING, StakeClaim
from blockcloud.transaction_chain.commit import CommitRecord

RESOURCES_FOLDER: Final = "resources"
# What a node claims whose configuration names no resources any more.
TAKEN_BACK: Final = StakeClaim(NOTHING, 1, bytes(32))


class Examining:
    """One node's part in the rounds of challenges. Belongs to the event loop's thread."""

    def __init__(self, config: NodeConfig, chain: SharedChain, node_key: bytes) -> None:
        self._chain, self._node_key = chain, node_key
        self._stakes = config.resources is not None
        self.desk = Desk(node_key, _begin(config, chain))
        self._opened_bytes: bytes | None = None
        self._opened: OpenRound | None = None
        self._look(chain.applied_height, 0)

    def applied(self, last: CommitRecord) -> None:
        """This commit and all before it have been applied."""
        self._look(last.height, last.time_ms)

    def _look(self, height: int, time_ms: int) -> None:
        found = self._chain.get(ROUND_KEY)
        if found != self._opened_bytes:
            self._opened_bytes = found
            self._opened = None if found is None else codec.decode(found, OpenRound, limit=STATE_VALUE_BYTES)
        self.desk.applied(LedgerView(height, unix_ms() - time_ms, self._opened))

    def due(self) -> Iterator[Operation]:
        """What is to be posted now."""
        opened = self._opened
        if opened is not None and self._chain.applied_height + 1 < opened.settle_height:
            report = self.desk.report(opened)
            if report is not None and not reported(self._chain.get, self._node_key):
                yield ReportChallenges(report)
        yield from self._stake()

    def _stake(self) -> Iterator[Operation]:
        candidate, staked = self._chain.candidate(self._node_key), self.desk.staked
        if candidate is None:
            return
        if not self._stakes and self._chain.stake(self._node_key) is not None:
            yield StakeResources(TAKEN_BACK)
        if staked is None:
            return
        # The host where other nodes reach this one is the one of its links; where it listens may be 0.0.0.0.
        host, _, _ = candidate.link_address.rpartition(":")
        address, record = f"{host}:{staked.port}", self._chain.stake(self._node_key)
        if record is None or (record.claim, record.address) != (staked.claim, address):
            yield StakeResources(staked.claim, address)

    async def close(self) -> None:
        """End the agent."""
        await self.desk.close()


def staking_of(config: NodeConfig) -> Staking | None:
    """What the agent of the node with this configuration sets aside."""
    staked = config.resources
    if staked is None:
        return None
    return Staking(
        folder=str((config.home / RESOURCES_FOLDER).absolute()),
        storage_bytes=staked.storage_bytes,
        compute_permille=staked.compute_permille,
        compute_lanes=staked.compute_lanes,
        data_rate=staked.data_rate,
        gamma=staked.gamma,
        host=config.link_host,
        port=staked.examination_port,
    )


def _begin(config: NodeConfig, chain: SharedChain) -> Begin:
    key_file = str(config.key_path.absolute())
    return Begin(key_file, chain.chain_id, chain.genesis.challenges, config.log_level, staking_of(config))
