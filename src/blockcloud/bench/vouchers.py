"""`blockcloud bench vouchers`: what it costs to pay: a voucher signed, verified and recorded; a unit of a PayWord tail.

Yardstick: one Ed25519 signature and its verification by the same library, and one SHA-256.

The books are those that `publish` and `forward` keep, here without waiting for the medium (`synchronous = OFF`): how
long that takes is the disk's figure, not ours, and one wait serves all vouchers that came meanwhile.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, Final

from blockcloud.bench import paid
from blockcloud.primitives import codec
from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.keys import SigningKey, verify
from blockcloud.service_access.payment.book import VoucherBook
from blockcloud.service_chain.agreements.vouchers import (
    TAIL_LENGTH,
    Channel,
    Payee,
    Payer,
    decode_voucher,
)

VOUCHER_US: Final = 120
PAYWORD_US: Final = 2
BATCHES: Final = 9
PAYWORDS: Final = 7_000
KEY: Final = SigningKey(bytes([7]) * 32)
ONION: Final = bytes([8]) * 32


def run(*, vouchers: int = 2_000, requests: int = 3_000) -> dict[str, Any]:
    """{"figures", "bars", "peer", "ratio"}: microseconds, the median of BATCHES batches of `vouchers`; and requests a
    second through a session that is paid for, in rounds of `requests` (0: not measured)."""
    with tempfile.TemporaryDirectory() as folder:
        voucher_us = _voucher_us(Path(folder), vouchers, both=False)
        both_us = _voucher_us(Path(folder), vouchers, both=True)
    tail_us = _payword_us()
    signature_us, hash_us = _signature_us(vouchers), _hash_us()
    return {
        "figures": {
            "voucher_us": round(voucher_us, 1),
            "voucher_in_both_books_us": round(both_us, 1),
            "payword_us": round(tail_us, 2),
            "vouchers": vouchers * BATCHES,
            "paywords": PAYWORDS * BATCHES,
            "sessions": paid.run(requests=requests) if requests else {},
        },
        "bars": {"voucher_us": VOUCHER_US, "payword_us": PAYWORD_US, "paid_ratio_per_ten": paid.PAID_TEN_RATIO},
        "peer": {"name": "sign + verify, SHA-256", "sign_verify_us": round(signature_us, 1), "sha256_us": hash_us},
        "ratio": round(voucher_us / signature_us, 2),
        "payword_ratio": round(tail_us / hash_us, 2),
    }


def _batches_us(batch: Callable[[], int]) -> float:
    """Processor time of one unit: `batch` does its work and says how many units that was."""
    taken = []
    for _ in range(BATCHES):
        begun = time.process_time_ns()
        units = batch()
        taken.append((time.process_time_ns() - begun) / units / 1_000)
    return median(taken)


def _voucher_us(folder: Path, vouchers: int, *, both: bool) -> float:
    """Signing, coding, verifying and recording one; the payer's own record comes on top with `both`."""
    books = [VoucherBook(folder / f"{side}-{both}") for side in ("payer", "payee")]
    for book in books:
        book.without_waiting()
    channel = Channel(bytes(32), bytes([1]) * 32, KEY.public, vouchers * BATCHES * 1_000, 100)
    payer, payee = Payer(channel, KEY), Payee(channel, 10)

    def batch() -> int:
        for _ in range(vouchers):
            signed = payer.pay(1_000, 10)
            if both:
                books[0].give(channel.agreement, signed.voucher)
            received = decode_voucher(codec.encode(signed))
            standing = payee.check(received)
            books[1].take(channel.agreement, standing)
            payee.take(standing)
            payee.take(payee.serve(10))
        return vouchers

    try:
        return _batches_us(batch)
    finally:
        for book in books:
            book.close()


def _payword_us() -> float:
    """Taking one layer after the other. The onion is the payer's own, made once for the whole channel."""
    onion = HashOnion(ONION, TAIL_LENGTH)
    channel = Channel(bytes(32), bytes([1]) * 32, KEY.public, TAIL_LENGTH * 10, 10, onion.tip, 10)
    reveals = [onion.reveal(number) for number in range(1, PAYWORDS * BATCHES + 1)]
    payee = Payee(channel, 10)

    def batch() -> int:
        first = payee.standing.tail_steps
        for steps in range(first + 1, first + PAYWORDS + 1):
            payee.take(payee.check_payword(reveals[steps - 1], steps))
        return PAYWORDS

    return _batches_us(batch)


def _signature_us(count: int) -> float:
    message = bytes(180)

    def batch() -> int:
        for _ in range(count):
            verify(KEY.public, "bench", message, KEY.sign("bench", message))
        return count

    return _batches_us(batch)


def _hash_us() -> float:
    def batch() -> int:
        value = bytes(32)
        for _ in range(PAYWORDS):
            value = sha256(value).digest()
        return PAYWORDS

    return round(_batches_us(batch), 3)
