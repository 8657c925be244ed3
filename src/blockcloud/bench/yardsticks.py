"""Other replicated ledgers beside ours, in the same run and on the same cores: etcd and CometBFT.

Both run as they come from their makers, each node a process on loopback with files of its own, all synced as they see
fit. Load: closed loop, so many in flight as `bench ledger` has at its peak, for a few seconds; the client is this
process, so it is part of the figure as it is for ours. What each is and how it is asked is said in `bench/etcd.py` and
`bench/cometbft.py`. What is not on this machine is skipped, with a line that says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2

from blockcloud.bench.cometbft import cometbft
from blockcloud.bench.etcd import etcd
from blockcloud.bench.yardstick_programs import YardstickFailed


def beside(seconds: float = 10.0) -> dict[str, Any]:
    """What is on this machine, one after the other, `seconds` each: a report, or why there is none."""
    return {"etcd": _or_why(etcd, seconds), "cometbft": _or_why(cometbft, seconds)}


def _or_why(measure: Callable[[float], dict[str, Any]], seconds: float) -> dict[str, Any]:
    try:
        return measure(seconds)
    except YardstickFailed as failure:
        return {"skipped": str(failure)}
    except (OSError, httpx2.HTTPError, ValueError, KeyError, TimeoutError) as error:
        # Our own figures were measured before, and are worth more than these.
        return {"skipped": f"it failed under the load: {error!r}"}
