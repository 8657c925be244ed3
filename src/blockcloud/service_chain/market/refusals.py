"""Why the auction refuses an order, a cancellation or a reveal: a further leaf of `rejections`."""

from __future__ import annotations

from blockcloud.service_chain.rejections import Failed


class OrderQuantityOutOfRange(Failed):
    """An order is for at least one unit, and for no more than an order may have."""

    code = "order_quantity_out_of_range"


class OrderLimitOutOfRange(Failed):
    """The limit of an order is at least one micro-BLOC a unit, and below the largest amount."""

    code = "order_limit_out_of_range"


class OrderTooLarge(Failed):
    """Limit times quantity is more than there can be."""

    code = "order_too_large"


class OrderRoundPassed(Failed):
    """An order arrives in the coming round, and leaves in that one or in a later one."""

    code = "order_round_passed"


class OrderTooPatient(Failed):
    """An order stays for no more rounds than the market allows."""

    code = "order_too_patient"


class OrderNumberUsed(Failed):
    """The number of an order is higher than that of any order before it."""

    code = "order_number_used"


class IdentityNotBonded(Failed):
    """Only who has a bond may order: one ticket in the lottery for each."""

    code = "identity_not_bonded"
    hint = "The account needs the bond and the fees beside what the order promises; the bond comes back."


class OrderNotBacked(Failed):
    """An order locks what it promises: a buyer the limit for each unit, a seller the bond for each delivery."""

    code = "order_not_backed"
    hint = "Order less, or have more in the account: the limit for each unit, or the bond for each delivery."


class IdentityHasOrder(Failed):
    """The identity has an order in this market already."""

    code = "identity_has_order"
    hint = "One order for each account. `blockcloud market book` shows it, `blockcloud market cancel` takes it out."


class IdentityRests(Failed):
    """An order of the identity left without being filled, and its window is not over."""

    code = "identity_rests"
    hint = "Wait for the round that is named. Who could try again at once could choose the price."


class UnknownOrder(Failed):
    """There is no such order in this market."""

    code = "unknown_order"


class OrderIsOver(Failed):
    """The order was cancelled, was priced out, has expired, or will not trade any more."""

    code = "order_is_over"


class NotOrderOwner(Failed):
    """The order is somebody else's."""

    code = "not_order_owner"


class TooManyOrders(Failed):
    """The market has as many orders as it may have."""

    code = "too_many_orders"


class OutsideCommitPhase(Failed):
    """Commitments count until the round is opened for reveals."""

    code = "outside_commit_phase"
    hint = "Wait for the next round."


class OutsideRevealPhase(Failed):
    """Reveals count between the opening and the clearing of the round."""

    code = "outside_reveal_phase"


class CommittedAlready(Failed):
    """The identity has a commitment in this round already."""

    code = "committed_already"


class NothingCommitted(Failed):
    """The identity has no commitment in this round."""

    code = "nothing_committed"


class OrderRevealedAlready(Failed):
    """The commitment of the identity was opened before."""

    code = "order_revealed_already"


class WrongOrderRevealed(Failed):
    """Order and salt are not what the identity committed to."""

    code = "wrong_order_revealed"
    hint = "Reveal it from the home folder in which it was made."
