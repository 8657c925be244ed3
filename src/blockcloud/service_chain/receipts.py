"""Receipts: what became of a transaction whose fee was paid. Kept for ever, by transaction id.

A transaction is *acknowledged* once its receipt is in a committed state: that is the promise a client may build on.
"""

from __future__ import annotations

from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct

TABLE: Final = "receipts"
RECEIPT_BYTES: Final = 8 * 1_024


class Receipt(Struct, frozen=True):
    """`index` is the place among the payload items of the commit at `height`; `code` is "ok" or that of a rejection."""

    transaction_id: bytes
    height: int
    index: int
    code: str
    fee: int  # micro-BLOC
    fuel: int = 0  # that contracts used
    output: bytes = b""  # what the last call returned, or why it failed
    events: tuple[tuple[bytes, bytes, bytes], ...] = ()  # (contract, topic, data)


def decode_receipt(data: bytes) -> Receipt:
    """A stored receipt."""
    return codec.decode(data, Receipt, limit=RECEIPT_BYTES)
