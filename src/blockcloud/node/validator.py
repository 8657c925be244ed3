"""The runtime of a node: it carries out what the cores ask for.

One event loop owns the consensus core, the network, the routing core and the submissions. Signatures are verified in
a thread pool (`verification`), commits are executed in a thread of their own (`applying`). The way of a block: link ->
verification -> `core.receive_block` -> duties. Duties are carried out once for all events of one turn of the loop, in
the order the core states: store (durably if a block of our own is among them), send, apply.

When the node itself is at fault, it stops rather than go on with a wrong state: the disk fails, a bug shows, or its
state root differs from a certified one. `failed()` then raises the reason. DESIGN sections 3.4, 3.5 and 11.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final

import structlog

from blockcloud.node import status
from blockcloud.node.applying import Applied, Applier, SharedChain
from blockcloud.node.certification import Certification
from blockcloud.node.clock import unix_ms
from blockcloud.node.config import NodeConfig
from blockcloud.node.consensus_keys import ConsensusKeys
from blockcloud.node.events import EventLog, Subscription
from blockcloud.node.examining import Examining
from blockcloud.node.exchange import Exchange
from blockcloud.node.intake import Intake, check_submitted
from blockcloud.node.ledger_tables import LedgerTables, initialise_data
from blockcloud.node.membership import Membership, read_onion
from blockcloud.node.network import Network, member_address
from blockcloud.node.outbox import Outbox
from blockcloud.node.proving import certificate_at, prove_value
from blockcloud.node.routing_role import RoutingRole
from blockcloud.node.snapshot_files import StoredSnapshot
from blockcloud.node.snapshots import Snapshots, finish_import, replace_state
from blockcloud.node.storage import RocksStore
from blockcloud.node.submissions import SubmissionResult, Submissions
from blockcloud.node.succession import Succession
from blockcloud.node.verification import Verification, tune_interpreter
from blockcloud.primitives.certificates import HANDOVER, Certificate, SignedStatement
from blockcloud.primitives.errors import NotTakingPart, PeerFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import APPLY_QUEUE_COMMITS, BLOCK_OPERATIONS
from blockcloud.service_chain.eras import SUPPORTED_VERSION
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.handover import Handover
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.service_chain.state import NotACheckpoint
from blockcloud.transaction_chain import messages
from blockcloud.transaction_chain.block import Block, BlockRules
from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.core import Core, Ready
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.mempool import Mempool
from blockcloud.transaction_chain.messages import decode_message, encode_message

__all__ = ["SubmissionResult", "Validator", "initialise_data"]

PROPOSAL_SECONDS: Final = 0.5  # a block of ours carries at most what we get committed in so long
PROPOSAL_OPERATIONS_MIN: Final = 500
EVENTS_PER_COMMIT: Final = 256

log = structlog.get_logger()


class Validator:
    """A node of the chain of `genesis` with the node key `key`, whose things are where `config` says. It writes blocks
    in the eras in whose committee it is, and only follows in others. Made inside a running loop.

    Opening recovers the state (seconds for a million keys). `start` joins the network, `stop` ends everything; `chain`
    answers queries. Raises BadConfiguration or StorageFault.
    """

    # The highest protocol version that this node can run.
    protocol_version = SUPPORTED_VERSION

    def __init__(self, config: NodeConfig, genesis: Genesis, key: SigningKey) -> None:
        self.config, self.genesis, self._key = config, genesis, key
        self._loop = asyncio.get_running_loop()
        self.store = RocksStore(config.data_path)
        try:
            self._open()
        except BaseException:
            self.store.close()
            raise

    def _open(self) -> None:
        genesis = self.genesis
        self.tables = LedgerTables(self.store, genesis)
        finish_import(self.store, self.tables, genesis.chain_id(), self.config.snapshots_path)
        self.chain = SharedChain(genesis, self.store)
        self.mempool = Mempool()
        self.keys = ConsensusKeys(self.config.key_path.parent, self._key, self.tables)
        self.eras = Succession(
            self.chain,
            self.tables,
            self.keys,
            self._key.public,
            self.mempool,
            version=self.protocol_version,
            send=self._send,
            now_ms=unix_ms(),
        )
        onion = read_onion(self.config.onion_path, genesis.staking.onion_length)
        self.membership = Membership(
            self.chain,
            self.keys,
            self._key,
            onion,
            version=self.protocol_version,
            submit=self._submit_own,
            others=lambda: self.examining.due(),
        )
        self.routing = RoutingRole(
            self.config,
            self.store,
            self.chain,
            self._key.public,
            send=lambda: self.exchange.send_routing(),
            spawn=self.spawn,
        )
        self.submissions = Submissions()
        self.events = EventLog(unix_ms())
        self.transactions_applied = 0
        self.clock_skew_ms = 0  # how far other members' newest clocks are ahead of ours, at the median
        self.metrics = status.metrics_registry(self)
        self._applied_s = self._loop.time()
        self._failure: asyncio.Future[None] = self._loop.create_future()
        self._drains: set[asyncio.Task[None]] = set()
        self._replacing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._second: asyncio.TimerHandle | None = None
        self._pumping = False
        self._stopped = False
        self.snapshots = Snapshots(self.config.snapshots_path, self.store, self.chain, self.tables)

    async def start(self) -> None:
        """Listen, dial the members of the committee, and begin. Raises Unreachable if the link address is taken."""
        tune_interpreter()
        self.verification = Verification(
            check=self.chain.check,
            check_vouched=self.chain.check_vouched,
            check_submitted=partial(check_submitted, self.chain),
            deliver=self._verified,
            failed=self._fail,
            threads=self.config.verify_threads,
        )
        self.intake = Intake(
            self.chain,
            self.mempool,
            self.submissions,
            verify=self.verification.check_payloads,
            open_now=self._can_commit,
            submitted=self._submitted,
        )
        self.outbox = Outbox(self.store.sync, failed=self._fail)
        self.applier = Applier(self.chain, self.tables, self.store, deliver=self._applied, failed=self._fail)
        self.network = Network(
            chain_id=self.chain.chain_id,
            key=self._key,
            on_frame=self._frame,
            on_connected=self._connected,
            on_lost=self._lost,
        )
        self.exchange = Exchange(
            self,
            eras=self.eras,
            tables=self.tables,
            routing=self.routing,
            network=self.network,
            verification=self.verification,
            outbox=self.outbox,
            snapshots=self.snapshots,
        )
        self.link_port = await self.network.start(self.config.link_host, self.config.link_port)
        self._know_members()
        self.examining = Examining(self.config, self.chain, self._key.public)
        if self.own is not None and not self.core.proposing:
            log.warning("observing", reason="no proof of the last signed level")
        log.info(
            "validator_started",
            member=self.own,
            era=self.era,
            height=self.chain.height,
            link_port=self.link_port,
        )
        self._each_second()
        self.snapshots.make(self.eras.current.plan)
        self.pump_soon()

    async def stop(self) -> None:
        """Leave the network, end the threads, close the store. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        for timer in (self._timer, self._second):
            if timer is not None:
                timer.cancel()
        for task in list(self._drains):
            task.cancel()
        await asyncio.gather(*self._drains, return_exceptions=True)
        if self._replacing is not None:
            await asyncio.gather(self._replacing, return_exceptions=True)
        self.events.close()
        await self.routing.close()
        await asyncio.to_thread(self.snapshots.close)
        if hasattr(self, "examining"):
            await self.examining.close()
        if hasattr(self, "network"):
            await self.network.close()
            self.verification.close()
            self.outbox.close()
            self.applier.close()
        if self._failure.done():
            self._failure.exception()
        self.store.close()
        log.info("validator_stopped", height=self.chain.applied_height)

    async def failed(self) -> None:
        """Wait until this node must not go on, and raise why: Diverged, StorageFault, or a bug."""
        await asyncio.shield(self._failure)

    # The era

    @property
    def core(self) -> Core:
        """The consensus core of the present era."""
        return self.eras.current.core

    @property
    def committee(self) -> Committee:
        """The committee of the present era."""
        return self.eras.current.committee

    @property
    def certification(self) -> Certification:
        """The checkpoints of the present era."""
        return self.eras.current.certification

    @property
    def own(self) -> int | None:
        """This node's number in the committee; None if it is not in it."""
        return self.eras.current.own

    @property
    def era(self) -> int:
        """The number of the present era."""
        return self.eras.current.plan.era

    @property
    def node_key(self) -> bytes:
        """Who this node is, in all eras."""
        return self._key.public

    def member_numbers(self, peers: Iterable[int]) -> list[int]:
        """The places in the committee of those of `peers` that are in it."""
        return self.exchange.member_numbers(peers)

    def _begin_era(self, plan: EraPlan) -> None:
        """The last commit of an era has been executed."""
        now_ms = unix_ms()
        self.eras.begin(plan, now_ms)
        self.snapshots.make(plan)
        if not self.config.archive:
            self.tables.prune(plan, self.snapshots.newest_era)
        self._know_members()
        self.membership.look(self.eras.current, self._loop.time())
        for peer in self.network.connected():
            self.core.peer_connected(self.exchange.number_of(peer), now_ms)
        self.events.add("era", {"era": plan.era, "first_height": plan.first_height, "members": len(plan.seats)})
        self.pump_soon()

    def _know_members(self) -> None:
        self.routing.begin_era(self.eras.current.plan)
        seats = self.eras.current.plan.seats
        self.network.know([member_address(seat.node_key, seat.link_address) for seat in seats])

    async def adopt(self, snapshot: StoredSnapshot, handovers: list[Handover]) -> None:
        """Replace the state by a whole snapshot, and go on in its era. Meanwhile this node neither hears its peers nor
        answers queries: there is no state. After a crash in the middle the next start ends it (`finish_import`)."""
        if self.halted or snapshot.era <= self.era:
            self.snapshots.add(snapshot)
            return
        with self._halting():
            log.info("snapshot_import", era=snapshot.era, height=self.chain.applied_height)
            self.chain.replacing = True
            self.core.proposing = False
            self.exchange.throttle(True)
            parts = (self.store, self.tables, self.chain, self.applier)
            self._replacing = asyncio.ensure_future(asyncio.to_thread(replace_state, *parts, snapshot, handovers))
            await asyncio.shield(self._replacing)
            self.applier = Applier(self.chain, self.tables, self.store, deliver=self._applied, failed=self._fail)
            self.snapshots.add(snapshot)
            self.chain.replacing = False
            self._begin_era(self.chain.plan)
            self.exchange.throttle(False)

    # For the exchange

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Let `work` go on by itself; it ends with this node."""
        task = self._loop.create_task(work)
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)

    def statement(self, signed: SignedStatement) -> None:
        """A member's statement, or one of our own."""
        if signed.statement.kind == HANDOVER:
            self.eras.statement(signed)
        elif signed.statement.era == self.era and self.certification.add(signed):
            self._tell_checkpoint()

    def _send(self, peer: int | None, message: messages.Message) -> None:
        self.exchange.send(peer, message)

    def _submit_own(self, payload: bytes) -> None:
        self.exchange.submit_own(payload)

    # Clients

    async def submit(
        self, payloads: Sequence[bytes], *, wait: bool = False, timeout_s: float = 10.0, client: str = ""
    ) -> list[SubmissionResult]:
        """Take transactions into the ledger; one result for each, in order. With `wait`: their outcomes.

        What is above this node's capacity is `busy` and was not looked at. What has no outcome within `timeout_s` stays
        `accepted`. `client` names who submits, for turns among clients. Raises NotTakingPart.
        """
        return await self.intake.submit(payloads, wait=wait, timeout_s=timeout_s, client=client)

    def _submitted(self) -> None:
        """The mempool got something."""
        with self._halting():
            self.core.submitted(unix_ms())
            self.pump_soon()

    def proven(self, key: bytes, height: int | None = None) -> ProvenValue:
        """The value of a state key with its proof under a certified checkpoint: the newest, or that of `height`.

        Raises NotACheckpoint (also when nothing is certified yet), FutureHeight or Pruned. With a height, any thread
        may ask.
        """
        certificate = self.certificate if height is None else certificate_at(self.chain, self.tables, height)
        if certificate is None:
            raise NotACheckpoint("no certified checkpoint", height=height)
        return prove_value(self.chain, self.tables, key, certificate)

    @property
    def certificate(self) -> Certificate | None:
        """The newest certificate of a checkpoint that this node's own state has reached."""
        return self.certification.newest

    def status(self) -> dict[str, Any]:
        """The report of `blockcloud status`."""
        return status.report(self)

    def readiness(self) -> tuple[bool, str]:
        """Whether the node follows the ledger, and why not."""
        return status.readiness(self)

    def subscribe(self, after: int | None = None) -> Subscription:
        """Commits, checkpoints and what transactions told, as events. Raises Busy."""
        return self.events.subscribe(after)

    # Links

    def _connected(self, peer: int) -> None:
        with self._halting():
            self.exchange.connected(peer)
            self.pump_soon()

    def _lost(self, peer: int) -> None:
        with self._halting():
            self.exchange.lost(peer)
            self.pump_soon()

    def _frame(self, peer: int, data: bytes) -> None:
        if self.halted or self.chain.replacing:
            return
        with self._halting():
            try:
                self.exchange.receive(peer, decode_message(data))
            except PeerFault as fault:
                self.network.fault(peer, fault)

    def _verified(
        self, peer: int, blocks: list[Block], fault: PeerFault | None, fetched: bool, rules: BlockRules
    ) -> None:
        with self._halting():
            self.exchange.verified(peer, blocks, fault, fetched, rules)

    # Duties

    def pump_soon(self) -> None:
        """The core may have duties: carry them out at the end of this turn of the loop."""
        if not self._pumping and not self._stopped:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._stopped or self.halted or self.chain.replacing:
            return
        with self._halting():
            while ready := self.core.ready():
                self._carry_out(ready)
            self._throttle()
            self._arm()

    def _carry_out(self, ready: Ready) -> None:
        if ready.persist:
            self.tables.put_blocks(self.era, ready.persist, ready.own)
        sends = self.exchange.addressed(ready.send)
        self.outbox.put(partial(self._send_and_apply, ready, sends), durable=bool(ready.own))
        for number, fault in ready.complaints:
            if number != self.own and (peer := self.exchange.peer_of(number)) is not None:
                self.network.fault(peer, fault)

    def _send_and_apply(self, ready: Ready, sends: Sequence[tuple[int | None, messages.Message]]) -> None:
        """The duties that come after storing."""
        if self.halted:
            return
        with self._halting():
            for block in ready.broadcast:
                self.network.broadcast(encode_message(messages.BlockMessage(block.raw)))
            for peer, message in sends:
                if peer is not None:
                    self.network.send(peer, encode_message(message))
            if not self.chain.replacing:
                for commit in ready.commits:
                    if commit.record.era == self.era:  # else a snapshot has brought us beyond it
                        self.applier.put(commit)

    def _arm(self) -> None:
        """Set the timer for the core's next deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ms = self.core.next_timer()
        if due_ms is not None and not self.exchange.throttled:
            self._timer = self._loop.call_later(max(due_ms - unix_ms(), 1) / 1_000, self._tick)

    def _tick(self) -> None:
        with self._halting():
            self._timer = None
            self.core.tick(unix_ms())
            self.pump_soon()

    def _throttle(self) -> None:
        """While too much waits to be applied: take no blocks and make none."""
        backlog = self.applier.backlog
        if self.exchange.throttled and backlog <= APPLY_QUEUE_COMMITS // 2:
            self.exchange.throttle(False)
        elif not self.exchange.throttled and backlog >= APPLY_QUEUE_COMMITS:
            self.exchange.throttle(True)

    def _each_second(self) -> None:
        with self._halting():
            self._second = self._loop.call_later(1.0, self._each_second)
            if self.chain.replacing:
                return
            self.exchange.sync.look()
            now_s = self._loop.time()
            self.clock_skew_ms = self.exchange.take_clock_skew_ms()
            self.eras.each_second()
            self.membership.look(self.eras.current, now_s)
            self.submissions.expire(now_s)
            self.submissions.rate.add(0, now_s)
            self.core.proposal_operations = min(
                BLOCK_OPERATIONS, max(PROPOSAL_OPERATIONS_MIN, int(self.submissions.rate.per_s * PROPOSAL_SECONDS))
            )
            self.routing.each_second()

    # Results

    def _applied(self, batch: list[Applied]) -> None:
        if self.chain.replacing:
            return
        with self._halting():
            self._applied_s = now_s = self._loop.time()
            for applied in batch:
                self.transactions_applied += len(applied.result.outcomes)
                self.submissions.applied(applied, now_s)
                self._tell(applied)
                if applied.result.next_era is not None:
                    self._begin_era(applied.result.next_era)
                elif applied.result.state_root is not None:
                    self._checkpoint(applied.commit.height, applied.commit.digest, applied.result.state_root)
            self.examining.applied(batch[-1].commit.record)
            if self.exchange.throttled:
                self.pump_soon()

    def _tell(self, applied: Applied) -> None:
        record, result = applied.commit.record, applied.result
        self.events.add(
            "commit",
            {
                "height": record.height,
                "level": record.level,
                "time_ms": record.time_ms,
                "digest": applied.commit.digest.hex(),
                "transactions": len(result.outcomes),
                "change_digest": result.change_digest.hex(),
            },
        )
        for kind, data in result.events[:EVENTS_PER_COMMIT]:
            self.events.add(kind, {"height": record.height, "data": data.decode("ascii", "backslashreplace")})

    def _checkpoint(self, height: int, commit_digest: bytes, root: bytes) -> None:
        """Our own state has reached a checkpoint: compare it with its certificate, and sign it."""
        if self.certification.reached(height, commit_digest, root):
            self._tell_checkpoint()
        key = self.eras.current.key
        if self.core.proposing and key is not None:
            signed = self.certification.sign(height, commit_digest, root, key)
            self.core.add_statement(signed)
            self.statement(signed)

    def _tell_checkpoint(self) -> None:
        if (certificate := self.certification.newest) is not None:
            statement = certificate.statement
            data = {"height": statement.height, "state_root": statement.digests[1].hex()}
            self.events.add("checkpoint", {**data, "signers": len(certificate.signatures)})

    # Faults of our own

    @property
    def halted(self) -> bool:
        """Whether the node has stopped taking part because of a fault of its own."""
        return self._failure.done()

    @property
    def failure(self) -> BaseException | None:
        """Why the node is halted."""
        return self._failure.exception() if self._failure.done() else None

    @property
    def seconds_since_commit(self) -> float:
        """How long ago a commit was applied, or this node was started."""
        return self._loop.time() - self._applied_s

    @property
    def uncertified_commits(self) -> int:
        """How many commits were applied above the newest certificate."""
        return max(0, self.chain.applied_height - self.certification.certified_height)

    def _can_commit(self) -> bool:
        if not self.core.proposing or self._stopped or self.halted:
            raise NotTakingPart
        alarm = self.uncertified_commits > self.genesis.parameters.alarm_period
        return not (self.exchange.throttled or alarm)

    def _halting(self) -> _Halting:
        return _Halting(self)

    def _fail(self, error: BaseException) -> None:
        """Stop taking part: nothing that follows from a wrong state may leave this node."""
        if self._failure.done() or self._stopped:
            return
        log.critical("validator_halted", error=error, height=self.chain.applied_height)
        self._failure.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        self.core.proposing = False
        self.spawn(self.network.close())


class _Halting:
    """Whatever escapes from the body halts the validator: a callback of the loop has nobody else to tell."""

    __slots__ = ("_validator",)

    def __init__(self, validator: Validator) -> None:
        self._validator = validator

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._validator._fail(error)
        return True
