"""What a node claims: determined once from what it sets aside, and kept beside the plot (CloudPoS phase 1).

The computing power is measured, not configured: a part of what one core does here. A measurement differs from start to
start, and each new claim would cost a transaction and what was confirmed before; so it is kept, for as long as the
configuration stays the same.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from blockcloud.node.resources.compute import measure_core_steps_per_second
from blockcloud.node.resources.wire import Staking
from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BlockCloudError, StorageFault
from blockcloud.transaction_chain.cloudpos.parameters import PlotParameters
from blockcloud.transaction_chain.cloudpos.stake import NOTHING, RESOURCE_LIMIT, Resources, determine

DETERMINED_FILE: Final = "claim"
PLOT_FILE: Final = "plot"
DETERMINED_BYTES: Final = 8 * 1024
WHOLE_CORE_PERMILLE: Final = 1_000


class Determined(Struct, frozen=True):
    """The resources that followed from a configuration."""

    staking: Staking
    resources: Resources


def determined(staking: Staking, plot: PlotParameters) -> Resources:
    """What to claim for `staking`: as before, if it was determined before, or now, which takes a moment.

    Raises StorageFault.
    """
    path = Path(staking.folder) / DETERMINED_FILE
    kept = _read(path)
    if kept is not None and kept.staking == staking:
        return kept.resources
    resources = _determine(staking, plot)
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_bytes(codec.encode(Determined(staking, resources)))
        os.replace(temporary, path)
    except OSError as error:
        raise StorageFault(f"cannot keep the claim: {error.strerror}", path=str(path)) from None
    return resources


def plot_chunks(staking: Staking, plot: PlotParameters) -> int:
    """How many chunks the plot has that `staking` asks for."""
    return _free(staking, 0).storage // plot.chunk_bytes


def _determine(staking: Staking, plot: PlotParameters) -> Resources:
    compute = measure_core_steps_per_second() * staking.compute_permille // WHOLE_CORE_PERMILLE
    free = _free(staking, min(compute, RESOURCE_LIMIT))
    return Resources(free.compute, plot_chunks(staking, plot) * plot.chunk_bytes, free.data_rate)


def _free(staking: Staking, compute: int) -> Resources:
    # What the configuration names is set aside for this and used by nothing else.
    return determine(Resources(compute, staking.storage_bytes, staking.data_rate), staking.gamma, NOTHING)


def _read(path: Path) -> Determined | None:
    try:
        with path.open("rb") as file:
            return codec.decode(file.read(DETERMINED_BYTES + 1), Determined, limit=DETERMINED_BYTES)
    except (OSError, BlockCloudError):
        return None
