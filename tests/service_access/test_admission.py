"""A gate at a real endpoint: who is let in, what a refused consumer is told, and sessions that end with the access."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.admission import AccessRequest, Credentials, PolicyDenied
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.errors import SessionReset
from blockcloud.service_access.listener import Listener, listen
from blockcloud.service_access.stream import Session
from tests.service_access.access_world import NAME, World, bounded


@dataclass
class List:
    """A gate that lets in whoever is on it."""

    keys: list[bytes]
    active: bool = True
    digest: bytes = bytes(32)
    seen: list[AccessRequest] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)

    def admit(self, request: AccessRequest) -> None:
        self.seen.append(request)
        if request.key not in self.keys:
            raise PolicyDenied("no rule permits it [no_rule]")

    def opened(self, request: AccessRequest, session: Session) -> None:
        self.sessions.append(session)


async def guarded(world: World, gate: List) -> Listener:
    context = listen(NAME, world.key(), announcer=world.registry, gate=gate)
    return await world.stack.enter_async_context(context)


async def test_the_gate_sees_who_asks_and_lets_in_or_tells_why_not(world: World) -> None:
    consumer = await world.endpoint()
    gate = List([consumer.key.public])
    listener = await guarded(world, gate)
    credentials = Credentials("staff.acme", b"token")
    async with await Connector(consumer, world.registry, credentials).connect(NAME) as session:
        served = await bounded(listener.accept())
        await session.write(b"hello")
        assert await bounded(served.read()) == b"hello"
        assert gate.seen == [AccessRequest(NAME, consumer.key.public, "127.0.0.1", "staff.acme", b"token")]
        assert gate.sessions == [served]
        await served.close()
    stranger = await world.endpoint()
    with pytest.raises(PolicyDenied, match="no rule permits it"):
        await bounded(Connector(stranger, world.registry).connect(NAME))
    assert listener.endpoint.faults == {"policy_denied": 1}
    assert not listener.endpoint.sessions or len(gate.sessions) == 1


async def test_where_no_policy_was_bound_a_consumer_does_not_wait_and_is_refused_all_the_same(world: World) -> None:
    gate = List([], active=False)
    await guarded(world, gate)
    consumer = await world.endpoint()
    session = await bounded(Connector(consumer, world.registry).connect(NAME))
    with pytest.raises(SessionReset) as refused:
        await bounded(session.read())
    assert refused.value.reset_code == PolicyDenied.code


async def test_whoever_loses_access_is_told_so_in_the_running_session(world: World) -> None:
    consumer = await world.endpoint()
    gate = List([consumer.key.public])
    listener = await guarded(world, gate)
    session = await bounded(Connector(consumer, world.registry).connect(NAME))
    served = await bounded(listener.accept())
    served.abort(PolicyDenied.code, "forbidden by night")
    with pytest.raises(SessionReset, match="night") as ended:
        await bounded(session.read())
    assert ended.value.reset_code == PolicyDenied.code


async def test_a_key_cannot_be_borrowed(world: World) -> None:
    """The request names the key that signed the handshake, whatever else the consumer says."""
    friend = SigningKey.generate()
    gate = List([friend.public])
    await guarded(world, gate)
    thief = await world.endpoint()
    with pytest.raises(PolicyDenied):
        await bounded(Connector(thief, world.registry, Credentials("", friend.public)).connect(NAME))
    assert [each.key for each in gate.seen] == [thief.key.public]
