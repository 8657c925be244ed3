"""Transactions that were parsed and verified lately, by their raw bytes.

A payload is checked when a client submits it and again when a block brings it, and executed later: decoding and Ed25519
are paid once. Two generations, the older dropped when the younger is full: a plain dict operation is atomic, so several
threads may look up and add at once without a lock; at worst two of them verify the same bytes.
"""

from __future__ import annotations

from typing import Final

from blockcloud.service_chain.transaction import Transaction

# Of one generation; two are kept. What is parsed takes about five times its bytes. One generation is a second or more
# of what a node can verify, and from the check to the execution it is half a second.
PARSED_TRANSACTIONS: Final = 8_192
PARSED_BYTES: Final = 3 * 1024 * 1024


class ParsedTransactions:
    """A bounded memory of checked transactions."""

    def __init__(self, transactions: int = PARSED_TRANSACTIONS, raw_bytes: int = PARSED_BYTES) -> None:
        self._limit, self._limit_bytes = transactions, raw_bytes
        self._young: dict[bytes, Transaction] = {}
        self._old: dict[bytes, Transaction] = {}
        self._young_bytes = 0

    def get(self, raw: bytes) -> Transaction | None:
        """The transaction of these bytes, if it was added lately."""
        return self._young.get(raw) or self._old.get(raw)

    def add(self, transaction: Transaction) -> None:
        """Remember a transaction whose signatures were verified, here or by a quorum that committed these bytes."""
        if len(self._young) >= self._limit or self._young_bytes >= self._limit_bytes:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[transaction.raw] = transaction
        self._young_bytes += len(transaction.raw)
