"""Links between nodes: one authenticated TLS 1.3 connection for each pair, carrying length-prefixed frames.

Identity comes from the handshake of the service access layer (`service_access/handshake.py`, purpose `validator-link`)
inside TLS: both sides sign a transcript that covers the TLS certificate. Members of the committee are *known*: their
node keys and addresses stand on the ledger. Of two members the one with the lower key dials, again and again with
growing pauses. Whoever is no member dials all of them and is their *guest*: a node that follows the ledger; there is
room for a few. A frame is four bytes of length, big-endian, and that many bytes of message; the length is checked
before anything is kept. An empty frame says "still here".

What goes wrong stays with the peer it belongs to: a link that cannot take its frames fast enough is dropped (its peer
fetches later what it missed), and a peer whose message breaks a rule is counted and its link rests for a growing time.
DESIGN sections 3.5 and 11.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from blockcloud.node.authentication import ACCEPTED, introduce, recognise
from blockcloud.node.link import Link
from blockcloud.node.listening import connections, open_listener
from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, PeerFault, TimedOut
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import HANDSHAKE_SECONDS, PEER_QUEUE_BYTES
from blockcloud.service_access.tls import client_context, peer_certificate_hash, server_context

PURPOSE: Final = "validator-link"
GUESTS: Final = 32  # linked at a time
PEERS_KEPT: Final = 1_024  # guests that left are forgotten beyond it
HALF_OPEN_LINKS: Final = 64  # connections that have not yet authenticated
REDIAL_MIN_S: Final = 0.05
REDIAL_MAX_S: Final = 5.0
REST_MIN_S: Final = 1.0  # after a fault; doubles with each further one
REST_MAX_S: Final = 60.0
FAULTS_FORGOTTEN_S: Final = 600.0
KEEPALIVE_S: Final = 2.0
DEAD_S: Final = 10.0  # a link that brought nothing for so long is dropped

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class MemberAddress:
    """A member of a committee as the network sees it: its node key (32 bytes) and where it listens."""

    key: bytes
    host: str
    port: int


@dataclass(slots=True)
class Peer:
    """What is known of one other node; `address` is None for a guest. Times are of the loop's clock, in seconds."""

    index: int
    key: bytes
    address: MemberAddress | None = None
    dialling: asyncio.Task[None] | None = None
    link: Link | None = None
    connected_at: float = 0.0
    links: int = 0
    dropped_slow: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    recent_faults: int = 0
    last_fault_at: float = 0.0
    rests_until: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0


