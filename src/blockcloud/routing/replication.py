"""Replication of the routing table among the routing nodes: first they all hold everything, then each its share.

Each node tells new things at once (Have) and a summary of its table every few seconds; who sees another summary than
its own reads that peer's inventory page by page and fetches what it lacks, the things that fewest peers hold first.
What a node is to keep at all says `holding`; one that keeps its share reads only that of inventories, and gives the
rest away (`shedding`). Files whose bytes are in another store are loaded from there when a peer wants them.

A fetch that is not answered goes to another holder. Nothing is taken that the ledger does not announce, and every
claim of a peer costs only that peer's own quota: one that offers much and delivers nothing hinders nobody. DESIGN 5.1.
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
from blockcloud.routing.holding import Holding
from blockcloud.routing.messages import (
    DELIVERY_BYTES,
    FETCH_ITEMS,
    PAGE_ENTRIES,
    Ask,
    Check,
    Delivery,
    Fetch,
    Have,
    Held,
    Page,
    RoutingMessage,
    Summary,
    decode_routing,
    encode_routing,
)
from blockcloud.routing.placement import Placement
from blockcloud.routing.shedding import Shedding
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
PAGE_COST_ENTRIES: Final = 64  # what an inventory page counts at least
SERVED_BYTES_PER_SECOND: Final = 8 * 1024 * 1024  # to one peer
# In placed mode inventories differ always. They are read again so seldom, and as often as summaries come in so many
# seconds after a new placement.
REREAD_SECONDS: Final = 60
CLAIM_STEPS_PER_SECOND: Final = 4  # of `Holding.keys_per_step` claims each, from one peer, where placement decides
LOADS: Final = 256  # files that peers want and that are being read from the other store

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

    key: bytes = b""
    second: int = 0
    weighed: int = 0
    read_s: int = -REREAD_SECONDS
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
    """The exchange at one node. `announced` and `instance_keys` ask the ledger as this node knows it; `holding` says
    what is kept here (default: everything)."""

    def __init__(
        self,
        table: RoutingTable,
        announced: Announced,
        instance_keys: InstanceKeys,
        holding: Holding | None = None,
    ) -> None:
        self.table = table
        self.holding = holding or Holding(table)
        self.shedding = Shedding(table, self.holding)
        self._announced = announced
        self._instance_keys = instance_keys
        self._peers: dict[int, _Peer] = {}
        self._wanted: dict[bytes, _Wanted] = {}
        self._refused: dict[bytes, int] = {}
        self._outgoing: list[tuple[int, bytes]] = []
        self._news: dict[int, list[Entry]] = {}
        self._loads: dict[tuple[int, bytes], None] = {}
        self._next_summary_s = 0
        self._next_prune_s = 0
        self._placed_s = -REREAD_SECONDS

    # Events

    def place(self, placement: Placement, now_s: int) -> None:
        """An era begins: read from others what this node is to keep from now on."""
        self.holding.place(placement)
        self._placed_s = now_s
        for state in self._peers.values():
            state.read_s = -REREAD_SECONDS

    def seek(self, identifier: bytes, now_s: int) -> None:
        """Fetch a file again whose bytes were lost, from whoever should hold it."""
        entry = Entry(identifier)
        linked = {state.key: peer for peer, state in self._peers.items()}
        likely = [linked[node] for node in self.holding.holders(entry) if node in linked]
        for peer in likely or self._peers:
            self._claims(peer, self._peers[peer], (entry,), now_s)
        self._request(now_s)

    def put_file(self, data: bytes) -> bool:
        """A client stores a service file here; whether it was new. Raises as `RoutingTable.put_file`."""
        return self._tell(self.table.put_file(data, self._announced), None)

    def put_record(self, data: bytes, now_s: int) -> bool:
        """A client stores an address record here; whether it was new. Raises as `RoutingTable.put_record`."""
        return self._tell(self.table.put_record(data, now_s, self._instance_keys), None)

    def peer_connected(self, peer: int, key: bytes = b"") -> None:
        """A link to `peer`, whose node key is `key`, is up: tell it what we hold."""
        self.peer_lost(peer)
        self._peers[peer] = _Peer(key)
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
            state.second, state.entries, state.served_bytes, state.weighed = now_s, 0, 0, 0
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
                case Check():
                    self._claims(peer, state, message.entries, now_s)
                    held = [entry.id for entry in message.entries if not self.table.wants(entry)]
                    self._send(peer, Held(tuple(held)))
                case Held():
                    self.shedding.held(state.key, message.ids)
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
        self.holding.review()
        linked = {state.key: peer for peer, state in self._peers.items()}
        for peer, check in self.shedding.step(now_s, linked):
            self._send(peer, check)
        self._request(now_s)

    def outgoing(self) -> list[tuple[int, bytes]]:
        """(peer, message bytes) to send, in order; takes them."""
        for peer, entries in self._news.items():
            for start in range(0, len(entries), PAGE_ENTRIES):
                self._send(peer, Have(tuple(entries[start : start + PAGE_ENTRIES])))
        self._news = {}
        taken, self._outgoing = self._outgoing, []
        return taken

    def loads(self) -> list[tuple[int, bytes]]:
        """(peer, hash) of files that peers want and whose bytes are in the other store; takes them. Each is to be
        answered by `loaded`."""
        taken, self._loads = list(self._loads), {}
        return taken

    def loaded(self, peer: int, data: bytes) -> None:
        """The bytes of a file that `peer` wants."""
        state = self._peers.get(peer)
        if state is not None and self._allow(state, len(data)):
            self._send(peer, Delivery((data,), ()))

    @property
    def wanted(self) -> int:
        """How many things are offered by peers and still missing here."""
        return len(self._wanted)

    # Inventories

    def _summary(self) -> Summary:
        return Summary(len(self.table), self.table.digest.to_bytes(32), self.holding.full)

    def _summary_of(self, peer: int, state: _Peer, message: Summary, now_s: int) -> None:
        own = self._summary()
        if (message.count, message.digest) == (own.count, own.digest):
            state.cursor, state.asked_page_s = b"", None
            return
        settled = now_s >= self._placed_s + REREAD_SECONDS
        if not (message.full and own.full) and settled and now_s < state.read_s + REREAD_SECONDS:
            return
        if message.count and state.asked_page_s is None and not state.cursor:
            self._ask_page(peer, state, now_s)

    def _ask_page(self, peer: int, state: _Peer, now_s: int) -> None:
        """Read on in the inventory of `peer`, unless its quota of wanted things is used up; then later."""
        if state.wanted <= WANTED_PER_PEER // 2 and state.entries <= ENTRIES_PER_SECOND // 2:
            state.asked_page_s = now_s
            self._send(peer, Ask(state.cursor, not self.holding.full))

    def _page_of(self, peer: int, state: _Peer, message: Page, now_s: int) -> None:
        places = [entry.place() for entry in message.entries]
        reached = message.reached or (places[-1] if places else b"")
        if any(second <= first for first, second in pairwise(places)) or (places and reached < places[-1]):
            raise Malformed("a page of an inventory is not in order", peer=peer)
        if state.asked_page_s is None or (places and places[0] <= state.cursor):
            return  # a late answer to what has been asked again
        if not message.last and reached <= state.cursor:
            raise Malformed("a page of an inventory does not go on", peer=peer)
        state.asked_page_s = None
        state.entries += max(0, PAGE_COST_ENTRIES - len(places))
        taken = self._claims(peer, state, message.entries, now_s)
        full = taken < len(places)
        done = message.last and not full
        # Where the quota ended, reading starts again once it has room.
        behind = reached if not full else (places[taken - 1] if taken else state.cursor)
        state.cursor = b"" if done else behind
        if done:
            state.read_s = now_s
        elif not full:
            self._ask_page(peer, state, now_s)

    def _serve_page(self, peer: int, state: _Peer, message: Ask) -> None:
        if state.served_bytes > SERVED_BYTES_PER_SECOND:
            return
        looked_at = min(PAGE_ENTRIES, self.holding.keys_per_step) if message.mine else PAGE_ENTRIES
        entries = self.table.page(message.after, looked_at + 1)
        last = len(entries) <= looked_at
        entries = entries[:looked_at]
        reached = entries[-1].place() if entries else b""
        if message.mine:
            entries = [entry for entry in entries if state.key in self.holding.holders(entry)]
        page = encode_routing(Page(tuple(entries), last, reached))
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
                if state.wanted >= WANTED_PER_PEER or not self._may_weigh(state):
                    return taken
                if self.holding.keeps(entry):
                    self._want(peer, state, entry, now_s)
            taken += 1
        return taken

    def _may_weigh(self, state: _Peer) -> bool:
        """Whether the time that it takes to find the holders of one more claim is within the peer's allowance."""
        if self.holding.full:
            return True
        state.weighed += 1
        return state.weighed <= CLAIM_STEPS_PER_SECOND * self.holding.keys_per_step

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
            if not self.holding.wants(wanted.entry):
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
            if data is None and self.table.is_file(identifier) and len(self._loads) < LOADS:
                self._loads[peer, identifier] = None
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
