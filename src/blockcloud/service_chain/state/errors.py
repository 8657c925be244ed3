"""Why a question to the state, or the state itself, is refused: one class for each reason."""

from __future__ import annotations

from blockcloud.primitives.errors import BlockCloudError, LocalFault


class NotACheckpoint(BlockCloudError):
    """There is no state root at this height: roots are made at checkpoints only."""

    code = "not_a_checkpoint"
    hint = "Ask for the height of a checkpoint: the nearest are named, the newest is in the node's status."


class Pruned(BlockCloudError):
    """This node no longer keeps what a proof at this height needs."""

    code = "pruned"
    hint = "Ask for a proof at one of the newest checkpoints."


class FutureHeight(BlockCloudError):
    """The ledger has not reached this height yet, as far as this node knows."""

    code = "future_height"
    hint = "Wait until it has, or ask another node; how far this one is, is in its status."


class InvalidChange(BlockCloudError):
    """A change of the state has an empty or oversized key or value."""

    code = "invalid_change"


class HeightOrder(LocalFault):
    """Commits and checkpoints must come with growing heights."""

    code = "height_order"


class StateCorrupt(LocalFault):
    """The stored rows do not lead to the stored root."""

    code = "state_corrupt"
    hint = "The database is damaged. Start again from a certified snapshot."