class Network:
    """The links of one node. All methods belong to the event loop's thread.

    Peers are numbered as they become known; a number is never used again. `on_frame(peer, data)`, `on_connected(peer)`
    and `on_lost(peer)` are called in the loop. `key` is this node's.
    """

    def __init__(
        self,
        *,
        chain_id: bytes,
        key: SigningKey,
        on_frame: Callable[[int, bytes], None],
        on_connected: Callable[[int], None],
        on_lost: Callable[[int], None],
    ) -> None:
        self._target = chain_id.hex()
        self._key = key
        self._server_context, self._certificate_hash = server_context()
        self._client_context = client_context()
        self._on_frame, self._on_connected, self._on_lost = on_frame, on_connected, on_lost
        self.peers: dict[int, Peer] = {}
        self._by_key: dict[bytes, Peer] = {}
        self._next_index = 0
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._half_open = 0
        self.refused: Counter[str] = Counter()  # strangers and garbage, by code

    def know(self, members: Sequence[MemberAddress]) -> None:
        """These are the members now: dial those that are ours to dial. Whoever was one and is no more is a guest."""
        present = {member.key: member for member in members}
        is_guest = present.pop(self._key.public, None) is None
        for key, member in present.items():
            peer = self._by_key.get(key) or self._new_peer(key)
            moved, peer.address = peer.address != member, member
            self._dial(peer, moved, is_guest)
        for peer in self.peers.values():
            if peer.key not in present:
                peer.address = None
                self._dial(peer, False, is_guest)

    def index_of(self, key: bytes) -> int | None:
        """The number of the node with this key, if it is known."""
        peer = self._by_key.get(key)
        return None if peer is None else peer.index

    def _new_peer(self, key: bytes) -> Peer:
        if len(self.peers) >= PEERS_KEPT:
            gone = next((peer for peer in self.peers.values() if peer.link is None and peer.address is None), None)
            if gone is not None:
                del self.peers[gone.index], self._by_key[gone.key]
        peer = self.peers[self._next_index] = self._by_key[key] = Peer(self._next_index, key)
        self._next_index += 1
        return peer

    def _dial(self, peer: Peer, moved: bool, is_guest: bool) -> None:
        """Dial the peer at its present address, or let it be. A link that is up stays."""
        address = peer.address if is_guest or self._key.public < peer.key else None
        if peer.dialling is not None and (moved or address is None):
            peer.dialling.cancel()
            peer.dialling = None
        if peer.dialling is None and address is not None:
            peer.dialling = self._spawn(self._keep_dialling(peer, address))

    async def start(self, host: str, port: int) -> int:
        """Listen; gives the port. Raises Unreachable if the address is taken."""
        self._listener = listener = open_listener(host, port, awaited="validators", backlog=HALF_OPEN_LINKS)
        self._spawn(self._keep_answering(listener))
        self._spawn(self._keep_alive())
        bound: int = listener.getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening and dialling, drop all links."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        for peer in self.peers.values():
            if (link := peer.link) is not None:
                link.close()
                self._down(peer, link)

    def send(self, index: int, data: bytes) -> bool:
        """Queue one message for a peer; False if there is no link, or it was too slow and is dropped now."""
        peer = self.peers.get(index)
        link = None if peer is None else peer.link
        if peer is None or link is None:
            return False
        link.send(data)
        peer.bytes_out += len(data)
        if link.queued > PEER_QUEUE_BYTES:
            peer.dropped_slow += 1
            log.warning("link_too_slow", peer=index, queued_bytes=link.queued)
            link.abort()
            return False
        return True

    def broadcast(self, data: bytes) -> None:
        """Queue one message for every connected peer."""
        for index in self.peers:
            self.send(index, data)

    def pause(self, index: int) -> None:
        """Stop reading from a peer: its messages cannot be taken as fast as they come."""
        if (link := self._link(index)) is not None:
            link.pause()

    def resume(self, index: int) -> None:
        """Read from a peer again."""
        if (link := self._link(index)) is not None:
            link.resume()

    def queued(self, index: int) -> int:
        """Bytes that wait for a peer to take them."""
        link = self._link(index)
        return 0 if link is None else link.queued

    def _link(self, index: int) -> Link | None:
        peer = self.peers.get(index)
        return None if peer is None else peer.link

    def connected(self) -> list[int]:
        """Indices of the members with a link."""
        return [index for index, peer in self.peers.items() if peer.link is not None]

    def fault(self, index: int, error: PeerFault) -> None:
        """Count a peer's fault, drop its link and let it rest: 1 s, doubled for each further fault, at most 60 s."""
        peer, now = self.peers.get(index), self._loop.time()
        if peer is None:
            return
        if now - peer.last_fault_at > FAULTS_FORGOTTEN_S:
            peer.recent_faults = 0
        peer.faults[error.code] += 1
        peer.recent_faults += 1
        peer.last_fault_at = now
        peer.rests_until = now + min(REST_MIN_S * 2 ** min(peer.recent_faults - 1, 10), REST_MAX_S)
        log.warning("peer_fault", peer=index, error=error)
        if peer.link is not None:
            peer.link.abort()

    # Links

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _up(self, peer: Peer, link: Link) -> None:
        if peer.link is not None:
            # The peer authenticated anew: the older link is dead, or will be.
            peer.link.abort()
            self._down(peer, peer.link)
        peer.link, peer.connected_at = link, self._loop.time()
        peer.links += 1
        log.info("link_up", peer=peer.index)
        self._on_connected(peer.index)
        link.open(lambda data: self._frame(peer, link, data), lambda error: self._ended(peer, link, error))

    def _frame(self, peer: Peer, link: Link, data: bytes) -> None:
        if peer.link is link and data:
            peer.bytes_in += len(data)
            self._on_frame(peer.index, data)

    def _ended(self, peer: Peer, link: Link, error: PeerFault | None) -> None:
        if peer.link is link:
            if error is not None:
                self.fault(peer.index, error)
            self._down(peer, link)

    def _down(self, peer: Peer, link: Link) -> None:
        if peer.link is link:
            peer.link = None
            log.info("link_down", peer=peer.index)
            self._on_lost(peer.index)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(KEEPALIVE_S)
            now = self._loop.time()
            for peer in self.peers.values():
                link = peer.link
                if link is None:
                    continue
                if now - link.heard_at > DEAD_S and not link.paused:
                    log.warning("link_silent", peer=peer.index)
                    link.abort()
                elif now - link.sent_at > KEEPALIVE_S:
                    link.send(b"")

    # Dialling

    async def _keep_dialling(self, peer: Peer, address: MemberAddress) -> None:
        pause_s = REDIAL_MIN_S
        while True:
            while peer.link is not None:
                await peer.link.closed.wait()
            link: Link | None = None
            rest_s = peer.rests_until - self._loop.time()
            if rest_s > 0:
                await asyncio.sleep(rest_s)
            try:
                async with asyncio.timeout(HANDSHAKE_SECONDS):
                    link = await self._connect(address)
            except (OSError, TimeoutError, BlockCloudError, ValueError, OverflowError) as error:
                # The last two: what the ledger lets through as an address and no socket takes.
                log.debug("dial_failed", peer=peer.index, error=error)
                if isinstance(error, PeerFault):
                    peer.faults[error.code] += 1
            if link is not None and self._link(peer.index) is not None and peer.key < self._key.public:
                link.abort()  # both have dialled: the link of the lower key stays
            elif link is not None:
                self._up(peer, link)
                await link.closed.wait()
                if self._loop.time() - peer.connected_at > REDIAL_MAX_S:
                    pause_s = REDIAL_MIN_S
            await asyncio.sleep(pause_s * (0.75 + os.urandom(1)[0] / 512))
            pause_s = min(pause_s * 2, REDIAL_MAX_S)

    async def _connect(self, address: MemberAddress) -> Link:
        link = Link(self._loop)
        transport, _ = await self._loop.create_connection(
            lambda: link, address.host, address.port, ssl=self._client_context, server_hostname=""
        )
        try:
            await introduce(
                link.send,
                link.next_frame,
                key=self._key,
                purpose=PURPOSE,
                target=self._target,
                expected=address.key,
                certificate_hash=peer_certificate_hash(transport.get_extra_info("ssl_object")),
            )
        except BaseException:
            link.abort()
            raise
        return link

    # Answering

    async def _keep_answering(self, listener: socket.socket) -> None:
        async for connection in connections(listener):
            if self._half_open >= HALF_OPEN_LINKS:
                self.refused["half_open_limit"] += 1
                connection.close()
            else:
                self._half_open += 1
                self._spawn(self._answer(connection))

    async def _answer(self, connection: socket.socket) -> None:
        link = Link(self._loop)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await self._loop.connect_accepted_socket(lambda: link, connection, ssl=self._server_context)
                peer = await self._identify(link)
        except (OSError, TimeoutError, BlockCloudError) as error:
            code = error.code if isinstance(error, BlockCloudError) else "tls" if _is_tls(error) else TimedOut.code
            self.refused[code] += 1
            log.info("link_refused", code=code)
            link.abort()
        except BaseException:
            link.abort()
            raise
        else:
            link.send(ACCEPTED)
            self._up(peer, link)
        finally:
            self._half_open -= 1

    async def _identify(self, link: Link) -> Peer:
        key = await recognise(
            link.send,
            link.next_frame,
            key=self._key,
            purpose=PURPOSE,
            target=self._target,
            certificate_hash=self._certificate_hash,
        )
        if key == self._key.public:
            raise Unwelcome("this node's own key dials it")
        peer = self._by_key.get(key)
        if peer is not None and peer.rests_until > self._loop.time():
            raise Resting("the peer broke a rule a moment ago", peer=peer.index)
        if peer is not None and peer.address is not None and peer.link is not None and self._key.public < key:
            raise Unwelcome("there is a link already, and this side dials", peer=peer.index)
        if peer is None or peer.address is None:
            guests = sum(one.address is None and one.link is not None for one in self.peers.values())
            if guests >= GUESTS:
                raise Unwelcome("no room for another node that is not a member", guests=guests)
        return peer or self._new_peer(key)


def member_address(key: bytes, link_address: str) -> MemberAddress:
    """A member with its "host:port" from the ledger. Raises BadConfiguration."""
    host, _, port = link_address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit():
        raise BadConfiguration("a link address is host:port", address=link_address)
    return MemberAddress(key, host.strip("[]"), int(port))


class Unwelcome(PeerFault):
    """The node at the other end has no place for this connection."""

    code = "unwelcome"


class Resting(PeerFault):
    """The peer was dropped for a fault and comes back too early."""

    code = "resting"


def _is_tls(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLError | ConnectionError)
