"""How a validator is: one report object for text, JSON, API and metrics, and the health list with cause and mend."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.limits import APPLY_QUEUE_COMMITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blockcloud.node.validator import Validator

SLOW_SYNC_S: Final = 0.01
CLOCK_WARNING_MS: Final = 1_000
STALLED_S: Final = 5.0

# Name (without prefix and `_total`) -> (kind, help). The documentation's table of metrics is made from this.
METRICS: Final = {
    "height": ("gauge", "Height of the last applied commit"),
    "level": ("gauge", "Level of this validator's last block"),
    "certified_height": ("gauge", "Height of the newest certified checkpoint that this node has reached"),
    "peers": ("gauge", "Validators linked to this one"),
    "mempool_transactions": ("gauge", "Transactions waiting for a block of this validator"),
    "outstanding_transactions": ("gauge", "Transactions taken from clients without an outcome yet"),
    "admission_limit": ("gauge", "How many transactions may be outstanding now"),
    "apply_backlog_commits": ("gauge", "Commits decided and not yet applied"),
    "store_sync_seconds": ("gauge", "Recent mean time of a sync"),
    "submission_latency_seconds": ("gauge", "Recent mean time from admission to the applied commit"),
    "transactions": ("counter", "Transactions in applied commits"),
    "committed": ("counter", "Transactions taken from clients that were committed"),
    "rejected": ("counter", "Transactions from clients that were rejected"),
    "busy": ("counter", "Transactions from clients that were answered busy"),
    "leaders_committed": ("counter", "Leader slots that committed"),
    "leaders_skipped": ("counter", "Leader slots that were skipped"),
    "peer_faults": ("counter", "Broken rules of other validators"),
    "vouched_blocks": ("counter", "Fetched blocks whose payload was not verified again: a quorum had committed them"),
    "links_refused": ("counter", "Connections to the link port that did not authenticate"),
    "cpu_seconds": ("counter", "CPU time of this process"),
}


def counters(validator: Validator) -> dict[str, float]:
    """The values of METRICS."""
    core, submissions, network = validator.core, validator.submissions, validator.network
    certificate = validator.certificate
    return {
        "height": validator.chain.applied_height,
        "level": core.level,
        "certified_height": certificate.statement.height if certificate else 0,
        "peers": len(network.connected()),
        "mempool_transactions": len(validator.mempool),
        "outstanding_transactions": len(submissions),
        "admission_limit": submissions.limit,
        "apply_backlog_commits": validator.applier.backlog,
        "store_sync_seconds": round(validator.outbox.sync_seconds, 6),
        "submission_latency_seconds": round(submissions.latency_s, 4),
        "transactions": validator.transactions_applied,
        "committed": submissions.committed,
        "rejected": submissions.rejected,
        "busy": submissions.busy,
        "leaders_committed": core.leaders_committed,
        "leaders_skipped": core.leaders_skipped,
        "peer_faults": sum(peer.faults.total() for peer in network.peers.values()),
        "vouched_blocks": validator.verification.vouching.blocks,
        "links_refused": network.refused.total(),
        "cpu_seconds": round(time.process_time(), 3),
    }


def mode_of(validator: Validator) -> str:
    """halted, catching_up, observing or fast."""
    if validator.halted:
        return "halted"
    if validator.core.is_lagging or validator.applier.backlog > APPLY_QUEUE_COMMITS // 2:
        return "catching_up"
    return "fast" if validator.core.proposing else "observing"


def readiness(validator: Validator) -> tuple[bool, str]:
    """Whether the node follows the ledger, and why not."""
    mode = mode_of(validator)
    if mode not in ("fast", "observing"):
        return False, mode
    weight = _linked_weight(validator)
    if weight < validator.committee.quorum:
        return False, "fewer validators than a quorum are linked"
    return True, "ready"


def report(validator: Validator) -> dict[str, Any]:
    """What `blockcloud status` shows."""
    checkpoint = validator.chain.checkpoint
    certificate = validator.certificate
    return {
        "chain": validator.chain.chain_id.hex(),
        "network": validator.genesis.name,
        "height": validator.chain.applied_height,
        "level": validator.core.level,
        "era": validator.era,
        "mode": mode_of(validator),
        "state_root": checkpoint[2].hex() if checkpoint else None,
        "state_root_height": checkpoint[0] if checkpoint else None,
        "checkpoint": None
        if certificate is None
        else {"height": certificate.statement.height, "state_root": certificate.statement.digests[1].hex()},
        "member": validator.own,
        "committee": _committee(validator),
        "peers": _peers(validator),
        "health": health(validator),
        "base_fee_micro_bloc": None if validator.halted else validator.chain.base_fee,
        "routing": validator.routing.report(),
        "commit_time_ms": validator.core.last_commit.time_ms,
        "pid": os.getpid(),
        "counters": counters(validator),
    }


def health(validator: Validator) -> list[dict[str, str]]:
    """What is wrong, each with its cause and what mends it; empty when all is well."""
    found: list[dict[str, str]] = []

    def warn(code: str, cause: str, mend: str) -> None:
        found.append({"code": code, "cause": cause, "mend": mend})

    if (error := validator.failure) is not None:
        warn("halted", str(error), "Read the log. Do not restart a diverged node from the same data.")
    if validator.own is not None and not validator.core.proposing and error is None:
        warn(
            "observing",
            "this node has no proof of the last level it signed",
            "It takes part again from the next era; use the data folder it had, if that still exists.",
        )
    if _linked_weight(validator) < validator.committee.quorum:
        warn("no_quorum", "fewer validators than a quorum are linked", "Start the others, or check the network.")
    if validator.core.is_lagging:
        warn(
            "lagging", "this node is behind the others and catches up", "Wait; if it does not end, check CPU and disk."
        )
    since_s = validator.seconds_since_commit
    if since_s > STALLED_S:
        warn(
            "stalled", f"no commit was applied for {since_s:.0f} s", "Check the links and the clocks of the validators."
        )
    if validator.outbox.sync_seconds > SLOW_SYNC_S:
        warn(
            "slow_disk",
            f"a sync takes {validator.outbox.sync_seconds * 1e3:.1f} ms",
            "Use a faster disk for the data.",
        )
    if validator.uncertified_commits > validator.genesis.parameters.alarm_period:
        warn(
            "no_certificate",
            f"no checkpoint was certified for {validator.uncertified_commits} commits",
            "Compare the state roots of the validators; transactions are refused meanwhile.",
        )
    if (storage := validator.routing.storage) is not None and storage.failure is not None:
        warn("file_store", storage.failure.message, storage.failure.hint)
    skew_ms = validator.clock_skew_ms
    if abs(skew_ms) > CLOCK_WARNING_MS:
        warn("clock", f"this clock differs from the others' by about {skew_ms} ms", "Run a time service (NTP).")
    return found


def _linked_weight(validator: Validator) -> int:
    own = [] if validator.own is None else [validator.own]
    return validator.committee.weight_of([*own, *validator.member_numbers(validator.network.connected())])


def _committee(validator: Validator) -> list[dict[str, Any]]:
    return [
        {"member": number, "address": format_address(seat.node_key), "bond_micro_bloc": seat.bond}
        for number, seat in enumerate(validator.eras.current.plan.seats)
    ]


def _peers(validator: Validator) -> list[dict[str, Any]]:
    return [
        {
            "member": next(iter(validator.member_numbers([index])), None),
            "node": format_address(peer.key),
            "address": None if peer.address is None else f"{peer.address.host}:{peer.address.port}",
            "connected": peer.link is not None,
            "links": peer.links,
            "dropped_slow": peer.dropped_slow,
            "faults": dict(peer.faults),
        }
        for index, peer in validator.network.peers.items()
    ]


class _Metrics(Collector):
    """Reads the counters when somebody asks for the metrics."""

    def __init__(self, validator: Validator) -> None:
        self._validator = validator

    def collect(self) -> Iterator[Metric]:
        for name, value in counters(self._validator).items():
            kind, text = METRICS[name]
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            yield family(f"blockcloud_{name}", text, value=value)

    def describe(self) -> Iterator[Metric]:
        return iter(())


def metrics_registry(validator: Validator) -> CollectorRegistry:
    """The metrics of a validator, for Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(validator))
    return registry
