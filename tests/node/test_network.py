"""Links between nodes over real sockets and TLS, on both event loops: who gets in, who stays out, who holds up whom."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
import uvloop

from blockcloud.node import network as network_module
from blockcloud.node.link import HANDSHAKE_FRAME_BYTES, Link
from blockcloud.node.network import PURPOSE, MemberAddress, Network, Peer
from blockcloud.primitives.errors import Malformed, Unreachable, WrongKey
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import FRAME_BYTES
from blockcloud.service_access.handshake import RANDOMNESS_BYTES, Initiator, Responder
from blockcloud.service_access.tls import client_context, peer_certificate_hash, server_context

CHAIN = b"c" * 32
# In the order of the public keys: of two members the one with the lower number dials.
KEYS = sorted((SigningKey(bytes([number]) * 32) for number in range(4)), key=lambda key: key.public)
GUEST = 4
STRANGER = SigningKey(b"s" * 32)
NUMBERS = {key.public: number for number, key in enumerate([*KEYS, STRANGER])}

Scenario = Callable[[], Coroutine[None, None, None]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    def start(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(closing_all(scenario), 30))

    return start


started: list[Network] = []


async def closing_all(scenario: Scenario) -> None:
    """Also when it fails: the loop could not be closed while sockets are open."""
    try:
        await scenario()
    finally:
        while started:
            await started.pop().close()


@dataclass
class Node:
    """One network and what it reported. Its peers appear here by their places in KEYS, the stranger as GUEST."""

    network: Network
    port: int = 0
    frames: list[tuple[int, bytes]] = field(default_factory=list)
    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)

    def index(self, number: int) -> int:
        """The network's number of a node."""
        key = STRANGER if number == GUEST else KEYS[number]
        index = self.network.index_of(key.public)
        assert index is not None
        return index

    def peer(self, number: int) -> Peer:
        return self.network.peers[self.index(number)]

    def connected(self) -> list[int]:
        return sorted(NUMBERS[self.network.peers[index].key] for index in self.network.connected())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def places(count: int) -> list[MemberAddress]:
    """Members at a loopback address of their own: no port of it is in use, nor taken by an outgoing connection."""
    host = "127." + ".".join(str(1 + byte % 254) for byte in os.urandom(3))
    return [MemberAddress(KEYS[index].public, host, 9_000 + index) for index in range(count)]


async def start(
    index: int,
    members: list[MemberAddress],
    *,
    known: list[MemberAddress] | None = None,
    key: SigningKey | None = None,
    chain: bytes = CHAIN,
) -> Node:
    """A network that listens where member `index` does, and knows all `members` or only those in `known`."""
    up: list[int] = []
    down: list[int] = []
    frames: list[tuple[int, bytes]] = []

    def number(peer: int) -> int:
        return NUMBERS.get(network.peers[peer].key, -1)

    network = Network(
        chain_id=chain,
        key=key or KEYS[index],
        on_frame=lambda peer, data: frames.append((number(peer), data)),
        on_connected=lambda peer: up.append(number(peer)),
        on_lost=lambda peer: down.append(number(peer)),
    )
    started.append(network)
    node = Node(network, frames=frames, up=up, down=down)
    node.port = await network.start(members[index].host, members[index].port)
    network.know(members if known is None else known)
    return node


@asynccontextmanager
async def cluster(count: int) -> AsyncIterator[tuple[list[Node], list[MemberAddress]]]:
    members = places(count)
    nodes = [await start(i, members) for i in range(count)]
    try:
        await until(lambda: all(len(node.network.connected()) == count - 1 for node in nodes))
        yield nodes, members
    finally:
        for node in nodes:
            await node.network.close()


async def dial(
    member: MemberAddress, key: SigningKey, *, chain: bytes = CHAIN, expected: bytes | None = None
) -> tuple[Link, asyncio.Transport]:
    """A hand-made dialler, up to and including the listener's acceptance."""
    loop = asyncio.get_running_loop()
    link = Link(loop)
    transport, _ = await loop.create_connection(
        lambda: link, member.host, member.port, ssl=client_context(), server_hostname=""
    )
    initiator = Initiator(
        key=key,
        purpose=PURPOSE,
        target=chain.hex(),
        expected=(expected or member.key,),
        randomness=os.urandom(RANDOMNESS_BYTES),
    )
    try:
        link.send(initiator.hello())
        reply = await link.next_frame()
        link.send(initiator.receive(reply, peer_certificate_hash(transport.get_extra_info("ssl_object"))))
        assert await link.next_frame() == b""
    except BaseException:
        link.abort()
        raise
    return link, transport


