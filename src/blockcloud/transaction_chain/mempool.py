"""The mempool: payloads this node was given and that no commit has brought yet.

A payload is *pending* until a block carries it, then *carried* until a commit brings it or its block falls out below
the collection level. What this node was given and has fallen out becomes pending again, before everything newer, so
that nothing accepted is lost; what only others carried is theirs to propose again. First in, first out: the
transactions of one sender stay in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from blockcloud.primitives.errors import Malformed, Oversized
from blockcloud.primitives.limits import (
    MEMPOOL_BYTES,
    MEMPOOL_TRANSACTIONS,
    TRANSACTION_BYTES,
    TRANSACTION_OPERATIONS,
)

# Payloads in blocks that are not committed. Beyond it the oldest is forgotten: it could be proposed twice (the service
# machine's sequence numbers refuse the second), or not be proposed again.
CARRIED_PAYLOADS = 100_000


class Mempool:
    """Bounded in payloads and bytes."""

    def __init__(self, max_payloads: int = MEMPOOL_TRANSACTIONS, max_bytes: int = MEMPOOL_BYTES) -> None:
        self._max_payloads = max_payloads
        self._max_bytes = max_bytes
        self._pending: dict[bytes, int] = {}
        # Payload -> operations if this node is to propose it again should its block fall out, else None.
        self._carried: dict[bytes, int | None] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, payload: object) -> bool:
        """Whether it is pending or in a block that is not committed."""
        return payload in self._pending or payload in self._carried

    @property
    def is_full(self) -> bool:
        """Whether `add` refuses the smallest payload."""
        return len(self._pending) >= self._max_payloads or self.bytes >= self._max_bytes

    def add(self, payload: bytes, operations: int) -> bool:
        """Take a checked payload with its number of operations. False if it is known already or there is no room.

        Raises Malformed for an empty payload and Oversized for one larger than a transaction.
        """
        if not payload:
            raise Malformed("a payload is empty")
        if len(payload) > TRANSACTION_BYTES:
            raise Oversized("a payload is larger than a transaction", bytes=len(payload), limit=TRANSACTION_BYTES)
        if payload in self or len(self._pending) >= self._max_payloads or self.bytes + len(payload) > self._max_bytes:
            return False
        self._pending[payload] = operations
        self.bytes += len(payload)
        return True

    def take(self, max_bytes: int, max_operations: int) -> tuple[bytes, ...]:
        """Payloads for a block of our own, oldest first, within both limits; they are carried from now on.

        A payload with more operations than `max_operations` goes alone, or it would block the queue for ever.
        """
        taken: list[bytes] = []
        for payload, operations in self._pending.items():
            max_bytes -= len(payload)
            max_operations -= operations
            if max_bytes < 0 or (max_operations < 0 and taken):
                break
            taken.append(payload)
        for payload in taken:
            self._carry(payload, self._drop(payload))
        return tuple(taken)

    def seen_in_block(self, payloads: Iterable[bytes]) -> None:
        """A block of another carries them: do not propose them as well."""
        for payload in payloads:
            if payload in self._pending:
                self._carry(payload, self._drop(payload))
            elif payload not in self._carried:
                self._carry(payload, None)

    def recovered(self, payloads: Iterable[bytes]) -> None:
        """A block of our own from before a restart carries them. Their operations are not known: assume the most."""
        for payload in payloads:
            if payload not in self._pending:
                self._carry(payload, TRANSACTION_OPERATIONS)

    def committed(self, payloads: Iterable[bytes]) -> None:
        """A commit brought them."""
        for payload in payloads:
            self._carried.pop(payload, None)
            if payload in self._pending:
                self._drop(payload)

    def put_back(self, payloads: Iterable[bytes]) -> None:
        """Their block fell out without a commit: what is ours to propose becomes pending again, ahead of the rest.

        May exceed the limits by what the blocks above the collection level carried, since it had been accepted.
        """
        returned = {}
        for payload in payloads:
            operations = self._carried.pop(payload, None)
            if operations is not None and payload not in self._pending:
                returned[payload] = operations
                self.bytes += len(payload)
        if returned:
            self._pending = {**returned, **self._pending}

    def era_ended(self) -> None:
        """No block carries anything any more: what was ours to propose and is not committed is pending again."""
        self.put_back(list(self._carried))

    def _drop(self, payload: bytes) -> int:
        self.bytes -= len(payload)
        return self._pending.pop(payload)

    def _carry(self, payload: bytes, operations: int | None) -> None:
        self._carried[payload] = operations
        excess = len(self._carried) - CARRIED_PAYLOADS
        for oldest in list(islice(self._carried, max(0, excess))):
            del self._carried[oldest]
