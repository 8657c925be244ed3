"""Replication of the routing table among the routing nodes: first they all hold everything.

Each node tells new things at once (Have) and a summary of its table every few seconds; who sees another summary than
its own reads that peer's inventory page by page and fetches what it lacks, the things that fewest peers hold first. A
fetch that is not answered goes to another holder. Nothing is taken that the ledger does not announce, and every claim
of a peer costs only that peer's own quota: one that offers much and delivers nothing hinders nobody. DESIGN 5.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from blockcloud.primitives.errors import Malformed, PeerFault
from blockcloud.primitives.hashes import sha256
from blockcloud.routing.errors import (
    Flooding,
    IssuedInFuture,
    LeaseExpired,
    NotAnnounced,
    RoutingFull,
    StaleSequence,
    Unsolicited,
)
from blockcloud.routing.messages import (
    DELIVERY_BYTES,
    FETCH_ITEMS,
    PAGE_ENTRIES,
    Ask,
    Delivery,
    Fetch,
    Have,
    Page,
    RoutingMessage,
    Summary,
    decode_routing,
    encode_routing,
)
from blockcloud.routing.store import Announced, Entry, InstanceKeys, RoutingTable

SUMMARY_SECONDS: Final = 10
RETRY_SECONDS: Final = 2
PRUNE_SECONDS: Final = 60
ATTEMPTS: Final = 2  # at each holder
UNANNOUNCED_SECONDS: Final = 30  # a claim may run ahead of this node's ledger by so much
REFUSED_SECONDS: Final = 60
BEHIND_SECONDS: Final = 5  # until something is fetched again that may be right once our ledger or clock has got on
WANTED_PER_PEER: Final = 1_024
REFUSED_IDS: Final = 4_096
UNANNOUNCED_PER_PEER: Final = 64
ENTRIES_PER_SECOND: Final = 10_000  # from one peer; pages are asked for at half of that
SERVED_BYTES_PER_SECOND: Final = 8 * 1024 * 1024  # to one peer

# Timing, not guilt: nodes see the ledger and the clock a little differently.
_INNOCENT = (NotAnnounced, StaleSequence, LeaseExpired, IssuedInFuture, RoutingFull)


@dataclass(slots=True)
class _Wanted:
    """Something that a peer offers and this node lacks. `sponsor` is the peer whose quota it counts against."""

    entry: Entry
    sponsor: int
    since_s: int
    announced: bool
    holders: dict[int, None] = field(default_factory=dict)
    tried: dict[int, int] = field(default_factory=dict)  # holder -> how often it was asked
    asked: int | None = None
    asked_s: int = 0


@dataclass(slots=True)
class _Peer:
    """What is known of one peer, and how much it has used of this second's allowance."""

    second: int = 0
    entries: int = 0
    served_bytes: int = 0
    wanted: int = 0
    unannounced: int = 0
    in_flight: int = 0
    failures: int = 0
    asked_page_s: int | None = None
    cursor: bytes = b""
    asked_ids: dict[bytes, int] = field(default_factory=dict)