def test_every_pair_has_one_link_that_carries_frames_of_all_sizes(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with cluster(4) as (nodes, _):
            big = os.urandom(FRAME_BYTES)
            for index, node in enumerate(nodes):
                node.network.broadcast(b"hello from %d" % index)
            nodes[0].network.send(nodes[0].index(3), big)
            nodes[3].network.send(nodes[3].index(0), big)
            await until(lambda: sum(len(node.frames) for node in nodes) == 14)
            for index, node in enumerate(nodes):
                assert sorted(node.up) == [peer for peer in range(4) if peer != index]
                small = sorted((peer, data) for peer, data in node.frames if len(data) < 100)
                assert small == [(peer, b"hello from %d" % peer) for peer in range(4) if peer != index]
            assert nodes[0].frames[-1] == (3, big)
            assert nodes[3].frames[-1] == (0, big)

    run(scenario)


def test_a_member_that_comes_back_is_linked_again(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with cluster(3) as (nodes, members):
            await nodes[1].network.close()
            await until(lambda: nodes[0].down == [1] and nodes[2].down == [1])
            nodes[1] = await start(1, members)
            await until(lambda: len(nodes[1].network.connected()) == 2)
            await until(lambda: nodes[0].up.count(1) == 2 and nodes[2].up.count(1) == 2)
            nodes[1].network.broadcast(b"again")
            await until(lambda: (1, b"again") in nodes[0].frames and (1, b"again") in nodes[2].frames)

    run(scenario)


def test_garbage_on_the_port_is_counted_and_closed(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with cluster(2) as (nodes, members):
            for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(5_000), b"\x16\x03\x01\xff\xff" + bytes(70_000)):
                reader, writer = await asyncio.open_connection(members[0].host, members[0].port)
                writer.write(garbage)
                with pytest.MonkeyPatch.context():
                    try:
                        while await reader.read(65_536):
                            pass
                    except ConnectionError:
                        pass
                writer.close()
            # Proper TLS, then garbage in place of a handshake, then a frame that claims to be huge.
            for first, code in ((b"\x00\x00\x00\x05nope!", "malformed"), (b"\xff\xff\xff\xff", "frame_too_large")):
                reader, writer = await asyncio.open_connection(members[0].host, members[0].port, ssl=client_context())
                writer.write(first)
                assert await reader.read() == b""
                writer.close()
                await until(lambda code=code: nodes[0].network.refused[code] == 1)
            assert nodes[0].network.refused["tls"] >= 2
            assert nodes[0].down == []
            nodes[1].network.broadcast(b"still here")
            await until(lambda: nodes[0].frames == [(1, b"still here")])

    run(scenario)


def test_other_chains_the_wrong_direction_and_the_own_key_are_refused(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with cluster(3) as (nodes, members):
            for key, chain in ((KEYS[0], b"d" * 32), (KEYS[2], CHAIN), (KEYS[1], CHAIN)):
                with pytest.raises(Unreachable):
                    await dial(members[1], key, chain=chain)
            await until(lambda: nodes[1].network.refused == {"unwelcome": 2, "unknown_target": 1})
            with pytest.raises(WrongKey):
                await dial(members[1], KEYS[0], expected=members[2].key)
            assert all(node.down == [] for node in nodes)
            assert [node.network.index_of(KEYS[number].public) for number, node in enumerate(nodes)] == [None] * 3

    run(scenario)


def test_a_member_with_another_key_is_not_linked(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        members = places(2)
        impostor = await start(1, members, known=[], key=STRANGER)
        honest = await start(0, members)
        await until(lambda: honest.peer(1).faults["wrong_key"] >= 2)
        assert honest.up == impostor.up == []
        await honest.network.close()
        await impostor.network.close()

    run(scenario)


def test_an_impostor_in_the_middle_is_found_out_by_the_certificate(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        context, _ = server_context()
        _, real_hash = server_context()
        done = asyncio.Event()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # It has the real validator sign whatever it is asked to, as a relay would.
            responder = Responder(
                keys=lambda _: KEYS[1], purpose=PURPOSE, certificate_hash=real_hash, randomness=bytes(64)
            )
            size = int.from_bytes(await reader.readexactly(4), "big")
            reply = responder.receive_hello(await reader.readexactly(size))
            writer.write(len(reply).to_bytes(4, "big") + reply)
            assert await reader.read() == b""
            writer.close()
            done.set()

        server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        members = [MemberAddress(KEYS[0].public, "127.0.0.1", 0), MemberAddress(KEYS[1].public, "127.0.0.1", port)]
        victim = await start(0, members)
        await done.wait()
        await until(lambda: victim.peer(1).faults["bad_signature"])
        assert victim.up == []
        await victim.network.close()
        server.close()

    run(scenario)


def test_a_peer_that_does_not_read_loses_its_link_and_stalls_nobody(
    run: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_module, "PEER_QUEUE_BYTES", 2 * 1024 * 1024)

    async def scenario() -> None:
        async with cluster(3) as (nodes, members):
            await nodes[0].network.close()
            await until(lambda: nodes[2].down == [0])
            slow, transport = await dial(members[2], KEYS[0])
            await until(lambda: nodes[2].up.count(0) == 2)
            transport.pause_reading()
            frame = bytes(256 * 1024)
            for number in range(200):
                nodes[2].network.broadcast(frame)
                await until(lambda number=number: len(nodes[1].frames) == number + 1)
                if nodes[2].peer(0).dropped_slow:
                    break
            assert nodes[2].peer(0).dropped_slow == 1
            await until(lambda: nodes[2].down == [0, 0])
            assert nodes[2].connected() == [1]
            slow.abort()

    run(scenario)


def test_a_peer_that_breaks_a_rule_is_counted_and_rests(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with cluster(2) as (nodes, members):
            await nodes[0].network.close()
            await until(lambda: nodes[1].down == [0])
            link, transport = await dial(members[1], KEYS[0])
            transport.write((FRAME_BYTES + 1).to_bytes(4, "big"))
            await until(lambda: nodes[1].peer(0).faults == {"frame_too_large": 1})
            await link.closed.wait()
            assert nodes[1].down == [0, 0]
            with pytest.raises(Unreachable):
                await dial(members[1], KEYS[0])
            assert nodes[1].network.refused["resting"] == 1
            nodes[1].network.fault(nodes[1].index(0), Malformed("no message"))
            assert nodes[1].peer(0).faults.total() == 2
            loop = asyncio.get_running_loop()
            assert 1.0 < nodes[1].peer(0).rests_until - loop.time() <= 2.0

    run(scenario)


def test_half_open_connections_are_limited_and_time_out(
    run: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_module, "HALF_OPEN_LINKS", 3)
    monkeypatch.setattr(network_module, "HANDSHAKE_SECONDS", 0.3)

    async def scenario() -> None:
        members = places(2)
        node = await start(1, members)
        connections = [await asyncio.open_connection(members[1].host, node.port) for _ in range(5)]
        await until(lambda: node.network.refused["half_open_limit"] == 2)
        await until(lambda: node.network.refused.total() == 5)
        for _, writer in connections:
            writer.close()
        link, _ = await dial(members[1], KEYS[0])
        await until(partial(node.network.connected))
        link.abort()
        await node.network.close()

    run(scenario)


def test_the_handshake_takes_small_frames_only(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with cluster(2) as (nodes, members):
            reader, writer = await asyncio.open_connection(members[0].host, members[1].port, ssl=client_context())
            writer.write((HANDSHAKE_FRAME_BYTES + 1).to_bytes(4, "big"))
            assert await reader.read() == b""
            writer.close()
            assert nodes[1].network.refused == {"frame_too_large": 1}

    run(scenario)


def test_a_node_that_is_no_member_is_a_guest_like_any_peer(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        members = places(3)
        nodes = [await start(i, members[:2]) for i in range(2)]
        guest = await start(2, members, known=members[:2], key=STRANGER)
        await until(lambda: guest.connected() == [0, 1])
        await until(lambda: all(node.connected() == [1 - number, GUEST] for number, node in enumerate(nodes)))
        assert all(node.peer(GUEST).address is None for node in nodes)
        guest.network.broadcast(b"from the guest")
        nodes[0].network.send(nodes[0].index(GUEST), b"to the guest")
        await until(lambda: guest.frames == [(0, b"to the guest")])
        await until(lambda: all((GUEST, b"from the guest") in node.frames for node in nodes))
        nodes[1].network.fault(nodes[1].index(GUEST), Malformed("no message"))
        await until(lambda: 1 in guest.down)
        with pytest.raises(Unreachable):
            await dial(members[1], STRANGER)
        assert nodes[1].network.refused["resting"] >= 1
        await until(lambda: guest.up.count(1) == 2)
        assert guest.up.count(0) == 1
        for node in (*nodes, guest):
            await node.network.close()

    run(scenario)


def test_there_is_room_for_some_guests_and_always_for_members(
    run: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_module, "GUESTS", 2)
    strangers = [SigningKey(bytes([50 + number]) * 32) for number in range(3)]

    async def scenario() -> None:
        members = places(2)
        node = await start(1, members)
        links = [(await dial(members[1], key))[0] for key in strangers[:2]]
        with pytest.raises(Unreachable):
            await dial(members[1], strangers[2])
        await until(lambda: node.network.refused == {"unwelcome": 1})
        assert node.network.index_of(strangers[2].public) is None, "nothing is kept of whom there is no room for"
        member, _ = await dial(members[1], KEYS[0])
        await until(lambda: len(node.network.connected()) == 3)
        links[0].abort()
        await until(lambda: len(node.network.connected()) == 2)
        links[0], _ = await dial(members[1], strangers[2])
        await until(lambda: len(node.network.connected()) == 3)
        for link in (*links, member):
            link.abort()
        await node.network.close()

    run(scenario)


def test_guests_that_left_are_forgotten_and_members_are_not(
    run: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_module, "PEERS_KEPT", 4)
    strangers = [SigningKey(bytes([50 + number]) * 32) for number in range(6)]

    async def scenario() -> None:
        members = places(3)
        node = await start(2, members)
        stays, _ = await dial(members[2], strangers[0])
        await until(node.network.connected)
        for number, key in enumerate(strangers[1:], 1):
            link, _ = await dial(members[2], key)
            await until(lambda number=number: len(node.up) == number + 1)
            link.abort()
            await until(lambda number=number: len(node.down) == number)
        assert len(node.network.peers) == 4
        kept = [node.network.index_of(key.public) for key in (KEYS[0], KEYS[1], *strangers)]
        assert [index is not None for index in kept] == [True] * 3 + [False] * 4 + [True]
        assert sorted(node.network.peers) == [0, 1, 2, 7], "a number is never used again"
        node.network.send(6, b"to nobody")
        node.network.fault(6, Malformed("of nobody"))
        stays.abort()
        await node.network.close()

    run(scenario)


@pytest.mark.parametrize("newcomer", [0, 2], ids=["who will dial", "who will be dialled"])
def test_a_link_outlives_the_roles_of_its_ends(run: Callable[[Scenario], None], newcomer: int) -> None:
    """A guest becomes a member, another member becomes a guest and comes back: nobody loses a link, none is doubled."""

    async def scenario() -> None:
        members = places(3)
        others = [number for number in range(3) if number != newcomer]
        old = [members[number] for number in others]
        nodes = [await start(i, members, known=old) for i in range(3)]
        every = [[other for other in range(3) if other != number] for number in range(3)]
        await until(lambda: [node.connected() for node in nodes] == every)
        links = [{number: nodes[i].peer(number).link for number in every[i]} for i in range(3)]
        former = [members[number] for number in range(3) if number != 1]
        for present in (members, former, members, old):
            # Not all learn it at once, and what was said before still arrives.
            for position, node in enumerate(nodes):
                node.network.broadcast(b"old roles")
                node.network.know(present)
                node.network.broadcast(b"new roles of %d" % position)
            await until(lambda: all(len(node.frames) == 4 for node in nodes))
            for number, node in enumerate(nodes):
                node.frames.clear()
                roles = {other: node.peer(other).address for other in every[number]}
                assert roles == {other: members[other] if members[other] in present else None for other in roles}
        assert [{number: nodes[i].peer(number).link for number in every[i]} for i in range(3)] == links
        assert [sorted(node.up) for node in nodes] == every
        assert all(node.down == [] for node in nodes)
        # And who is to dial now does.
        nodes[newcomer].network.know(members)
        nodes[1].network.know(members)
        await nodes[1].network.close()
        await until(lambda: 1 not in nodes[newcomer].connected())
        nodes[1] = await start(1, members)
        await until(lambda: nodes[newcomer].up.count(1) == 2)
        for node in nodes:
            await node.network.close()

    run(scenario)


def test_two_that_dial_each_other_end_with_one_link(run: Callable[[Scenario], None]) -> None:
    """While two nodes disagree about their roles both dial: the first knows both as members, the second is a guest."""

    async def scenario() -> None:
        members = places(2)
        first, second = await start(0, members, known=[]), await start(1, members, known=[])

        def settled() -> bool:
            """Both have a link, the one that the other has: a frame counts only where it comes by the link in use."""
            first.network.broadcast(b"%d" % first.peer(1).links)
            second.network.broadcast(b"%d" % second.peer(0).links)
            heard = [{int(data) for _, data in node.frames} for node in (first, second)]
            linked = (first.connected(), second.connected()) == ([1], [0])
            return linked and second.peer(0).links in heard[0] and first.peer(1).links in heard[1]

        for _ in range(3):
            first.network.know(members)
            second.network.know(members[:1])
            await until(settled)
            for node, other in ((first, 1), (second, 0)):
                node.network.know([])
                node.network.fault(node.index(other), Malformed("to end the link"))
                node.peer(other).rests_until = 0.0
            await until(lambda: not first.connected() and not second.connected())
            first.frames.clear()
            second.frames.clear()
        for node in (first, second):
            await node.network.close()

    run(scenario)


def test_a_member_that_moved_is_dialled_at_its_new_place(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        members = places(2)
        moved = places(3)[1]
        nodes = [await start(0, members), await start(1, [members[0], moved])]
        assert nodes[0].up == []
        nodes[0].network.know([members[0], moved])
        await until(lambda: nodes[0].connected() == [1] and nodes[1].connected() == [0])
        for node in nodes:
            await node.network.close()

    run(scenario)
