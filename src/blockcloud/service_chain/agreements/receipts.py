"""Receipts: what was delivered, signed by provider and client, and the tree whose root rides in the vouchers.

The provider signs what it served, the client countersigns what it got, and goes on paying only against receipts: so
neither can later claim more, or less, than both said. The receipts of a channel are the leaves of a Merkle SUM tree
(each node commits to the units below it too), so one root says how many units were delivered in all, and a receipt
can be drawn and proven later. The tree has the shape of RFC 9162; sums as in POKT (`reference/market.md` 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadSignature
from blockcloud.primitives.hashes import ZERO_DIGEST, tagged_hash
from blockcloud.primitives.keys import SigningKey, verify
from blockcloud.service_chain.agreements.faults import BadReceipt
from blockcloud.service_chain.fields import Amount, Digest, Key, Number, Signature

PROVIDER_DOMAIN: Final = "bloc/receipt/1"
CLIENT_DOMAIN: Final = "bloc/receipt-countersigned/1"
RECEIPT_BYTES: Final = 1_024
SUM_MAX: Final = 2**64 - 1


class DeliveryReceipt(Struct, frozen=True):
    """One delivery of `units` in answer to a request. `amount`: what the payee had been promised in all by then."""

    agreement: Digest
    sequence: Number
    request_hash: Digest
    response_hash: Digest
    units: Number
    amount: Amount
    served_ms: Number


class CosignedReceipt(Struct, frozen=True):
    """A receipt that both sides have signed, the client over the provider's signature too."""

    receipt: DeliveryReceipt
    provider_key: Key
    provider_signature: Signature
    client_signature: Signature

    def check(self, agreement: bytes, provider_keys: Sequence[bytes], voucher_key: bytes) -> None:
        """Raise BadReceipt unless it is of this agreement, an instance of the provider signed it, and its client."""
        if self.receipt.agreement != agreement or self.provider_key not in provider_keys:
            raise BadReceipt(agreement=self.receipt.agreement.hex()[:16])
        try:
            verify(self.provider_key, PROVIDER_DOMAIN, codec.encode(self.receipt), self.provider_signature)
            verify(
                voucher_key, CLIENT_DOMAIN, _countersigned(self.receipt, self.provider_signature), self.client_signature
            )
        except BadSignature as error:
            raise BadReceipt(domain=error.values.get("domain")) from None


def sign_receipt(receipt: DeliveryReceipt, key: SigningKey) -> bytes:
    """The provider's signature."""
    return key.sign(PROVIDER_DOMAIN, codec.encode(receipt))


def countersign(receipt: DeliveryReceipt, provider_key: bytes, signature: bytes, key: SigningKey) -> CosignedReceipt:
    """The receipt with the client's signature under the provider's. Raises BadSignature."""
    verify(provider_key, PROVIDER_DOMAIN, codec.encode(receipt), signature)
    return CosignedReceipt(
        receipt, provider_key, signature, key.sign(CLIENT_DOMAIN, _countersigned(receipt, signature))
    )


def _countersigned(receipt: DeliveryReceipt, signature: bytes) -> bytes:
    return codec.encode((receipt, signature))


Node = tuple[bytes, int]  # hash, units below it


def _leaf(data: bytes, units: int) -> Node:
    return sha256(b"\x00" + units.to_bytes(8) + data).digest(), units


def _join(left: Node, right: Node) -> Node:
    units = left[1] + right[1]
    return sha256(b"\x01" + left[0] + left[1].to_bytes(8) + right[0] + right[1].to_bytes(8)).digest(), units


def _root(node: Node) -> bytes:
    return tagged_hash("receipt-root/v1", node[0] + node[1].to_bytes(8))


class ReceiptTree:
    """The tree, grown a receipt at a time: it keeps one node for each bit of the number of receipts."""

    def __init__(self) -> None:
        self.size = 0
        self.units = 0
        self._peaks: list[Node] = []

    def append(self, receipt: CosignedReceipt) -> None:
        """Add the next receipt. Raises BadReceipt if the units would no longer fit 64 bits."""
        units = receipt.receipt.units
        if self.units + units > SUM_MAX:
            raise BadReceipt(units=self.units + units)
        node, full = _leaf(codec.encode(receipt), units), self.size
        while full & 1:
            node = _join(self._peaks.pop(), node)
            full >>= 1
        self._peaks.append(node)
        self.size += 1
        self.units += units

    def root(self) -> bytes:
        """What goes into the next voucher; zero while there are no receipts."""
        if not self._peaks:
            return ZERO_DIGEST
        node = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            node = _join(peak, node)
        return _root(node)


def receipt_proof(receipts: Sequence[CosignedReceipt], index: int) -> list[Node]:
    """The siblings (hash, units) from receipt `index` up. Raises IndexError if there is none."""
    if not 0 <= index < len(receipts):
        raise IndexError(index)
    level = [_leaf(codec.encode(receipt), receipt.receipt.units) for receipt in receipts]
    proof = []
    while len(level) > 1:
        if index ^ 1 < len(level):
            proof.append(level[index ^ 1])
        pairs = zip(level[::2], level[1::2], strict=False)
        above = [_join(left, right) for left, right in pairs]
        level = above + level[-1:] if len(level) % 2 else above
        index >>= 1
    return proof


def verify_receipt(root: bytes, receipt: CosignedReceipt, index: int, size: int, proof: Sequence[Node]) -> int | None:
    """The units of the whole tree if `receipt` is number `index` of the `size` under `root`; else None. Never
    raises."""
    units = receipt.receipt.units
    if not (0 <= index < size and units <= SUM_MAX):
        return None
    node, last = _leaf(codec.encode(receipt), units), size - 1
    for digest, below in proof:
        if last == 0 or len(digest) != 32 or not 0 <= below <= SUM_MAX - node[1]:
            return None
        if index & 1 or index == last:
            node = _join((digest, below), node)
            while index and not index & 1:
                index >>= 1
                last >>= 1
        else:
            node = _join(node, (digest, below))
        index >>= 1
        last >>= 1
    return node[1] if last == 0 and _root(node) == root else None
