"""Which heights a node proves: every certified checkpoint it still can, the boundaries of eras too, and what it says
where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockcloud.node.applying import SharedChain
from blockcloud.node.proving import certificate_at, certificate_from, certificate_until, prove_value
from blockcloud.primitives.certificates import CHECKPOINT, HANDOVER, Certificate, Statement
from blockcloud.primitives.storage import Batch
from blockcloud.service_chain.state import FutureHeight, NotACheckpoint, Pruned
from blockcloud.service_chain.state.proof import verify
from blockcloud.service_chain.state.versioned import RETAINED_CHECKPOINTS
from blockcloud.service_chain.state_keys import account_key
from tests.node.snapshot_world import SnapshotWorld
from tests.service_chain.ledger_in_memory import USERS

KEY = account_key(USERS[0].public)


class ProvingWorld(SnapshotWorld):
    """An old ledger with two ended eras, some checkpoints certified."""

    def go_on(self, commits: int, *, certify: bool) -> None:
        ledger = self.ledger
        for _ in range(commits):
            result = ledger.execute()
            batch = Batch()
            self.tables.put_commit(ledger.record, batch)
            ledger.store.write(batch, sync=False)
            if result.state_root is not None and result.next_era is None and certify:
                digests = (ledger.record.digest(), result.state_root)
                era, height = ledger.record.era, ledger.height
                self.tables.put_certificate(
                    Certificate(Statement(CHECKPOINT, ledger.chain.chain_id, era, height, digests), ())
                )
        self.chain = SharedChain(ledger.genesis, ledger.store)

    @property
    def period(self) -> int:
        return self.ledger.genesis.parameters.checkpoint_period


def refusal(error: NotACheckpoint | Pruned | FutureHeight) -> dict[str, object]:
    return dict(error.values)


@pytest.fixture
def world(tmp_path: Path) -> ProvingWorld:
    made = ProvingWorld(tmp_path, 2)
    made.go_on(made.period * 2, certify=True)
    return made


def test_each_certified_checkpoint_and_each_boundary_is_proved(world: ProvingWorld) -> None:
    chain, tables = world.chain, world.tables
    boundaries = [one.certificate.statement.height for one in world.handovers]
    proved = []
    for height in range(1, chain.applied_height + 1):
        try:
            certificate = certificate_at(chain, tables, height)
        except NotACheckpoint:
            continue
        proved.append(height)
        statement = certificate.statement
        assert statement.height == height
        assert statement.kind == (HANDOVER if height in boundaries else CHECKPOINT)
        found = prove_value(chain, tables, KEY, certificate)
        assert verify(statement.digests[1], KEY, chain.get(KEY, height), found.proof)
    assert set(boundaries) <= set(proved)
    assert proved[-1] == chain.proof_heights()[-1]
    assert len(proved) >= 4


def test_the_nearest_provable_heights_are_found_and_named(world: ProvingWorld) -> None:
    chain, tables = world.chain, world.tables
    *_, below, above = chain.proof_heights()
    for height in range(below + 1, above):
        assert certificate_from(chain, tables, height).statement.height == above
        assert certificate_until(chain, tables, height).statement.height == below
        with pytest.raises(NotACheckpoint) as refused:
            certificate_at(chain, tables, height)
        assert refusal(refused.value) == {"height": height, "below": below, "above": above}
    assert certificate_from(chain, tables, above).statement.height == above
    assert certificate_until(chain, tables, above).statement.height == above


def test_what_is_to_come_or_not_certified_yet_is_said(world: ProvingWorld) -> None:
    certified = world.chain.proof_heights()[-1]
    world.go_on(world.period, certify=False)
    chain, tables = world.chain, world.tables
    newest = chain.proof_heights()[-1]
    assert newest > certified
    with pytest.raises(NotACheckpoint) as refused:
        certificate_at(chain, tables, newest)
    assert refusal(refused.value) == {"height": newest, "below": certified, "above": None}
    with pytest.raises(NotACheckpoint):
        certificate_from(chain, tables, certified + 1)
    assert certificate_until(chain, tables, newest).statement.height == certified
    for ask in (certificate_at, certificate_from, certificate_until):
        with pytest.raises(FutureHeight) as future:
            ask(chain, tables, chain.applied_height + 1)
        assert refusal(future.value) == {"height": chain.applied_height + 1, "reached": chain.applied_height}


def test_what_is_too_long_ago_is_pruned(world: ProvingWorld) -> None:
    first = world.handovers[0].certificate.statement.height
    assert certificate_at(world.chain, world.tables, first).statement.height == first
    for _ in range(RETAINED_CHECKPOINTS):
        world.go_on(world.period, certify=True)
        if world.chain.proof_heights()[0] > first:
            break
    oldest = certificate_from(world.chain, world.tables, first).statement.height
    assert oldest in world.chain.proof_heights()
    for ask in (certificate_at, certificate_until):
        with pytest.raises(Pruned) as refused:
            ask(world.chain, world.tables, first)
        assert refusal(refused.value) == {"height": first, "oldest": oldest}
    with pytest.raises(NotACheckpoint):
        certificate_at(world.chain, world.tables, first + 1)