class RoutingCore:
    """The exchange at one node. `announced` and `instance_keys` ask the ledger as this node knows it."""

    def __init__(self, table: RoutingTable, announced: Announced, instance_keys: InstanceKeys) -> None:
        self.table = table
        self._announced = announced
        self._instance_keys = instance_keys
        self._peers: dict[int, _Peer] = {}
        self._wanted: dict[bytes, _Wanted] = {}
        self._refused: dict[bytes, int] = {}
        self._outgoing: list[tuple[int, bytes]] = []
        self._news: dict[int, list[Entry]] = {}
        self._next_summary_s = 0
        self._next_prune_s = 0

    # Events

    def put_file(self, data: bytes) -> bool:
        """A client stores a service file here; whether it was new. Raises as `RoutingTable.put_file`."""
        return self._tell(self.table.put_file(data, self._announced), None)

    def put_record(self, data: bytes, now_s: int) -> bool:
        """A client stores an address record here; whether it was new. Raises as `RoutingTable.put_record`."""
        return self._tell(self.table.put_record(data, now_s, self._instance_keys), None)

    def peer_connected(self, peer: int) -> None:
        """A link to `peer` is up: tell it what we hold."""
        self.peer_lost(peer)
        self._peers[peer] = _Peer()
        self._send(peer, self._summary())

    def peer_lost(self, peer: int) -> None:
        """The link is gone: what was asked of it will be asked of others, and its claims are void."""
        self._peers.pop(peer, None)
        self._news.pop(peer, None)
        for wanted in list(self._wanted.values()):
            wanted.holders.pop(peer, None)
            wanted.tried.pop(peer, None)
            if wanted.asked == peer:
                wanted.asked = None
            if not wanted.holders:
                self._drop(wanted)
            elif wanted.sponsor == peer:
                self._move_to(wanted, next(iter(wanted.holders)))

    def receive(self, peer: int, data: bytes, now_s: int) -> None:
        """A message of `peer`. Raises a PeerFault that blames it; whatever was good in the message is kept."""
        state = self._peers.get(peer)
        if state is None:
            return
        if state.second != now_s:
            state.second, state.entries, state.served_bytes = now_s, 0, 0
        message = decode_routing(data)
        try:
            match message:
                case Summary():
                    self._summary_of(peer, state, message, now_s)
                case Ask():
                    self._serve_page(peer, state, message)
                case Page():
                    self._page_of(peer, state, message, now_s)
                case Have():
                    self._claims(peer, state, message.entries, now_s)
                case Fetch():
                    self._serve(peer, state, message)
                case Delivery():
                    self._deliver(peer, state, message, now_s)
        finally:
            self._request(now_s)

    def tick(self, now_s: int) -> None:
        """Time has passed: expire, retry, summarise. Once a second is enough."""
        self.table.expire(now_s)
        for wanted in list(self._wanted.values()):
            self._retry_or_drop(wanted, now_s)
        for peer, state in self._peers.items():
            old = [identifier for identifier, at in state.asked_ids.items() if at + REFUSED_SECONDS <= now_s]
            for identifier in old:
                del state.asked_ids[identifier]
            waiting = state.asked_page_s is not None
            if (state.cursor or waiting) and (state.asked_page_s or 0) + RETRY_SECONDS <= now_s:
                self._ask_page(peer, state, now_s)
        self._refused = {identifier: until for identifier, until in self._refused.items() if until > now_s}
        if now_s >= self._next_summary_s:
            self._next_summary_s = now_s + SUMMARY_SECONDS
            for peer in self._peers:
                self._send(peer, self._summary())
        if now_s >= self._next_prune_s:
            self._next_prune_s = now_s + PRUNE_SECONDS
            self.table.prune(self._announced, self._instance_keys)
        self._request(now_s)

    def outgoing(self) -> list[tuple[int, bytes]]:
        """(peer, message bytes) to send, in order; takes them."""
        for peer, entries in self._news.items():
            for start in range(0, len(entries), PAGE_ENTRIES):
                self._send(peer, Have(tuple(entries[start : start + PAGE_ENTRIES])))
        self._news = {}
        taken, self._outgoing = self._outgoing, []
        return taken

    @property
    def wanted(self) -> int:
        """How many things are offered by peers and still missing here."""
        return len(self._wanted)

    # Inventories

    def _summary(self) -> Summary:
        return Summary(len(self.table), self.table.digest.to_bytes(32))

    def _summary_of(self, peer: int, state: _Peer, message: Summary, now_s: int) -> None:
        if message == self._summary():
            state.cursor, state.asked_page_s = b"", None
            return
        if message.count and state.asked_page_s is None and not state.cursor:
            self._ask_page(peer, state, now_s)

    def _ask_page(self, peer: int, state: _Peer, now_s: int) -> None:
        """Read on in the inventory of `peer`, unless its quota of wanted things is used up; then later."""
        if state.wanted <= WANTED_PER_PEER // 2 and state.entries <= ENTRIES_PER_SECOND // 2:
            state.asked_page_s = now_s
            self._send(peer, Ask(state.cursor))

    def _page_of(self, peer: int, state: _Peer, message: Page, now_s: int) -> None:
        places = [entry.place() for entry in message.entries]
        if any(second <= first for first, second in pairwise(places)):
            raise Malformed("a page of an inventory is not in order", peer=peer)
        if state.asked_page_s is None or (places and places[0] <= state.cursor):
            return  # a late answer to what has been asked again
        state.asked_page_s = None
        taken = self._claims(peer, state, message.entries, now_s)
        full = taken < len(places)
        done = not places or (message.last and not full)
        # Where the quota ended, reading starts again once it has room.
        state.cursor = b"" if done else (places[taken - 1] if taken else state.cursor)
        if not done and not full:
            self._ask_page(peer, state, now_s)

    def _serve_page(self, peer: int, state: _Peer, message: Ask) -> None:
        if state.served_bytes > SERVED_BYTES_PER_SECOND:
            return
        entries = self.table.page(message.after, PAGE_ENTRIES + 1)
        page = encode_routing(Page(tuple(entries[:PAGE_ENTRIES]), len(entries) <= PAGE_ENTRIES))
        if self._allow(state, len(page)):
            self._outgoing.append((peer, page))

    def _claims(self, peer: int, state: _Peer, entries: Sequence[Entry], now_s: int) -> int:
        """Note what `peer` says it holds; how many were looked at before its quota ended."""
        state.entries += len(entries)
        if state.entries > ENTRIES_PER_SECOND:
            raise Flooding("more inventory a second than a peer may send", limit=ENTRIES_PER_SECOND)
        taken = 0
        for entry in entries:
            wanted = self._wanted.get(entry.id)
            if wanted is not None:
                wanted.holders[peer] = None
            elif entry.id not in self._refused and self.table.wants(entry):
                if state.wanted >= WANTED_PER_PEER:
                    return taken
                self._want(peer, state, entry, now_s)
            taken += 1
        return taken

    def _want(self, peer: int, state: _Peer, entry: Entry, now_s: int) -> None:
        """Note that `peer` holds something that is missing here. Files that the ledger does not announce count too,
        for a while and few of them: this node's ledger may be a little behind."""
        announced = bool(entry.slot) or self._announced(entry.id)
        if not announced and state.unannounced >= UNANNOUNCED_PER_PEER:
            return
        self._wanted[entry.id] = _Wanted(entry, peer, now_s, announced, {peer: None})
        state.wanted += 1
        state.unannounced += not announced

    # Fetching

    def _request(self, now_s: int) -> None:
        """Ask for the rarest of what is missing, as far as peers have room."""
        if all(state.in_flight > FETCH_ITEMS // 2 for state in self._peers.values()):
            return
        idle = [wanted for wanted in self._wanted.values() if wanted.asked is None]
        asked: dict[int, list[bytes]] = {}
        for wanted in sorted(idle, key=lambda item: (len(item.holders), item.entry.id)):
            if not self.table.wants(wanted.entry):
                self._drop(wanted)
                continue
            if not wanted.announced:
                continue
            peer = self._holder_with_room(wanted)
            if peer is None:
                continue
            wanted.asked, wanted.asked_s = peer, now_s
            wanted.tried[peer] = wanted.tried.get(peer, 0) + 1
            state = self._peers[peer]
            state.in_flight += 1
            state.asked_ids[wanted.entry.id] = now_s
            asked.setdefault(peer, []).append(wanted.entry.id)
        for peer, ids in asked.items():
            self._send(peer, Fetch(tuple(ids)))

    def _holder_with_room(self, wanted: _Wanted) -> int | None:
        """The holder to ask next: asked least for this, failed least, has room."""
        best = None
        for peer in wanted.holders:
            state, tried = self._peers[peer], wanted.tried.get(peer, 0)
            if tried < ATTEMPTS and state.in_flight < FETCH_ITEMS:
                rank = (tried, state.failures, state.in_flight, peer)
                best = rank if best is None else min(best, rank)
        return best[-1] if best is not None else None

    def _retry_or_drop(self, wanted: _Wanted, now_s: int) -> None:
        if wanted.asked is not None and wanted.asked_s + RETRY_SECONDS <= now_s:
            self._free(wanted, failed=True)
        if not wanted.announced and self._announced(wanted.entry.id):
            self._count(wanted, -1)
            wanted.announced = True
            self._count(wanted, 1)
        exhausted = wanted.asked is None and all(wanted.tried.get(peer, 0) >= ATTEMPTS for peer in wanted.holders)
        if exhausted or (not wanted.announced and wanted.since_s + UNANNOUNCED_SECONDS <= now_s):
            self._drop(wanted)

    def _serve(self, peer: int, state: _Peer, message: Fetch) -> None:
        """Send what was asked for and is held; what is not, the asker gets from others."""
        files: list[bytes] = []
        records: list[bytes] = []
        size = 0
        for identifier in message.ids:
            data = self.table.get(identifier)
            if data is None or not self._allow(state, len(data)):
                continue
            if size + len(data) > DELIVERY_BYTES:
                self._send(peer, Delivery(tuple(files), tuple(records)))
                files, records, size = [], [], 0
            (files if self.table.is_file(identifier) else records).append(data)
            size += len(data)
        if size:
            self._send(peer, Delivery(tuple(files), tuple(records)))

    def _deliver(self, peer: int, state: _Peer, message: Delivery, now_s: int) -> None:
        """Take each item that was asked for; at the end raise the first fault, if there was one."""
        fault: PeerFault | None = None
        items = [(data, True) for data in message.files] + [(data, False) for data in message.records]
        for data, is_file in items:
            try:
                self._take(peer, state, data, is_file, now_s)
            except PeerFault as error:
                fault = fault or error
        if fault is not None:
            state.failures += 1
            raise fault

    def _take(self, peer: int, state: _Peer, data: bytes, is_file: bool, now_s: int) -> None:
        identifier = sha256(data)
        if state.asked_ids.pop(identifier, None) is None:
            raise Unsolicited("delivered something that was not asked for", peer=peer, id=identifier.hex()[:16])
        state.failures = 0
        wanted = self._wanted.get(identifier)
        if wanted is not None:
            self._drop(wanted)
        try:
            if is_file:
                entry = self.table.put_file(data, self._announced)
            else:
                entry = self.table.put_record(data, now_s, self._instance_keys)
        except _INNOCENT as error:
            behind = isinstance(error, NotAnnounced | IssuedInFuture)
            self._refuse(identifier, now_s + (BEHIND_SECONDS if behind else REFUSED_SECONDS))
            return
        except PeerFault:
            self._refuse(identifier, now_s + REFUSED_SECONDS)
            raise
        self._tell(entry, peer)

    def _refuse(self, identifier: bytes, until_s: int) -> None:
        """Do not fetch this again before then."""
        if len(self._refused) < REFUSED_IDS:
            self._refused[identifier] = until_s

    # Bookkeeping

    def _tell(self, entry: Entry | None, source: int | None) -> bool:
        """Tell every peer but `source` of something new; whether it was new."""
        if entry is None:
            return False
        for peer in self._peers:
            if peer != source:
                self._news.setdefault(peer, []).append(entry)
        return True

    def _free(self, wanted: _Wanted, *, failed: bool) -> None:
        """Nobody is being asked for `wanted` any more."""
        state = self._peers.get(wanted.asked) if wanted.asked is not None else None
        if state is not None:
            state.in_flight -= 1
            state.failures += failed
        wanted.asked = None

    def _drop(self, wanted: _Wanted) -> None:
        self._free(wanted, failed=False)
        self._count(wanted, -1)
        del self._wanted[wanted.entry.id]

    def _move_to(self, wanted: _Wanted, sponsor: int) -> None:
        """Let another holder answer for `wanted`; over its quota too, since it did not ask for this."""
        wanted.sponsor = sponsor
        self._count(wanted, 1)

    def _count(self, wanted: _Wanted, change: int) -> None:
        """Count `wanted` in or out of its sponsor's quotas."""
        state = self._peers.get(wanted.sponsor)
        if state is not None:
            state.wanted += change
            state.unannounced += 0 if wanted.announced else change

    def _allow(self, state: _Peer, size: int) -> bool:
        """Count `size` bytes against what is served to a peer in one second."""
        if state.served_bytes + size > SERVED_BYTES_PER_SECOND:
            return False
        state.served_bytes += size
        return True

    def _send(self, peer: int, message: RoutingMessage) -> None:
        self._outgoing.append((peer, encode_routing(message)))
