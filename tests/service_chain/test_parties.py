"""The index of agreements by account: kept with each commit, bounded, and made anew where it is missing."""

from __future__ import annotations

from blockcloud.primitives.storage import Batch
from blockcloud.service_chain import parties
from blockcloud.service_chain.machine import META
from tests.service_chain.agreements.channel_world import CLIENT, PROVIDER, STRANGER, ChannelWorld
from tests.service_chain.ledger_in_memory import SALT


def test_an_account_finds_its_agreements_page_by_page_after_a_restart_too() -> None:
    world = ChannelWorld()
    mine = sorted(world.open(salt=bytes([number]) * 32) for number in range(5))
    other = world.open(STRANGER, salt=SALT)

    def found() -> None:
        chain = world.ledger.chain
        assert chain.agreements_of(CLIENT.public, 9) == mine
        assert chain.agreements_of(CLIENT.public, 2) == mine[:2]
        assert chain.agreements_of(CLIENT.public, 9, mine[2]) == mine[3:]
        assert chain.agreements_of(STRANGER.public, 9) == [other]
        assert chain.agreements_of(PROVIDER.public, 9) == sorted([*mine, other])
        assert chain.agreements_of(bytes(32), 9) == []

    found()
    # As after a snapshot, which has the state alone; and what stood there is not of it.
    batch = Batch()
    batch.delete_range(parties.TABLE, b"", b"\xff" * 65)
    batch.put(parties.TABLE, CLIENT.public + bytes(32), b"")
    batch.delete(META, parties.COMPLETE_KEY)
    world.ledger.store.write(batch, sync=True)
    world.ledger.restart()
    found()
